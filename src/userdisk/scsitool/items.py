"""Bytes of an answer as items: named fields, the reserved bits between them, and what is odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from userdisk.scsi.fields import Field, Form

RESERVED = "Reserved"
_WIDEST_GAP = 32  # bits of a reserved number; what is longer is shown as bytes
_MAX_ITEMS = 20_000  # of one answer

NOT_ZERO = "non-zero reserved value"
MISMATCH = "data buffer length mismatch"
CUT = "cut off"


class Item(NamedTuple):
    """One field with its value: a number, or bytes for text and for what has no other form."""

    name: str
    bits: int
    value: int | bytes
    form: Form = Form.NUMBER
    warning: str = ""


class Section(NamedTuple):
    """Items of one answer or one part of it, under a title; warnings that no item has."""

    title: str
    items: tuple[Item, ...]
    warnings: tuple[str, ...] = ()

    def number(self, name: str) -> int | None:
        """The first number of that name; None: it is not there."""
        for item in self.items:
            if item.name == name and isinstance(item.value, int):
                return item.value
        return None

    def numbers(self, name: str) -> list[int]:
        """All numbers of that name, in their order."""
        found = (item.value for item in self.items if item.name == name)
        return [value for value in found if isinstance(value, int)]


class Reader:
    """Reads an answer from its beginning to its end, whatever it holds.

    Args:
        data: what the device sent.
        labels: what fields are called here, if not what their table says.
    """

    def __init__(self, data: bytes, labels: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.at = 0
        self.items: list[Item] = []
        self.warnings: list[str] = []
        self._labels = labels or {}

    @property
    def left(self) -> int:
        """Bytes that were not read."""
        return len(self.data) - self.at

    @property
    def going(self) -> bool:
        """There is more to read, and room for it."""
        return self.left > 0 and len(self.items) < _MAX_ITEMS

    def fields(self, table: Sequence[Field], length: int) -> dict[str, int]:
        """Read `length` bytes by a table; returns the numbers. Less is read if less is there."""
        part = self.data[self.at : self.at + length]
        if len(part) < length and part:
            self.warnings.append(f"{CUT}: {len(part)} of {length} bytes")
        self.at += len(part)
        found = list(read(part, table))
        self.items += [self._labelled(item) for item in found]
        return {item.name: item.value for item in found if isinstance(item.value, int)}

    def raw(self, name: str, length: int, form: Form = Form.BYTES) -> bytes:
        """Read bytes as they are."""
        part = self.data[self.at : self.at + max(0, length)]
        self.at += len(part)
        if part or length <= 0:
            warning = CUT if len(part) < length else ""
            self.items.append(Item(name, 8 * len(part), part, form, warning))
        elif length:
            self.warnings.append(f"{name}: {CUT}")
        return part

    def rest(self, name: str) -> None:
        """Read what is left as bytes, if anything is."""
        if self.left:
            self.raw(name, self.left)

    def limit(self, name: str, total: int) -> None:
        """The answer says of itself to be `total` bytes: less is read, more is warned of.

        Args:
            name: the field that says so, which gets the warning.
        """
        if total != len(self.data):
            label = self._labels.get(name, name)
            for index, item in enumerate(self.items):
                if item.name == label:
                    self.items[index] = item._replace(warning=MISMATCH)
                    break
            self.data = self.data[: max(total, self.at)]

    def section(self, title: str) -> Section:
        """All that was read."""
        if self.left and len(self.items) >= _MAX_ITEMS:
            self.warnings.append(f"only the first {_MAX_ITEMS} fields are shown")
        return Section(title, tuple(self.items), tuple(self.warnings))

    def _labelled(self, item: Item) -> Item:
        label = self._labels.get(item.name)
        return item if label is None else item._replace(name=label)


def read(data: bytes, table: Sequence[Field]) -> Sequence[Item]:
    """All bits of `data` as items: the table's fields, and what is between them as reserved.

    A field of which not all bits are there is shown as what is: bytes, if it begins with one.
    """
    items: list[Item] = []
    end, at = 8 * len(data), 0
    number = int.from_bytes(data, "big")
    for field in sorted(table, key=_start):
        start = _start(field)
        if start >= end:
            break
        items += _gap(number, end, at, start)
        at = start + field.bits
        if at > end:
            items.append(_cut(field.name, data, number, start))
            at = end
            break
        value = number >> end - at & (1 << field.bits) - 1
        if field.form is Form.NUMBER:
            items.append(Item(field.name, field.bits, value))
        else:
            raw = value.to_bytes(field.bits // 8, "big")
            items.append(Item(field.name, field.bits, raw, field.form))
    return [*items, *_gap(number, end, at, end)]


def _cut(name: str, data: bytes, number: int, start: int) -> Item:
    """What there is of a field that is not whole."""
    if start % 8 == 0:
        return Item(name, 8 * len(data) - start, data[start // 8 :], Form.BYTES, CUT)
    bits = 8 * len(data) - start
    return Item(name, bits, number & (1 << bits) - 1, Form.NUMBER, CUT)


def _start(field: Field) -> int:
    return 8 * field.byte + 7 - field.bit


def _gap(number: int, end: int, at: int, until: int) -> Sequence[Item]:
    """Reserved bits: to the end of the byte, then whole bytes together, then the rest."""
    items = []
    while at < until:
        whole = (until - at) // 8 * 8
        bits = min(8 - at % 8, until - at) if at % 8 or not whole else whole
        value = number >> end - at - bits & (1 << bits) - 1
        warning = NOT_ZERO if value else ""
        if bits <= _WIDEST_GAP:
            items.append(Item(RESERVED, bits, value, Form.NUMBER, warning))
        else:
            raw = value.to_bytes(bits // 8, "big")
            items.append(Item(RESERVED, bits, raw, Form.BYTES, warning))
        at += bits
    return items
