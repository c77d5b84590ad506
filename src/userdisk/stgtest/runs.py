"""A map from blocks to what is known of them, kept as runs of blocks that are alike.

Theory of operation. The blocks are cut into chunks, so that a change moves little memory. A chunk
has the starts of its runs, in order, and their states. Neighbours with equal states are one run.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

#: What a block may hold: one version, some of them, or None: anything.
State = int | tuple[int, ...] | None

SHIFT = 11
CHUNK = 1 << SHIFT  #: blocks


class Runs:
    """States of blocks; at first nothing is known. Not thread-safe."""

    def __init__(self) -> None:
        self._chunks: dict[int, tuple[list[int], list[State]]] = {}  # the oldest first
        #: Runs, also of what is not known between others; 0: nothing is known.
        self.count = 0

    def look(self, lba: int, end: int) -> tuple[list[int], list[State]]:
        """The runs of a range: where each begins, and the end; and the state of each."""
        index = lba >> SHIFT
        if end <= index + 1 << SHIFT:
            return self._look(index, lba, end)
        cuts, states = [lba], []
        while lba < end:
            stop = min(end, index + 1 << SHIFT)
            more, found = self._look(index, lba, stop)
            cuts += more[1:]
            states += found
            lba, index = stop, index + 1
        return cuts, states

    def _look(self, index: int, lba: int, end: int) -> tuple[list[int], list[State]]:
        chunk = self._chunks.get(index)
        if chunk is None:
            return [lba, end], [None]
        starts, states = chunk
        first = bisect_right(starts, lba) - 1
        last = bisect_left(starts, end, first + 1)
        return [lba, *starts[first + 1 : last], end], states[first:last]

    def set(self, lba: int, end: int, state: State) -> None:
        """All of a range, which is not empty, has this state now."""
        index = lba >> SHIFT
        while end > (stop := index + 1 << SHIFT):
            self._set(index, lba, stop, state)
            lba, index = stop, index + 1
        self._set(index, lba, end, state)

    def _set(self, index: int, lba: int, end: int, state: State) -> None:
        chunk = self._chunks.get(index)
        if chunk is None:
            if state is None:
                return
            chunk = self._chunks[index] = [index << SHIFT], [None]
            self.count += 1
        starts, states = chunk
        size = len(starts)
        first = bisect_right(starts, lba) - 1
        last = bisect_left(starts, end, first + 1)
        rest = states[last - 1]  # of the run that the range ends in
        if starts[first] < lba:
            first += 1  # the head of that run stays
        new_starts, new_states = [lba], [state]
        if end < (starts[last] if last < size else index + 1 << SHIFT):
            if rest != state:
                new_starts.append(end)
                new_states.append(rest)
        elif last < size and states[last] == state:
            last += 1  # it goes on with the next run
        if first and states[first - 1] == state:
            del new_starts[0], new_states[0]  # it goes on from the run before
        starts[first:last] = new_starts
        states[first:last] = new_states
        self.count += len(starts) - size

    def forget(self) -> int:
        """Forget the oldest chunk; returns how many of its blocks were known."""
        index = next(iter(self._chunks))
        starts, states = self._chunks.pop(index)
        self.count -= len(starts)
        ends = [*starts[1:], index + 1 << SHIFT]
        return sum(
            end - start
            for start, end, state in zip(starts, ends, states, strict=True)
            if state is not None
        )
