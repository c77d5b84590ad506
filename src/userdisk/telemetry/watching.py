"""`trace`: the commands of a running server as they end, or its conversation for Wireshark.

Theory of operation. Nothing of this is there while nobody asks. Who asks gets a ring: connections
put into it on their own threads, and never wait; what finds it full is counted as dropped. The
thread that answers empties it a few times a second.
"""

from __future__ import annotations

import base64
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from userdisk.control import Answer
from userdisk.errors import UsageError, UserdiskError
from userdisk.gate import Gate
from userdisk.iscsi.connection import Connection as IscsiConnection
from userdisk.nbd.connection import Connection as NbdConnection
from userdisk.scsitool.words import cdb_words, status_words
from userdisk.server import Server
from userdisk.spd.connection import Connection as PipeConnection
from userdisk.telemetry.boundary import begun
from userdisk.telemetry.capture import Capture
from userdisk.telemetry.exchange import (
    Decoder,
    Ended,
    Iscsi,
    Nbd,
    Pipe,
    nbd_status,
    nbd_words,
    pipe_words,
)
from userdisk.telemetry.pcap import FILE_HEADER
from userdisk.unit import Buffer

_MOST_WATCHERS: Final = 4  # the control socket has to have room for others
_COMMANDS: Final = 20_000  # in a ring
_BYTES: Final = 16 << 20
_PIECE: Final = 1 << 20  # bytes of a capture in one answer
_INTERVAL: Final = 0.1  # seconds between looks at a ring
_ALIVE: Final = 1.0  # seconds between answers, so that one who has gone is noticed

_watchers = threading.BoundedSemaphore(_MOST_WATCHERS)

_T = TypeVar("_T")
_Connection: TypeAlias = IscsiConnection | NbdConnection | PipeConnection


class Ring(Generic[_T]):
    """What waits for the one who watches. Any thread may put."""

    def __init__(self, most: int, size: Callable[[_T], int] = lambda item: 1) -> None:
        self._most = most
        self._size = size
        self._items: deque[tuple[int, _T]] = deque()
        self._lock = threading.Lock()
        self._held = 0
        self.dropped = 0

    def put(self, item: _T) -> bool:
        """Keep an item, if there is room."""
        size = self._size(item)
        with self._lock:
            if self._held + size > self._most:
                self.dropped += 1
                return False
            self._held += size
            self._items.append((size, item))
            return True

    def take(self, most: int) -> list[_T]:
        """The oldest items, of this size at most, but one at least; none if there are none."""
        taken: list[_T] = []
        total = 0
        with self._lock:
            while self._items and (not taken or total + self._items[0][0] <= most):
                size, item = self._items.popleft()
                total += size
                taken.append(item)
            self._held -= total
        return taken


def watch(
    server: Server, units: Mapping[str, Gate], request: Mapping[str, object]
) -> Iterator[Answer]:
    """The answers to `trace`; `unit` names one, `capture` asks for packets.

    Raises `UsageError` for a unit that there is not, `UserdiskError` when too many watch.
    """
    unit = request.get("unit")
    if unit is not None and unit not in units:
        raise UsageError(f"unit: there is none with the name {unit}")
    if not _watchers.acquire(blocking=False):
        raise UserdiskError(f"{_MOST_WATCHERS} others watch already")
    names = {gate: name for name, gate in units.items()}
    wanted = None if unit is None else units[str(unit)]
    if request.get("capture") is True:
        return _released(_captured(server, wanted))
    return _released(_commands(server, names, wanted))


def _released(answers: Iterator[Answer]) -> Iterator[Answer]:
    try:
        yield from answers
    finally:
        _watchers.release()


def _captured(server: Server, wanted: Gate | None) -> Iterator[Answer]:
    ring: Ring[bytes] = Ring(_BYTES, len)
    capture = Capture(ring.put, lambda connection: concerns(connection, wanted))
    server.observe(capture)
    try:
        yield {"pcap": base64.b64encode(FILE_HEADER).decode()}
        for taken in _emptied(ring, _PIECE):
            answer: Answer = {"dropped": ring.dropped}
            if taken:
                answer["pcap"] = base64.b64encode(b"".join(taken)).decode()
            yield answer
    finally:
        server.ignore(capture)


def _commands(server: Server, names: Mapping[Gate, str], wanted: Gate | None) -> Iterator[Answer]:
    ring: Ring[_Seen] = Ring(_COMMANDS)
    observer = _Observer(ring, wanted)
    server.observe(observer)
    ahead = time.time() - time.monotonic()
    try:
        for taken in _emptied(ring, _COMMANDS):
            for seen in taken:
                yield seen.answer(names, ahead)
            yield {"dropped": ring.dropped}
    finally:
        server.ignore(observer)


