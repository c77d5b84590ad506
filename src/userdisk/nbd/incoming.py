"""What a connection receives in the transmission phase: requests and their payload.

Small things are taken out of one receive buffer. A piece of payload that is not complete *lands*:
the rest of it is received straight into a buffer of its own, which the unit then gets.
"""

from __future__ import annotations

from userdisk.budget import Buffers

_SIZE = 256 << 10  # bytes of the receive buffer
LANDING = 16 << 10  #: bytes: a piece of this size on lands
_APPROACH = 4 << 10  # received at once when a piece is about to land
_LEAST_ROOM = 32 << 10  # else what is left over is moved to the front


class Piece:
    """Payload that is here. `view` is valid until the batch ends, or for ever if it `landed`."""

    __slots__ = ("buffer", "landed", "view")

    def __init__(self, view: memoryview, buffer: bytearray | None) -> None:
        self.view = view
        self.buffer = buffer  # to be given back to `Buffers`
        self.landed = buffer is not None


class Incoming:
    """The receive side of one connection.

    The fast path reads `buffer`, `view`, `start` and `end`, and moves `start` on.

    Args:
        buffers: where pieces land.
    """

    def __init__(self, buffers: Buffers) -> None:
        self.buffer = bytearray(_SIZE)
        self.start = self.end = 0  #: what is received and not handled: buffer[start:end]
        self._writable = memoryview(self.buffer)
        self.view = self._writable.toreadonly()
        self._buffers = buffers
        #: The last piece landed: receive little at once, so that most of the next one lands, too.
        self.approaching = False
        self._landing: bytearray | None = None
        self._size = self._landed = 0  # of what is landing

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._landing is not None:
            return memoryview(self._landing)[self._landed : self._size]
        if self.start == self.end:
            self.start = self.end = 0
        elif _SIZE - self.end < _LEAST_ROOM:
            rest = self.end - self.start
            self._writable[:rest] = bytes(self._writable[self.start : self.end])
            self.start, self.end = 0, rest
        if self.approaching:
            return self._writable[self.end : self.end + _APPROACH]
        return self._writable[self.end :]

    def received(self, count: int) -> bool:
        """`count` bytes are in `room()`; False: they are the middle of a piece."""
        if self._landing is None:
            self.end += count
            return True
        self._landed += count
        return self._landed == self._size

    def has(self, size: int) -> bool:
        """Whether the next `size` bytes are here; if not and they are many, they land."""
        if self._landing is not None:
            return self._landed == self._size
        start, here = self.start, self.end - self.start
        if here >= size:
            return True
        if size >= LANDING:
            landing = self._buffers.take(size)
            landing[:here] = self._writable[start : start + here]
            self._landing, self._size, self._landed = landing, size, here
            self.start = self.end = 0
            self.approaching = True
        return False

    def take(self, size: int) -> Piece | None:
        """The next `size` bytes, if they are here; else as `has`: ask again when more has come."""
        if not self.has(size):
            return None
        landing = self._landing
        if landing is not None:
            self._landing = None
            return Piece(memoryview(landing)[:size].toreadonly(), landing)
        start = self.start
        self.start = start + size
        return Piece(self.view[start : start + size], None)

    def skip(self, most: int) -> int:
        """Drop up to `most` of the bytes that are here; returns how many."""
        if self._landing is not None:  # it has been received in vain
            count = self._size - self.drop_landing()
        else:
            count = min(most, self.end - self.start)
            self.start += count
        return count

    def drop_landing(self) -> int:
        """Give up what is landing; returns how many bytes of it are still to come."""
        if self._landing is None:
            return 0
        left = self._size - self._landed
        self._buffers.give(self._landing)
        self._landing = None
        return left
