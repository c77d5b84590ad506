"""GET LBA STATUS: the unit's extents, merged, cut and bounded; and units that yield nonsense."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.units import InlineRamUnit, ThickRamUnit
from tests.target.test_block_commands import code, disk, run
from userdisk.operation import Operation
from userdisk.scsi.sense import Asc, Pointer
from userdisk.target.nexus import Nexus
from userdisk.unit import Extent, StorageUnit

COUNT = 24
BY_ALLOCATION_LENGTH, BY_CAPACITY = 1, 3


class Mapped(InlineRamUnit):
    """Says of each block whether it is mapped, `at_once` blocks in an extent, `calls` at most."""

    block_count = COUNT

    def __init__(self, mapped: list[bool], *, at_once: int = 3, most: int = 5) -> None:
        super().__init__()
        self.mapped = mapped
        self.at_once, self.most = at_once, most

    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        end = lba + blocks
        for _ in range(self.most):
            if lba == end:
                return
            stop = lba + 1
            while stop < min(end, lba + self.at_once) and self.mapped[stop] == self.mapped[lba]:
                stop += 1
            yield Extent(lba, stop - lba, mapped=self.mapped[lba])
            lba = stop


def cdb(lba: int, allocation: int = 1 << 16, report: int = 0) -> bytes:
    return struct.pack(">BBQIBx", 0x9E, 0x12, lba, allocation, report)


def status(nexus: Nexus, *arguments: int) -> tuple[int, int, list[tuple[int, int, int]]]:
    """PARAMETER DATA LENGTH, COMPLETION CONDITION, and (lba, blocks, state) descriptors."""
    result = run(nexus, cdb(*arguments))
    assert result.status == 0
    data = result.data
    (length,) = struct.unpack_from(">I", data)
    assert data[4:7] == bytes(3)
    assert data[7] & 0xF1 == 1, "the report type was processed"
    found = [struct.unpack_from(">QIB3x", data, at) for at in range(8, len(data) - 15, 16)]
    return length, data[7] >> 1, [(lba, blocks, state) for lba, blocks, state in found]


def runs(mapped: list[bool], lba: int) -> list[tuple[int, int, int]]:
    """What the descriptors must be."""
    found: list[tuple[int, int, int]] = []
    for at in range(lba, len(mapped)):
        state = int(not mapped[at])
        if found and found[-1][2] == state:
            found[-1] = (found[-1][0], found[-1][1] + 1, state)
        else:
            found.append((at, 1, state))
    return found


@given(
    st.lists(st.booleans(), min_size=COUNT, max_size=COUNT),
    st.integers(0, COUNT - 1),
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(0, 15),
)
def test_against_a_list(mapped: list[bool], lba: int, at_once: int, most: int, room: int) -> None:
    nexus = disk(Mapped(mapped, at_once=at_once, most=most))
    expected = runs(mapped, lba)
    for report, states in [(0, (0, 1)), (1, (1,)), (2, (0,)), (3, (1,))]:
        chosen = [each for each in expected if each[2] in states]
        assert status(nexus, lba, 1 << 16, report) == (4 + 16 * len(chosen), BY_CAPACITY, chosen)
        length, ended, found = status(nexus, lba, 8 + 16 * room, report)
        kept = chosen[: max(room, 1)]
        assert length == 4 + 16 * len(kept)
        assert found == kept[:room]
        assert ended == (BY_CAPACITY if kept == chosen else BY_ALLOCATION_LENGTH)


@pytest.mark.parametrize("lba", [COUNT, COUNT + 1, 1 << 31, 1 << 63, (1 << 64) - 1])
def test_blocks_that_do_not_exist(lba: int) -> None:
    assert code(run(disk(Mapped([True] * COUNT)), cdb(lba))) == (5, Asc.LBA_OUT_OF_RANGE)


@pytest.mark.parametrize("report", [4, 5, 0x10, 0xFF])
def test_other_report_types(report: int) -> None:
    result = run(disk(Mapped([True] * COUNT)), cdb(0, 100, report))
    assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
    assert result.sense is not None and result.sense.pointer == Pointer(14)


def test_a_thick_unit_is_all_mapped() -> None:
    class Thick(Mapped):
        unmap_supported = False

    for unit in (ThickRamUnit(block_count=COUNT), Thick([False] * COUNT)):
        assert status(disk(unit), 5) == (20, BY_CAPACITY, [(5, COUNT - 5, 0)])


def test_a_run_that_does_not_fit_32_bits() -> None:
    class Huge(ThickRamUnit):
        def __init__(self, blocks: int) -> None:
            StorageUnit.__init__(self, block_count=blocks)

    most = (1 << 32) - 1
    blocks = 2 * most + 5
    expected = [(0, most, 0), (most, most, 0), (2 * most, 5, 0)]
    nexus = disk(Huge(blocks))
    assert status(nexus, 0) == (4 + 48, BY_CAPACITY, expected)
    assert status(nexus, 0, 40) == (4 + 32, BY_ALLOCATION_LENGTH, expected[:2])
    length, ended, found = status(disk(Huge(1 << 53)), 0)
    assert (length, ended, len(found)) == (4 + 16 * 1024, 0, 1024), "a bound of its own"


def test_a_unit_that_says_little_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Operation] = []

    class Stingy(Mapped):
        block_count = 1 << 12

        def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
            yield Extent(lba, 1, mapped=lba < 500)

    unit = Stingy([])
    nexus = disk(unit)
    (path,) = nexus.paths.values()
    gate, perform = path.lu.gate, path.lu.gate.perform

    def noted(operation: Operation) -> None:
        asked.append(operation)
        perform(operation)

    monkeypatch.setattr(gate, "perform", noted)
    assert status(nexus, 7) == (20, 0, [(7, 64, 0)])
    assert [each.offload for each in asked] == [False] + [True] * 63, "a long command"
    # but what was asked for is looked for, and said what is there
    assert status(nexus, 0, 100, 1)[2] == [(500, 1, 1)]


def test_extents_without_end_are_taken_in_parts() -> None:
    class Endless(Mapped):
        block_count = 1 << 12

        def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
            while True:
                yield Extent(lba, 1, mapped=bool(lba & 1))
                lba += 1

    length, ended, found = status(disk(Endless([])), 0, 1 << 31)
    assert (length, ended, len(found)) == (4 + 16 * 1024, 0, 1024)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [Extent(0, 5), Extent(6, 1)],
        [Extent(1, 5)],
        [Extent(0, 0)],
        [Extent(0, 5), Extent(4, 6)],
        [Extent(0, COUNT + 1)],
        [(0, 5)],
        [None],
    ],
)
def test_nonsense_is_the_units_error(wrong: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(Mapped):
        def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
            return wrong

    assert code(run(disk(Wrong([])), cdb(0))) == (4, Asc.INTERNAL_TARGET_FAILURE)
    assert "extents failed" in caplog.text
