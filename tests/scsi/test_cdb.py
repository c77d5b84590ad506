"""The fields of CDBs agree with what the engine lets through."""

from __future__ import annotations

import pytest

from userdisk.scsi import asc_names, cdb, fields
from userdisk.scsi.sense import Asc
from userdisk.target import operations
from userdisk.target.row import Row


@pytest.mark.parametrize("row", operations.ROWS, ids=lambda row: row.name)
def test_every_command_of_the_engine_has_fields(row: Row) -> None:
    found = cdb.of(row.name)
    action = row.service_action
    assert (found.opcode, found.service_action) == (row.opcode, action)
    assert found.length == len(row.usage)
    assert cdb.find(row.usage) is found
    assert cdb.name_of(row.opcode, action) == row.name
    assert cdb.length_of(row.opcode) == found.length
    covered = 0xFF << 8 * (found.length - 1)
    for field in found.fields:
        ones = fields.encode(found.length, [field], {field.name: (1 << field.bits) - 1})
        mask = int.from_bytes(ones, "big")
        assert not covered & mask, f"{field} overlaps"
        covered |= mask
    assert not int.from_bytes(row.usage, "big") & ~covered, "a bit that may be set is in no field"


def test_nothing_else_is_in_the_table() -> None:
    assert {row.name for row in operations.ROWS} == {each.name for each in cdb.CDBS}


def test_commands_as_bytes() -> None:
    read = cdb.of("READ(16)").encode({"LOGICAL BLOCK ADDRESS": 1 << 40, "TRANSFER LENGTH": 8})
    assert read == bytes.fromhex("88 00 0000010000000000 00000008 00 00")
    capacity = cdb.of("READ CAPACITY(16)").encode({"ALLOCATION LENGTH": 32})
    assert capacity == bytes.fromhex("9e 10 0000000000000000 00000020 00 00")
    keys = cdb.of("PERSISTENT RESERVE IN (READ KEYS)").encode({"ALLOCATION LENGTH": 0x1234})
    assert keys == bytes.fromhex("5e 00 00 00 00 00 00 1234 00")


def test_names_of_what_is_not_in_the_table() -> None:
    assert cdb.name_of(0x04) == "FORMAT UNIT"
    assert cdb.name_of(0x5E, 0x1F) == "PERSISTENT RESERVE IN (service action 1Fh)"
    assert cdb.name_of(0xC1) == "vendor specific command"
    assert cdb.name_of(0x7E) == "unknown command"


@pytest.mark.parametrize("code", Asc)
def test_every_code_of_the_engine_has_a_name(code: Asc) -> None:
    assert asc_names.name(code) == asc_names.NAMES[code]


def test_codes_without_a_name() -> None:
    assert asc_names.name(0x2900) == "power on, reset, or bus device reset occurred"
    assert asc_names.name(0x2977) == f"{asc_names.NAMES[0x2900]} (qualifier 77)"
    assert asc_names.name(0x8001) == "vendor specific code 80/01"
    assert asc_names.name(0x7E00) == "unknown code 7E/00"
