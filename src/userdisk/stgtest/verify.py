"""Whether a disk holds what a journal says it must, and nothing that cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from userdisk.errors import UsageError
from userdisk.stgtest import journal, pattern
from userdisk.stgtest.crash import Crash
from userdisk.stgtest.journal import Step
from userdisk.stgtest.pattern import Pattern
from userdisk.stgtest.port import Port, run
from userdisk.unit import Buffer

_MOST_PROBLEMS = 10


@dataclass(slots=True)
class Verdict:
    """What was found. `problems`: in words, the first ten of `wrong` blocks."""

    crash: Crash
    torn: int
    blocks: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)


def verify(
    path: str, port: Port, name: str, timeout: float, *, flushes: int | None = None
) -> Verdict:
    """Read all that the journal's run may have written, and judge it. Blocks.

    Args:
        name: of the port's disk, for messages.
        timeout: seconds for each read.
        flushes: judge as if the crash had come when so many flushes had been acknowledged.

    Raises `UsageError` if the journal is damaged or of another disk, `UserdiskError` if the disk
    does not answer.
    """
    record = journal.read(path)
    head, geometry = record.head, port.geometry
    if (head.block_count, head.block_length) != (geometry.block_count, geometry.block_length):
        raise UsageError(
            f"{path}: is of a disk of {head.block_count} blocks of {head.block_length} bytes;"
            f" {name} has {geometry.block_count} of {geometry.block_length}"
        )
    steps = record.steps() if flushes is None else _until(record.steps(), flushes)
    try:
        crash = Crash(steps, zeroes=head.zeroes)
    except ValueError as error:
        raise UsageError(f"{path}: the journal is damaged: {error}") from None
    if flushes is not None and crash.flushes < flushes:
        raise UsageError(f"{path}: has {crash.flushes} acknowledged flushes, not {flushes}")
    verdict = Verdict(crash, record.torn)
    contents = Pattern(head.block_length, head.nonce)
    for number, (lba, blocks) in enumerate(_runs(crash.blocks(), geometry.max_blocks), 1):
        op = run(port, port.kind("R", number, lba, blocks, fua=False), timeout)
        if op.error is None and len(op.data) != blocks * head.block_length:
            op.error = f"{len(op.data)} bytes came"
        if op.error is not None:
            verdict.wrong += blocks
            _say(verdict, f"blocks {lba} to {lba + blocks - 1}: cannot be read: {op.error}")
            continue
        for block, found in enumerate(contents.versions(lba, op.data), lba):
            at = (block - lba) * head.block_length
            _judge(verdict, contents, block, found, op.data[at : at + head.block_length])
        verdict.blocks += blocks
    return verdict


def _until(steps: Iterator[Step], flushes: int) -> Iterator[Step]:
    """The steps to the acknowledgement of that flush."""
    begun: set[int] = set()
    for step in steps:
        if not flushes:
            return
        yield step
        if step.kind == "F":
            begun.add(step.number)
        elif step.number in begun:
            begun.remove(step.number)
            flushes -= step.kind == journal.DONE


def _judge(verdict: Verdict, contents: Pattern, block: int, found: int, data: Buffer) -> None:
    possible = verdict.crash.possible(block)
    if found in possible.versions:
        return
    # Before its first write a block held something that is not of this run.
    if possible.anything and found <= 0:
        return
    if len(possible.versions) > 1 and contents.mixed(block, data) <= possible.versions:
        return  # of writes that overlapped, or that the crash cut short
    verdict.wrong += 1
    allowed = pattern.words_of(sorted(possible.versions)[-4:])
    if possible.anything:
        allowed += " or what was there before"
    _say(verdict, f"block {block} holds {pattern.words_of([found])}, not {allowed}")


def _say(verdict: Verdict, problem: str) -> None:
    if len(verdict.problems) < _MOST_PROBLEMS:
        verdict.problems.append(problem)


def _runs(blocks: list[int], most: int) -> Iterator[tuple[int, int]]:
    """Blocks in order as ranges of at most so many."""
    first = count = 0
    for block in blocks:
        if count and block == first + count and count < most:
            count += 1
            continue
        if count:
            yield first, count
        first, count = block, 1
    if count:
        yield first, count
