"""VERIFY and WRITE AND VERIFY: what is compared, where it differs, what the medium says."""

from __future__ import annotations

import struct

import pytest

from tests.kit.engine import EnginePort
from tests.kit.units import InlineRamUnit
from tests.target.test_block_commands import code, disk, extent, failing, run
from userdisk import errors
from userdisk.scsi.sense import Asc, Pointer, SenseKey
from userdisk.target.verify import difference

COUNT = 2048
VERIFIES, WRITES = (0x2F, 0xAF, 0x8F), (0x2E, 0xAE, 0x8E)
NOT_COMPARED, COMPARED, ONE_WITH_ALL = 0, 0x02, 0x06


def pattern(blocks: int) -> bytes:
    """Blocks that all differ."""
    return b"".join(struct.pack(">I", n) * 128 for n in range(1, blocks + 1))


@pytest.mark.parametrize("opcode", VERIFIES)
def test_blocks_are_read_even_if_none_is_compared(opcode: int) -> None:
    unit = failing(lambda: errors.MediumError(lba=10), 10)
    nexus = disk(unit)
    assert run(nexus, extent(opcode, 0, 10)).status == 0
    assert unit.log == [
        ("read", 0, 4, True),
        ("read", 4, 4, True),
        ("read", 8, 2, True),
    ]
    result = run(nexus, extent(opcode, 4, 12, NOT_COMPARED))
    assert code(result) == (3, Asc.UNRECOVERED_READ_ERROR)
    assert result.sense is not None and result.sense.information == 10


@pytest.mark.parametrize("opcode", VERIFIES)
def test_data_that_nobody_asked_for_is_left(opcode: int) -> None:
    unit = InlineRamUnit()
    port = EnginePort()
    task = port.start(disk(unit), extent(opcode, 0, 2), b"\xaa" * 1024)
    (completion,) = task.completions
    assert completion is not None and completion.status == 0
    assert not completion.wanted and not completion.data
    assert len(task.data_out) == 1024, "not asked for"


@pytest.mark.parametrize("opcode", VERIFIES)
@pytest.mark.parametrize("piece", [512, 700, 1 << 20])
def test_comparison(opcode: int, piece: int) -> None:
    unit = InlineRamUnit(max_transfer_length=2048)
    nexus = disk(unit)
    data = pattern(9)
    unit.memory[3 * 512 : 12 * 512] = data
    assert run(nexus, extent(opcode, 3, 9, COMPARED), data, piece) == (0, b"", None, 9 * 512)
    for at in (0, 511, 512, 2047, 2048, 9 * 512 - 1):
        wrong = bytearray(data)
        wrong[at] ^= 0x10
        wrong[-1] ^= 0x01
        result = run(nexus, extent(opcode, 3, 9, COMPARED), bytes(wrong), piece)
        assert code(result) == (SenseKey.MISCOMPARE, Asc.MISCOMPARE)
        assert result.sense is not None and result.sense.information == at
    assert not unit.calls["write"]


@pytest.mark.parametrize("opcode", VERIFIES)
def test_one_block_compared_with_all(opcode: int) -> None:
    unit = InlineRamUnit(max_transfer_length=2048)
    nexus = disk(unit)
    block = bytes(range(256)) * 2
    unit.memory[5 * 512 : 14 * 512] = block * 9
    flags = ONE_WITH_ALL
    assert run(nexus, extent(opcode, 5, 9, flags), block, 100) == (0, b"", None, 512)
    unit.memory[13 * 512 + 7] ^= 1
    result = run(nexus, extent(opcode, 5, 9, flags), block)
    assert code(result) == (SenseKey.MISCOMPARE, Asc.MISCOMPARE)
    assert result.sense is not None and result.sense.information == 7
    assert code(run(nexus, extent(opcode, 5, 9, flags), block[:511])) == (
        5,
        Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT,
    )


@pytest.mark.parametrize("opcode", VERIFIES)
def test_the_reserved_bytchk(opcode: int) -> None:
    result = run(disk(InlineRamUnit()), extent(opcode, 0, 1, 0x04), bytes(512))
    assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
    assert result.sense is not None and result.sense.pointer == Pointer(1, 2)


@pytest.mark.parametrize("opcode", WRITES)
def test_writes_compare_all_or_nothing(opcode: int) -> None:
    result = run(disk(InlineRamUnit()), extent(opcode, 0, 1, 0x04), bytes(512))
    assert result.sense is not None and result.sense.pointer == Pointer(1, 2)


