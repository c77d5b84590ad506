"""READ, WRITE, SYNCHRONIZE CACHE and UNMAP: bounds, splitting, failures on the way, an oracle."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.engine import EnginePort, Result, ready_nexus, target_of
from tests.kit.units import InlineRamUnit, RamUnit, ThickRamUnit
from userdisk import errors
from userdisk.scsi.sense import Asc, Pointer
from userdisk.target.nexus import Nexus
from userdisk.unit import Extents, StorageUnit

COUNT = 2048


def extent(opcode: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    """A READ, WRITE or SYNCHRONIZE CACHE CDB."""
    if opcode < 0x20:
        return struct.pack(">BBHBx", opcode, lba >> 16, lba & 0xFFFF, blocks & 0xFF)
    if opcode < 0x80:
        return struct.pack(">BBIxHx", opcode, flags, lba, blocks)
    if opcode < 0xA0:
        return struct.pack(">BBQIxx", opcode, flags, lba, blocks)
    return struct.pack(">BBIIxx", opcode, flags, lba, blocks)


def unmap_list(extents: Sequence[tuple[int, int]]) -> bytes:
    body = b"".join(struct.pack(">QI4x", lba, blocks) for lba, blocks in extents)
    return struct.pack(">HH4x", len(body) + 6, len(body)) + body


def unmap_cdb(length: int) -> bytes:
    return struct.pack(">B6xHx", 0x42, length)


def disk(unit: StorageUnit) -> Nexus:
    return ready_nexus(target_of(unit))


def run(nexus: Nexus, cdb: bytes, data: bytes = b"", piece: int = 1 << 30) -> Result:
    return EnginePort(piece=piece).execute(nexus, cdb, data)


def code(result: Result) -> tuple[int, int]:
    assert result.status == 2 and result.sense is not None
    return result.sense.key, result.sense.code


READS, WRITES, SYNCS = (0x08, 0x28, 0xA8, 0x88), (0x0A, 0x2A, 0xAA, 0x8A), (0x35, 0x91)


# -- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", READS + WRITES + SYNCS)
def test_the_end_of_the_disk(opcode: int) -> None:
    unit = InlineRamUnit()
    nexus = disk(unit)
    width = 21 if opcode < 0x20 else 64 if 0x80 <= opcode < 0xA0 else 32
    for lba, blocks in [
        (COUNT, 1),
        (COUNT - 1, 2),
        (COUNT - 255, 256),
        (COUNT + 1, 1),
        ((1 << width) - 1, 1),
        (1 << width - 1, 1),
        *([] if opcode < 0x20 else [(COUNT + 1, 0), ((1 << width) - 1, 0), (1 << width - 1, 0)]),
    ]:
        result = run(nexus, extent(opcode, lba, blocks), bytes(256 * 512))
        assert code(result) == (5, Asc.LBA_OUT_OF_RANGE), (lba, blocks)
        assert result.sense is not None
        first = max(lba, COUNT)
        assert result.sense.information == (first if first < 1 << 32 else None)
    assert not unit.log
    for lba, blocks in [(COUNT - 1, 1), (COUNT - 256, 256)]:
        assert run(nexus, extent(opcode, lba, blocks), bytes(256 * 512)).status == 0
    if opcode >= 0x20:
        assert run(nexus, extent(opcode, COUNT, 0)).status == 0


@pytest.mark.parametrize(("opcode", "byte"), [(0x28, 7), (0xA8, 6), (0x88, 10), (0x8A, 10)])
def test_the_announced_maximum_transfer(opcode: int, byte: int) -> None:
    unit = InlineRamUnit(block_count=1 << 15)
    nexus = disk(unit)
    (limit,) = struct.unpack_from(">I", run(nexus, bytes.fromhex("1201b000ff")).data, 8)
    assert limit * 512 == 8 << 20
    assert run(nexus, extent(opcode, 0, limit), bytes(limit * 512)).status == 0
    result = run(nexus, extent(opcode, 0, limit + 1), bytes(limit * 512 + 512))
    assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
    assert result.sense is not None and result.sense.pointer == Pointer(byte)


@pytest.mark.parametrize(("opcode", "blocks"), [(0x08, 0), (0x0A, 0)])
def test_no_blocks_of_a_six_byte_command_are_256(opcode: int, blocks: int) -> None:
    unit = InlineRamUnit()
    result = run(disk(unit), extent(opcode, 5, blocks), bytes(256 * 512))
    assert result.status == 0
    assert [entry[1:3] for entry in unit.log] == [(5, 256)]


def test_blocks_beyond_32_bits() -> None:
    class Huge(StorageUnit):
        block_count = 1 << 50

        def read(self, lba: int, blocks: int, fua: bool) -> bytes:
            return lba.to_bytes(8, "big").ljust(512 * blocks, b"\0")

        def write(self, lba: int, data: memoryview, fua: bool) -> None:
            self.written = lba

    nexus = disk(Huge())
    top = (1 << 50) - 1
    assert run(nexus, extent(0x88, top, 1)).data[:8] == top.to_bytes(8, "big")
    assert run(nexus, extent(0x8A, top, 1), bytes(512)).status == 0
    assert run(nexus, bytes.fromhex("25" + "00" * 9)).data[:4] == b"\xff" * 4
    long = run(nexus, bytes.fromhex("9e10" + "00" * 8 + "00000020"))
    assert long.data[:8] == top.to_bytes(8, "big")


# -- splitting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 512, 1000, 1536, 1 << 20])
def test_commands_are_split_for_the_unit(piece: int) -> None:
    unit = InlineRamUnit(max_transfer_length=4 * 512)
    nexus = disk(unit)
    data = bytes(range(256)) * 20
    assert run(nexus, extent(0x2A, 3, 10), data, piece) == (0, b"", None, 5120)
    assert bytes(unit.memory[3 * 512 : 13 * 512]) == data
    assert max(entry[2] for entry in unit.log) <= 4
    unit.log.clear()
    assert run(nexus, extent(0x28, 3, 10)).data == data
    assert [entry[1:3] for entry in unit.log] == [(3, 4), (7, 4), (11, 2)]


def test_flags_reach_every_part() -> None:
    unit = InlineRamUnit(max_transfer_length=512)
    nexus = disk(unit)
    run(nexus, extent(0x2A, 0, 2, flags=0x18), bytes(1024))
    run(nexus, extent(0x28, 0, 2, flags=0x08))
    run(nexus, extent(0x28, 0, 1, flags=0x10))
    assert [entry[3] for entry in unit.log] == [True] * 4 + [False]


# -- data-out ----------------------------------------------------------------------------------


def test_less_data_than_blocks_changes_nothing() -> None:
    unit = InlineRamUnit()
    result = run(disk(unit), extent(0x2A, 0, 2), bytes(1023))
    assert code(result) == (5, Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    assert result.wanted == 1024
    assert not unit.log


def test_more_data_than_blocks_is_left() -> None:
    unit = InlineRamUnit()
    result = run(disk(unit), extent(0x2A, 1, 2), b"\xaa" * 2048)
    assert result == (0, b"", None, 1024)
    assert bytes(unit.memory[:2048]) == bytes(512) + b"\xaa" * 1024 + bytes(512)


# -- write protection and flush ----------------------------------------------------------------


def test_write_protection() -> None:
    unit = InlineRamUnit(write_protected=True)
    nexus = disk(unit)
    for opcode in WRITES:
        assert code(run(nexus, extent(opcode, 0, 1), bytes(512))) == (7, Asc.WRITE_PROTECTED)
    zeroed = unmap_list([(0, 1)])
    assert code(run(nexus, unmap_cdb(len(zeroed)), zeroed)) == (7, Asc.WRITE_PROTECTED)
    assert run(nexus, extent(0x35, 0, 0)).status == 0
    assert run(nexus, extent(0x28, 0, 1)).status == 0
    assert [entry[0] for entry in unit.log] == ["read"]
    assert run(nexus, bytes.fromhex("1a003f00ff")).data[2] == 0x90
    assert run(nexus, bytes.fromhex("5a003f00000000ffff")).data[3] == 0x90


@pytest.mark.parametrize("opcode", SYNCS)
@pytest.mark.parametrize("blocks", [0, 1, 100])
@pytest.mark.parametrize("flags", [0, 2])
def test_any_synchronize_cache_is_a_flush(opcode: int, blocks: int, flags: int) -> None:
    unit = InlineRamUnit()
    assert run(disk(unit), extent(opcode, 7, blocks, flags)).status == 0
    assert unit.calls == {"flush": 1}


@pytest.mark.parametrize("opcode", [0x34, 0x90])
def test_pre_fetch(opcode: int) -> None:
    unit = InlineRamUnit()
    nexus = disk(unit)
    for lba, blocks in [(0, 0), (0, 1), (COUNT - 1, 1), (0, COUNT), (COUNT, 0)]:
        for immediately in (0, 2):
            assert run(nexus, extent(opcode, lba, blocks, immediately)).status == 0
    for lba, blocks in [(COUNT, 1), (COUNT - 1, 2), (COUNT + 1, 0), ((1 << 32) - 1, 0)]:
        assert code(run(nexus, extent(opcode, lba, blocks))) == (5, Asc.LBA_OUT_OF_RANGE)
    assert not unit.log


def test_a_unit_without_flush_has_no_volatile_cache() -> None:
    for unit, wce in ((ThickRamUnit(), 0), (InlineRamUnit(), 4)):
        page = run(disk(unit), bytes.fromhex("1a080800ff")).data
        assert page[2] & 0x10, "DPO and FUA are accepted all the same"
        assert page[4:7] == bytes([0x08, 0x12, wce])
        assert run(disk(unit), extent(0x35, 0, 0)).status == 0


# -- failures ----------------------------------------------------------------------------------


def failing(error: Callable[[], Exception], at: int) -> RamUnit:
    """A unit whose operations of at most 4 blocks fail if they touch the block."""
    unit = InlineRamUnit(max_transfer_length=4 * 512)

    def fault(name: str, lba: int, blocks: int) -> None:
        if lba <= at < lba + blocks:
            raise error()

    unit.fault = fault
    return unit


@pytest.mark.parametrize(
    ("error", "information"),
    [
        (lambda: errors.MediumError(lba=10), 10),
        (lambda: errors.MediumError(), 8),  # the operation's own first block
        (lambda: errors.MediumError(lba=99), 8),  # not a block of the operation
        (lambda: OSError(5, "broken"), 8),
    ],
)
def test_information_names_the_first_bad_block(
    error: Callable[[], Exception], information: int
) -> None:
    unit = failing(error, 10)
    nexus = disk(unit)
    result = run(nexus, extent(0x28, 4, 12))
    assert code(result) == (3, Asc.UNRECOVERED_READ_ERROR)
    assert result.sense is not None and result.sense.information == information
    assert result.data == b""
    result = run(nexus, extent(0x2A, 4, 12), b"\x55" * 12 * 512)
    assert result.sense is not None and result.sense.information == information
    assert bytes(unit.memory) == bytes(4 * 512) + b"\x55" * 4 * 512 + bytes(len(unit.memory) - 4096)


def test_unmap_names_the_first_bad_block() -> None:
    unit = failing(lambda: errors.MediumError(lba=10), 10)
    data = unmap_list([(40, 4), (8, 4)])
    result = run(disk(unit), unmap_cdb(len(data)), data)
    assert result.sense is not None and result.sense.information == 10


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.OutOfSpace(), (7, Asc.SPACE_ALLOCATION_FAILED)),
        (OSError(28, "full"), (7, Asc.SPACE_ALLOCATION_FAILED)),
        (errors.NotReady(), (2, Asc.NOT_READY_CAUSE_NOT_REPORTABLE)),
        (errors.NoMedium(), (2, Asc.MEDIUM_NOT_PRESENT)),
        (OSError(5, "broken"), (3, Asc.WRITE_ERROR)),
        (MemoryError(), (0xB, Asc.INSUFFICIENT_RESOURCES)),
        (ZeroDivisionError(), (4, Asc.INTERNAL_TARGET_FAILURE)),
    ],
)
def test_what_a_unit_raises(error: Exception, expected: tuple[int, int]) -> None:
    unit = InlineRamUnit()

    def fault(name: str, lba: int, blocks: int) -> None:
        raise error

    unit.fault = fault
    nexus = disk(unit)
    assert code(run(nexus, extent(0x2A, 0, 1), bytes(512))) == expected
    if expected != (3, Asc.WRITE_ERROR):
        assert code(run(nexus, extent(0x28, 0, 1))) == expected
    assert code(run(nexus, extent(0x35, 0, 0))) == expected
    unit.fault = None
    assert run(nexus, extent(0x28, 0, 1)).status == 0


@pytest.mark.parametrize("length", [0, 511, 513, 1024])
def test_a_read_of_the_wrong_length_is_a_hardware_error(length: int) -> None:
    class Wrong(ThickRamUnit):
        def read(self, lba: int, blocks: int, fua: bool) -> bytes:
            return bytes(length)

    result = run(disk(Wrong()), extent(0x28, 9, 1))
    assert code(result) == (4, Asc.INTERNAL_TARGET_FAILURE)


# -- UNMAP -------------------------------------------------------------------------------------

U = unmap_list
LIST = Asc.INVALID_FIELD_IN_PARAMETER_LIST


@pytest.mark.parametrize(
    ("data", "expected", "pointer"),
    [
        (U([(0, 1)])[:7], Asc.PARAMETER_LIST_LENGTH_ERROR, None),
        (U([(0, 1)])[:23], Asc.PARAMETER_LIST_LENGTH_ERROR, None),
        (U([(0, 1), (1, 1)])[:24], Asc.PARAMETER_LIST_LENGTH_ERROR, None),
        (U([(0, 1)] * 257), Asc.INVALID_FIELD_IN_PARAMETER_LIST, Pointer(2, None, False)),
        (U([(0, COUNT)] * 513)[:-1], Asc.PARAMETER_LIST_LENGTH_ERROR, None),
        (U([(0, 1), (COUNT, 1)]), Asc.LBA_OUT_OF_RANGE, None),
        (U([(0, 1), (COUNT - 1, 2)]), Asc.LBA_OUT_OF_RANGE, None),
        (U([(0, 1), ((1 << 64) - 1, 1)]), Asc.LBA_OUT_OF_RANGE, None),
        (U([(0, 1), (COUNT + 1, 0)]), Asc.LBA_OUT_OF_RANGE, None),
        (struct.pack(">HH4x", 21, 16) + bytes(16), LIST, Pointer(0, None, False)),
        (struct.pack(">HH4x", 0, 16) + bytes(16), LIST, Pointer(0, None, False)),
        (struct.pack(">HH4x", 23, 16) + bytes(16), Asc.PARAMETER_LIST_LENGTH_ERROR, None),
        (struct.pack(">HH4x", 6, 1), Asc.PARAMETER_LIST_LENGTH_ERROR, None),
    ],
)
def test_wrong_unmaps_change_nothing(data: bytes, expected: Asc, pointer: Pointer | None) -> None:
    unit = InlineRamUnit()
    result = run(disk(unit), unmap_cdb(len(data)), data)
    assert code(result) == (5, expected)
    assert result.sense is not None and result.sense.pointer == pointer
    assert not unit.log


def test_more_blocks_than_the_limit() -> None:
    class Thin(ThickRamUnit):
        block_count = 1 << 21

        def __init__(self) -> None:
            StorageUnit.__init__(self)
            self.log: list[object] = []

        def unmap(self, extents: Extents) -> None:
            self.log.append(extents)

    unit = Thin()
    nexus = disk(unit)
    assert run(nexus, unmap_cdb(24), U([(0, 1 << 20)])).status == 0
    data = U([(0, 1 << 20), (5, 1)])
    result = run(nexus, unmap_cdb(len(data)), data)
    assert code(result) == (5, Asc.INVALID_FIELD_IN_PARAMETER_LIST)
    assert result.sense is not None and result.sense.pointer == Pointer(32, None, False)
    assert len(unit.log) == 1


@pytest.mark.parametrize(
    ("data", "calls"),
    [
        (b"", 0),
        (U([]), 0),
        (U([(0, 0)]), 0),
        (U([(COUNT, 0)] * 256), 0),
        (U([(0, 1)] * 256), 256),
        (U([(0, 8), (4, 8)]), 2),
        (struct.pack(">HH4xQI4x", 6 + 16 + 15, 16 + 15, 5, 1) + bytes(15), 1),
    ],
)
def test_right_unmaps(data: bytes, calls: int) -> None:
    unit = InlineRamUnit()
    result = run(disk(unit), unmap_cdb(len(data)), data, piece=10)
    assert result.status == 0
    assert unit.calls["unmap"] == calls


# -- an oracle ---------------------------------------------------------------------------------

SMALL = 40
steps = st.lists(
    st.tuples(
        st.sampled_from([*READS, *WRITES, 0x42]),
        st.integers(0, SMALL + 2),
        st.integers(0, SMALL + 2),
        st.integers(1, 255),
    ),
    max_size=25,
)


@given(steps, st.sampled_from([1, 512, 700, 4096]), st.sampled_from([512, 1536, 1 << 20]))
def test_against_a_byte_array(
    commands: list[tuple[int, int, int, int]], piece: int, transfer: int
) -> None:
    unit = InlineRamUnit(block_count=SMALL, max_transfer_length=transfer)
    nexus = disk(unit)
    model = bytearray(SMALL * 512)
    for opcode, lba, blocks, fill in commands:
        count = 256 if opcode < 0x20 and not blocks else blocks
        start, end = lba * 512, (lba + count) * 512
        fits = end <= len(model)
        data = bytes([fill]) * (count * 512)
        if opcode == 0x42:
            data = unmap_list([(lba, blocks)])
            result = run(nexus, unmap_cdb(len(data)), data, piece)
        else:
            result = run(nexus, extent(opcode, lba, blocks), data, piece)
        assert result.status == (0 if fits else 2)
        if not fits:
            assert code(result) == (5, Asc.LBA_OUT_OF_RANGE)
        elif opcode in READS:
            assert result.data == model[start:end]
        else:
            model[start:end] = bytes(end - start) if opcode == 0x42 else data
    assert unit.memory == model
