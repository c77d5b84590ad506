"""Running a plan on a port: so many operations under way, each looked at when it ends.

Theory of operation. One thread submits in batches and collects in batches. Operations of a group,
which are about the same blocks, run one after the other; as many groups are under way as there may
be operations. So a read knows what the write before it has left. The journal, if there is
one, has an operation before it is sent, and its end before anything is sent that follows it. The
first thing that is wrong ends the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from time import perf_counter
from typing import TypeAlias

from userdisk.errors import UserdiskError
from userdisk.stgtest import journal, pattern
from userdisk.stgtest.again import Again
from userdisk.stgtest.meter import NAMES, Meter
from userdisk.stgtest.model import Entry, Model
from userdisk.stgtest.pattern import ZERO, Pattern
from userdisk.stgtest.port import Op, Port

PROGRESS_SECONDS = 0.5

_ERROR = attrgetter("error")
_Asked: TypeAlias = tuple[str, int, int]  # letter, address and count


@dataclass(frozen=True, slots=True)
class Limits:
    """How much: `count` operations (None: no end), `depth` at a time, for `duration` seconds.

    `patience`: seconds in which a disk may refuse an operation again and again.
    """

    count: int | None
    depth: int = 1
    duration: float | None = None
    patience: float = 10.0


class Engine:
    """One run. `run` blocks, on the thread that owns the port.

    Args:
        operations: letter, address and count of each.
        stamped: each write has contents of its own; otherwise all have those of their blocks.
        group: how many operations in a row belong together.
        fua: reads and writes have the flush flag.
        progress: called about twice a second.
    """

    def __init__(
        self,
        port: Port,
        operations: Iterator[_Asked],
        limits: Limits,
        contents: Pattern,
        *,
        stamped: bool,
        fua: bool,
        group: int = 1,
        record: journal.Writer | None = None,
        progress: Callable[[Meter, float], object] | None = None,
    ) -> None:
        self._port = port
        self._operations = islice(operations, limits.count)
        self._limits = limits
        self._contents = contents
        self._stamped = stamped
        self._fua = fua
        self._group = group
        self._blind = group == 1  # only reads so far, of blocks of which nothing is known
        self._begun: deque[list[_Asked]] = deque()  # groups with nothing under way
        self._spare: list[Op] = []  # that have ended, to be used again
        self._record = record
        self._progress = progress
        self._geometry = port.geometry
        self._length = port.geometry.block_length
        #: With no cache every write is durable when it is answered.
        self._durable = not port.geometry.cached
        self._number = 0
        self._flying = 0
        self._again = Again(limits.patience)
        self.model = Model()
        self.meter = Meter()
        self.seconds = 0.0

    def run(self) -> str | None:
        """Returns what is wrong, in one line; None if nothing is.

        Raises `UserdiskError` when the disk is gone, or does not answer.
        """
        begin = now = perf_counter()
        end = begin + (self._limits.duration or float("inf"))
        look = begin + PROGRESS_SECONDS
        wrong: str | None = None
        try:
            while True:
                if self._again and wrong is None:
                    self._submit(self._again.take(self._flying))
                elif wrong is None and now < end:
                    self._send(now)
                if not self._flying:
                    return wrong
                ended = self._port.collect()
                now = perf_counter()
                self._flying -= len(ended)
                if self._again or (not self._port.plain and any(map(_ERROR, ended))):
                    ended = self._again.keep(ended, now)
                    self.meter.refused = self._again.count
                if self._record is not None and ended:
                    self._record.add(
                        [
                            journal.Step(journal.FAILED if op.error else journal.DONE, op.number)
                            for op in ended
                        ]
                    )
                free = self._group == 1 and self.model.empty and not self._again
                if free and wrong is None and now < end:
                    self._send(now)  # keeps the disk busy: what has ended is not needed for it
                if (problem := self._end(ended, now)) and wrong is None:
                    wrong = problem
                if self._progress is not None and now >= look:
                    look = now + PROGRESS_SECONDS
                    self._progress(self.meter, now - begin)
        except UserdiskError:
            if wrong is not None:
                return wrong  # that came first
            raise
        finally:
            self.seconds = perf_counter() - begin

    def _send(self, now: float) -> None:
        self._submit(self._batch(now))

    def _submit(self, batch: list[Op]) -> None:
        if batch:
            self._flying += len(batch)
            self._port.submit(batch)

    def _batch(self, now: float) -> list[Op]:
        """Operations for all that may be under way; what they write is in the model."""
        room = self._limits.depth - self._flying
        batch = self._take(room)
        look = self.model.look
        known = not self.model.empty
        number = self._number
        if self._group == 1:
            asked: Iterable[_Asked] = islice(self._operations, room)
        else:
            rests = self._continued(room)
            asked = [rest.pop() for rest in rests]
        for op, (letter, lba, blocks) in zip(batch, asked, strict=False):
            number += 1
            op.number, op.lba, op.blocks, op.began, op.refusals = number, lba, blocks, now, 0
            if op.letter != letter:
                op.letter, op.fua, op.data_out = letter, self._fua and letter in "RW", b""
                self._blind = False
            if letter == "R":
                if known:
                    op.entry = look(lba, blocks)
                    op.unread = op.entry is None
            elif letter != "F":
                self._change(op)
        del batch[number - self._number :]
        self._number = number
        if self._group > 1:
            for op, rest in zip(batch, rests, strict=True):
                op.rest = rest
        if self._record is not None and batch:
            self._record.add([self._step(op) for op in batch])
        return batch

    def _take(self, count: int) -> list[Op]:
        """Operations that nothing is asked of yet: used ones, and new ones if there are not enough.

        They read, and nothing is known of that.
        """
        spare, kind = self._spare, self._port.kind
        while len(spare) < count:
            op = kind("R", 0, 0, 0, fua=self._fua)
            op.unread = True
            spare.append(op)
        first = len(spare) - count
        taken = spare[first:]
        del spare[first:]
        return taken

    def _continued(self, room: int) -> list[list[_Asked]]:
        """Groups that have an operation to be begun, last first; so many, or as there are."""
        groups = []
        for _ in range(room):
            rest = self._begun.popleft() if self._begun else []
            rest = rest or list(islice(self._operations, self._group))[::-1]
            if not rest:
                break
            groups.append(rest)
        return groups

    def _change(self, op: Op) -> None:
        """What a write or an unmap stores; it is in the model from now on."""
        if op.letter == "W":
            version = op.number if self._stamped else 0
            op.data_out = self._contents.data(op.lba, op.blocks, version)
            op.entry = Entry(op.lba, op.blocks, version)
        else:
            op.entry = Entry(op.lba, op.blocks, ZERO, weak=not self._geometry.zeroes)
        self.model.submit(op.entry)

    def _step(self, op: Op) -> journal.Step:
        fua = op.letter in "WU" and (op.fua or self._durable)
        if op.letter == "F":
            return journal.Step("F", op.number)
        return journal.Step(op.letter, op.number, op.lba, op.blocks, fua)

    def _end(self, ended: list[Op], now: float) -> str | None:
        """Operations have ended; the first thing that is wrong with them."""
        wrong: str | None = None
        letter, began = "", 0.0
        times = blocks = 0
        if self._blind and self._port.plain:
            self._spare += ended
            for op in ended:
                if op.began != began:
                    self._count("R", blocks, now - began, times)
                    began = op.began
                    times = blocks = 0
                times += 1
                blocks += op.blocks
            self._count("R", blocks, now - began, times)
            return None
        length, keep = self._length, self._spare.append
        if self._group > 1:
            self._begun += [op.rest for op in ended if op.rest]
        for op in ended:
            if op.letter != letter or op.began != began:  # most have those of the one before
                self._count(letter, blocks, now - began, times)
                letter, began = op.letter, op.began
                times = blocks = 0
            times += 1
            blocks += op.blocks
            if op.error is None:
                keep(op)
                if letter == "R" and op.unread and len(op.data) == op.blocks * length:
                    continue
            if letter == "R":
                problem = self._check(op)
            elif op.entry is not None:
                self.model.written(op.entry, failed=op.error is not None)
                problem = None if op.error is None else failure(op, "transact error", op.error)
            else:
                problem = None if op.error is None else failure(op, "transact error", op.error)
            op.entry, op.unread = None, True
            if problem is not None and wrong is None:
                wrong = problem
        self._count(letter, blocks, now - began, times)
        return wrong

    def _count(self, letter: str, blocks: int, seconds: float, times: int) -> None:
        if times:
            size = blocks * self._geometry.block_length if letter in "RW" else 0
            self.meter.add(letter, size, seconds, times)

    def _check(self, op: Op) -> str | None:
        """A read: whether it found what can be there."""
        entry, length = op.entry, self._length
        if op.error is not None or len(op.data) != op.blocks * length:
            if entry is not None:
                self.model.read(entry, None)
            if op.error is not None:
                return failure(op, "transact error", op.error)
            return failure(op, "condition fail", f"{len(op.data)} bytes came")
        assert entry is not None
        wrong = [
            each
            for each in self.model.read(entry, self._contents.versions(op.lba, op.data))
            if not self._mixed(op, *each)
        ]
        if not wrong:
            return None
        block, version, possible = wrong[0]
        what = pattern.words_of([version])
        if version == pattern.FOREIGN:
            what += f" ({pattern.detail(self._block(op, block), block, length)})"
        return failure(
            op,
            f"bad buffer after {'Unmap' if possible[0] == ZERO else 'Write'}",
            f"block {block} holds {what}, not {pattern.words_of(possible[:4])};"
            f" {len(wrong)} of {op.blocks} blocks are wrong",
        )

    def _mixed(self, op: Op, block: int, version: int, possible: tuple[int, ...]) -> bool:
        """Writes that overlap may share a block: no disk promises which of them wins where."""
        if version != pattern.FOREIGN or len(possible) < 2:
            return False
        return self._contents.mixed(block, self._block(op, block)) <= set(possible)

    def _block(self, op: Op, block: int) -> bytes:
        length = self._length
        at = (block - op.lba) * length
        return bytes(op.data[at : at + length])


def failure(op: Op, description: str, detail: str) -> str:
    """The line for something that is wrong."""
    address = f"{op.lba >> 32:x}:{op.lba & 0xFFFFFFFF:x}"
    name = NAMES[op.letter]
    return f"{name}(Address={address}, Count={op.blocks}): {description}: {detail}"
