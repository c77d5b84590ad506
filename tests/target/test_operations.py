"""The operation table, and what it refuses for every command alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.engine import EnginePort, flatten, ready_nexus, target_of
from tests.kit.units import AbleRamUnit, InlineRamUnit, ThickRamUnit
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, Pointer, SenseKey
from userdisk.target import inquiry, operations
from userdisk.target.nexus import Nexus
from userdisk.target.operations import Direction, Row
from userdisk.unit import StorageUnit

#: CDB length by the three high bits of the opcode (SAM-6 5.2).
LENGTHS = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
BY_NAME = {row.name: row for row in operations.ROWS}


def bare(row: Row) -> bytearray:
    """The row's CDB with every field zero."""
    cdb = bytearray(16)
    cdb[0], cdb[1] = row.opcode, row.service_action or 0
    return cdb


def able(unit: StorageUnit) -> Nexus:
    """A nexus to a unit in a target with two port groups, which offers their commands as well."""
    target = target_of(unit)
    target.define_groups((1, 2))
    return ready_nexus(target)


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
    unit = AbleRamUnit()
    nexus, port = able(unit), EnginePort()
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
            assert result.sense == sense.invalid_field_in_cdb(byte, bit)
    assert not unit.log


#: Fields of which some values are refused, with a pointer at their first bit: the only pointers at
#: a bit that a row allows.
_VALUES = {
    "LOG SENSE": {Pointer(2, 5)},
    "MODE SELECT(6)": {Pointer(1, 0)},  # there is no place to save anything
    "MODE SELECT(10)": {Pointer(1, 0)},
    "MODE SENSE(6)": {Pointer(2, 5)},
    "MODE SENSE(10)": {Pointer(2, 5)},
    "REPORT SUPPORTED OPERATION CODES": {Pointer(2, 2)},
    **{f"VERIFY({length})": {Pointer(1, 2)} for length in (10, 12, 16)},  # BYTCHK
}


@pytest.mark.parametrize("row", operations.ROWS, ids=BY_NAME)
def test_a_bit_that_is_allowed_is_not_refused_as_such(row: Row) -> None:
    port = EnginePort()
    for byte in range(1, len(row.usage)):
        for bit in range(8):
            nexus = able(AbleRamUnit(block_count=64))
            cdb = bare(row)
            if not row.usage[byte] >> bit & 1 or cdb[byte] >> bit & 1:
                continue
            cdb[byte] |= 1 << bit
            task = port.start(nexus, bytes(cdb), bytes(4096))
            if not task.completions:  # it works in the background, and so was not refused
                continue
            (completion,) = task.completions
            assert completion is not None
            result = flatten(completion)
            if result.sense is not None and result.sense.code == Asc.INVALID_FIELD_IN_CDB:
                pointer = result.sense.pointer
                assert pointer is not None
                assert pointer != Pointer(byte, bit) or pointer in _VALUES.get(row.name, set())


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
        assert result.sense == sense.invalid_opcode()
    actions = {(row.opcode, row.service_action) for row in operations.ROWS}
    for opcode in {opcode for opcode, action in actions if action is not None}:
        for action in range(32):
            if (opcode, action) not in actions:
                result = port.execute(nexus, bytes([opcode, action]), bytes(512))
                assert result.sense == sense.invalid_field_in_cdb(1, 4)
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
    nexus = ready_nexus(target_of(InlineRamUnit(block_count=64), ThickRamUnit(block_count=64)))
    result = EnginePort(piece=100).execute(nexus, filled(row, fill), data)
    assert (result.status, result.sense is None) in ((0, True), (2, False), (0x18, True))
    if result.sense is not None:
        assert result.data == b""
        assert result.sense.key in (SenseKey.ILLEGAL_REQUEST, SenseKey.MISCOMPARE)


NEXUS = ready_nexus(target_of(InlineRamUnit(block_count=64), ThickRamUnit(block_count=64)))
ABLE = able(AbleRamUnit())


# -- allocation lengths ------------------------------------------------------------------------

#: name of a command -> CDBs that succeed, where its allocation length is, how wide
ALLOCATION = {
    "REQUEST SENSE": (["03", "0301"], 4, 1),
    "INQUIRY": (["12"] + [f"1201{page:02x}" for page in inquiry._PAGES], 3, 2),
    "LOG SENSE": (
        [f"4d00{page}" for page in ("40", "00ff", "42", "43", "4c", "4d", "4e", "6f")],
        7,
        2,
    ),
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
    "RECEIVE COPY OPERATING PARAMETERS": (["8403"], 10, 4),
    "REPORT TARGET PORT GROUPS": (["a30a", "a32a"], 6, 4),
    "REPORT SUPPORTED OPERATION CODES": (
        ["a30c", "a30c80", "a30c0128", "a30c8128", "a30c01ff", "a30c039e0010"],
        6,
        4,
    ),
    "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS": (["a30d", "a30d80"], 6, 4),
}


@pytest.mark.parametrize("name", ALLOCATION)
def test_allocation_lengths_truncate_exactly(name: str) -> None:
    port = EnginePort()
    cdbs, at, width = ALLOCATION[name]
    for text in cdbs:

        def run(length: int, start: str = text) -> bytes:
            cdb = bytearray(bytes.fromhex(start).ljust(16, b"\0"))
            cdb[at : at + width] = length.to_bytes(width, "big")
            result = port.execute(ABLE, bytes(cdb))
            assert result.status == 0
            return result.data

        whole = run((1 << 8 * width) - 1)
        assert 0 < len(whole) < 2048
        for length in range(min(len(whole) + 2, 1 << 8 * width)):
            assert run(length) == whole[:length]


def test_every_command_with_an_allocation_length_is_in_that_table() -> None:
    fixed = {"READ CAPACITY(10)"} | {name for name in BY_NAME if name.startswith("READ(")}
    of_a_copy = {  # these need one that runs or has ended
        "RECEIVE COPY STATUS(LID1)",
        "RECEIVE COPY FAILURE DETAILS(LID1)",
        "RECEIVE COPY STATUS(LID4)",
        "RECEIVE ROD TOKEN INFORMATION",
    }
    assert {row.name for row in operations.ROWS if row.direction is Direction.IN} == (
        set(ALLOCATION) | fixed | of_a_copy
    )
