"""Sense data: named constructors, encoding, decoding (SPC-6 4.4, annex D).

A `Sense` is a value; `encode` makes fixed or descriptor format of it. Fixed format has a 32-bit
INFORMATION field: a larger value is left out (VALID = 0) rather than cut.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from userdisk.errors import StorageError

_MAX_U32 = (1 << 32) - 1


class SenseKey(enum.IntEnum):
    """What kind of thing happened (SPC-6 table 28)."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    VENDOR_SPECIFIC = 0x9
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE
    COMPLETED = 0xF


class Asc(enum.IntEnum):
    """Additional sense code in the high byte, its qualifier in the low one."""

    NO_ADDITIONAL_SENSE = 0x0000
    NOT_READY_CAUSE_NOT_REPORTABLE = 0x0400
    WRITE_ERROR = 0x0C00
    INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT = 0x0E03
    UNRECOVERED_READ_ERROR = 0x1100
    PARAMETER_LIST_LENGTH_ERROR = 0x1A00
    INVALID_OPERATION_CODE = 0x2000
    LBA_OUT_OF_RANGE = 0x2100
    INVALID_FIELD_IN_CDB = 0x2400
    LOGICAL_UNIT_NOT_SUPPORTED = 0x2500
    INVALID_FIELD_IN_PARAMETER_LIST = 0x2600
    WRITE_PROTECTED = 0x2700
    SPACE_ALLOCATION_FAILED = 0x2707
    POWER_ON_OR_RESET = 0x2900
    POWER_ON = 0x2901
    TARGET_RESET = 0x2902
    LOGICAL_UNIT_RESET = 0x2903
    NEXUS_LOSS = 0x2907
    MODE_PARAMETERS_CHANGED = 0x2A01
    CAPACITY_CHANGED = 0x2A09
    COMMANDS_CLEARED = 0x2F00
    SAVING_NOT_SUPPORTED = 0x3900
    MEDIUM_NOT_PRESENT = 0x3A00
    INQUIRY_DATA_CHANGED = 0x3F03
    REPORTED_LUNS_CHANGED = 0x3F0E
    INTERNAL_TARGET_FAILURE = 0x4400
    INVALID_MESSAGE = 0x4900
    INSUFFICIENT_RESOURCES = 0x5503


class Pointer(NamedTuple):
    """The sense-key-specific field pointer of ILLEGAL REQUEST: which field is wrong."""

    byte: int
    bit: int | None = None
    in_cdb: bool = True

    def encode(self) -> bytes:
        """SKSV, C/D, BPV, BIT POINTER and FIELD POINTER: 3 bytes."""
        first = 0x80 | (0x40 if self.in_cdb else 0)
        if self.bit is not None:
            first |= 0x08 | self.bit
        return struct.pack(">BH", first, self.byte)

    @classmethod
    def decode(cls, data: bytes) -> Pointer | None:
        """The pointer in 3 bytes of sense-key-specific data; None if SKSV is zero."""
        first, byte = struct.unpack(">BH", data)
        if not first & 0x80:
            return None
        return cls(byte, first & 7 if first & 8 else None, bool(first & 0x40))


class Sense(NamedTuple):
    """Sense data as a value."""

    key: int
    code: int  #: as in `Asc`
    information: int | None = None
    pointer: Pointer | None = None

    def encode(self, *, descriptor: bool = False) -> bytes:
        """18 bytes in fixed format, or descriptor format; always current, never deferred."""
        return self._descriptors() if descriptor else self._fixed()

    def _fixed(self) -> bytes:
        fits = self.information is not None and self.information <= _MAX_U32
        return struct.pack(
            ">BxBIB4xHx3s",
            0xF0 if fits else 0x70,
            self.key,
            self.information if fits else 0,
            10,
            self.code,
            self.pointer.encode() if self.pointer else b"",
        )

    def _descriptors(self) -> bytes:
        body = b""
        if self.information is not None:
            body += struct.pack(">BBBxQ", 0x00, 0x0A, 0x80, self.information)
        if self.pointer is not None:
            body += struct.pack(">BB2x3sx", 0x02, 0x06, self.pointer.encode())
        return struct.pack(">BBHxxxB", 0x72, self.key, self.code, len(body)) + body

    def __str__(self) -> str:
        return f"{self.key:X}/{self.code >> 8:02X}/{self.code & 0xFF:02X}"


