"""Field tables: placement of bits, and that the tables of all pages are sound."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.scsi import (
    capacity,
    fields,
    inquiry,
    lba_status,
    log,
    luns,
    mode,
    port_groups,
    reservation,
    sense,
    supported,
)
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
    "READ CAPACITY(10)": (capacity.SHORT_LENGTH, capacity.SHORT),
    "designator": (inquiry.DESIGNATOR_LENGTH, inquiry.DESIGNATOR),
    "mode header 6": (mode.HEADER_6_LENGTH, mode.HEADER_6),
    "mode header 10": (mode.HEADER_10_LENGTH, mode.HEADER_10),
    "block descriptor": (mode.DESCRIPTOR_LENGTH, mode.DESCRIPTOR),
    "long block descriptor": (mode.LONG_DESCRIPTOR_LENGTH, mode.LONG_DESCRIPTOR),
    "log header": (log.HEADER_LENGTH, log.HEADER),
    "log parameter": (log.PARAMETER_LENGTH, log.PARAMETER),
    "LUN list": (luns.HEADER_LENGTH, luns.HEADER),
    "LBA status": (lba_status.HEADER_LENGTH, lba_status.HEADER),
    "LBA status descriptor": (lba_status.DESCRIPTOR_LENGTH, lba_status.DESCRIPTOR),
    "port group": (port_groups.GROUP_LENGTH, port_groups.GROUP),
    "port": (port_groups.PORT_LENGTH, port_groups.PORT),
    "reservation header": (reservation.HEADER_LENGTH, reservation.HEADER),
    "reservation": (reservation.RESERVATION_LENGTH, reservation.RESERVATION),
    "full status": (reservation.FULL_STATUS_LENGTH, reservation.FULL_STATUS),
    "capabilities": (reservation.CAPABILITIES_LENGTH, reservation.CAPABILITIES),
    "supported command": (supported.COMMAND_LENGTH, supported.COMMAND),
    "one command": (supported.ONE_LENGTH, supported.ONE),
    "timeouts": (supported.TIMEOUTS_LENGTH, supported.TIMEOUTS),
    "fixed sense": (18, sense.FIXED),
    "descriptor sense": (sense.DESCRIPTOR_HEADER_LENGTH, sense.DESCRIPTOR_HEADER),
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
@settings(max_examples=15, deadline=None)
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


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1), st.integers(0, 15))
@settings(deadline=None)
def test_lba_status_as_a_structure_and_as_a_table(lba: int, blocks: int, state: int) -> None:
    packed = lba_status.DESCRIPTOR_STRUCT.pack(lba, blocks, state)
    assert fields.decode(packed, lba_status.DESCRIPTOR) == {
        "LOGICAL BLOCK ADDRESS": lba,
        "NUMBER OF LOGICAL BLOCKS": blocks,
        "PROVISIONING STATUS": state,
        "ADDITIONAL STATUS": 0,
    }
    header = lba_status.HEADER_STRUCT.pack(blocks, state)
    read = fields.decode(header, lba_status.HEADER)
    assert read["PARAMETER DATA LENGTH"] == blocks and read["RTP"] == state & 1
    assert read["COMPLETION CONDITION"] == state >> 1


def test_fixed_sense_is_what_the_engine_makes() -> None:
    value = sense.Sense(5, 0x2400, 7, sense.Pointer(2, 5), 9)
    read = fields.decode(value.encode(), sense.FIXED)
    assert (read["VALID"], read["RESPONSE CODE"], read["SENSE KEY"]) == (1, 0x70, 5)
    assert (read["INFORMATION"], read["COMMAND-SPECIFIC INFORMATION"]) == (7, 9)
    assert (read["ADDITIONAL SENSE CODE"], read["SKSV"]) == (0x24, 1)
    assert read["SENSE KEY SPECIFIC"] == 0x4D0002
