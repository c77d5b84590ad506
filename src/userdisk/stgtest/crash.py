"""What each block may hold after a crash, by what the journal says.

Theory of operation. A write is durable when it was acknowledged with FUA, or acknowledged before a
flush was submitted that was acknowledged. A block may hold what any of its writes wrote, or what it
held before all of them; but not what was acknowledged before a durable write was submitted: that
is gone for good. What was under way at the end, or failed, may be there or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from userdisk.stgtest.journal import DONE, FAILED, Step
from userdisk.stgtest.pattern import ZERO


class _Write:
    """A write or unmap: when it began and ended (in steps), what it leaves."""

    __slots__ = ("blocks", "ended", "fua", "lba", "value", "weak", "when")

    def __init__(self, when: int, step: Step, *, weak: bool) -> None:
        self.when = when
        self.ended = 0
        self.lba, self.blocks, self.fua = step.lba, step.blocks, step.fua
        self.value = step.number if step.kind == "W" else ZERO
        self.weak = weak


@dataclass(frozen=True, slots=True)
class Possible:
    """Of one block: the versions it may hold; `anything`: also what was there before the run."""

    versions: frozenset[int]
    anything: bool


class Crash:
    """What a journal proves. Add its steps in order, then ask. Raises `ValueError` for nonsense.

    Args:
        zeroes: what is unmapped has to read as zeros; otherwise it may also keep its contents.
    """

    def __init__(self, steps: Iterable[Step], *, zeroes: bool) -> None:
        self.operations = self.writes = self.flushes = 0
        self.durable = 0  #: writes
        self._blocks: dict[int, list[_Write]] = {}
        self._known: set[int] = set()  # blocks that have not what was there before the run
        self._cached: list[_Write] = []  # acknowledged, not durable
        self._begun: dict[int, tuple[int, Step, _Write | None]] = {}
        for when, step in enumerate(steps, 1):
            if step.kind in (DONE, FAILED):
                self._end(when, step)
            else:
                self._begin(when, step, zeroes=zeroes)

    def _begin(self, when: int, step: Step, *, zeroes: bool) -> None:
        if step.number in self._begun:
            raise ValueError(f"operation {step.number} begins twice")
        self.operations += 1
        write = None
        if step.kind in "WU":
            write = _Write(when, step, weak=step.kind == "U" and not zeroes)
            for block in range(step.lba, step.lba + step.blocks):
                self._blocks.setdefault(block, []).append(write)
            self.writes += 1
        self._begun[step.number] = (when, step, write)

    def _end(self, when: int, step: Step) -> None:
        try:
            begun, operation, write = self._begun.pop(step.number)
        except KeyError:
            raise ValueError(f"operation {step.number} ends without having begun") from None
        if step.kind == FAILED:
            return
        if operation.kind == "F":
            self.flushes += 1
            covered = [each for each in self._cached if each.ended < begun]
            self._cached = [each for each in self._cached if each.ended >= begun]
            for each in covered:
                self._settle(each)
        elif write is not None:
            write.ended = when
            if write.fua:
                self._settle(write)
            else:
                self._cached.append(write)

    def _settle(self, write: _Write) -> None:
        """It is durable: what had ended before it began is not there any more."""
        self.durable += 1
        if write.weak:
            return
        for block in range(write.lba, write.lba + write.blocks):
            self._known.add(block)
            writes = self._blocks[block]
            if len(writes) > 1:
                self._blocks[block] = [
                    each for each in writes if not each.ended or each.ended > write.when
                ]

    def blocks(self) -> list[int]:
        """Those that something may have been written to, in order."""
        return sorted(self._blocks)

    def possible(self, block: int) -> Possible:
        """What a block may hold now."""
        writes = frozenset(each.value for each in self._blocks.get(block, ()))
        return Possible(writes, block not in self._known)
