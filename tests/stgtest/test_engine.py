"""A run on disks that are honest, and on disks that are not: every lie is found."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from tests.kit.units import AsyncRamUnit, ConcurrentRamUnit, InlineRamUnit, RamUnit, ThickRamUnit
from userdisk.errors import MediumError, UserdiskError
from userdisk.stgtest.engine import Engine, Limits
from userdisk.stgtest.generator import RANDOM, Plan
from userdisk.stgtest.inside import InsidePort
from userdisk.stgtest.pattern import Pattern
from userdisk.stgtest.port import Geometry, Op
from userdisk.unit import Buffer, Extents, StorageUnit

NONCE = 0xA5A5A5A5


def engine_of(
    port: Any,
    mix: str,
    count: int,
    *,
    depth: int = 1,
    most: int = 16,
    seed: int = 1,
    group: int = 1,
) -> Engine:
    geometry = port.geometry
    blocks = geometry.block_count
    plan = Plan(seed, mix, RANDOM, RANDOM, blocks, min(most, geometry.max_blocks))
    contents = Pattern(geometry.block_length, NONCE if depth > 1 else 0)
    return Engine(
        port, plan.operations(), Limits(count, depth), contents,
        stamped=depth > 1, fua=not geometry.cached, group=group,
    )  # fmt: skip


def run(unit: StorageUnit, mix: str, count: int, **arguments: Any) -> str | None:
    port = InsidePort(unit, "disk", 10)
    try:
        return engine_of(port, mix, count, **arguments).run()
    finally:
        port.close()


@pytest.mark.parametrize("depth", [1, 3, 32])
@pytest.mark.parametrize("kind", [RamUnit, InlineRamUnit, ConcurrentRamUnit, AsyncRamUnit])
def test_honest_disks(kind: type[RamUnit], depth: int) -> None:
    unit = kind(block_count=64)
    assert run(unit, "WRUFR", 600, depth=depth) is None
    assert unit.calls["write"] == unit.calls["unmap"] == 120
    assert unit.calls["read"] == 240
    assert unit.calls["flush"] >= 120


@pytest.mark.parametrize("count", [600, 601, 603])
def test_at_any_depth_groups_are_in_order_and_all_operations_are_done(count: int) -> None:
    """Within the blocks of one group: what came before has ended."""
    unit = RamUnit(block_count=4096)
    assert run(unit, "WURW", count, depth=7, group=4, seed=5) is None
    names = {"W": "write", "R": "read", "U": "unmap"}
    plan = Plan(5, "WURW", RANDOM, RANDOM, 4096, 16).operations()
    asked = [
        (names[letter], lba, n) for (letter, lba, n), _ in zip(plan, range(count), strict=False)
    ]
    done = [entry[:3] for entry in unit.log if entry[0] != "flush"]
    assert sorted(done) == sorted(asked)
    begun = [lba for name, lba, _ in done[:7]]
    assert begun == [lba for name, lba, _ in asked[: 7 * 4 : 4]]
    for first in range(0, count, 4):  # every group's operations are there in their order
        at = 0
        for each in asked[first : min(first + 4, count)]:
            at = done.index(each, at) + 1


def test_depth_one_does_the_operations_in_their_order() -> None:
    unit = InlineRamUnit(block_count=1048576 // 64)
    assert run(unit, "WRU", 30, seed=42) is None
    plan = Plan(42, "WRU", RANDOM, RANDOM, 1048576 // 64, 16).operations()
    names = {"W": "write", "R": "read", "U": "unmap"}
    expected = [
        (names[letter], lba, n) for (letter, lba, n), _ in zip(plan, range(30), strict=False)
    ]
    assert [entry[:3] for entry in unit.log if entry[0] != "flush"] == expected


def test_a_disk_without_a_cache_gets_the_flush_flag() -> None:
    unit = InlineRamUnit(cache_supported=False)
    assert run(unit, "WR", 10) is None
    assert {fua for name, *_, fua in unit.log if name != "flush"} == {True}
    assert run(ThickRamUnit(), "WR", 10) is None


class Drops(RamUnit):
    """Says that it has written, from the 20th time on."""

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        if self.calls["write"] >= 20:
            return
        super().write(lba, data, fua)


class Misplaces(RamUnit):
    """Writes one block too far, from the 20th time on."""

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        aside = self.calls["write"] >= 20 and lba + len(data) // 512 < self.block_count
        super().write(lba + aside, data, fua)


class Stale(RamUnit):
    """Reads what was there at the beginning, from the 20th time on."""

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        data = super().read(lba, blocks, fua)
        return bytes(len(data)) if self.calls["read"] >= 20 else data


class Tears(RamUnit):
    """Leaves the last eight bytes of a block out, from the 20th time on."""

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        keep = bytes(self.memory)
        super().write(lba, data, fua)
        if self.calls["write"] >= 20:
            end = lba * 512 + len(data)
            self.memory[end - 8 : end] = keep[end - 8 : end]


class Keeps(RamUnit):
    """Unmaps nothing, and says that unmapped blocks are zeros."""

    def unmap(self, extents: Extents) -> None:
        self._begin("unmap")


class Short(RamUnit):
    """Reads too little."""

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return super().read(lba, blocks, fua)[:-1]


class Fails(RamUnit):
    """Cannot read."""

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        raise MediumError("it is scratched", lba=lba)


@pytest.mark.parametrize("depth", [1, 2, 8])
@pytest.mark.parametrize(
    ("kind", "mix", "what"),
    [
        (Misplaces, "WR", "bad buffer after Write"),
        (Stale, "WR", "bad buffer after Write: block [0-9]+ holds zeros"),
        (Tears, "WR", "bad buffer after Write: .* foreign data [(]torn at byte 504"),
        (Keeps, "WUR", "bad buffer after Unmap: .* not zeros; [0-9]+ of [0-9]+ blocks are wrong"),
        (Short, "WR", "transact error: unit disk: read returned"),
        (Fails, "WR", "transact error: it is scratched"),
    ],
)  # fmt: skip
def test_lies_are_found(kind: type[RamUnit], mix: str, what: str, depth: int) -> None:
    unit = kind(block_count=64)
    problem = run(unit, mix, 2000, depth=depth, group=len(mix))
    assert problem is not None
    if depth > 1:  # what overlaps may have other names
        what = "(bad buffer|transact error)"
    assert re.match(r"Read\(Address=0:[0-9a-f]+, Count=[0-9]+\): " + what, problem), problem
    assert unit.calls["read"] < 500  # it ended there


def test_a_lost_write_over_an_older_one_is_found_by_its_version() -> None:
    problem = run(Drops(block_count=8), "WWRR", 2000, depth=2)
    assert problem is not None
    assert "bad buffer after Write" in problem


def test_the_pattern_without_versions_sees_a_lost_first_write() -> None:
    unit = Drops(block_count=4096)
    problem = run(unit, "WR", 2000)
    assert problem is not None
    assert "holds zeros, not the pattern" in problem


class Hangs(RamUnit):
    """Never answers the third read, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        if self.calls["read"] == 2:
            self.go.wait()
        return super().read(lba, blocks, fua)


