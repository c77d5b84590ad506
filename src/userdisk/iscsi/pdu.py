"""iSCSI PDUs: opcodes, flags and the layout of each basic header segment (RFC 7143 section 11).

Every header is 48 bytes, big-endian. `decode` and `encode` here are the two methods of a
precompiled `struct.Struct`; the field order of each is in the comment above it. Data segments are
padded to four bytes.
"""

from __future__ import annotations

import enum
import struct

BHS_LENGTH = 48
DIGEST_LENGTH = 4
RESERVED_TAG = 0xFFFFFFFF  #: "no task" as an itt, "no transfer" as a ttt
PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")  #: by length % 4


class InitiatorOpcode(enum.IntEnum):
    """11.2.1.2: what an initiator sends."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT = 0x02
    LOGIN = 0x03
    TEXT = 0x04
    DATA_OUT = 0x05
    LOGOUT = 0x06
    SNACK = 0x10


class TargetOpcode(enum.IntEnum):
    """11.2.1.2: what a target sends."""

    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC_MESSAGE = 0x32
    REJECT = 0x3F


IMMEDIATE = 0x40  #: in byte 0
FINAL = 0x80  #: in byte 1
CONTINUE = 0x40  #: Text and Login, byte 1
COMMAND_READ = 0x40  #: SCSI Command, byte 1
COMMAND_WRITE = 0x20
COMMAND_ATTRIBUTE = 0x07
DATA_IN_STATUS = 0x01  #: Data-In, byte 1: the PDU carries the status
RESIDUAL_OVERFLOW = 0x04  #: SCSI Response and Data-In, byte 1
RESIDUAL_UNDERFLOW = 0x02


class RejectReason(enum.IntEnum):
    """11.17.1."""

    DATA_DIGEST_ERROR = 0x02
    SNACK_REJECT = 0x03
    PROTOCOL_ERROR = 0x04
    COMMAND_NOT_SUPPORTED = 0x05
    IMMEDIATE_COMMAND_REJECT = 0x06
    TASK_IN_PROGRESS = 0x07
    INVALID_DATA_ACK = 0x08
    INVALID_PDU_FIELD = 0x09
    LONG_OPERATION_REJECT = 0x0A
    NEGOTIATION_RESET = 0x0B
    WAITING_FOR_LOGOUT = 0x0C


class AsyncEvent(enum.IntEnum):
    """11.9.1."""

    SCSI = 0
    LOGOUT_REQUEST = 1
    DROP_CONNECTION = 2
    DROP_ALL_CONNECTIONS = 3
    RENEGOTIATE = 4


#: Any request: opcode, flags, (2 reserved), AHS length and data length as one number,
#: lun, itt, word 20, cmd_sn, exp_stat_sn, and the 16 bytes from 32 on. Of a SCSI Command (11.3)
#: word 20 is the expected data transfer length, and the 16 bytes are the CDB.
GENERIC = struct.Struct(">BB2xIQIIII16s")

#: Data-Out, 11.7: opcode, flags, lengths, lun, itt, ttt, exp_stat_sn, data_sn, buffer offset
DATA_OUT = struct.Struct(">BB2xIQII4xI4xII4x")

#: Task management request, 11.5: flags hold the function; referenced itt, ref_cmd_sn, exp_data_sn
TASK_MANAGEMENT = struct.Struct(">BB2xIQIIIIII8x")

#: SCSI Response, 11.4: opcode, flags, response, status, data length, itt, snack tag, stat_sn,
#: exp_cmd_sn, max_cmd_sn, exp_data_sn, bidirectional residual, residual
SCSI_RESPONSE = struct.Struct(">BBBBI8xIIIIIIII")

#: Data-In, 11.7: opcode, flags, status, data length, lun, itt, ttt, stat_sn, exp_cmd_sn,
#: max_cmd_sn, data_sn, buffer offset, residual
DATA_IN = struct.Struct(">BBxBIQIIIIIIII")

#: R2T, 11.8: opcode, flags, lun, itt, ttt, stat_sn, exp_cmd_sn, max_cmd_sn, r2t_sn, buffer
#: offset, desired data transfer length
R2T = struct.Struct(">BB6xQIIIIIIII")

#: Task management response, 11.6: opcode, flags, response, itt, stat_sn, exp_cmd_sn, max_cmd_sn
TASK_MANAGEMENT_RESPONSE = struct.Struct(">BBB13xI4xIII12x")

#: NOP-In, 11.19: opcode, flags, data length, lun, itt, ttt, stat_sn, exp_cmd_sn, max_cmd_sn
NOP_IN = struct.Struct(">BB2xIQIIIII12x")

#: Text Response, 11.11: the same fields
TEXT_RESPONSE = NOP_IN

#: Logout Response, 11.15: opcode, flags, response, itt, stat_sn, exp_cmd_sn, max_cmd_sn,
#: time2wait, time2retain
LOGOUT_RESPONSE = struct.Struct(">BBB13xI4xIII4xHH4x")

#: Asynchronous Message, 11.9: opcode, flags, data length, lun, 0xffffffff, stat_sn, exp_cmd_sn,
#: max_cmd_sn, event, vendor code, parameters 1, 2 and 3
ASYNC_MESSAGE = struct.Struct(">BB2xIQI4xIIIBBHHH4x")

#: Reject, 11.17: opcode, flags, reason, data length, 0xffffffff, stat_sn, exp_cmd_sn, max_cmd_sn,
#: data_sn
REJECT = struct.Struct(">BBBxI8xI4xIIII8x")


def padded(length: int) -> int:
    """A data segment's length on the wire."""
    return (length + 3) & ~3


def serial_less(first: int, second: int) -> bool:
    """Whether first < second in 32-bit serial number arithmetic (RFC 1982)."""
    return first != second and ((second - first) & 0xFFFFFFFF) < 0x80000000
