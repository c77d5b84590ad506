"""Crashes of disks with a cache, judged by the journal: honest ones pass, those that lie do not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.kit.units import InlineRamUnit
from userdisk.errors import MediumError, UsageError
from userdisk.stgtest.engine import Engine, Limits
from userdisk.stgtest.generator import RANDOM, Plan
from userdisk.stgtest.inside import InsidePort
from userdisk.stgtest.journal import DONE, Head, Step, Writer
from userdisk.stgtest.pattern import Pattern
from userdisk.stgtest.verify import Verdict, verify
from userdisk.unit import Buffer, Extents

BLOCKS = 256
NONCE = 0xC0FFEE01


class CachedDisk(InlineRamUnit):
    """Keeps what is written in a cache, of which a crash leaves any part that it may.

    `medium` has for each block what may be found after a crash: what is durable, and all since.
    """

    block_count = BLOCKS
    honest = True

    def __init__(self) -> None:
        super().__init__()
        self.medium = [[bytes(512)] for _ in range(BLOCKS)]
        self.dies_after = -1  # so many writes
        self.failing = False

    def _note(self, lba: int, blocks: int) -> None:
        for block in range(lba, lba + blocks):
            self.medium[block].append(bytes(self.memory[block * 512 : (block + 1) * 512]))

    def _settle(self, lba: int, blocks: int) -> None:
        if self.honest:
            for block in range(lba, lba + blocks):
                del self.medium[block][:-1]

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        super().write(lba, data, fua)
        self._note(lba, len(data) // 512)
        if fua:
            self._settle(lba, len(data) // 512)
        if self.calls["write"] == self.dies_after:
            self.failing = True
        if self.failing:
            raise MediumError("the power is gone")

    def unmap(self, extents: Extents) -> None:
        super().unmap(extents)
        for lba, blocks in extents:
            self._note(lba, blocks)

    def flush(self) -> None:
        if self.failing:
            raise MediumError("the power is gone")
        super().flush()
        self._settle(0, BLOCKS)

    def crash(self, chance: random.Random) -> None:
        for block, held in enumerate(self.medium):
            self.memory[block * 512 : (block + 1) * 512] = chance.choice(held)


class Lies(CachedDisk):
    """Answers a flush, and FUA, without doing anything."""

    honest = False


def journaled(
    disk: CachedDisk, path: Path, mix: str, *, seed: int = 1, fua: bool = False, depth: int = 4
) -> str | None:
    """Run until the disk's power goes."""
    port = InsidePort(disk, "disk", 10)
    geometry = port.geometry
    writer = Writer(str(path), Head(NONCE, BLOCKS, 512, geometry.zeroes))
    plan = Plan(seed, mix, RANDOM, RANDOM, BLOCKS, 16)
    engine = Engine(
        port, plan.operations(), Limits(1000, depth), Pattern(512, NONCE),
        stamped=True, fua=fua, record=writer,
    )  # fmt: skip
    try:
        return engine.run()
    finally:
        writer.close()
        disk.failing = False
        port.close()


def judge(disk: Any, path: Path, **arguments: Any) -> Verdict:
    port = InsidePort(disk, "disk", 10)
    try:
        return verify(str(path), port, "disk", 10, **arguments)
    finally:
        port.close()


def copy_of(disk: CachedDisk) -> CachedDisk:
    """What is found after the crash: the closing of the old disk has flushed nothing."""
    found = CachedDisk()
    found.memory[:] = disk.memory
    return found


@pytest.mark.parametrize(("mix", "fua"), [("WWFRU", False), ("WRUF", False), ("WR", True)])
@pytest.mark.parametrize("seed", range(6))
def test_honest_disks_pass(tmp_path: Path, mix: str, fua: bool, seed: int) -> None:
    disk = CachedDisk()
    disk.dies_after = 60 + seed
    problem = journaled(disk, tmp_path / "run", mix, seed=seed, fua=fua)
    assert problem is not None
    assert "the power is gone" in problem
    disk.crash(random.Random(seed))
    verdict = judge(copy_of(disk), tmp_path / "run")
    assert (verdict.wrong, verdict.problems) == (0, [])
    assert verdict.blocks > 100
    assert verdict.crash.durable > 10


