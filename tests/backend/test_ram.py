"""The disk in memory: sparse, zeroed by unmap, and no larger in memory than what was written."""

from __future__ import annotations

import pytest

from userdisk import Extent, UsageError
from userdisk.backend import ram
from userdisk.backend.ram import RamUnit
from userdisk.testing import check_storage_unit

_MIB = 1 << 20


def resident() -> int:
    """Bytes of this process in memory, shared memory included."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.parametrize("block_length", [512, 1024, 2048, 4096])
def test_contract(block_length: int) -> None:
    check_storage_unit(RamUnit(size=3 * _MIB, block_length=block_length), operations=300)


def test_contract_of_64_tib() -> None:
    check_storage_unit(RamUnit(size=64 << 40), operations=300)


def test_contract_without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ram.os, "memfd_create")
    check_storage_unit(RamUnit(size=2 * _MIB + 512), operations=300)


def test_reading_and_unmapping_what_was_never_written_takes_no_memory() -> None:
    unit = RamUnit(size=64 << 40)
    before = resident()
    for lba in range(0, unit.block_count, unit.block_count // 4096):
        assert not any(bytes(unit.read(lba, 8, False)))
    unit.unmap([(0, unit.block_count)])
    assert resident() - before < 16 * _MIB
    unit.close()


def test_unmap_gives_memory_back() -> None:
    unit = RamUnit(size=64 * _MIB)
    before = resident()
    for lba in range(0, unit.block_count, 2048):
        unit.write(lba, memoryview(b"x" * _MIB), False)
    assert resident() - before > 48 * _MIB
    unit.unmap([(1, unit.block_count - 2)])
    assert resident() - before < 8 * _MIB
    assert bytes(unit.read(0, 2, False)) == b"x" * 512 + bytes(512)
    assert bytes(unit.read(unit.block_count - 2, 2, False)) == bytes(512) + b"x" * 512
    unit.close()


def test_extents_tell_what_was_written() -> None:
    unit = RamUnit(size=1 << 40)
    unit.write(1 << 20, memoryview(b"x" * 4096), False)
    assert list(unit.extents(0, unit.block_count)) == [
        Extent(0, 1 << 20, mapped=False, zero=True),
        Extent(1 << 20, 8),
        Extent((1 << 20) + 8, unit.block_count - (1 << 20) - 8, mapped=False, zero=True),
    ]
    unit.close()


@pytest.mark.parametrize("blocks", [1, 100, 128, 300, 2048, 8192])
def test_holes_in_a_short_range_are_holes_and_data_is_data(blocks: int) -> None:
    unit = RamUnit(size=_MIB * 64)
    written = set()
    for lba in (0, 300, 1000, 1001, 5000, 8191, 9000):
        unit.write(lba, memoryview(b"x" * 512), False)
        written.add(lba)
    unit.write(2048, memoryview(b"x" * (512 << 10)), False)
    written |= set(range(2048, 3072))
    for start in (0, 7, 299, 301, 2000, 2048, 3071, 5001):
        at = start
        for extent in unit.extents(start, blocks):
            assert extent.lba == at
            assert extent.mapped != extent.zero
            at += extent.blocks
            if not extent.mapped:
                assert not written & set(range(extent.lba, at))
        assert at == start + blocks
    (hole,) = unit.extents(10000, blocks)
    assert not hole.mapped
    unit.close()


def test_a_view_lives_on_after_close() -> None:
    unit = RamUnit(size=_MIB)
    unit.write(0, memoryview(b"y" * 512), False)
    view = unit.read(0, 1, False)
    unit.close()
    assert bytes(view) == b"y" * 512
    unit.open()
    assert not any(bytes(unit.read(0, 1, False)))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"size": 1000}, "multiple"),
        ({"size": 0}, "block_count"),
        ({"size": 4096, "block_count": 8}, "one of them"),
        ({"size": 4096, "block_length": 100}, "multiple"),
        ({"size": 1 << 62}, "cannot map"),
    ],
)
def test_wrong_parameters(arguments: dict[str, int], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        RamUnit(**arguments)  # type: ignore[arg-type]
