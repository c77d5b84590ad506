"""Field tables: placement of bits, and that the tables of all pages are sound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.scsi import capacity, fields, inquiry, mode
from userdisk.scsi.fields import Field, Form

SOME = (
    Field("HIGH", 0, 3),
    Field("LOW", 0, 5, 4),
    Field("WIDE", 1, 15, 6),
    Field("NAME", 3, 32, form=Form.TEXT),
    Field("RAW", 7, 16, form=Form.BYTES),
)

TABLES = {
    "standard INQUIRY": (inquiry.STANDARD_LENGTH, inquiry.STANDARD),
    "READ CAPACITY(16)": (capacity.LONG_LENGTH, capacity.LONG),
    **{f"VPD {code:02X}": page for code, page in inquiry.PAGES.items()},
    **{f"mode {page.name}": (page.length, page.fields) for page in mode.PAGES},
}


def test_bits_go_where_the_table_says() -> None:
    values = {"HIGH": 5, "LOW": 1, "WIDE": 0x4001, "NAME": "ab", "RAW": b"\x01\x02"}
    data = fields.encode(9, SOME, values)
    assert data == bytes.fromhex("a1 4001 61622020 0102")
    assert fields.decode(data, SOME) == values


def test_decode_leaves_out_what_is_cut_off() -> None:
    assert fields.decode(b"\xa1\x40", SOME) == {"HIGH": 5, "LOW": 1}


@pytest.mark.parametrize("value", [8, -1])
def test_a_value_that_does_not_fit(value: int) -> None:
    with pytest.raises(ValueError, match=f"HIGH: {value} does not fit 3 bits"):
        fields.encode(9, SOME, {"HIGH": value})


def test_a_text_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="NAME: 5 bytes do not fit 32 bits"):
        fields.encode(9, SOME, {"NAME": "abcde"})


@pytest.mark.parametrize("name", TABLES)
def test_fields_of_a_table_do_not_overlap_or_leave_it(name: str) -> None:
    length, table = TABLES[name]
    taken = 0
    for field in table:
        ones = fields.encode(length, [field], {field.name: (1 << field.bits) - 1})
        mask = int.from_bytes(ones, "big")
        assert mask.bit_count() == field.bits, field
        assert not taken & mask, field
        taken |= mask


@pytest.mark.parametrize("name", TABLES)
@settings(max_examples=15)
@given(data=st.data())
def test_tables_read_what_they_wrote(name: str, data: st.DataObject) -> None:
    length, table = TABLES[name]
    numbers = {
        field.name: data.draw(st.integers(0, (1 << field.bits) - 1))
        for field in table
        if field.form is Form.NUMBER
    }
    encoded = fields.encode(length, table, numbers)
    read = fields.decode(encoded, table)
    assert {key: read[key] for key in numbers} == numbers
