"""The I/O edge of socket protocols: listening sockets, and one owner thread for each connection.

Theory of operation. The owner of a connection is the only thread that runs its protocol object,
receives and sends. It waits in `receive` while nothing else can happen, and in `Waker.wait`, which
`post` ends, while operations are under way elsewhere. What the peer does not read at once is kept
and nothing more is received; the inbox goes on being served, so that a peer that does not read
stalls nobody else.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from userdisk import protocol, transport
from userdisk.counters import Tally
from userdisk.listening import Address, Listens, listen
from userdisk.tapped_stream import Observer, Taps
from userdisk.transport import PlainStream, Stream, Waker

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("userdisk")

TICK = 1.0  #: seconds between looks at time limits
STALL_LIMIT = 60.0  #: seconds that a peer may leave our output unread
LEAST_RATE = 32 << 10  #: bytes/s that it must read on average after that
USER_TIMEOUT = 60.0  #: seconds that sent data may stay unacknowledged
_LINGER = 1.0  # seconds for the peer to take the last output
_UNIX = getattr(socket, "AF_UNIX", None)
_ROOM_LIMIT = 1.0  # seconds for connections that are being closed to make room for another

_CLIENTS = 256  # that are told apart
OTHERS = "(others)"  #: stands for clients beyond those

HostPort = tuple[str, int]  #: of an end of a connection; of a Unix socket its path, and 0
Post = Callable[[Callable[[], None]], None]


class Connection(protocol.Connection, Protocol):
    """A protocol's connection, which counts what it does."""

    counters: Tally


#: makes a connection of its two ends (local, remote), its `post` and the time in seconds
Accept = Callable[[HostPort, HostPort, Post, float], Connection]


class Owner:
    """One connection with its socket and thread."""

    def __init__(self, portal: Portals, sock: socket.socket, door: _Door, ends: _Ends) -> None:
        self._portal = portal
        self._sock = sock
        self._context = door.context
        self._waker = Waker()
        self._inbox: deque[Callable[[], None]] = deque()
        host, port = ends.remote
        self.local = sock.family == _UNIX
        self.name = host if self.local else f"{host}:{port}"
        self.aborted = False
        self._ends = ends
        self._taps = Taps()
        self.connection = door.accept(ends.local, ends.remote, self.post, time.monotonic())
        self._stream: Stream = PlainStream(sock)
        self.thread = threading.Thread(target=self._run, name=f"owner {self.name}", daemon=True)

    def start(self) -> None:
        """Start the owner's thread. Raises RuntimeError if there cannot be one more."""
        try:
            self.thread.start()
        except RuntimeError:
            self.connection.lost("no thread for it")
            self.connection.end()
            self._waker.close()
            raise

    def post(self, action: Callable[[], None]) -> None:
        """Have the owner's thread call `action`; from any thread, never blocks."""
        self._inbox.append(action)
        self._waker.wake()

    def stop(self, seconds: int) -> None:
        """Ask the peer to leave within `seconds`; from any thread."""
        self.post(lambda: self.connection.request_end(seconds))

    def abort(self, reason: str) -> None:
        """End the connection at once; from any thread."""
        self.aborted = True
        self.post(lambda: self.connection.fail(reason))
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def observe(self, observer: Observer) -> None:
        """Let somebody see what comes and goes, from the next batch on; from any thread."""
        self.post(lambda: self._taps.join(observer, self.connection, *self._ends))

    def ignore(self, observer: Observer) -> None:
        """The opposite of `observe`."""
        self.post(lambda: self._taps.leave(observer))

    # -- the owner's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        connection = self.connection
        reason = "closed by the peer"
        try:
            transport.prepare(self._sock, TICK, USER_TIMEOUT)
            self._serve()
        except OSError as error:
            reason = error.strerror or str(error)
        except BaseException:  # whatever it was, the session ends and the server can stop
            reason = "an error in userdisk"
            log.exception("connection %s failed", self.name)
        connection.lost(reason)
        self._taps.end()
        with contextlib.suppress(OSError):
            self._sock.close()
        while not connection.finished:  # operations that cannot be cancelled
            self._waker.wait(None, TICK)
            self._serve_inbox()
        connection.end()
        log.info("connection %s ended: %s", self.name, connection.reason)
        self._portal.ended(self)
        self._waker.close()

    def _serve(self) -> None:
        connection, sock, inbox, stream = self.connection, self._sock, self._inbox, self._stream
        stalled, due, size = 0.0, 0.0, 0
        while True:
            if inbox:
                self._serve_inbox()
                if connection.closed:
                    return
                stream = self._stream = self._taps.on(stream)
            out = connection.out
            if not stream.rest and out.buffers:
                live, size = out.live, out.size
                stream.send(connection.take_output(), size, live=live)
                due = 0.0
            if stream.rest:
                due = due or _due(size)
                stalled = self._wait_writable(stalled, due)
                stream.flush()
                continue
            if connection.closing:
                self._linger()
                return
            if connection.secures:
                stream = self._secure()
                continue
            if connection.more:
                connection.resume()
                continue
            if connection.paused:
                self._waker.wait(None, TICK)
                connection.tick(time.monotonic())
                continue
            if connection.pending and not stream.buffered:
                ready = self._waker.wait(sock, TICK)
                connection.tick(time.monotonic())
                if not ready:
                    continue
            view = connection.buffer()
            count = stream.receive(view)
            while count > 0:
                connection.received(count)
                if inbox or not connection.quiet:
                    break
                if out.buffers:
                    live, size = out.live, out.size
                    stream.send(connection.take_output(), size, live=live)
                    due = 0.0
                    if stream.rest:
                        break
                count = stream.receive(view)
            if count == 0:
                return
            if count < 0:
                connection.tick(time.monotonic())

    def _wait_writable(self, stalled: float, due: float) -> float:
        """Wait until the peer reads, a tick at most; returns for how long it has not, in seconds.

        Raises TimeoutError, also when the output is not sent by `due`: somebody who takes a byte
        now and then would keep its memory from others.
        """
        now = time.monotonic()
        if now > due:
            raise TimeoutError(f"read less than {LEAST_RATE >> 10} KiB/s")
        if self._waker.wait(self._sock, TICK, writing=True):
            return 0.0
        stalled += time.monotonic() - now
        if stalled > STALL_LIMIT:
            raise TimeoutError(f"did not read for {STALL_LIMIT:g} s")
        return stalled

    def _secure(self) -> Stream:
        """All that follows is encrypted."""
        from userdisk.tls_stream import TlsStream  # a quarter of what a server's start costs

        assert self._context is not None, "a protocol that has TLS needs a context"
        self._stream = self._taps.on(TlsStream(self._sock, self._context))
        self.connection.secured()
        return self._stream

    def _serve_inbox(self) -> None:
        inbox = self._inbox
        for _ in range(len(inbox)):
            self.connection.handle(inbox.popleft())

    def _linger(self) -> None:
        """Close without a reset, which could destroy the last response on its way."""
        self._stream.finish()
        end = time.monotonic() + _LINGER
        scratch = memoryview(bytearray(65536))
        while time.monotonic() < end:
            if self._waker.wait(self._sock, 0.1) and not transport.receive(self._sock, scratch):
                return