@pytest.mark.parametrize(("mix", "fua"), [("WWFRU", False), ("WR", True)])
def test_a_flush_that_lies_is_found(tmp_path: Path, mix: str, fua: bool) -> None:
    disk = Lies()
    disk.dies_after = 60
    assert journaled(disk, tmp_path / "run", mix, fua=fua) is not None
    disk.crash(random.Random(1))
    verdict = judge(copy_of(disk), tmp_path / "run")
    assert verdict.wrong > 10
    assert len(verdict.problems) == 10
    assert all(" holds " in problem and ", not " in problem for problem in verdict.problems)


def test_impossible_data_is_found(tmp_path: Path) -> None:
    disk = CachedDisk()
    disk.dies_after = 60
    journaled(disk, tmp_path / "run", "WF")
    verdict = judge(copy_of(disk), tmp_path / "run")
    assert not verdict.wrong
    block = next(
        block for block in verdict.crash.blocks() if not verdict.crash.possible(block).anything
    )
    for contents, what in (
        (b"x" * 512, "holds foreign data"),
        (Pattern(512, NONCE).data(block, 1, 999), "holds write 999"),
        (Pattern(512, NONCE + 1).data(block, 1, 1), "holds foreign data"),
        (Pattern(512, NONCE).data(block + 1, 1, 1), "holds foreign data"),
    ):
        changed = copy_of(disk)
        changed.memory[block * 512 : (block + 1) * 512] = contents
        verdict = judge(changed, tmp_path / "run")
        assert verdict.wrong == 1
        assert verdict.problems[0].startswith(f"block {block} {what}")


@pytest.fixture
def three_flushes(tmp_path: Path) -> Path:
    writer = Writer(str(tmp_path / "run"), Head(NONCE, BLOCKS, 512, zeroes=True))
    for number in (1, 3, 5):
        writer.add([Step("W", number, 0, 1), Step(DONE, number)])
        writer.add([Step("F", number + 1), Step(DONE, number + 1)])
    writer.close()
    return tmp_path / "run"


@pytest.mark.parametrize(("flushes", "version"), [(1, 1), (2, 3), (3, 5), (None, 5)])
def test_a_crash_after_each_flush(three_flushes: Path, flushes: int | None, version: int) -> None:
    disk = CachedDisk()
    for held in (1, 3, 5):
        disk.memory[:512] = Pattern(512, NONCE).data(0, 1, held)
        assert judge(disk, three_flushes, flushes=flushes).wrong == (held != version)


def test_more_flushes_than_there_are(three_flushes: Path) -> None:
    with pytest.raises(UsageError, match="has 3 acknowledged flushes, not 4"):
        judge(CachedDisk(), three_flushes, flushes=4)


def test_a_disk_of_another_size(three_flushes: Path) -> None:
    with pytest.raises(UsageError, match="is of a disk of 256 blocks of 512 bytes; disk has 8"):
        judge(InlineRamUnit(block_count=8), three_flushes)


def test_a_journal_that_contradicts_itself(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path / "run"), Head(NONCE, BLOCKS, 512, zeroes=True))
    writer.add([Step(DONE, 7), Step("F", 8)])
    writer.close()
    with pytest.raises(UsageError, match="operation 7 ends without having begun"):
        judge(CachedDisk(), tmp_path / "run")


class Scratched(CachedDisk):
    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        raise MediumError("it is scratched")


def test_blocks_that_cannot_be_read_are_wrong(three_flushes: Path) -> None:
    verdict = judge(Scratched(), three_flushes)
    assert verdict.wrong == 1
    assert verdict.problems == ["blocks 0 to 0: cannot be read: it is scratched"]
