"""The operation table, and what it refuses for every command alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.engine import EnginePort, ready_nexus, target_of
from tests.kit.units import InlineRamUnit, ThickRamUnit
from userdisk.scsi.sense import Asc, Pointer, SenseKey
from userdisk.target import operations
from userdisk.target.operations import Direction, Row

#: CDB length by the three high bits of the opcode (SAM-6 5.2).
LENGTHS = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
BY_NAME = {row.name: row for row in operations.ROWS}


def bare(row: Row) -> bytearray:
    """The row's CDB with every field zero."""
    cdb = bytearray(16)
    cdb[0], cdb[1] = row.opcode, row.service_action or 0
    return cdb


@pytest.mark.parametrize("row", operations.ROWS, ids=BY_NAME)
def test_rows(row: Row) -> None:
    assert row.usage[0] == row.opcode
    assert len(row.usage) == LENGTHS[row.opcode >> 5]
    assert not row.usage[-1] & 0x04  # NACA: INQUIRY says NORMACA=0
    assert operations.find(bytes(bare(row))) is row


def test_every_row_is_found_under_its_own_name() -> None:
    keys = [(row.opcode, row.service_action) for row in operations.ROWS]
    assert len(set(keys)) == len(keys) == len(BY_NAME)


@pytest.mark.parametrize("row", operations.ROWS, ids=BY_NAME)
def test_a_reserved_bit_is_refused_with_a_pointer_at_it(row: Row) -> None:
    unit = InlineRamUnit(atomic_blocks=1)
    nexus, port = ready_nexus(target_of(unit)), EnginePort()
    for byte in range(1, len(row.usage)):
        for bit in range(8):
            cdb = bare(row)
            if row.usage[byte] >> bit & 1 or (
                byte == 1 and row.service_action is not None and bit < 5
            ):
                continue
            cdb[byte] |= 1 << bit
            result = port.execute(nexus, bytes(cdb), b"")
            assert result.status == 2, (byte, bit)
            assert result.sense == (
                SenseKey.ILLEGAL_REQUEST,
                Asc.INVALID_FIELD_IN_CDB,
                None,
                Pointer(byte, bit),
            )
    assert not unit.log


def test_vendor_specific_bits_of_control_pass() -> None:
    nexus, port = ready_nexus(target_of(InlineRamUnit())), EnginePort()
    assert port.execute(nexus, bytes.fromhex("0000000000c0")).status == 0


def test_unknown_commands_change_nothing() -> None:
    unit = InlineRamUnit()
    nexus, port = ready_nexus(target_of(unit)), EnginePort()
    known = {row.opcode for row in operations.ROWS}
    for opcode in set(range(256)) - known:
        result = port.execute(nexus, bytes([opcode]), bytes(512))
        assert result.status == 2
        assert result.sense == (5, Asc.INVALID_OPERATION_CODE, None, Pointer(0))
    for action in set(range(32)) - {0x10, 0x12}:
        result = port.execute(nexus, bytes([0x9E, action]))
        assert result.sense == (5, Asc.INVALID_FIELD_IN_CDB, None, Pointer(1, 4))
    assert not unit.log


def test_a_thick_unit_has_no_unmap() -> None:
    nexus = ready_nexus(target_of(ThickRamUnit()))
    result = EnginePort().execute(nexus, bytes.fromhex("42000000000000000000"))
    assert result.sense is not None
    assert result.sense.code == Asc.INVALID_OPERATION_CODE


# -- random commands ---------------------------------------------------------------------------


def filled(row: Row, fill: bytes) -> bytes:
    """The row's CDB with random allowed fields."""
    cdb = bare(row)
    for at in range(1, len(row.usage)):
        if row.service_action is None or at > 1:
            cdb[at] |= fill[at] & row.usage[at]
    return bytes(cdb)


@given(
    opcode=st.integers(0, 255),
    rest=st.binary(min_size=15, max_size=15),
    data=st.binary(max_size=2048),
    lun=st.sampled_from([0, 1 << 48, 0x4001 << 48, 1, (1 << 64) - 1]) | st.integers(0, 1 << 64 - 1),
)
def test_random_commands_always_end(opcode: int, rest: bytes, data: bytes, lun: int) -> None:
    result = EnginePort(piece=100).execute(NEXUS, bytes([opcode]) + rest, data, lun)
    assert (result.status, result.sense is None) in ((0, True), (2, False))
    if result.sense is not None:
        assert result.data == b""
        # the unit never fails: nothing but the request can be wrong
        assert result.sense.key == SenseKey.ILLEGAL_REQUEST


@given(
    row=st.sampled_from(operations.ROWS),
    fill=st.binary(min_size=16, max_size=16),
    data=st.binary(max_size=2048),
)
def test_random_fields_always_end(row: Row, fill: bytes, data: bytes) -> None:
    result = EnginePort(piece=100).execute(NEXUS, filled(row, fill), data)
    assert (result.status, result.sense is None) in ((0, True), (2, False))
    if result.sense is not None:
        assert result.sense.key == SenseKey.ILLEGAL_REQUEST


NEXUS = ready_nexus(target_of(InlineRamUnit(block_count=64), ThickRamUnit(block_count=64)))


# -- allocation lengths ------------------------------------------------------------------------

#: name of a command -> CDBs that succeed, where its allocation length is, how wide
ALLOCATION = {
    "REQUEST SENSE": (["03", "0301"], 4, 1),
    "INQUIRY": (["12"] + [f"1201{page}" for page in ("00", "80", "83", "b0", "b1", "b2")], 3, 2),
    "MODE SENSE(6)": (["1a003f", "1a083f", "1a0008", "1a007fff", "1a000a", "1a00bfff"], 4, 1),
    "MODE SENSE(10)": (["5a003f", "5a103f", "5a083f", "5a0008", "5a007fff"], 7, 2),
    "READ DEFECT DATA(10)": (["370018", "37001d"], 7, 2),
    "PERSISTENT RESERVE IN (READ KEYS)": (["5e00"], 7, 2),
    "PERSISTENT RESERVE IN (READ RESERVATION)": (["5e01"], 7, 2),
    "PERSISTENT RESERVE IN (REPORT CAPABILITIES)": (["5e02"], 7, 2),
    "PERSISTENT RESERVE IN (READ FULL STATUS)": (["5e03"], 7, 2),
    "READ CAPACITY(16)": (["9e10"], 10, 4),
    "GET LBA STATUS": (["9e12"], 10, 4),
    "READ DEFECT DATA(12)": (["b718", "b713"], 6, 4),
    "REPORT LUNS": (["a0", "a00001", "a00002"], 6, 4),
}


@pytest.mark.parametrize("name", ALLOCATION)
def test_allocation_lengths_truncate_exactly(name: str) -> None:
    port = EnginePort()
    cdbs, at, width = ALLOCATION[name]
    for text in cdbs:

        def run(length: int, start: str = text) -> bytes:
            cdb = bytearray(bytes.fromhex(start).ljust(16, b"\0"))
            cdb[at : at + width] = length.to_bytes(width, "big")
            result = port.execute(NEXUS, bytes(cdb))
            assert result.status == 0
            return result.data

        whole = run((1 << 8 * width) - 1)
        assert 0 < len(whole) < 256
        for length in range(256):
            assert run(length) == whole[:length]


def test_every_command_with_an_allocation_length_is_in_that_table() -> None:
    fixed = {"READ CAPACITY(10)"} | {name for name in BY_NAME if name.startswith("READ(")}
    assert {row.name for row in operations.ROWS if row.direction is Direction.IN} == (
        set(ALLOCATION) | fixed
    )
