"""What operations run on: a disk, whatever way it is reached, and one operation on its way."""

from __future__ import annotations

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from userdisk.errors import UserdiskError
from userdisk.stgtest.model import Entry

MOST_BYTES: Final = 1 << 20  #: of one operation's data, whatever the disk would take


_BUSY, _TASK_SET_FULL, _CHECK_CONDITION = 0x08, 0x28, 0x02
_UNIT_ATTENTION = 0x6


def passes(status: int, key: int | None) -> bool:
    """Whether a SCSI status, with its sense key, says that a command was not begun, only now."""
    if status == _CHECK_CONDITION:
        return key == _UNIT_ATTENTION
    return status in (_BUSY, _TASK_SET_FULL)


class Unanswered(UserdiskError):
    """Nothing was answered in time."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """A disk's size and abilities. `max_blocks`: of one operation.

    `cached`: what was written may be lost until a flush. `zeroes`: what is unmapped reads as zeros.
    """

    block_count: int
    block_length: int
    max_blocks: int
    cached: bool
    fua: bool
    flushes: bool
    unmaps: bool
    zeroes: bool
    read_only: bool


class Op:
    """An operation: what is asked, with `data_out`, then `data` (of a read) or `error` (in words).

    `began` is seconds on the clock of the engine, which uses one again that has ended well:
    another costs more than all else that is done for it.
    """

    def __init__(self, letter: str, number: int, lba: int, blocks: int, *, fua: bool) -> None:
        self.letter = letter
        self.number = number
        self.lba = lba
        self.blocks = blocks
        self.fua = fua
        self.data_out: bytes | memoryview = b""
        self.data: bytes | bytearray = b""
        self.error: str | None = None
        self.unread = False  #: nothing is known of what it reads: only the length of `data` matters
        self.again = False  #: with `error`: the disk has not begun it, and may do so later
        self.refusals = 0
        self.entry: Entry | None = None
        self.began = 0.0
        #: what follows it in its group, last first
        self.rest: list[tuple[str, int, int]] | None = None


class Port(Protocol):
    """A way to a disk, for one thread. What goes wrong with all of it raises `UserdiskError`."""

    @property
    def geometry(self) -> Geometry:
        """Of the disk."""

    @property
    def kind(self) -> type[Op]:
        """What its operations are made as."""

    @property
    def plain(self) -> bool:
        """All of the last `collect` went well, and has all its data; False: that is not known."""

    def submit(self, operations: Sequence[Op]) -> None:
        """Send operations; they run in any order. Blocks only while the disk takes no more."""

    def collect(self) -> list[Op]:
        """Wait for operations to end; returns those that have. Raises `Unanswered`."""

    def close(self, *, stuck: bool = False) -> None:
        """Let go of the disk; `stuck`: do not wait for what is under way."""


class Inbox:
    """Where the threads of a port put what has ended."""

    def __init__(self, name: str, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        self._ended: queue.SimpleQueue[Op] = queue.SimpleQueue()
        self.put = self._ended.put

    def collect(self) -> list[Op]:
        """All that has ended, at least one."""
        try:
            ended = [self._ended.get(timeout=self._timeout)]
        except queue.Empty:
            raise Unanswered(f"{self._name}: no answer in {self._timeout:g} seconds") from None
        more = self._ended.get_nowait
        for _ in range(self._ended.qsize()):
            ended.append(more())
        return ended


def run(port: Port, operation: Op, seconds: float) -> Op:
    """Run one operation with nothing else under way. Raises `Unanswered`."""
    port.submit([operation])
    until = time.monotonic() + seconds
    while not (ended := port.collect()):
        if time.monotonic() >= until:
            raise Unanswered(f"no answer in {seconds:g} seconds")
    return ended[0]