def _emptied(ring: Ring[_T], most: int) -> Iterator[list[_T]]:
    """What comes into a ring; now and then nothing."""
    last = 0.0
    while True:
        taken = ring.take(most)
        if taken or time.monotonic() - last >= _ALIVE:
            last = time.monotonic()
            yield taken
        else:
            time.sleep(_INTERVAL)


def concerns(connection: Any, wanted: Gate | None) -> bool:
    """Whether a connection that has logged in has something to do with a unit (None: any)."""
    if wanted is None:
        return True
    if isinstance(connection, IscsiConnection):
        session = connection.session
        return session is not None and any(lu.gate is wanted for lu in session.target.units)
    return _gate(connection) is wanted


def _gate(connection: Any) -> Gate | None:
    """Of a connection that has to do with one unit."""
    if isinstance(connection, NbdConnection):
        return connection.service.gate
    return connection.gate if isinstance(connection, PipeConnection) else None


class _Seen:
    """A command that has ended, and where."""

    __slots__ = ("client", "ended", "gate", "protocol")

    def __init__(self, ended: Ended, gate: Gate | None, protocol: str, client: str) -> None:
        self.ended = ended
        self.gate = gate
        self.protocol = protocol
        self.client = client

    def answer(self, names: Mapping[Gate, str], ahead: float) -> Answer:
        """For the one who asked; `ahead`: seconds from the clock to 1970's."""
        ended = self.ended
        words, status = _WORDS[self.protocol]
        return {
            "time": round(ended.asked + ahead, 6),
            "us": round((ended.ended - ended.asked) * 1e6, 1),
            "protocol": self.protocol,
            "initiator": self.client,
            "unit": None if self.gate is None else names.get(self.gate, self.gate.name),
            "command": words(ended.command),
            "status": status(ended.status, ended.sense),
            "failed": ended.status != 0,
        }


#: by protocol: a command's bytes in words, and how it ended
_WORDS: Final[Mapping[str, tuple[Callable[[bytes], str], Callable[[int, bytes], str]]]] = {
    "iscsi": (cdb_words, status_words),
    "nbd": (nbd_words, lambda error, sense: nbd_status(error)),
    "spd": (pipe_words, status_words),
}


class _Observer:
    """See `tapped_stream.Observer`."""

    def __init__(self, ring: Ring[_Seen], wanted: Gate | None) -> None:
        self._ring = ring
        self._wanted = wanted

    def joined(self, connection: Any, local: object, remote: object) -> _Tap | None:
        """See `tapped_stream.Observer`."""
        if isinstance(connection, IscsiConnection | NbdConnection | PipeConnection):
            return _Tap(self._ring, connection, self._wanted)
        return None


class _Tap:
    """See `tapped_stream.Tap`; decodes from when the connection has logged in."""

    def __init__(
        self,
        ring: Ring[_Seen],
        connection: _Connection,
        wanted: Gate | None,
    ) -> None:
        self._ring = ring
        self._wanted = wanted
        self._connection = connection
        self._decoder: Decoder | None = None

    def received(self, data: memoryview) -> None:
        """See `tapped_stream.Tap`."""
        now, here = time.monotonic(), bytes(data)
        if self._decoder is None:
            found = begun(self._connection)
            if found is None:
                return
            self._decoder = _decoder_of(self._connection)
            here = found.here + here[found.rest :]
            if len(data) < found.rest:  # it ends in a later batch
                self._decoder = None
                return
        self._decoder.received(now, here)

    def sent(self, buffers: Sequence[Buffer]) -> None:
        """See `tapped_stream.Tap`."""
        if self._decoder is None:
            return
        connection, now = self._connection, time.monotonic()
        tally = connection.counters
        for ended in self._decoder.sent(now, b"".join(buffers)):
            if isinstance(connection, IscsiConnection):
                path = connection.paths.get(ended.lun)
                gate = None if path is None else path.lu.gate
            else:
                gate = _gate(connection)
            if self._wanted is None or gate is self._wanted:
                self._ring.put(_Seen(ended, gate, tally.protocol, tally.client))

    def closed(self) -> None:
        """See `tapped_stream.Tap`."""


def _decoder_of(connection: _Connection) -> Decoder:
    if isinstance(connection, PipeConnection):
        return Pipe()
    if isinstance(connection, NbdConnection):
        return Nbd(connection.service.replies)
    incoming = connection.incoming
    return Iscsi(header_digest=incoming.header_digest, data_digest=incoming.data_digest)
