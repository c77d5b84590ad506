"""What each block may hold, with any number of operations under way.

Theory of operation. A block's state is the versions that may be its contents when nothing is under
way; no state: anything. What overlaps in time and place are rivals, and remember each other. A
write that ends takes the place of all that had ended when it was submitted, not of its rivals:
these may have come after it. One that failed may have changed each block or not. A read may find
what was possible when it was submitted, and what any of its rivals writes. A block whose writes
overlapped may be a mix of them: disks promise no order inside a block.
"""

from __future__ import annotations

from collections.abc import Iterable

#: One version, some of them, or None: anything.
State = int | tuple[int, ...] | None

_MOST = 4 << 20  # blocks that are remembered


class Entry:
    """An operation under way. `value` is what it writes; None: it reads.

    `before`: the states of the blocks when it was submitted, of a read.
    `weak`: it may leave old contents where they are, even if it succeeds.
    """

    __slots__ = ("before", "end", "lba", "over", "rivals", "value", "weak")

    def __init__(self, lba: int, blocks: int, value: int | None, *, weak: bool = False) -> None:
        self.lba = lba
        self.end = lba + blocks
        self.value = value
        self.weak = weak
        self.over = False
        self.rivals: list[Entry] = []
        self.before: list[State] = []


class Model:
    """The blocks of a disk that nobody else writes to. Not thread-safe.

    Args:
        most: blocks to remember; beyond that the oldest are forgotten, and may hold anything.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._states: dict[int, int | tuple[int, ...]] = {}
        self._reads: dict[Entry, None] = {}  # under way
        self._writes: dict[Entry, None] = {}
        self._most = most
        self.forgotten = 0  #: blocks

    @property
    def empty(self) -> bool:
        """Nothing is known of any block, and nothing is being written."""
        return not self._states and not self._writes

    def submit(self, entry: Entry) -> None:
        """The operation may begin now."""
        reads = entry.value is None
        self._meet(entry, self._writes)
        if reads:
            entry.before = list(map(self._states.get, range(entry.lba, entry.end)))
            self._reads[entry] = None
        else:
            self._meet(entry, self._reads)
            self._writes[entry] = None

    def look(self, lba: int, blocks: int) -> Entry | None:
        """A read may begin now; None, if nothing is known of any of its blocks."""
        states = self._states
        if not states:
            return None
        before = list(map(states.get, range(lba, lba + blocks)))
        if before.count(None) == blocks:
            return None
        entry = Entry(lba, blocks, None)
        entry.before = before
        self._meet(entry, self._writes)
        self._reads[entry] = None
        return entry

    @staticmethod
    def _meet(entry: Entry, others: Iterable[Entry]) -> None:
        """It and those that it overlaps become rivals."""
        lba, end = entry.lba, entry.end
        for other in others:
            if other.lba < end and lba < other.end:
                other.rivals.append(entry)
                entry.rivals.append(other)

    def written(self, entry: Entry, *, failed: bool = False) -> None:
        """A write or unmap has ended."""
        del self._writes[entry]
        entry.over = True
        value = entry.value
        assert value is not None
        span = range(entry.lba, entry.end)
        weak = failed or entry.weak
        rivals = [other for other in entry.rivals if other.over and other.value is not None]
        if not weak and not rivals:
            self._states.update(dict.fromkeys(span, value))
        else:
            for block in span:
                self._settle(rivals, block, value, weak=weak)
        entry.rivals = []  # rivals of rivals of rivals would stay for ever
        if len(self._states) > self._most:
            self._forget()

    def _settle(self, rivals: list[Entry], block: int, value: int, *, weak: bool) -> None:
        """`rivals`: the writes that ended while this one was under way."""
        old = _versions(self._states.get(block))
        late = _values(rivals, block)
        if old is None:  # anything; a write that failed does not change that
            if not weak and not late:
                self._states[block] = value
            return
        kept = old if weak else tuple(each for each in late if each in old)
        after = tuple(dict.fromkeys((*kept, value)))
        self._states[block] = after if len(after) > 1 else value

    def _forget(self) -> None:
        while len(self._states) > self._most:
            del self._states[next(iter(self._states))]
            self.forgotten += 1

    def read(self, entry: Entry, found: list[int] | None) -> list[tuple[int, int, tuple[int, ...]]]:
        """A read has ended with these versions; None: it failed.

        Returns what cannot be: block, version, and what would have been possible.
        """
        del self._reads[entry]
        entry.over = True
        before, rivals = entry.before, entry.rivals
        entry.before, entry.rivals = [], []
        if found is None or found == before:
            return []
        wrong = []
        for block, version, state in zip(range(entry.lba, entry.end), found, before, strict=True):
            if state is None or version == state:
                continue
            possible = _versions(state) or ()
            if version in possible:
                continue
            late = _values(rivals, block)
            if version not in late:
                wrong.append((block, version, (*possible, *late)))
        return wrong


def _versions(state: State) -> tuple[int, ...] | None:
    return (state,) if isinstance(state, int) else state


def _values(rivals: Iterable[Entry], block: int) -> tuple[int, ...]:
    return tuple(
        each.value for each in rivals if each.value is not None and each.lba <= block < each.end
    )