def test_a_disk_that_does_not_answer() -> None:
    unit = Hangs()
    port = InsidePort(unit, "disk", 0.3)
    try:
        with pytest.raises(UserdiskError, match=r"disk: no answer in 0\.3 seconds"):
            engine_of(port, "WR", 100).run()
    finally:
        unit.go.set()
        port.close()


class Backwards:
    """A port that answers the last of what is under way first; writes share a block's halves."""

    kind = Op
    plain = False
    geometry = Geometry(
        8, 512, 8, cached=True, fua=True, flushes=True, unmaps=True, zeroes=True, read_only=False
    )

    def __init__(self) -> None:
        self.memory = bytearray(8 * 512)
        self.waiting: list[Op] = []

    def submit(self, operations: Sequence[Op]) -> None:
        self.waiting += operations

    def collect(self) -> list[Op]:
        ended, self.waiting = self.waiting[::-1], []
        for half in (0, 256):
            for op in ended if half else ended[::-1]:
                if op.letter == "W":
                    for block in range(op.blocks):
                        at = (op.lba + block) * 512 + half
                        data = op.data_out[block * 512 + half : block * 512 + half + 256]
                        self.memory[at : at + 256] = data
        for op in ended:
            if op.letter == "R":
                op.data = bytes(self.memory[op.lba * 512 : (op.lba + op.blocks) * 512])
        return ended

    def close(self, *, stuck: bool = False) -> None:
        pass


def test_writes_that_overlap_may_share_a_block() -> None:
    assert engine_of(Backwards(), "WR", 5000, depth=8).run() is None


class Short(Backwards):
    """From the 20th read on one byte is missing, whether anything is known of it or not."""

    reads = 0

    def collect(self) -> list[Op]:
        ended = super().collect()
        for op in ended:
            self.reads += op.letter == "R"
            if self.reads > 20:
                op.data = op.data[:-1]
        return ended


@pytest.mark.parametrize("mix", ["R", "WR"])
@pytest.mark.parametrize("depth", [1, 8])
def test_a_read_that_is_too_short(mix: str, depth: int) -> None:
    wrong = engine_of(Short(), mix, 100, depth=depth).run()
    assert wrong is not None
    assert re.fullmatch(r"Read\(.*\): condition fail: \d+ bytes came", wrong)
