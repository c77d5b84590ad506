"""How a copy is going, or how it ended: parameter data (SPC-5 6.23 to 6.26, SBC-4 5.25)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

#: TRANSFER COUNT UNITS: bytes, mebibytes, blocks of the copy destination.
BYTES, MEBIBYTES, BLOCKS = 0x00, 0x02, 0xF1

_DONE_DELAY = (1 << 32) - 2  #: ESTIMATED STATUS UPDATE DELAY of a copy that has ended
_DELAY = 1000  #: and of one under way, in milliseconds
_TASK_ABORTED = 0x40


class State(enum.IntEnum):
    """COPY OPERATION STATUS."""

    COMPLETED = 0x01
    FAILED = 0x02
    PARTIAL = 0x03  #: with tokens: less was transferred than asked
    RUNNING = 0x11  #: in the foreground: its command has no status yet
    TERMINATED = 0x60


@dataclass(slots=True)
class Progress:
    """A copy: what its initiator may ask about it. Changed by its task alone."""

    service_action: int
    units: int  #: of `transferred`
    state: State = State.RUNNING
    status: int = 0  #: of its command
    sense: bytes = b""
    transferred: int = 0
    segments: int = 0
    operations: int = 0  #: commands, or the like of them, that the copy took

    def end(self, state: State, status: int = 0, sense: bytes = b"") -> None:
        """The copy has ended."""
        self.status, self.sense, self.state = status, sense, state

    def short(self) -> bytes:
        """RECEIVE COPY STATUS(LID1) data."""
        units, count = self.units, self.transferred
        if units == BYTES and count >= 1 << 32:
            units, count = MEBIBYTES, count >> 20
        state = {State.RUNNING: 0, State.COMPLETED: 1}.get(self.state, 2)
        return struct.pack(">IBHBI", 8, state, self.segments, units, count)

    def failure(self) -> bytes:
        """RECEIVE COPY FAILURE DETAILS(LID1) data of a copy that has failed."""
        body = struct.pack(">52xBxH", self.status, len(self.sense)) + self.sense
        return struct.pack(">I", len(body)) + body

    def long(self, tokens: bytes | None = None) -> bytes:
        """RECEIVE COPY STATUS(LID4) data, or with `tokens` RECEIVE ROD TOKEN INFORMATION data.

        Args:
            tokens: the ROD token that the copy made, or nothing.
        """
        running = self.state is State.RUNNING
        sense = b"" if running or self.state is State.TERMINATED else self.sense
        status = _TASK_ABORTED if self.state is State.TERMINATED else self.status
        padded = sense + bytes(-len(sense) % 4)
        body = struct.pack(
            ">BBHIBBBBQH6x",
            self.service_action,
            self.state,
            self.operations & 0xFFFF,
            _DELAY if running else _DONE_DELAY,
            0 if running else status,
            len(padded),
            len(sense),
            self.units,
            self.transferred,
            self.segments,
        )
        body += padded
        if tokens is not None:
            descriptor = b"\0\0" + tokens if tokens else b""
            body += struct.pack(">I", len(descriptor)) + descriptor
        return struct.pack(">I", len(body)) + body
