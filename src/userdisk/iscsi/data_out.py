"""Data-out of one command: immediate, unsolicited and solicited data (RFC 7143 11.7, 11.8).

A handler takes a write burst by burst (`target.command.Receive`), so no more than one burst of a
command is in memory. Data comes in order (DataPDUInOrder and DataSequenceInOrder are Yes): first
immediate data, then unsolicited Data-Outs up to FirstBurstLength, then one R2T at a time.
"""

from __future__ import annotations

from userdisk.budget import Buffers
from userdisk.errors import StorageError
from userdisk.target.command import Receive


class DataOutError(StorageError):
    """A Data-Out breaks a rule; the command ends with ABORTED COMMAND (11.4.7.2, SPC-6 annex F)."""

    sense = (0xB, 0x4B, 0x00)  # DATA PHASE ERROR


class UnexpectedDataError(DataOutError):
    """Unsolicited data that was not agreed on."""

    sense = (0xB, 0x0C, 0x0C)


class MissingDataError(DataOutError):
    """A burst ended before all of it had come."""

    sense = (0xB, 0x0C, 0x0D)


class OffsetError(DataOutError):
    """A Data-Out that does not follow the one before it."""

    sense = (0xB, 0x4B, 0x05)


class TooMuchDataError(DataOutError):
    """More than was asked for."""

    sense = (0xB, 0x4B, 0x02)


class DigestError(DataOutError):
    """The data digest of a Data-Out was wrong: PROTOCOL SERVICE CRC ERROR."""

    sense = (0xB, 0x47, 0x05)


class DataOut:
    """The bytes of one command on their way from the wire to its handler.

    Args:
        total: bytes that the initiator announced.
        immediate: the data segment of the command itself; may be a view of the receive buffer.
        unsolicited: bytes of unsolicited data still to come in Data-Outs; 0: none.
        max_burst: the most that one R2T asks for.
        buffers: where bursts get their memory.
    """

    __slots__ = (
        "_buffer",
        "_buffers",
        "_data_sn",
        "_end",
        "_error",
        "_got",
        "_max_burst",
        "_ready",
        "_store",
        "borrowed",
        "consumed",
        "offset",
        "r2t_sn",
        "total",
        "ttt",
        "unsolicited",
    )

    def __init__(
        self,
        total: int,
        immediate: memoryview,
        unsolicited: int,
        max_burst: int,
        buffers: Buffers,
    ) -> None:
        self.total = total
        self.unsolicited = unsolicited
        self.consumed = 0  #: bytes that the handler took
        self.offset = len(immediate)  #: bytes that have come in; the next Data-Out's offset
        self.ttt: int | None = None  #: the transfer tag of the R2T that is outstanding
        self.r2t_sn = 0
        self.borrowed = True  #: what is ready is a view of the receive buffer
        self._buffers = buffers
        self._store: bytearray | None = None  # the memory of bursts, one after the other
        self._max_burst = max_burst
        self._ready = immediate  # complete, not yet taken by the handler
        self._buffer: memoryview | None = None  # the burst that is coming in
        self._got = self._end = 0  # of _buffer
        self._data_sn = 0
        self._error: DataOutError | None = None
        if unsolicited:
            self._expect(unsolicited)

    @property
    def missing(self) -> int:
        """Bytes of the burst under way that are still to come."""
        return self._end - self._got if self._buffer is not None else 0

    @property
    def receiving(self) -> bool:
        """Whether Data-Outs of a burst are still to come."""
        return self._buffer is not None

    def own(self) -> None:
        """Keep what is ready beyond the batch: copy it out of the receive buffer."""
        if self.borrowed:
            self._ready = memoryview(bytes(self._ready))
            self.borrowed = False

    def release(self) -> None:
        """The command has ended. What still receives data is not used again."""
        if self._store is not None and self._buffer is None and self._error is None:
            self._buffers.give(self._store)
            self._store = None

    def take(self, request: Receive) -> memoryview | None:
        """What the handler gets; None: nothing is here yet. Empty: there is no more."""
        if self._error is not None:
            raise self._error
        if self._buffer is not None:
            return None
        ready = self._ready
        length = min(request.length, len(ready))
        if self.consumed + length < self.total and length < request.length:
            length -= length % request.granule
        if not length:
            return None if self.offset < self.total else ready[:0]
        self._ready = ready[length:]
        self.consumed += length
        return ready[:length]

    def burst(self, wanted: int) -> int:
        """How many bytes to ask for next: what is wanted, less what is here, within a burst."""
        return min(self.total - self.offset, self._max_burst, max(1, wanted - len(self._ready)))

    def solicit(self, length: int, ttt: int) -> int:
        """Begin the next burst, as the R2T with tag `ttt` asks; returns its buffer offset."""
        self.ttt = ttt
        self._expect(length)
        return self.offset

    def stop(self, error: DataOutError) -> None:
        """The data is unusable: the handler gets `error` when it asks for more."""
        self._error = error
        self._buffer = None
        self.ttt = None

    def destination(self, offset: int, length: int) -> memoryview | None:
        """Where a Data-Out's payload may be received directly; None: pass it to `receive`."""
        buffer = self._buffer
        if buffer is None or offset != self.offset or self._got + length > self._end:
            return None
        return buffer[self._got : self._got + length]

    def receive(
        self, data_sn: int, offset: int, data: memoryview, final: bool, landed: bool
    ) -> bool:
        """Take a Data-Out; True when its burst is complete.

        `landed`: the payload is in `destination` already. Raises DataOutError.
        """
        buffer = self._buffer
        if buffer is None:
            raise UnexpectedDataError
        length = len(data)
        if data_sn != self._data_sn:
            raise DataOutError
        if offset != self.offset:
            raise OffsetError
        if self._got + length > self._end:
            raise TooMuchDataError
        if not landed:
            buffer[self._got : self._got + length] = data
        self._data_sn += 1
        self._got += length
        self.offset += length
        if not final:
            if self._got == self._end:
                raise DataOutError
            return False
        if self._got < self._end and (self.ttt is not None):
            raise MissingDataError
        self._ready = buffer[: self._got].toreadonly()
        self._buffer = None
        self.ttt = None
        return True

    def _expect(self, length: int) -> None:
        """Make room for a burst, behind what the handler has left over."""
        left_over = bytes(self._ready)
        carried = len(left_over)
        store = self._store
        if store is None or len(store) < carried + length:
            store = self._store = self._buffers.take(carried + length)
        buffer = memoryview(store)
        buffer[:carried] = left_over
        self.borrowed = False
        self._buffer = buffer
        self._ready = buffer[:0]
        self._got = carried
        self._end = carried + length
        self._data_sn = 0
