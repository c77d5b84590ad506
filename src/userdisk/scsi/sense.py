"""Sense data: named constructors, encoding, decoding (SPC-6 4.4, annex D).

A `Sense` is a value; `encode` makes fixed or descriptor format of it. Fixed format has 32 bits for
INFORMATION and COMMAND-SPECIFIC INFORMATION: a larger value is left out (VALID = 0), not cut.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

from userdisk.errors import StorageError
from userdisk.scsi.fields import Field

_MAX_U32 = (1 << 32) - 1
_FIXED_LENGTH = 18


#: Sense data in fixed format; SENSE KEY SPECIFIC is that what SKSV says is there.
FIXED: Sequence[Field] = (
    Field("VALID", 0, 1, 7),
    Field("RESPONSE CODE", 0, 7, 6),
    Field("FILEMARK", 2, 1, 7),
    Field("EOM", 2, 1, 6),
    Field("ILI", 2, 1, 5),
    Field("SDAT_OVFL", 2, 1, 4),
    Field("SENSE KEY", 2, 4, 3),
    Field("INFORMATION", 3, 32),
    Field("ADDITIONAL SENSE LENGTH", 7),
    Field("COMMAND-SPECIFIC INFORMATION", 8, 32),
    Field("ADDITIONAL SENSE CODE", 12),
    Field("ADDITIONAL SENSE CODE QUALIFIER", 13),
    Field("FIELD REPLACEABLE UNIT CODE", 14),
    Field("SKSV", 15, 1, 7),
    Field("SENSE KEY SPECIFIC", 15, 23, 6),
)
DESCRIPTOR_HEADER_LENGTH = 8
#: What sense data in descriptor format begins with.
DESCRIPTOR_HEADER: Sequence[Field] = (
    Field("RESPONSE CODE", 0, 7, 6),
    Field("SENSE KEY", 1, 4, 3),
    Field("ADDITIONAL SENSE CODE", 2),
    Field("ADDITIONAL SENSE CODE QUALIFIER", 3),
    Field("SDAT_OVFL", 4, 1, 7),
    Field("ADDITIONAL SENSE LENGTH", 7),
)


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
    OPERATION_IN_PROGRESS = 0x0016
    NOT_READY_CAUSE_NOT_REPORTABLE = 0x0400
    ACCESS_STATE_TRANSITION = 0x040A
    TARGET_PORT_IN_STANDBY = 0x040B
    TARGET_PORT_UNAVAILABLE = 0x040C
    SANITIZE_IN_PROGRESS = 0x041B
    WRITE_ERROR = 0x0C00
    THIRD_PARTY_DEVICE_FAILURE = 0x0D01
    COPY_TARGET_NOT_REACHABLE = 0x0D02
    INCORRECT_COPY_TARGET_TYPE = 0x0D03
    COPY_TARGET_DATA_UNDERRUN = 0x0D04
    INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT = 0x0E03
    UNRECOVERED_READ_ERROR = 0x1100
    PARAMETER_LIST_LENGTH_ERROR = 0x1A00
    MISCOMPARE = 0x1D00
    INVALID_OPERATION_CODE = 0x2000
    LBA_OUT_OF_RANGE = 0x2100
    INVALID_TOKEN_OPERATION = 0x2300
    UNSUPPORTED_TOKEN_TYPE = 0x2301
    TOKEN_UNKNOWN = 0x2304
    TOKEN_EXPIRED = 0x2307
    TOKEN_CANCELLED = 0x2308
    TOKEN_DELETED = 0x2309
    INVALID_TOKEN_LENGTH = 0x230A
    INVALID_FIELD_IN_CDB = 0x2400
    LOGICAL_UNIT_NOT_SUPPORTED = 0x2500
    INVALID_FIELD_IN_PARAMETER_LIST = 0x2600
    INVALID_RELEASE_OF_PERSISTENT_RESERVATION = 0x2604
    TOO_MANY_TARGET_DESCRIPTORS = 0x2606
    UNSUPPORTED_TARGET_DESCRIPTOR_TYPE = 0x2607
    TOO_MANY_SEGMENT_DESCRIPTORS = 0x2608
    UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE = 0x2609
    UNEXPECTED_INEXACT_SEGMENT = 0x260A
    INLINE_DATA_LENGTH_EXCEEDED = 0x260B
    WRITE_PROTECTED = 0x2700
    SOFTWARE_WRITE_PROTECTED = 0x2702
    SPACE_ALLOCATION_FAILED = 0x2707
    MEDIUM_MAY_HAVE_CHANGED = 0x2800
    POWER_ON_OR_RESET = 0x2900
    POWER_ON = 0x2901
    TARGET_RESET = 0x2902
    LOGICAL_UNIT_RESET = 0x2903
    NEXUS_LOSS = 0x2907
    MODE_PARAMETERS_CHANGED = 0x2A01
    RESERVATIONS_PREEMPTED = 0x2A03
    RESERVATIONS_RELEASED = 0x2A04
    REGISTRATIONS_PREEMPTED = 0x2A05
    ACCESS_STATE_CHANGED = 0x2A06
    CAPACITY_CHANGED = 0x2A09
    COMMANDS_CLEARED = 0x2F00
    SANITIZE_COMMAND_FAILED = 0x3103
    SOFT_THRESHOLD_REACHED = 0x3807
    SAVING_NOT_SUPPORTED = 0x3900
    MEDIUM_NOT_PRESENT = 0x3A00
    INQUIRY_DATA_CHANGED = 0x3F03
    REPORTED_LUNS_CHANGED = 0x3F0E
    INTERNAL_TARGET_FAILURE = 0x4400
    INVALID_MESSAGE = 0x4900
    MEDIUM_REMOVAL_PREVENTED = 0x5302
    INSUFFICIENT_RESOURCES = 0x5503
    INSUFFICIENT_REGISTRATION_RESOURCES = 0x5504
    INSUFFICIENT_RESOURCES_FOR_ROD_TOKEN = 0x550D


class Pointer(NamedTuple):
    """The sense-key-specific field pointer: which field is wrong.

    With ILLEGAL REQUEST in the CDB or the parameter list, with COPY ABORTED (`in_cdb` False) in
    the parameter list or in the segment descriptor that COMMAND-SPECIFIC INFORMATION names.
    """

    byte: int
    bit: int | None = None
    in_cdb: bool = True
    in_segment: bool = False

    def encode(self) -> bytes:
        """SKSV, C/D or SD, BPV, BIT POINTER and FIELD POINTER: 3 bytes."""
        first = 0x80 | (0x40 if self.in_cdb else 0) | (0x20 if self.in_segment else 0)
        if self.bit is not None:
            first |= 0x08 | self.bit
        return struct.pack(">BH", first, self.byte)

    @classmethod
    def decode(cls, data: bytes) -> Pointer | None:
        """The pointer in 3 bytes of sense-key-specific data; None if SKSV is zero."""
        first, byte = struct.unpack(">BH", data)
        if not first & 0x80:
            return None
        bit = first & 7 if first & 8 else None
        return cls(byte, bit, bool(first & 0x40), bool(first & 0x20))


class Relayed(NamedTuple):
    """Status and sense data that a copy manager got from a unit (SPC-5 5.18.7.4)."""

    source: int  #: 1 copy source, 2 copy destination
    status: int
    sense: bytes


class Sense(NamedTuple):
    """Sense data as a value.

    The sense-key-specific field holds one thing: with `progress`, `pointer` is None.
    """

    key: int
    code: int  #: as in `Asc`
    information: int | None = None
    pointer: Pointer | None = None
    command_specific: int | None = None
    progress: int | None = None  #: of 65536, with NO SENSE and NOT READY
    relayed: Relayed | None = None  #: with COPY ABORTED

    def encode(self, *, descriptor: bool = False) -> bytes:
        """18 bytes in fixed format and what is relayed, or descriptor format; always current."""
        return self._descriptors() if descriptor else self._fixed()

    def _fixed(self) -> bytes:
        fits = self.information is not None and self.information <= _MAX_U32
        specific, area = self.command_specific or 0, b""
        if specific > _MAX_U32:
            specific = 0
        if self.relayed is not None:  # byte 8 or 9 says where it is
            specific |= _FIXED_LENGTH << (24 if self.relayed.source == 1 else 16)
            area = bytes([self.relayed.status]) + self.relayed.sense
        fixed = struct.pack(
            ">BxBIBIHx3s",
            0xF0 if fits else 0x70,
            self.key,
            self.information if fits else 0,
            _FIXED_LENGTH - 8 + len(area),
            specific,
            self.code,
            self._key_specific(),
        )
        return fixed + area

    def _descriptors(self) -> bytes:
        body = b""
        if self.information is not None:
            body += struct.pack(">BBBxQ", 0x00, 0x0A, 0x80, self.information)
        if self.command_specific is not None:
            body += struct.pack(">BB2xQ", 0x01, 0x0A, self.command_specific)
        specific = self._key_specific()
        if specific:
            body += struct.pack(">BB2x3sx", 0x02, 0x06, specific)
        if self.relayed is not None:
            source, status, data = self.relayed
            body += struct.pack(">BBBB", 0x0C, 2 + len(data), source, status) + data
        return struct.pack(">BBHxxxB", 0x72, self.key, self.code, len(body)) + body

    def _key_specific(self) -> bytes:
        """SKSV and what it is about: 3 bytes, or none."""
        if self.progress is not None:
            return struct.pack(">BH", 0x80, self.progress)
        return self.pointer.encode() if self.pointer is not None else b""

    def __str__(self) -> str:
        return f"{self.key:X}/{self.code >> 8:02X}/{self.code & 0xFF:02X}"


def key_of(data: bytes) -> int:
    """The sense key of sense data that `Sense.encode` has made, in either format."""
    return data[1 if data[0] & 0x02 else 2] & 0x0F


def decode(data: bytes) -> Sense:
    """The value of sense data in either format; missing bytes count as zero.

    Raises ValueError for a response code that is neither.
    """
    if not data:
        raise ValueError("no sense data")
    format_code = data[0] & 0x7F
    if format_code in (0x70, 0x71):
        data = data[: 8 + (data[7] if len(data) > 7 else 0)].ljust(18, b"\0")
        key = data[2] & 0x0F
        information = struct.unpack_from(">I", data, 3)[0] if data[0] & 0x80 else None
        pointer, progress = _decode_key_specific(key, data[15:18])
        code, command_specific = struct.unpack_from(">H", data, 12)[0], data[8:12]
        return Sense(
            key,
            code,
            information,
            pointer,
            int.from_bytes(command_specific, "big") if any(command_specific) else None,
            progress,
        )
    if format_code in (0x72, 0x73):
        return _decode_descriptors(data.ljust(8, b"\0"))
    raise ValueError(f"{data[0]:#04x} is not a sense response code")


def _decode_key_specific(key: int, data: bytes) -> tuple[Pointer | None, int | None]:
    """The field pointer or the progress in 3 bytes."""
    if key in (SenseKey.NO_SENSE, SenseKey.NOT_READY):
        return None, int.from_bytes(data[1:], "big") if data[0] & 0x80 else None
    return Pointer.decode(data), None


def _decode_descriptors(data: bytes) -> Sense:
    key, code = data[1] & 0x0F, struct.unpack_from(">H", data, 2)[0]
    found = Sense(key, code)
    end = min(len(data), 8 + data[7])
    at = 8
    while at + 2 <= end:
        kind, length = data[at], data[at + 1]
        body = data[at : at + 2 + length]
        if kind == 0x00 and len(body) >= 12 and body[2] & 0x80:
            found = found._replace(information=struct.unpack_from(">Q", body, 4)[0])
        elif kind == 0x01 and len(body) >= 12:
            found = found._replace(command_specific=struct.unpack_from(">Q", body, 4)[0])
        elif kind == 0x02 and len(body) >= 7:
            pointer, progress = _decode_key_specific(key, body[4:7])
            found = found._replace(pointer=pointer, progress=progress)
        at += 2 + length
    return found


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
    """The transport announced less data than the CDB asks for, or not just as much."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)


