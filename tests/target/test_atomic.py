"""COMPARE AND WRITE, ORWRITE and WRITE ATOMIC: results, limits, failures on the way."""

from __future__ import annotations

import struct

import pytest

from tests.kit.engine import EnginePort, ready_nexus, target_of
from tests.kit.units import InlineRamUnit
from tests.target.test_block_commands import code, disk, extent, failing, run
from userdisk import errors
from userdisk.operation import Kind
from userdisk.scsi.sense import Asc, Pointer, SenseKey

COUNT = 2048
FUA, DPO = 0x08, 0x10


def exchange(lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBQ3xBxx", 0x89, flags, lba, blocks)


def atomic(lba: int, blocks: int, flags: int = 0, boundary: int = 0) -> bytes:
    return struct.pack(">BBQHHxx", 0x9C, flags, lba, boundary, blocks)


def pattern(blocks: int, start: int = 1) -> bytes:
    return b"".join(struct.pack(">I", n) * 128 for n in range(start, start + blocks))


# -- COMPARE AND WRITE -------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 3, 255])
@pytest.mark.parametrize("transfer", [512, 1536, 1 << 20])
@pytest.mark.parametrize("flags", [0, FUA, DPO, FUA | DPO])
def test_compare_and_write(blocks: int, transfer: int, flags: int) -> None:
    unit = InlineRamUnit(max_transfer_length=transfer)
    nexus = disk(unit)
    lba = COUNT - blocks
    old, new = pattern(blocks), pattern(blocks, 1000)
    unit.memory[lba * 512 :] = old
    result = run(nexus, exchange(lba, blocks, flags), old + new, piece=1000)
    assert result == (0, b"", None, 2 * blocks * 512)
    assert unit.memory == bytes(lba * 512) + new
    assert {entry[3] for entry in unit.log if entry[0] == "write"} == {bool(flags & FUA)}
    assert max(entry[2] for entry in unit.log) <= transfer // 512


@pytest.mark.parametrize("at", [0, 511, 512, 1535, 1536, 5 * 512 - 1])
def test_a_miscompare_changes_nothing_and_says_where(at: int) -> None:
    unit = InlineRamUnit(max_transfer_length=1536)
    old = pattern(5)
    unit.memory[512 : 6 * 512] = old
    before = bytes(unit.memory)
    wrong = bytearray(old)
    wrong[at] ^= 1
    wrong[-1] ^= 2
    result = run(disk(unit), exchange(1, 5), bytes(wrong) + bytes(5 * 512))
    assert code(result) == (SenseKey.MISCOMPARE, Asc.MISCOMPARE)
    assert result.sense is not None and result.sense.information == at
    assert unit.memory == before
    assert not unit.calls["write"]


@pytest.mark.parametrize(
    ("blocks", "length"),
    [(1, 0), (1, 512), (1, 1023), (1, 1025), (1, 4096), (3, 4096), (2, 1024), (255, 1024)],
)
def test_data_out_is_twice_the_blocks(blocks: int, length: int) -> None:
    unit = InlineRamUnit()
    result = run(disk(unit), exchange(0, blocks), bytes(length))
    assert code(result) == (5, Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    assert not unit.log


def test_no_blocks() -> None:
    unit = InlineRamUnit()
    nexus = disk(unit)
    assert run(nexus, exchange(COUNT, 0)).status == 0
    result = run(nexus, exchange(0, 0), bytes(256 * 1024))  # 256 blocks, as libiscsi writes it
    assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
    assert result.sense is not None and result.sense.pointer == Pointer(13)
    assert run(nexus, bytes.fromhex("1201b000ff")).data[5] == 255
    assert not unit.log


@pytest.mark.parametrize(
    ("lba", "blocks"),
    [(COUNT, 1), (COUNT - 1, 2), (COUNT + 1, 0), (1 << 63, 1), ((1 << 64) - 1, 1)],
)
def test_the_end_of_the_disk(lba: int, blocks: int) -> None:
    unit = InlineRamUnit()
    nexus = disk(unit)
    for cdb in (exchange(lba, blocks), extent(0x8B, lba, blocks)):
        assert code(run(nexus, cdb, bytes(2 * blocks * 512))) == (5, Asc.LBA_OUT_OF_RANGE)
    assert not unit.log


def test_errors_of_the_unit_come_through() -> None:
    unit = failing(lambda: errors.MediumError(lba=10), 10)
    nexus = disk(unit)
    for cdb, data in [
        (exchange(8, 4), bytes(8 * 512)),
        (extent(0x8B, 8, 4), bytes(4 * 512)),
    ]:
        result = run(nexus, cdb, data)
        assert code(result) == (3, Asc.UNRECOVERED_READ_ERROR)
        assert result.sense is not None and result.sense.information == 10
    assert not unit.calls["write"]


def test_a_read_of_the_wrong_length() -> None:
    class Short(InlineRamUnit):
        def read(self, lba: int, blocks: int, fua: bool) -> bytes:
            return bytes(blocks * 512 - 1)

    nexus = disk(Short())
    for cdb, data in [(exchange(8, 4), bytes(8 * 512)), (extent(0x8B, 8, 4), bytes(4 * 512))]:
        assert code(run(nexus, cdb, data)) == (4, Asc.INTERNAL_TARGET_FAILURE)


def test_nobody_else_is_in_the_unit_meanwhile() -> None:
    """Each is one exclusive operation: no other can come between its read and its write."""
    unit = InlineRamUnit()
    nexus = ready_nexus(target_of(unit))
    port = EnginePort(deferred=True)
    for cdb, data in [(exchange(0, 2), bytes(2048)), (extent(0x8B, 0, 2), bytes(1024))]:
        task = port.start(nexus, cdb, data)
        (waiting,) = port.waiting
        assert waiting.operation is not None and waiting.operation.kind is Kind.EXCLUSIVE
        assert (waiting.operation.lba, waiting.operation.blocks) == (0, 2)
        port.step()
        assert [completion and completion.status for completion in task.completions] == [0]


# -- ORWRITE -----------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [512, 700, 1 << 20])
@pytest.mark.parametrize("flags", [0, FUA])
def test_orwrite(piece: int, flags: int) -> None:
    unit = InlineRamUnit(max_transfer_length=2048)
    old, data = pattern(9), pattern(9, 77777)
    unit.memory[512 : 10 * 512] = old
    result = run(disk(unit), extent(0x8B, 1, 9, flags), data, piece)
    assert result == (0, b"", None, 9 * 512)
    merged = bytes(a | b for a, b in zip(old, data, strict=True))
    assert unit.memory[: 11 * 512] == bytes(512) + merged + bytes(512)
    assert {entry[3] for entry in unit.log if entry[0] == "write"} == {bool(flags)}


def test_orwrite_with_less_data_than_blocks() -> None:
    unit = InlineRamUnit()
    nexus = disk(unit)
    assert run(nexus, extent(0x8B, 0, 4), b"\x0f" * 1024) == (0, b"", None, 2048)
    assert unit.memory[:2048] == b"\x0f" * 1024 + bytes(1024)
    assert code(run(nexus, extent(0x8B, 0, 4), bytes(1025))) == (
        5,
        Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT,
    )


# -- WRITE ATOMIC ------------------------------------------------------------------------------


def test_write_atomic_is_one_write() -> None:
    unit = InlineRamUnit(atomic_blocks=16)
    nexus = disk(unit)
    limits = run(nexus, bytes.fromhex("1201b000ff")).data
    assert limits[44:64].hex() == "00000010" + "00" * 16
    data = pattern(16)
    assert run(nexus, atomic(5, 16, FUA), data, piece=600) == (0, b"", None, 16 * 512)
    assert unit.memory[5 * 512 : 21 * 512] == data
    assert unit.log == [("write", 5, 16, True)]


def test_write_atomic_refuses_what_it_cannot_promise() -> None:
    unit = InlineRamUnit(atomic_blocks=16)
    nexus = disk(unit)
    for cdb, pointer in [(atomic(0, 17), Pointer(12)), (atomic(0, 16, boundary=8), Pointer(11, 3))]:
        result = run(nexus, cdb, bytes(17 * 512))
        assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
        assert result.sense is not None and result.sense.pointer == pointer
    assert code(run(nexus, atomic(0, 16), bytes(15 * 512))) == (
        5,
        Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT,
    )
    for lba, blocks in [(COUNT - 15, 16), (COUNT, 1), (COUNT + 1, 0), (1 << 63, 1)]:
        result = run(nexus, atomic(lba, blocks), bytes(blocks * 512))
        assert code(result) == (5, Asc.LBA_OUT_OF_RANGE)
    assert run(nexus, atomic(COUNT, 0)).status == 0
    assert not unit.log


def test_a_unit_that_promises_nothing_has_no_atomic_writes() -> None:
    nexus = disk(InlineRamUnit())
    assert code(run(nexus, atomic(0, 1), bytes(512))) == (5, Asc.INVALID_OPERATION_CODE)
    assert run(nexus, bytes.fromhex("1201b000ff")).data[44:64] == bytes(20)