@pytest.mark.parametrize("opcode", VERIFIES + WRITES)
@pytest.mark.parametrize("flags", [NOT_COMPARED, COMPARED])
def test_the_end_of_the_disk(opcode: int, flags: int) -> None:
    unit = InlineRamUnit()
    nexus = disk(unit)
    width = 64 if 0x80 <= opcode < 0xA0 else 32
    for lba, blocks in [
        (COUNT, 1),
        (COUNT - 1, 2),
        (0, COUNT + 1),
        (COUNT + 1, 0),
        (1 << width - 1, 1),
        (1 << width - 1, 0),
        ((1 << width) - 1, 1),
    ]:
        result = run(nexus, extent(opcode, lba, blocks, flags), bytes(1024))
        assert code(result) == (5, Asc.LBA_OUT_OF_RANGE)
    for lba, blocks in [(COUNT, 0), (0, 0)]:
        assert run(nexus, extent(opcode, lba, blocks, flags)).status == 0
    assert not unit.log
    assert run(nexus, extent(opcode, COUNT - 1, 1, flags | 0x10), bytes(512)).status == 0


@pytest.mark.parametrize("opcode", VERIFIES)
def test_fewer_bytes_than_there_are_to_compare(opcode: int) -> None:
    unit = InlineRamUnit()
    result = run(disk(unit), extent(opcode, 0, 2, COMPARED), bytes(1023))
    assert code(result) == (5, Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    assert result.wanted == 1024
    assert not unit.log


@pytest.mark.parametrize(("opcode", "byte"), [(0xAF, 6), (0x8F, 10), (0x8E, 10), (0xAE, 6)])
def test_the_maximum_transfer_length(opcode: int, byte: int) -> None:
    unit = InlineRamUnit(block_count=1 << 15)
    nexus = disk(unit)
    result = run(nexus, extent(opcode, 0, 0x4001, COMPARED), bytes(0x4001 * 512))
    assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
    assert result.sense is not None and result.sense.pointer == Pointer(byte)
    assert run(nexus, extent(opcode, 0, 0x4000, COMPARED), bytes(0x4000 * 512)).status == 0
    if opcode in VERIFIES:  # what moves no data has no limit
        assert run(nexus, extent(opcode, 0, 1 << 15)).status == 0


# -- WRITE AND VERIFY --------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", WRITES)
@pytest.mark.parametrize("flags", [NOT_COMPARED, COMPARED])
@pytest.mark.parametrize("piece", [512, 700, 1 << 20])
def test_written_and_read_back_past_caches(opcode: int, flags: int, piece: int) -> None:
    unit = InlineRamUnit(max_transfer_length=2048)
    data = pattern(9)
    assert run(disk(unit), extent(opcode, 3, 9, flags), data, piece) == (0, b"", None, 9 * 512)
    assert unit.memory[3 * 512 : 12 * 512] == data
    assert all(fua for _, _, _, fua in unit.log)
    writes, reads = unit.log[::2], unit.log[1::2]
    assert [entry[1:] for entry in writes] == [entry[1:] for entry in reads]
    assert sum(entry[2] for entry in writes) == 9


class Garbles(InlineRamUnit):
    """Stores the block at 9 wrong."""

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        super().write(lba, data, fua)
        if lba <= 9 < lba + len(data) // 512:
            self.memory[9 * 512 + 100] ^= 1


@pytest.mark.parametrize("opcode", WRITES)
def test_what_was_not_stored_well_is_noticed(opcode: int) -> None:
    unit = Garbles(max_transfer_length=2048)
    nexus = disk(unit)
    data = pattern(9)
    result = run(nexus, extent(opcode, 3, 9, COMPARED), data)
    assert code(result) == (SenseKey.MISCOMPARE, Asc.MISCOMPARE)
    assert result.sense is not None and result.sense.information == 6 * 512 + 100
    assert unit.memory[11 * 512 : 12 * 512] == bytes(512), "stops there"
    assert run(nexus, extent(opcode, 3, 9, NOT_COMPARED), data).status == 0


@pytest.mark.parametrize("opcode", WRITES)
def test_an_initiator_that_announces_less_has_less_written(opcode: int) -> None:
    unit = InlineRamUnit()
    nexus = disk(unit)
    assert run(nexus, extent(opcode, 0, 4, COMPARED), b"\xaa" * 1024) == (0, b"", None, 2048)
    assert unit.memory[:2048] == b"\xaa" * 1024 + bytes(1024)
    result = run(nexus, extent(opcode, 0, 4, COMPARED), b"\xbb" * 1025)
    assert code(result) == (5, Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    assert unit.memory[:1] == b"\xaa"


def test_the_first_difference() -> None:
    assert difference(b"", b"") is None
    assert difference(b"\0\0\0", memoryview(b"\0\0\0")) is None
    for at in range(600):
        for mask in (0x80, 0x01):
            other = bytearray(600)
            other[at] = mask
            other[-1] |= 2
            assert difference(bytes(600), other) == at