def lba_out_of_range(lba: int) -> Sense:
    """`lba` is the first addressed block that does not exist."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.LBA_OUT_OF_RANGE, lba)


def miscompare(offset: int) -> Sense:
    """The data differs from the unit's, at `offset` in the data-out buffer first."""
    return Sense(SenseKey.MISCOMPARE, Asc.MISCOMPARE, offset)


def invalid_message() -> Sense:
    """The task attribute has no meaning here."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_MESSAGE)


def logical_unit_not_supported() -> Sense:
    """There is no logical unit with that number."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.LOGICAL_UNIT_NOT_SUPPORTED)


def write_protected() -> Sense:
    """The logical unit must not be written."""
    return Sense(SenseKey.DATA_PROTECT, Asc.WRITE_PROTECTED)


def software_write_protected() -> Sense:
    """The logical unit must not be written: an initiator has set SWP."""
    return Sense(SenseKey.DATA_PROTECT, Asc.SOFTWARE_WRITE_PROTECTED)


def saving_not_supported() -> Sense:
    """There are no saved mode parameters."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.SAVING_NOT_SUPPORTED)


def medium_not_present() -> Sense:
    """The medium was ejected."""
    return Sense(SenseKey.NOT_READY, Asc.MEDIUM_NOT_PRESENT)


def medium_removal_prevented() -> Sense:
    """The medium is locked."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.MEDIUM_REMOVAL_PREVENTED)


