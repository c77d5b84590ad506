"""Persistent reservations on the wire: types, parameter data and lists, TransportIDs.

SPC-5 6.16 (PERSISTENT RESERVE IN), 6.17 (PERSISTENT RESERVE OUT), 7.6.4.6 (iSCSI TransportIDs).
"""

from __future__ import annotations

import enum
import re
import struct
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from userdisk.scsi import fields
from userdisk.scsi.fields import Field, Value
from userdisk.unit import Buffer

_NAME_MAX = 223  # bytes of an iSCSI name (RFC 7143 4.2.7.2)

_ISCSI = 0x05  # protocol identifier
_PORT_FORMAT = 0x40  # format code 01b: an initiator port; 00b: all ports of an initiator
_SEPARATOR = ",i,0x"
_ISID = re.compile("[0-9A-Fa-f]{1,12}")
_SHORTEST = 20  # ADDITIONAL LENGTH of an iSCSI TransportID

#: RESERVATION KEY, SERVICE ACTION RESERVATION KEY, flags
_BASIC = struct.Struct(">QQ4xB3x")
#: the same keys, flags, RELATIVE TARGET PORT IDENTIFIER, TRANSPORTID LENGTH
_MOVE = struct.Struct(">QQxBHI")
BASIC_LENGTH = 24

HEADER_LENGTH = 8
HEADER: Sequence[Field] = (Field("PRGENERATION", 0, 32), Field("ADDITIONAL LENGTH", 4, 32))
KEY_LENGTH = 8
KEY: Sequence[Field] = (Field("RESERVATION KEY", 0, 64),)
RESERVATION_LENGTH = 16
RESERVATION: Sequence[Field] = (
    *KEY,
    Field("SCOPE", 13, 4),
    Field("TYPE", 13, 4, 3),
)
FULL_STATUS_LENGTH = 24  #: without the TransportID that follows
FULL_STATUS: Sequence[Field] = (
    *KEY,
    Field("ALL_TG_PT", 12, 1, 1),
    Field("R_HOLDER", 12, 1, 0),
    Field("SCOPE", 13, 4),
    Field("TYPE", 13, 4, 3),
    Field("RELATIVE TARGET PORT IDENTIFIER", 18, 16),
    Field("ADDITIONAL DESCRIPTOR LENGTH", 20, 32),
)
CAPABILITIES_LENGTH = 8
CAPABILITIES: Sequence[Field] = (
    Field("LENGTH", 0, 16),
    Field("RLR_C", 2, 1, 7),
    Field("CRH", 2, 1, 4),
    Field("SIP_C", 2, 1, 3),
    Field("ATP_C", 2, 1, 2),
    Field("PTPL_C", 2, 1, 0),
    Field("TMV", 3, 1, 7),
    Field("ALLOW COMMANDS", 3, 3, 6),
    Field("PTPL_A", 3, 1, 0),
    Field("WR_EX_AR", 4, 1, 7),
    Field("EX_AC_RO", 4, 1, 6),
    Field("WR_EX_RO", 4, 1, 5),
    Field("EX_AC", 4, 1, 3),
    Field("WR_EX", 4, 1, 1),
    Field("EX_AC_AR", 5, 1, 0),
)


class Type(enum.IntEnum):
    """The TYPE of a persistent reservation."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8


REGISTRANTS_ONLY = frozenset(
    {Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY}
)
ALL_REGISTRANTS = frozenset(
    {Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS, Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS}
)


class In(enum.IntEnum):
    """The service actions of PERSISTENT RESERVE IN."""

    READ_KEYS = 0
    READ_RESERVATION = 1
    REPORT_CAPABILITIES = 2
    READ_FULL_STATUS = 3


class Out(enum.IntEnum):
    """The service actions of PERSISTENT RESERVE OUT."""

    REGISTER = 0
    RESERVE = 1
    RELEASE = 2
    CLEAR = 3
    PREEMPT = 4
    PREEMPT_AND_ABORT = 5
    REGISTER_AND_IGNORE_EXISTING_KEY = 6
    REGISTER_AND_MOVE = 7


# -- TransportIDs ------------------------------------------------------------------------------


class TransportId(NamedTuple):
    """An initiator port; without an ISID: all ports of an initiator."""

    initiator: str
    isid: int | None

    def encode(self) -> bytes:
        """The TransportID, null-terminated and padded."""
        text = self.initiator
        if self.isid is not None:
            text += f"{_SEPARATOR}{self.isid:012x}"
        name = text.encode() + b"\0"
        length = max(-(-len(name) // 4) * 4, _SHORTEST)
        code = _ISCSI | (0 if self.isid is None else _PORT_FORMAT)
        return struct.pack(">BxH", code, length) + name.ljust(length, b"\0")


def transport_id_length(data: Buffer) -> int:
    """How long the TransportID at the start of `data` says it is; ValueError if that is wrong."""
    if len(data) < 4:
        raise ValueError("cut off")
    length: int = struct.unpack_from(">H", data, 2)[0]
    if length < _SHORTEST or length % 4 or 4 + length > len(data):
        raise ValueError("ADDITIONAL LENGTH")
    return 4 + length


def decode_transport_id(data: bytes) -> TransportId:
    """The initiator (port) in the TransportID that `data` is; ValueError if it is none of iSCSI."""
    if data[0] & ~_PORT_FORMAT != _ISCSI:
        raise ValueError("format code or protocol identifier")
    text = data[4 : transport_id_length(data)].split(b"\0", 1)[0].decode()
    if not data[0] & _PORT_FORMAT:
        return TransportId(normalized(text), None)
    name, separator, isid = text.rpartition(_SEPARATOR)
    if not separator or not _ISID.fullmatch(isid):
        raise ValueError("no ISID")
    return TransportId(normalized(name), int(isid, 16))


def normalized(name: str) -> str:
    """An initiator's name in the form that names are compared in; ValueError if it is none."""
    return checked_name(unicodedata.normalize("NFKC", name.casefold()))


