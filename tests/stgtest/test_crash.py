"""What a block may hold after a crash: the definition, and a simulated disk with a cache."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.stgtest.crash import Crash
from userdisk.stgtest.journal import DONE, FAILED, Step
from userdisk.stgtest.pattern import ZERO

BLOCKS = 3


def judged(*steps: Step, zeroes: bool = True) -> Crash:
    return Crash(steps, zeroes=zeroes)


def write(number: int, lba: int = 0, blocks: int = 1, *, fua: bool = False) -> Step:
    return Step("W", number, lba, blocks, fua)


def done(number: int) -> Step:
    return Step(DONE, number)


def flush(number: int) -> tuple[Step, Step]:
    return Step("F", number), done(number)


def test_what_was_only_acknowledged_may_be_lost() -> None:
    possible = judged(write(1), done(1), write(2), done(2)).possible(0)
    assert possible.versions == {1, 2}
    assert possible.anything


def test_what_was_flushed_is_there() -> None:
    crash = judged(write(1), done(1), write(2), done(2), *flush(3), write(4))
    assert crash.possible(0).versions == {2, 4}
    assert not crash.possible(0).anything
    assert (crash.operations, crash.writes, crash.flushes, crash.durable) == (4, 3, 1, 2)


def test_a_flush_covers_what_ended_before_it_began() -> None:
    crash = judged(write(1), done(1), Step("F", 2), write(3, 1), done(3), write(4, 0), done(2))
    assert crash.possible(0).versions == {1, 4}
    assert crash.possible(1).anything


@pytest.mark.parametrize("end", [(), (Step(FAILED, 2),)])
def test_a_flush_without_an_answer_proves_nothing(end: tuple[Step, ...]) -> None:
    assert judged(write(1), done(1), Step("F", 2), *end).possible(0).anything


def test_fua_is_durable_when_it_is_answered() -> None:
    assert judged(write(1, fua=True)).possible(0).anything
    crash = judged(write(1), done(1), write(2, fua=True), done(2))
    assert crash.possible(0).versions == {2}


def test_what_failed_may_be_there() -> None:
    crash = judged(write(1), done(1), write(2), Step(FAILED, 2), *flush(3))
    assert crash.possible(0).versions == {1, 2}
    assert not crash.possible(0).anything


@pytest.mark.parametrize(("zeroes", "versions"), [(True, {ZERO}), (False, {ZERO, 1})])
def test_unmapped_blocks(zeroes: bool, versions: set[int]) -> None:
    steps = (write(1), done(1), Step("U", 2, 0, 1), done(2), *flush(3))
    assert judged(*steps, zeroes=zeroes).possible(0).versions == versions


@pytest.mark.parametrize(
    ("steps", "what"),
    [((write(1), write(1)), "operation 1 begins twice"),
     ((done(1),), "operation 1 ends without having begun"),
     ((write(1), done(1), done(1)), "operation 1 ends without having begun")],
)  # fmt: skip
def test_nonsense(steps: tuple[Step, ...], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        judged(*steps)


class CachedDisk:
    """A disk that does things in any order between their begin and their end, and may crash.

    `held`: for each block what was written to it in turn, and from where on it may be found again.
    """

    def __init__(self) -> None:
        self.held: list[list[int]] = [[0] for _ in range(BLOCKS)]
        self.durable = [0] * BLOCKS

    def apply(self, step: Step) -> None:
        if step.kind == "F":
            self.durable = [len(each) - 1 for each in self.held]
            return
        for block in range(step.lba, step.lba + step.blocks):
            self.held[block].append(step.number if step.kind == "W" else ZERO)
            if step.fua:
                self.durable[block] = len(self.held[block]) - 1

    def could_hold(self, block: int) -> set[int]:
        return set(self.held[block][self.durable[block] :])


def history(chance: random.Random, length: int) -> tuple[list[Step], CachedDisk]:
    """A journal, and the disk that the power left after it."""
    disk, steps = CachedDisk(), []
    begun: list[Step] = []
    applied: list[Step] = []
    number = 0
    for _ in range(length):
        action = chance.random()
        if action < 0.4:
            number += 1
            kind = chance.choice("WWWUF")
            lba = chance.randrange(BLOCKS)
            blocks = chance.randint(1, BLOCKS - lba)
            step = Step("F", number) if kind == "F" else Step(
                kind, number, lba, blocks, kind == "W" and chance.random() < 0.2
            )  # fmt: skip
            steps.append(step)
            begun.append(step)
        elif action < 0.7 and begun:
            step = begun.pop(chance.randrange(len(begun)))
            disk.apply(step)
            applied.append(step)
        elif applied:
            steps.append(done(applied.pop(chance.randrange(len(applied))).number))
    return steps, disk


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**64), st.integers(0, 80))
def test_whatever_a_disk_may_hold_is_possible(seed: int, length: int) -> None:
    steps, disk = history(random.Random(seed), length)
    crash = judged(*steps)
    for block in range(BLOCKS):
        possible = crash.possible(block)
        for value in disk.could_hold(block):
            assert value in possible.versions or (value == 0 and possible.anything)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**64), st.integers(0, 80))
def test_nothing_else_is_possible(seed: int, length: int) -> None:
    """The definition, from the steps alone."""
    steps, _ = history(random.Random(seed), length)
    begun = {step.number: when for when, step in enumerate(steps) if step.kind in "WUF"}
    ended = {step.number: when for when, step in enumerate(steps) if step.kind == DONE}
    kinds = {step.number: step for step in steps if step.kind in "WUF"}
    flushes = [n for n in ended if kinds[n].kind == "F"]
    durable = {
        n
        for n in ended
        if kinds[n].kind != "F" and (kinds[n].fua or any(ended[n] < begun[f] for f in flushes))
    }
    crash = judged(*steps)
    for block in range(BLOCKS):
        here = [n for n, step in kinds.items() if step.lba <= block < step.lba + step.blocks]
        sure = [n for n in here if n in durable]
        left = {
            n if kinds[n].kind == "W" else ZERO
            for n in here
            if not any(n in ended and ended[n] < begun[other] for other in sure)
        }
        assert crash.possible(block).versions == left
        assert crash.possible(block).anything == (not sure)