def sanitize_in_progress(progress: int) -> Sense:
    """The unit is being sanitized; `progress` of 65536 is done."""
    return Sense(SenseKey.NOT_READY, Asc.SANITIZE_IN_PROGRESS, progress=progress)


def sanitize_failed() -> Sense:
    """The last sanitize operation has failed."""
    return Sense(SenseKey.MEDIUM_ERROR, Asc.SANITIZE_COMMAND_FAILED)


def invalid_release() -> Sense:
    """RELEASE names another type than that of the persistent reservation."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.INVALID_RELEASE_OF_PERSISTENT_RESERVATION)


def insufficient_registration_resources() -> Sense:
    """There are as many registrations as there may be."""
    return Sense(SenseKey.ILLEGAL_REQUEST, Asc.INSUFFICIENT_REGISTRATION_RESOURCES)


def unit_attention(code: int) -> Sense:
    """Something happened that the initiator must know of; `code` as in `Asc`."""
    return Sense(SenseKey.UNIT_ATTENTION, code, _INFORMATION.get(code))


#: INFORMATION of unit attentions: which threshold it was that is reached, by its descriptor's
#: offset in the logical block provisioning mode page (SBC-4 4.7.3.7.6); there is one.
_INFORMATION: dict[int, int] = {Asc.SOFT_THRESHOLD_REACHED: 16}


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
