"""Items and lists as text: a table with a column for each bit, `NAME=value` lines, or JSON.

A row of the table is a byte. A field of eight bits or more has the whole width; where it does not
fit beside the bits before it, the rest of the row stays empty and it follows below.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from userdisk.scsi.fields import Form
from userdisk.scsitool.items import Item, Section

_COLUMNS, _WIDTH = 8, 9
_BOUNDARY = "+--------" * _COLUMNS + "+"
_TEXT_ROW, _BYTES_ROW = 64, 16  # characters, and bytes, in a row


class Listing(NamedTuple):
    """Things of one kind, a row each."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[int | str]]
    warnings: Sequence[str] = ()
    #: what is said if there are none
    empty: str = "none"
    #: how a row is said to people, with columns in braces, if it is too long for a line
    sentence: str = ""


Part: TypeAlias = Section | Listing


def value_text(item: Item) -> str:
    """A value as people read it: decimal, and hexadecimal from ten on."""
    value = item.value
    if isinstance(value, int):
        return number_text(value)
    if item.form is Form.TEXT:
        return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in value)
    return value.hex(" ")


def number_text(value: int) -> str:
    """See `value_text`; from 2^32 on the upper and lower 32 bits in hexadecimal."""
    if value >= 1 << 32:
        return f"{value >> 32:x}:{value & 0xFFFFFFFF:08x}"
    return f"{value} ({value:#x})" if value >= 10 else str(value)


# -- the table ---------------------------------------------------------------------------------


def table(section: Section) -> Iterator[str]:
    """The lines of the table, then the warnings."""
    yield _BOUNDARY
    line, column = "", 0
    for item in section.items:
        if isinstance(item.value, bytes):
            yield from _bytes_rows(item)
            continue
        span = min(item.bits, _COLUMNS)
        if column and column + item.bits > _COLUMNS:
            yield f"{line}|{' ' * ((_COLUMNS - column) * _WIDTH - 1)}|"
            yield _step(column)
            line, column = "", 0
        line += f"|{_cell(item.name, value_text(item), span * _WIDTH - 1)}"
        column += span
        if column >= _COLUMNS:
            yield line + "|"
            yield _BOUNDARY
            line, column = "", 0
    if column:
        yield f"{line}|{' ' * ((_COLUMNS - column) * _WIDTH - 1)}|"
        yield _BOUNDARY
    for warning in warnings_of(section):
        yield f"warning: {warning}"


def _step(column: int) -> str:
    """What is between a row that ends early and the field below it."""
    return "+--------" * column + "+" + " " * ((_COLUMNS - column) * _WIDTH - 1) + "|"


def _cell(name: str, value: str, width: int) -> str:
    """`NAME=value` in the middle; what is too long is taken from the end of the name."""
    room = max(0, width - len(value) - 1)
    return _centred(f"{name[:room]}={value}"[:width], width)


def _centred(text: str, width: int) -> str:
    left = max(0, width - len(text)) // 2
    return (" " * left + text).ljust(width)


def _bytes_rows(item: Item) -> Iterator[str]:
    assert isinstance(item.value, bytes)
    width = _COLUMNS * _WIDTH - 1
    yield f"|{_centred(item.name[:width], width)}|"
    step = _TEXT_ROW if item.form is Form.TEXT else _BYTES_ROW
    for at in range(0, len(item.value), step):
        text = value_text(item._replace(value=item.value[at : at + step]))
        yield f"|{_centred(text, width)}|"
    yield _BOUNDARY


def warnings_of(section: Section) -> Iterator[str]:
    """Every warning of a section as a sentence."""
    for item in section.items:
        if item.warning:
            yield f"{item.name}: {item.warning}"
    yield from section.warnings


# -- lists -------------------------------------------------------------------------------------


def columns(listing: Listing) -> Iterator[str]:
    """The lines of a list: a heading, then aligned rows; numbers to the right."""
    if not listing.rows:
        yield listing.empty
    elif listing.sentence:
        for row in listing.rows:
            yield listing.sentence.format(**dict(zip(listing.columns, row, strict=True)))
    else:
        yield from _aligned(listing)
    for warning in listing.warnings:
        yield f"warning: {warning}"


def _aligned(listing: Listing) -> Iterator[str]:
    cells = [list(listing.columns)] + [[str(cell) for cell in row] for row in listing.rows]
    widths = [max(len(row[index]) for row in cells) for index in range(len(listing.columns))]
    right = [
        all(isinstance(row[index], int) for row in listing.rows)
        for index in range(len(listing.columns))
    ]
    for row in cells:
        parts = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        yield "  ".join(parts).rstrip()


# -- the three forms ---------------------------------------------------------------------------


def as_table(parts: Sequence[Part]) -> Iterator[str]:
    """For people: each part under its title if there are several."""
    for index, part in enumerate(parts):
        if len(parts) > 1:
            yield from ("",) * (index > 0)
            yield part.title
        yield from table(part) if isinstance(part, Section) else columns(part)


def as_lines(parts: Sequence[Part]) -> Iterator[str]:
    """Canonical: one `NAME=value` line for each field; parts and rows without anything between."""
    for part in parts:
        if isinstance(part, Section):
            for item in part.items:
                warning = f" (WARN: {item.warning})" if item.warning else ""
                yield f"{item.name}={value_text(item)}{warning}"
        else:
            for row in part.rows:
                for name, cell in zip(part.columns, row, strict=True):
                    yield f"{name}={cell if isinstance(cell, str) else number_text(cell)}"
        for text in part.warnings:
            yield f"(WARN: {text})"


def as_json(parts: Sequence[Part]) -> str:
    """A JSON list of the parts; numbers are numbers, bytes are hexadecimal text."""
    return json.dumps([_json(part) for part in parts], indent=2)


def _json(part: Part) -> dict[str, object]:
    if isinstance(part, Listing):
        rows = [dict(zip(part.columns, row, strict=True)) for row in part.rows]
        return {"title": part.title, "rows": rows, "warnings": list(part.warnings)}
    fields = []
    for item in part.items:
        value = value_text(item) if isinstance(item.value, bytes) else item.value
        field: dict[str, object] = {"name": item.name, "bits": item.bits, "value": value}
        fields.append(field | ({"warning": item.warning} if item.warning else {}))
    return {"title": part.title, "fields": fields, "warnings": list(part.warnings)}