def decode(data: bytes) -> Sense:
    """The value of sense data in either format; missing bytes count as zero.

    Raises ValueError for a response code that is neither.
    """
    if not data:
        raise ValueError("no sense data")
    format_code = data[0] & 0x7F
    if format_code in (0x70, 0x71):
        data = data[: 8 + (data[7] if len(data) > 7 else 0)].ljust(18, b"\0")
        information = struct.unpack_from(">I", data, 3)[0] if data[0] & 0x80 else None
        return Sense(
            data[2] & 0x0F,
            struct.unpack_from(">H", data, 12)[0],
            information,
            Pointer.decode(data[15:18]),
        )
    if format_code in (0x72, 0x73):
        return _decode_descriptors(data.ljust(8, b"\0"))
    raise ValueError(f"{data[0]:#04x} is not a sense response code")


def _decode_descriptors(data: bytes) -> Sense:
    information: int | None = None
    pointer: Pointer | None = None
    end = min(len(data), 8 + data[7])
    at = 8
    while at + 2 <= end:
        kind, length = data[at], data[at + 1]
        body = data[at : at + 2 + length]
        if kind == 0x00 and len(body) >= 12 and body[2] & 0x80:
            information = struct.unpack_from(">Q", body, 4)[0]
        elif kind == 0x02 and len(body) >= 7:
            pointer = Pointer.decode(body[4:7])
        at += 2 + length
    return Sense(data[1] & 0x0F, struct.unpack_from(">H", data, 2)[0], information, pointer)


# -- named constructors ------------------------------------------------------------------------

NO_SENSE = Sense(SenseKey.NO_SENSE, Asc.NO_ADDITIONAL_SENSE)
INTERNAL_TARGET_FAILURE = Sense(SenseKey.HARDWARE_ERROR, Asc.INTERNAL_TARGET_FAILURE)


def invalid_opcode() -> Sense:
    """The command is not implemented."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_OPERATION_CODE, None, Pointer(0))


def invalid_field_in_cdb(byte: int, bit: int | None = None) -> Sense:
    """A field of the CDB is wrong: the one at `byte`, whose most significant bit is `bit`."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_CDB, None, Pointer(byte, bit))


def invalid_field_in_parameter_list(byte: int, bit: int | None = None) -> Sense:
    """A field of the parameter list (data-out) is wrong."""
    pointer = Pointer(byte, bit, in_cdb=False)
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_PARAMETER_LIST, None, pointer)


def parameter_list_length_error() -> Sense:
    """The parameter list is shorter than its own length fields say."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.PARAMETER_LIST_LENGTH_ERROR)


def data_out_too_short() -> Sense:
    """The transport announced less data than the CDB asks for."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)


def lba_out_of_range(lba: int) -> Sense:
    """`lba` is the first addressed block that does not exist."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE, lba)


def invalid_message() -> Sense:
    """The task attribute has no meaning here."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_MESSAGE)


def logical_unit_not_supported() -> Sense:
    """There is no logical unit with that number."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.LOGICAL_UNIT_NOT_SUPPORTED)


def write_protected() -> Sense:
    """The logical unit must not be written."""
    return Sense(SenseKey.DATA_PROTECT, Asc.WRITE_PROTECTED)


def saving_not_supported() -> Sense:
    """There are no saved mode parameters."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.SAVING_NOT_SUPPORTED)


def unit_attention(code: int) -> Sense:
    """Something happened that the initiator must know of; `code` as in `Asc`."""
    return Sense(SenseKey.UNIT_ATTENTION, code)


#: Keys with which INFORMATION is a logical block address (SBC-4 4.18).
_WITH_LBA = frozenset(
    {
        SenseKey.MEDIUM_ERROR,
        SenseKey.HARDWARE_ERROR,
        SenseKey.ILLEGAL_REQUEST,
        SenseKey.DATA_PROTECT,
    }
)


def from_error(error: StorageError, lba: int | None = None) -> Sense:
    """What the error table says of `error`; `lba` is the first bad block, if there is one."""
    key, code, qualifier = error.sense
    return Sense(key, code << 8 | qualifier, lba if key in _WITH_LBA else None)