def _due(size: int) -> float:
    """When output of so many bytes must have been read, of the monotonic clock."""
    return time.monotonic() + STALL_LIMIT + size / LEAST_RATE


class _Ends(NamedTuple):
    local: HostPort
    remote: HostPort


class _Door(NamedTuple):
    """A listener, and what is made of those that come in."""

    listener: Listens
    accept: Accept
    context: ssl.SSLContext | None


class Portals:
    """The listening sockets of a server and the connections that came in through them.

    Args:
        max_connections: at the same time; more are closed at once.
        max_openings: connections at the same time that have not logged in, or not chosen an
            export; one more, and the oldest of them is closed.
    """

    def __init__(self, *, max_connections: int = 256, max_openings: int = 32) -> None:
        self._max_connections = max_connections
        self._max_openings = max_openings
        self._listeners: list[tuple[Listens, threading.Thread]] = []
        self._owners: dict[Owner, None] = {}  # the oldest first
        self._changed = threading.Condition()
        self._observers: list[Observer] = []
        self._stopping = False
        self._past: dict[tuple[str, str], Tally] = {}  # by protocol and client
        self.accepted = 0  #: connections that were let in
        self.refused = 0  #: connections over a limit

    def listen(
        self,
        address: Address,
        accept: Accept,
        context: ssl.SSLContext | None = None,
        inherited: socket.socket | None = None,
    ) -> Address:
        """Listen on an address; returns it with the port that was chosen for port 0.

        Args:
            accept: makes the protocol's side of each connection.
            context: for protocols whose connections begin TLS.
            inherited: a socket that listens there already.

        Raises UsageError.
        """
        listener = listen(address, inherited)
        door = _Door(listener, accept, context)
        thread = threading.Thread(
            target=self._accept, args=(door,), name=f"portal {listener.where}", daemon=True
        )
        thread.start()
        self._listeners.append((listener, thread))
        return listener.address

    def _accept(self, door: _Door) -> None:
        while True:
            try:
                sock, remote = door.listener.socket.accept()
            except OSError:
                if self._stopping:
                    return
                time.sleep(0.1)  # out of descriptors, perhaps: do not spin
                continue
            try:
                ends = _ends(door.listener, sock, remote)
            except OSError:
                sock.close()
                continue
            with self._changed:
                if self._has_room():
                    self._begin(sock, door, ends)
                else:
                    self.refused += 1
                    sock.close()

    def _has_room(self) -> bool:
        """Whether one more may come in; the caller holds the condition.

        Those that never log in keep nobody out.
        """
        opening = [each for each in self._owners if not each.aborted and each.connection.opening]
        if len(opening) >= self._max_openings:
            self.refused += 1
            opening[0].abort("too many connections that have not logged in")
        if len(self._owners) >= self._max_connections and any(o.aborted for o in self._owners):
            self._changed.wait_for(
                lambda: len(self._owners) < self._max_connections or self._stopping, _ROOM_LIMIT
            )
        return len(self._owners) < self._max_connections and not self._stopping

    def _begin(self, sock: socket.socket, door: _Door, ends: _Ends) -> None:
        """Give a new connection its owner; the caller holds the condition."""
        owner = None
        try:
            owner = Owner(self, sock, door, ends)
            for observer in self._observers:
                owner.observe(observer)
            self._owners[owner] = None
            owner.start()
        except (OSError, RuntimeError, MemoryError) as error:  # no descriptor, thread or buffer
            log.error("cannot serve a connection: %s", error)
            self.refused += 1
            sock.close()
            if owner is not None:
                del self._owners[owner]
        else:
            self.accepted += 1

    def ended(self, owner: Owner) -> None:
        """A connection is gone; called by its owner's thread."""
        with self._changed:
            self._owners.pop(owner, None)
            self._add(self._past, owner.connection.counters)
            self._changed.notify_all()

    def counters(self) -> Tally:
        """What all connections did up to now, by unit."""
        with self._changed:
            total = Tally()
            for tally in (*self._past.values(), *(o.connection.counters for o in self._owners)):
                total.add(tally)
            return total

    def observe(self, observer: Observer) -> None:
        """Let somebody see what comes and goes on all connections, also those to come."""
        with self._changed:
            self._observers.append(observer)
            for owner in self._owners:
                owner.observe(observer)

    def ignore(self, observer: Observer) -> None:
        """The opposite of `observe`: connections stop to call it soon."""
        with self._changed:
            self._observers.remove(observer)
            for owner in self._owners:
                owner.ignore(observer)

    def tallies(self) -> list[tuple[Tally, int]]:
        """What each client did up to now, and how many connections it has."""
        with self._changed:
            found: dict[tuple[str, str], Tally] = {}
            connected: Counter[tuple[str, str]] = Counter()
            for tally in self._past.values():
                self._add(found, tally)
            for owner in self._owners:
                tally = owner.connection.counters
                connected[self._add(found, tally)] += 1
            return [(tally, connected[key]) for key, tally in found.items()]

    def _add(self, tallies: dict[tuple[str, str], Tally], more: Tally) -> tuple[str, str]:
        """Add what a connection did to its client's; there may be many, the last are one."""
        key = more.protocol, more.client
        if key not in tallies and len(tallies) >= _CLIENTS:
            key = more.protocol, OTHERS
        mine = tallies.get(key)
        if mine is None:
            mine = tallies[key] = Tally()
            mine.protocol, mine.client = key
        mine.add(more)
        return key

    def local_clients(self) -> int:
        """Connections over Unix sockets."""
        with self._changed:
            return sum(owner.local for owner in self._owners)

    def stop(self, seconds: int = 2) -> None:
        """Stop accepting, ask everybody to leave within `seconds`, end every connection.

        Returns when the last operation of a connection has left its unit. Blocks.
        """
        self._stopping = True
        for listener, thread in self._listeners:
            listener.close()
            thread.join(1.0)
        with self._changed:
            owners = list(self._owners)
        for owner in owners:
            owner.stop(seconds)
        with self._changed:
            self._changed.wait_for(lambda: not self._owners, seconds)
            owners = list(self._owners)
        for owner in owners:
            owner.abort("the server stops")
        with self._changed:
            self._changed.wait_for(lambda: not self._owners)


def _ends(listener: Listens, sock: socket.socket, remote: tuple[object, ...]) -> _Ends:
    if sock.family == _UNIX:
        return _Ends((listener.where, 0), (listener.where, 0))
    return _Ends(_host_port(sock.getsockname()), _host_port(remote))


def _host_port(name: tuple[object, ...]) -> HostPort:
    """(host, port) of a socket name; IPv4 in its own form also on an IPv6 socket."""
    host, port = str(name[0]), name[1]
    assert isinstance(port, int)
    return host.removeprefix("::ffff:") if "." in host else host, port
