"""WRITE SAME: one block over a range, unmapped where that reads the same."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.units import InlineRamUnit, ThickRamUnit
from tests.target.test_block_commands import code, disk, extent, failing, run
from userdisk import errors
from userdisk.operation import Operation
from userdisk.scsi.sense import Asc, Pointer
from userdisk.unit import Extents

COUNT = 2048
BOTH = (0x41, 0x93)
UNMAP, ANCHOR, NDOB = 0x08, 0x10, 0x01
BLOCK = bytes(range(256)) * 2


def full(unit_class: type[InlineRamUnit] = InlineRamUnit, **parameters: Any) -> InlineRamUnit:
    """A unit with no zero in it."""
    unit = unit_class(**parameters)
    unit.memory[:] = b"\xee" * len(unit.memory)
    return unit


def filled(lba: int, blocks: int, block: bytes) -> bytes:
    rest = COUNT - lba - blocks
    return b"\xee" * (lba * 512) + block * blocks + b"\xee" * (rest * 512)


@pytest.mark.parametrize("opcode", BOTH)
@pytest.mark.parametrize(("lba", "blocks"), [(0, 1), (7, 9), (COUNT - 1, 1), (COUNT - 300, 300)])
@pytest.mark.parametrize("flags", [0, UNMAP])
def test_a_pattern_is_written(opcode: int, lba: int, blocks: int, flags: int) -> None:
    unit = full(max_transfer_length=4096)
    result = run(disk(unit), extent(opcode, lba, blocks, flags), BLOCK, piece=100)
    assert result == (0, b"", None, 512)
    assert unit.memory == filled(lba, blocks, BLOCK)
    assert set(unit.calls) == {"write"}, "nothing that would not read so is unmapped"


@pytest.mark.parametrize("opcode", BOTH)
@pytest.mark.parametrize("flags", [0, UNMAP])
def test_zeros(opcode: int, flags: int) -> None:
    unit = full(max_transfer_length=4096)
    assert run(disk(unit), extent(opcode, 7, 20, flags), bytes(512)).status == 0
    assert unit.memory == filled(7, 20, bytes(512))
    if flags:
        assert unit.log == [("unmap", 7, 20, False)]
    else:
        assert [entry[1:3] for entry in unit.log] == [(7, 8), (15, 8), (23, 4)]


class KeepsGarbage(InlineRamUnit):
    """Unmapped blocks hold what they like."""

    unmap_zeroes = False

    def unmap(self, extents: Extents) -> None:
        raise AssertionError


@pytest.mark.parametrize("opcode", BOTH)
def test_zeros_are_written_where_unmapping_does_not_make_them(opcode: int) -> None:
    unit = full(KeepsGarbage)
    assert run(disk(unit), extent(opcode, 7, 20, UNMAP), bytes(512)).status == 0
    assert unit.memory == filled(7, 20, bytes(512))


@pytest.mark.parametrize("flags", [NDOB, NDOB | UNMAP])
@pytest.mark.parametrize("sent", [b"", BLOCK])
def test_no_data_out_buffer(flags: int, sent: bytes) -> None:
    unit = full()
    result = run(disk(unit), extent(0x93, 7, 20, flags), sent)
    assert result == (0, b"", None, 0)
    assert unit.memory == filled(7, 20, bytes(512))


def test_write_same_10_has_no_ndob() -> None:
    result = run(disk(InlineRamUnit()), extent(0x41, 0, 1, NDOB), b"")
    assert result.sense is not None and result.sense.pointer == Pointer(1, 0)


@pytest.mark.parametrize("opcode", BOTH)
@pytest.mark.parametrize("lba", [0, 1, COUNT - 1])
def test_no_blocks_are_those_to_the_end(opcode: int, lba: int) -> None:
    unit = full()
    assert run(disk(unit), extent(opcode, lba, 0), BLOCK).status == 0
    assert unit.memory == filled(lba, COUNT - lba, BLOCK)


@pytest.mark.parametrize("opcode", BOTH)
def test_no_blocks_at_the_end(opcode: int) -> None:
    unit = full()
    assert run(disk(unit), extent(opcode, COUNT, 0), BLOCK).status == 0
    assert not unit.log


@pytest.mark.parametrize(("opcode", "byte"), [(0x41, 7), (0x93, 10)])
def test_the_announced_maximum(opcode: int, byte: int) -> None:
    unit = InlineRamUnit(block_count=70000)
    nexus = disk(unit)
    limit = int.from_bytes(run(nexus, bytes.fromhex("1201b000ff")).data[36:44], "big")
    assert limit == 0xFFFF
    for lba in (0, 70000 - limit - 1):
        result = run(nexus, extent(opcode, lba, 0, UNMAP), bytes(512))
        assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
        assert result.sense is not None and result.sense.pointer == Pointer(byte)
    assert not unit.log
    for lba, blocks in [(70000 - limit, 0), (0, limit)]:
        assert run(nexus, extent(opcode, lba, blocks, UNMAP), bytes(512)).status == 0
    if opcode == 0x93:
        assert code(run(nexus, extent(opcode, 0, limit + 1), bytes(512))) == (
            5,
            Asc.INVALID_FIELD_IN_CDB,
        )


@pytest.mark.parametrize("opcode", BOTH)
def test_the_end_of_the_disk(opcode: int) -> None:
    unit = InlineRamUnit()
    nexus = disk(unit)
    width = 64 if opcode == 0x93 else 32
    for lba, blocks in [
        (COUNT, 1),
        (COUNT - 1, 2),
        (COUNT + 1, 0),
        (1 << width - 1, 0),
        ((1 << width) - 1, 0),
        ((1 << width) - 1, 1),
    ]:
        assert code(run(nexus, extent(opcode, lba, blocks), BLOCK)) == (5, Asc.LBA_OUT_OF_RANGE)
    assert not unit.log


@pytest.mark.parametrize("opcode", BOTH)
@pytest.mark.parametrize("length", [0, 1, 256, 511, 513, 1024])
@pytest.mark.parametrize("flags", [0, UNMAP])
def test_data_out_is_one_block(opcode: int, length: int, flags: int) -> None:
    unit = InlineRamUnit()
    result = run(disk(unit), extent(opcode, 0, 1, flags), bytes(length))
    assert code(result) == (5, Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    assert result.wanted == 512
    assert not unit.log


@pytest.mark.parametrize("opcode", BOTH)
def test_fields_that_are_refused(opcode: int) -> None:
    unit = InlineRamUnit()
    nexus = disk(unit)
    for flags, bit in [(ANCHOR, 4), (ANCHOR | UNMAP, 4), (0x20, 5), (0x80, 7), (0x04, 2), (2, 1)]:
        result = run(nexus, extent(opcode, 0, 1, flags), BLOCK)
        assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
        assert result.sense is not None and result.sense.pointer == Pointer(1, bit)
    assert not unit.log


@pytest.mark.parametrize("opcode", BOTH)
def test_a_thick_unit_does_not_unmap(opcode: int) -> None:
    unit = ThickRamUnit()
    nexus = disk(unit)
    result = run(nexus, extent(opcode, 0, 1, UNMAP), bytes(512))
    assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
    assert result.sense is not None and result.sense.pointer == Pointer(1, 3)
    assert run(nexus, extent(opcode, 0, 2), BLOCK).status == 0
    assert unit.memory[:1024] == BLOCK * 2
    limits = run(nexus, bytes.fromhex("1201b000ff")).data
    assert limits[20:28] == bytes(8), "nothing to unmap"
    assert limits[36:44] != bytes(8)
    assert run(nexus, bytes.fromhex("1201b200ff")).data[5] == 0


@pytest.mark.parametrize("opcode", BOTH)
@pytest.mark.parametrize("block", [BLOCK, bytes(512)])
def test_what_fails_on_the_way(opcode: int, block: bytes) -> None:
    unit = failing(lambda: errors.WriteError(lba=10), 10)
    result = run(disk(unit), extent(opcode, 4, 12), block)
    assert code(result) == (3, Asc.WRITE_ERROR)
    assert result.sense is not None and result.sense.information == 10
    assert unit.memory[4 * 512 : 8 * 512] == block * 4
    assert unit.memory[8 * 512 :] == bytes(len(unit.memory) - 8 * 512)


@pytest.mark.parametrize("opcode", BOTH)
def test_long_ones_go_to_the_units_threads_in_steps(opcode: int) -> None:
    seen: list[Operation] = []
    unit = InlineRamUnit(block_count=70000, max_transfer_length=4 << 20)
    nexus = disk(unit)
    (path,) = nexus.paths.values()
    path.lu.gate.watch = seen.append
    for block, flags in [(BLOCK, 0), (bytes(512), 0), (bytes(512), UNMAP)]:
        seen.clear()
        assert run(nexus, extent(opcode, 0, 2048, flags), block).status == 0
        assert [operation.offload for operation in seen] == [False], "1 MiB is not long"
        seen.clear()
        assert run(nexus, extent(opcode, 0, 5000, flags), block).status == 0
        assert all(operation.offload for operation in seen)
        if not flags:
            assert [operation.blocks for operation in seen] == [2048, 2048, 904]
