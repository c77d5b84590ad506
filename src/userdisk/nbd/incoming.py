"""What a connection receives in the transmission phase: requests and their payload.

Small things are taken out of one receive buffer. A piece of payload that is not complete *lands*:
the rest of it is received straight into a buffer of its own, which the unit then gets. Or it is
*gathered*, for a unit that does not keep it: it stays in the receive buffer, which is replaced by a
longer one if need be, and the header of the next request comes with it.
"""

from __future__ import annotations

from userdisk.budget import Buffers
from userdisk.nbd import wire

_SIZE = 256 << 10  # bytes of the receive buffer
LANDING = 16 << 10  #: bytes: a piece of this size on lands
_APPROACH = 4 << 10  # received at once when a piece is about to land
_AHEAD = wire.EXTENDED_REQUEST.size  # bytes behind a gathered piece: the longest header
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
        buffers: where pieces land, and long receive buffers come from.
    """

    def __init__(self, buffers: Buffers) -> None:
        self._usual = bytearray(_SIZE)
        self._buffers = buffers
        self.buffer = self._usual
        self._writable = memoryview(self.buffer)
        self.view = self._writable.toreadonly()
        self.start = self.end = 0  #: what is received and not handled: buffer[start:end]
        #: The last piece landed or was gathered: the next one may be like it.
        self.approaching = False
        self._landing: bytearray | None = None
        self._size = self._landed = 0  # of what is landing
        self._wanted = 0  # bytes from `start` that are being gathered

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._landing is not None:
            return memoryview(self._landing)[self._landed : self._size]
        if self._wanted:  # the header of the next request may come with it, but no more
            return self._writable[self.end : self.start + self._wanted + _AHEAD]
        if self.start == self.end:
            self._empty()
        elif len(self.buffer) - self.end < _LEAST_ROOM:
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
            return self.end - self.start >= self._wanted
        self._landed += count
        return self._landed == self._size

    @property
    def held(self) -> int:
        """Bytes that were received and not taken."""
        return self.end - self.start + (self._landed if self._landing is not None else 0)

    def gather(self, size: int) -> memoryview | None:
        """The next `size` bytes, if they are here; else they are received into one place.

        The view is valid until the batch ends. Ask again when more has come.
        """
        start, here = self.start, self.end - self.start
        if here >= size:
            self._wanted = 0
            self.start = start + size
            return self.view[start : start + size]
        if not self._wanted:
            self._wanted = size
            self.approaching = True
            if start + size + _AHEAD > len(self.buffer):
                rest = bytes(self._writable[start : self.end])
                if size + _AHEAD > len(self.buffer):
                    self._use(self._buffers.take(size + _AHEAD))
                self._writable[:here] = rest
                self.start, self.end = 0, here
        return None

    def _empty(self) -> None:
        """Nothing is in the receive buffer; a long one is given back, whoever needs it next."""
        self.start = self.end = 0
        if self.buffer is not self._usual:
            self._use(self._usual)

    def _use(self, buffer: bytearray) -> None:
        if self.buffer is not self._usual:
            self._buffers.give(self.buffer)
        self.buffer = buffer
        self._writable = memoryview(buffer)
        self.view = self._writable.toreadonly()

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
        self._wanted = 0
        if self._landing is None:
            return 0
        left = self._size - self._landed
        self._buffers.give(self._landing)
        self._landing = None
        return left
