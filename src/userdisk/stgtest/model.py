"""What each block may hold, with any number of operations under way.

Theory of operation. A block's state is the versions that may be its contents when nothing is under
way; no state: anything. What overlaps in time and place are rivals, and remember each other. A
write that ends takes the place of all that had ended when it was submitted, not of its rivals:
these may have come after it. One that failed may have changed each block or not. A read may find
what was possible when it was submitted, and what any of its rivals writes. A block whose writes
overlapped may be a mix of them: disks promise no order inside a block. Blocks that are alike are
looked at together.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from userdisk.stgtest.runs import SHIFT, Runs, State

_MOST = 4 << 20  # runs of blocks that are remembered


class Entry:
    """An operation under way. `value` is what it writes; None: it reads.

    `before`: of a read, the states of the blocks when it was submitted; `cuts`: where each begins,
    and the end. `weak`: it may leave old contents where they are, even if it succeeds.
    """

    __slots__ = ("before", "cuts", "end", "lba", "over", "rivals", "value", "weak")

    def __init__(self, lba: int, blocks: int, value: int | None, *, weak: bool = False) -> None:
        self.lba = lba
        self.end = lba + blocks
        self.value = value
        self.weak = weak
        self.over = False
        self.rivals: list[Entry] = []
        self.before: list[State] = []
        self.cuts: list[int] = []


class Model:
    """The blocks of a disk that nobody else writes to. Not thread-safe.

    Args:
        most: runs of blocks to remember; beyond that the oldest are forgotten, and may hold
            anything.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._runs = Runs()
        self._flying: dict[int, list[Entry]] = {}  # by chunk: each operation is in those it touches
        self._writes = 0  # under way
        self._most = most
        self.forgotten = 0  #: blocks

    @property
    def empty(self) -> bool:
        """Nothing is known of any block, and nothing is being written."""
        return not self._runs.count and not self._writes

    def submit(self, entry: Entry) -> None:
        """The operation may begin now."""
        if entry.value is None:
            entry.cuts, entry.before = self._runs.look(entry.lba, entry.end)
        else:
            self._writes += 1
        self._begin(entry)

    def look(self, lba: int, blocks: int) -> Entry | None:
        """A read may begin now; None, if nothing is known of any of its blocks."""
        runs = self._runs
        if not runs.count:
            return None
        cuts, before = runs.look(lba, lba + blocks)
        if before.count(None) == len(before):
            return None
        entry = Entry(lba, blocks, None)
        entry.cuts, entry.before = cuts, before
        self._begin(entry)
        return entry

    def _begin(self, entry: Entry) -> None:
        """It and those that it overlaps become rivals, unless both read."""
        lba, end, reads = entry.lba, entry.end, entry.value is None
        flying = self._flying
        for index in range(lba >> SHIFT, (end - 1 >> SHIFT) + 1):
            others = flying.get(index)
            if others is None:
                flying[index] = [entry]
                continue
            for other in others:
                if other.lba < end and lba < other.end and not (reads and other.value is None):
                    met = other.rivals
                    if not met or met[-1] is not entry:  # in the chunk before
                        met.append(entry)
                        entry.rivals.append(other)
            others.append(entry)

    def _finish(self, entry: Entry) -> None:
        entry.over = True
        flying = self._flying
        for index in range(entry.lba >> SHIFT, (entry.end - 1 >> SHIFT) + 1):
            others = flying[index]
            if len(others) > 1:
                others.remove(entry)
            else:
                del flying[index]

    def written(self, entry: Entry, *, failed: bool = False) -> None:
        """A write or unmap has ended."""
        self._writes -= 1
        self._finish(entry)
        value = entry.value
        assert value is not None
        weak = failed or entry.weak
        late = entry.rivals
        if late:
            late = [other for other in late if other.over and other.value is not None]
            entry.rivals = []  # rivals of rivals of rivals would stay for ever
        if weak or late:
            self._settle(entry, late, value, weak=weak)
        else:
            self._runs.set(entry.lba, entry.end, value)
        while self._runs.count > self._most:
            self.forgotten += self._runs.forget()

    def _settle(self, entry: Entry, late: list[Entry], value: int, *, weak: bool) -> None:
        """`late`: the writes that ended while this one was under way."""
        lba, end = entry.lba, entry.end
        cuts, states = self._runs.look(lba, end)
        edges = {edge for each in late for edge in (each.lba, each.end) if lba < edge < end}
        points = sorted(edges.union(cuts))
        run = 0
        for start, stop in pairwise(points):
            if start == cuts[run + 1]:
                run += 1
            old = states[run]
            values = _values(late, start)
            if old is None:  # anything; a write that failed does not change that
                if not weak and not values:
                    self._runs.set(start, stop, value)
                continue
            known = _versions(old)
            kept = known if weak else tuple(each for each in values if each in known)
            after = tuple(dict.fromkeys((*kept, value)))
            self._runs.set(start, stop, after if len(after) > 1 else value)

    def read(self, entry: Entry, found: list[int] | None) -> list[tuple[int, int, tuple[int, ...]]]:
        """A read has ended with these versions, one for each block; None: it failed.

        Returns what cannot be: block, version, and what would have been possible.
        """
        self._finish(entry)
        before, cuts, rivals = entry.before, entry.cuts, entry.rivals
        entry.before, entry.cuts, entry.rivals = [], [], []
        if found is None or found == before:
            return []
        lba = entry.lba
        wrong: list[tuple[int, int, tuple[int, ...]]] = []
        for state, (start, stop) in zip(before, pairwise(cuts), strict=True):
            if state is None:
                continue
            here = found[start - lba : stop - lba]
            if here.count(here[0]) == len(here) and here[0] == state:
                continue
            possible = _versions(state)
            for version in set(here).difference(possible):
                wrong += [
                    (block, version, (*possible, *_values(rivals, block)))
                    for block in _strays(version, here, start, rivals)
                ]
        return sorted(wrong)


def _strays(version: int, here: list[int], start: int, rivals: list[Entry]) -> list[int]:
    """The blocks that hold a version which no rival writes there."""
    writers = [each for each in rivals if each.value == version]
    for each in writers:
        span = here[max(0, each.lba - start) : max(0, each.end - start)]
        if span.count(version) == here.count(version):
            return []  # all of them are its own
    return [
        block
        for block, found in enumerate(here, start)
        if found == version and not any(each.lba <= block < each.end for each in writers)
    ]


def _versions(state: int | tuple[int, ...]) -> tuple[int, ...]:
    return (state,) if isinstance(state, int) else state


def _values(rivals: Iterable[Entry], block: int) -> tuple[int, ...]:
    return tuple(
        [each.value for each in rivals if each.lba <= block < each.end and each.value is not None]
    )