def checked_name(name: str) -> str:
    """The name, if it fits into a TransportID; else ValueError."""
    if "\0" in name or not 0 < len(name.encode()) <= _NAME_MAX:
        raise ValueError("not a name")
    return name


# -- PERSISTENT RESERVE OUT --------------------------------------------------------------------


class Basic(NamedTuple):
    """The first 24 bytes of the parameter list of all service actions but REGISTER AND MOVE."""

    key: int
    service_key: int
    specify_initiators: bool  #: SPEC_I_PT
    all_target_ports: bool  #: ALL_TG_PT
    through_power_loss: bool  #: APTPL


class Move(NamedTuple):
    """The first 24 bytes of the parameter list of REGISTER AND MOVE."""

    key: int
    service_key: int
    unregister: bool
    through_power_loss: bool
    port: int  #: RELATIVE TARGET PORT IDENTIFIER
    length: int  #: of the TransportID that follows


def decode_basic(data: bytes) -> Basic:
    """The fields of 24 bytes or more."""
    key, service_key, flags = _BASIC.unpack_from(data)
    return Basic(key, service_key, bool(flags & 8), bool(flags & 4), bool(flags & 1))


def decode_move(data: bytes) -> Move:
    """The fields of 24 bytes or more."""
    key, service_key, flags, port, length = _MOVE.unpack_from(data)
    return Move(key, service_key, bool(flags & 2), bool(flags & 1), port, length)


# -- PERSISTENT RESERVE IN ---------------------------------------------------------------------


def keys(generation: int, registered: Iterable[int]) -> bytes:
    """READ KEYS data."""
    return _with_header(generation, b"".join(key.to_bytes(8, "big") for key in registered))


def reservation(generation: int, kind: Type | None, key: int) -> bytes:
    """READ RESERVATION data; `kind` is None if there is none."""
    if kind is None:
        return _with_header(generation, b"")
    values: dict[str, Value] = {"RESERVATION KEY": key, "TYPE": int(kind)}
    return _with_header(generation, fields.encode(RESERVATION_LENGTH, RESERVATION, values))


def _with_header(generation: int, body: bytes) -> bytes:
    values: dict[str, Value] = {"PRGENERATION": generation, "ADDITIONAL LENGTH": len(body)}
    return fields.encode(HEADER_LENGTH, HEADER, values) + body


class FullStatus(NamedTuple):
    """What READ FULL STATUS says of a registered I_T nexus; `kind` is None if it holds nothing."""

    key: int
    kind: Type | None
    port: int
    initiator: TransportId

    def encode(self) -> bytes:
        """The descriptor."""
        name = self.initiator.encode()
        values: dict[str, Value] = {
            "RESERVATION KEY": self.key,
            "R_HOLDER": int(self.kind is not None),
            "TYPE": int(self.kind or 0),
            "RELATIVE TARGET PORT IDENTIFIER": self.port,
            "ADDITIONAL DESCRIPTOR LENGTH": len(name),
        }
        return fields.encode(FULL_STATUS_LENGTH, FULL_STATUS, values) + name


def full_status(generation: int, registered: Iterable[FullStatus]) -> bytes:
    """READ FULL STATUS data."""
    return _with_header(generation, b"".join(each.encode() for each in registered))


#: ALLOW COMMANDS: TEST UNIT READY and RECEIVE COPY RESULTS pass every reservation, MODE SENSE and
#: other commands that look pass a write exclusive one
_ALLOWED = 4
#: The bit of `CAPABILITIES` that says that there is this type.
TYPE_BITS: dict[Type, str] = {
    Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS: "WR_EX_AR",
    Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: "EX_AC_RO",
    Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY: "WR_EX_RO",
    Type.EXCLUSIVE_ACCESS: "EX_AC",
    Type.WRITE_EXCLUSIVE: "WR_EX",
    Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS: "EX_AC_AR",
}


def capabilities(*, durable: bool, active: bool) -> bytes:
    """REPORT CAPABILITIES data: `durable` if APTPL can be set, `active` if it is.

    CRH is zero: RESERVE and RELEASE are as SPC-2 has them.
    """
    values: dict[str, Value] = {
        "LENGTH": CAPABILITIES_LENGTH,
        "SIP_C": 1,
        "ATP_C": 1,
        "PTPL_C": int(durable),
        "TMV": 1,
        "ALLOW COMMANDS": _ALLOWED,
        "PTPL_A": int(active),
        **dict.fromkeys(TYPE_BITS.values(), 1),
    }
    return fields.encode(CAPABILITIES_LENGTH, CAPABILITIES, values)
