"""Field tables: where the fields of a page are, for making it and for reading it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

Value: TypeAlias = int | str | bytes


class Form(enum.Enum):
    """How a field is written."""

    NUMBER = "number"  #: unsigned, big-endian, any bits
    TEXT = "text"  #: ASCII, left-aligned, padded with spaces
    BYTES = "bytes"  #: as it is


class Field(NamedTuple):
    """One field: `bits` bits wide, its most significant bit is `bit` of `byte`."""

    name: str
    byte: int
    bits: int = 8
    bit: int = 7
    form: Form = Form.NUMBER


def encode(length: int, fields: Sequence[Field], values: Mapping[str, Value]) -> bytes:
    """`length` bytes with the given values; fields without one are zero.

    Raises ValueError for a value that does not fit, KeyError for one that is no field.
    """
    number = 0
    known = {field.name: field for field in fields}
    for name, value in values.items():
        field = known[name]
        if isinstance(value, str):
            value = value.encode("ascii").ljust(field.bits // 8)
        if isinstance(value, bytes):
            if len(value) * 8 > field.bits:
                raise ValueError(f"{name}: {len(value)} bytes do not fit {field.bits} bits")
            value = int.from_bytes(value.ljust(field.bits // 8, b"\0"), "big")
        if not 0 <= value < 1 << field.bits:
            raise ValueError(f"{name}: {value} does not fit {field.bits} bits")
        number |= value << (length - field.byte) * 8 - (7 - field.bit) - field.bits
    return number.to_bytes(length, "big")


def decode(data: bytes, fields: Sequence[Field]) -> dict[str, Value]:
    """The values of the fields that lie wholly in `data`."""
    values: dict[str, Value] = {}
    number = int.from_bytes(data, "big")
    for field in fields:
        shift = (len(data) - field.byte) * 8 - (7 - field.bit) - field.bits
        if shift < 0:
            continue
        value = number >> shift & (1 << field.bits) - 1
        if field.form is Form.NUMBER:
            values[field.name] = value
            continue
        raw = value.to_bytes(field.bits // 8, "big")
        values[field.name] = raw if field.form is Form.BYTES else raw.decode("latin-1").rstrip()
    return values
