"""Sense data, status and CDBs in words (SPC-6 4.4, SAM-6 5.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from userdisk.scsi import asc_names, cdb, sense
from userdisk.scsi.fields import Field
from userdisk.scsi.sense import SenseKey
from userdisk.scsitool.items import RESERVED, read

STATUS: dict[int, str] = {
    0x00: "GOOD",
    0x02: "CHECK CONDITION",
    0x04: "CONDITION MET",
    0x08: "BUSY",
    0x18: "RESERVATION CONFLICT",
    0x28: "TASK SET FULL",
    0x30: "ACA ACTIVE",
    0x40: "TASK ABORTED",
}
_CHECK_CONDITION = 0x02
_FIXED_SPECIFIC = slice(15, 18)
_DEFERRED = frozenset({0x71, 0x73})
_FORMATS = frozenset({0x70, 0x71, 0x72, 0x73})
_MOST_DESCRIPTORS = 64
_KEYS_WITH_PROGRESS = frozenset({SenseKey.NO_SENSE, SenseKey.NOT_READY})
_KEYS_WITH_RETRIES = frozenset(
    {SenseKey.RECOVERED_ERROR, SenseKey.MEDIUM_ERROR, SenseKey.HARDWARE_ERROR}
)
_KEYS_WITH_POINTER = frozenset({SenseKey.ILLEGAL_REQUEST, SenseKey.COPY_ABORTED})


def status_words(status: int, sense_data: bytes) -> str:
    """How a command ended, in one line."""
    name = STATUS.get(status, f"status {status:02X}h")
    if status != _CHECK_CONDITION:
        return name
    return f"{name}: {sense_words(sense_data)}"


def sense_words(data: bytes) -> str:
    """Sense data of either format in one line; also when it is cut off or no sense data at all."""
    if not data:
        return "without sense data"
    if data[0] & 0x7F not in _FORMATS:
        return f"not sense data (response code {data[0] & 0x7F:02X}h)"
    value = sense.decode(data)
    first = f"{key_name(value.key)}, {asc_names.name(value.code)}"
    codes = f"({value.key:X}/{value.code >> 8:02X}/{value.code & 0xFF:02X})"
    parts = [f"{first} {codes}", *sense_details(data)]
    return ", ".join(parts)


def key_name(key: int) -> str:
    """A sense key in words."""
    try:
        return SenseKey(key).name.replace("_", " ").lower()
    except ValueError:
        return f"sense key {key:X}h"


def sense_details(data: bytes) -> Iterator[str]:
    """What sense data says besides key and codes, each thing as some words."""
    if data[0] & 0x7F in _DEFERRED:
        yield "deferred: of an earlier command"
    if data[0] & 0x02:
        yield from _descriptors(data)
        return
    claimed = 8 + (data[7] if len(data) > 7 else 0)
    known = data[: min(len(data), claimed)].ljust(18, b"\0")
    yield from _flags(known[2])
    if data[0] & 0x80:
        yield f"information {_number(known[3:7])}"
    if any(known[8:12]):
        yield f"command-specific information {_number(known[8:12])}"
    if known[14]:
        yield f"field replaceable unit {known[14]:02X}h"
    yield from _key_specific(known[2] & 0x0F, known[_FIXED_SPECIFIC])


def _flags(byte: int) -> Iterator[str]:
    for bit, name in (
        (0x80, "FILEMARK"),
        (0x40, "EOM"),
        (0x20, "ILI: the length is not what it should be"),
        (0x10, "SDAT_OVFL: there was more sense data"),
    ):
        if byte & bit:
            yield name


def _number(data: bytes) -> str:
    value = int.from_bytes(data, "big")
    return f"{value} ({value:#x})" if value >= 10 else str(value)


def _key_specific(key: int, data: bytes) -> Iterator[str]:
    """The sense-key-specific field: a pointer, a progress, or a number of retries."""
    if len(data) < 3 or not data[0] & 0x80:
        return
    rest = int.from_bytes(data[1:3], "big")
    if key in _KEYS_WITH_PROGRESS:
        yield f"{100 * rest / 65536:.1f} % done"
    elif key in _KEYS_WITH_RETRIES:
        yield f"retried {rest} times"
    elif key in _KEYS_WITH_POINTER:
        yield _pointer(key, data)
    elif key == SenseKey.UNIT_ATTENTION:
        if data[0] & 1:
            yield "unit attentions were lost: too many"
    else:
        yield f"sense key specific {data.hex(' ')}"


def _pointer(key: int, data: bytes) -> str:
    found = sense.Pointer.decode(data)
    assert found is not None
    where = "the CDB" if found.in_cdb else "the parameter list"
    if key == SenseKey.COPY_ABORTED:
        where = "the segment descriptor" if found.in_segment else "the parameter list"
    bit = "" if found.bit is None else f" bit {found.bit}"
    return f"wrong is byte {found.byte}{bit} of {where}"


class _Descriptor(NamedTuple):
    """A sense data descriptor: the least bytes it has, and what it says."""

    length: int
    say: Callable[[int, bytes], Iterator[str]]


def _say_information(key: int, body: bytes) -> Iterator[str]:
    if body[2] & 0x80:
        yield f"information {_number(body[4:12])}"


def _say_stream(key: int, body: bytes) -> Iterator[str]:
    yield from _flags(body[3] & 0xE0)


def _say_relayed(key: int, body: bytes) -> Iterator[str]:
    """Sense data of another command; it is not looked into further than its own codes."""
    status = STATUS.get(body[3], f"status {body[3]:02X}h")
    yield f"forwarded: {status}"
    if len(body) >= 12 and body[4] & 0x7F in _FORMATS:
        value = sense.decode(body[4:])
        yield f"{key_name(value.key)}, {asc_names.name(value.code)} ({value})"


_DESCRIPTORS: dict[int, _Descriptor] = {
    0x00: _Descriptor(12, _say_information),
    0x01: _Descriptor(
        12, lambda key, body: iter([f"command-specific information {_number(body[4:12])}"])
    ),
    0x02: _Descriptor(7, lambda key, body: _key_specific(key, body[4:7])),
    0x03: _Descriptor(4, lambda key, body: iter([f"field replaceable unit {body[3]:02X}h"])),
    0x04: _Descriptor(4, _say_stream),
    0x05: _Descriptor(
        4, lambda key, body: iter(["ILI: the length is not what it should be"] * (body[3] >> 5 & 1))
    ),
    0x0C: _Descriptor(4, _say_relayed),
}


def _descriptors(data: bytes) -> Iterator[str]:
    if len(data) > 4 and data[4] & 0x80:
        yield "SDAT_OVFL: there was more sense data"
    key = data[1] & 0x0F if len(data) > 1 else 0
    end = min(len(data), 8 + (data[7] if len(data) > 7 else 0))
    at = 8
    for _ in range(_MOST_DESCRIPTORS):
        if at + 2 > end:
            return
        body = data[at : min(end, at + 2 + data[at + 1])]
        known = _DESCRIPTORS.get(body[0])
        if known is None:
            yield f"descriptor {body.hex(' ')}"
        elif len(body) < known.length:
            yield f"descriptor {body.hex(' ')} (cut off)"
        else:
            yield from known.say(key, body)
        at += 2 + data[at + 1]


# -- CDBs --------------------------------------------------------------------------------------

_ADDRESSES = frozenset({"LOGICAL BLOCK ADDRESS", "STARTING LOGICAL BLOCK ADDRESS"})
#: Fields that are shown also when they are zero: what a zero means is worth knowing.
_ALWAYS = _ADDRESSES | {
    "TRANSFER LENGTH",
    "NUMBER OF LOGICAL BLOCKS",
    "ALLOCATION LENGTH",
    "PARAMETER LIST LENGTH",
    "VERIFICATION LENGTH",
    "PREFETCH LENGTH",
    "PAGE CODE",
}
_HEXADECIMAL = frozenset({"PAGE CODE", "SUBPAGE CODE", "REQUESTED OPERATION CODE"})


def cdb_words(data: bytes) -> str:
    """A CDB in one line: its name, and the fields that are not zero."""
    if not data:
        return "no CDB"
    known = cdb.find(data.ljust(2, b"\0"))
    if known is None:
        return f"{cdb.name_of(data[0])} ({data[0]:02X}h): {data.hex(' ')}"
    table = [Field("OPERATION CODE", 0), *known.fields]
    parts = []
    for item in read(data[: known.length], table)[1:]:
        if item.name == "SERVICE ACTION":
            continue
        if not isinstance(item.value, int):
            parts.append(f"{item.name} {item.value.hex(' ')}")
        elif item.value or item.name in _ALWAYS:
            form = f"{item.value:02X}h" if item.name in _HEXADECIMAL else str(item.value)
            odd = item.name == RESERVED
            parts.append("reserved bits are set" if odd else f"{item.name} {form}")
    if len(data) < known.length:
        parts.append(f"cut off: {len(data)} of {known.length} bytes")
    elif any(data[known.length :]):
        parts.append(f"{len(data) - known.length} bytes too many")
    return ", ".join(dict.fromkeys([known.name, *parts]))
