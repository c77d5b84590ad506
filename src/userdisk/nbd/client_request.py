"""A request of an NBD client, and whether the server it is for can take it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING

from userdisk.errors import OutOfRange, StorageError, Unsupported, WriteProtected
from userdisk.nbd.client_negotiation import Found, NbdError, ReplyStyle
from userdisk.nbd.wire import Command, CommandFlag, TransmissionFlag

if TYPE_CHECKING:
    from userdisk.unit import Buffer

Result = bytes | bytearray | list[tuple[int, int]] | None

WRITING = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})
_MAX_SHORT = (1 << 32) - 1
_MAX_LONG = (1 << 63) - 1
_MAX_PIECES = 1 << 16  # of an answer, that do not touch
_MAX_CHUNKS = 1 << 17  # of an answer

#: What the export's flags must say for a command, and for a flag of one. Two tables: the numbers
#: of commands and flags are the same.
_NEEDS = {
    Command.FLUSH: TransmissionFlag.SEND_FLUSH,
    Command.TRIM: TransmissionFlag.SEND_TRIM,
    Command.WRITE_ZEROES: TransmissionFlag.SEND_WRITE_ZEROES,
    Command.CACHE: TransmissionFlag.SEND_CACHE,
}
_FLAG_NEEDS = {
    CommandFlag.FUA: TransmissionFlag.SEND_FUA,
    CommandFlag.DF: TransmissionFlag.SEND_DF,
    CommandFlag.FAST_ZERO: TransmissionFlag.SEND_FAST_ZERO,
}


class Request:
    """One command, and how it ended. `offset` and `length` are bytes.

    Args:
        data: what a WRITE stores; unchanged until the end. `length` is then its length.

    When it has ended: `error`, or else `result` (the bytes of a READ; pairs of length and flags
    of a BLOCK_STATUS). `done` is called then, on the thread that receives.
    """

    __slots__ = (
        "_chunks",
        "_ends",
        "_starts",
        "command",
        "data",
        "done",
        "error",
        "flags",
        "length",
        "offset",
        "result",
    )

    def __init__(
        self,
        command: Command,
        offset: int = 0,
        length: int = 0,
        *,
        data: Buffer | None = None,
        flags: int = 0,
        done: Callable[[Request], None] | None = None,
    ) -> None:
        self.command = command
        self.offset = offset
        self.data = None if data is None else memoryview(data).cast("B")
        self.length = length if self.data is None else self.data.nbytes
        self.flags = flags
        self.done = done
        self.result: Result = None
        self.error: StorageError | None = None
        self._starts: list[int] = []  # of the ranges of a READ that have come
        self._ends: list[int] = []
        self._chunks = 0

    def refused(self, found: Found) -> StorageError | None:
        """Why this server cannot take it."""
        command, flags = self.command, found.flags
        needs = _NEEDS.get(command, TransmissionFlag(0))
        for flag, needed in _FLAG_NEEDS.items():
            if self.flags & flag:
                needs |= needed
        if command in WRITING and TransmissionFlag.READ_ONLY in flags:
            return WriteProtected("the server's export is read-only")
        if (missing := needs & ~flags) or (command is Command.BLOCK_STATUS and not _tells(found)):
            what = missing.name or "base:allocation"
            return Unsupported(f"the server does not offer {what}")
        if command is Command.FLUSH:
            return None
        most = found.maximum
        if command not in (Command.READ, Command.WRITE):
            most = _MAX_LONG if found.style is ReplyStyle.EXTENDED else _MAX_SHORT
        if not 0 < self.length <= most or not 0 <= self.offset <= found.size - self.length:
            return OutOfRange(
                f"{command.name} of {self.length} bytes at {self.offset}: the server's export has"
                f" {found.size}, and takes {most} at once"
            )
        return None

    # -- what has come of an answer --------------------------------------------------------------

    def count_chunk(self) -> None:
        """One more piece of an answer has come. Raises `NbdError` when there are too many."""
        self._chunks += 1
        if self._chunks > _MAX_CHUNKS:
            raise NbdError("the server's answer has no end")

    def place(self, offset: int, length: int) -> int:
        """Data or a hole has come: where in the answer it belongs.

        Raises `NbdError` if it is outside, or came before.
        """
        start = offset - self.offset
        end = start + length
        if length <= 0 or start < 0 or end > self.length:
            raise NbdError("the server sent data outside the request")
        starts, ends = self._starts, self._ends
        index = bisect_right(starts, start)
        if (index and ends[index - 1] > start) or (index < len(starts) and starts[index] < end):
            raise NbdError("the server sent data twice")
        after = index and ends[index - 1] == start
        if index < len(starts) and starts[index] == end:
            starts[index] = start
            if after:
                del starts[index], ends[index - 1]
        elif after:
            ends[index - 1] = end
        else:
            starts.insert(index, start)
            ends.insert(index, end)
            if len(starts) > _MAX_PIECES:
                raise NbdError("the server sent data in too many pieces")
        return start

    @property
    def complete(self) -> bool:
        """All bytes of a READ have come."""
        return self._starts == [0] and self._ends == [self.length]


def _tells(found: Found) -> bool:
    return found.context is not None
