"""The I/O edge of socket protocols: listening sockets, and one owner thread for each connection.

Theory of operation. The owner of a connection is the only thread that runs its protocol object,
receives and sends. It waits in `receive` while nothing else can happen, and in `Waker.wait`, which
`post` ends, while operations are under way elsewhere. What the peer does not read at once is kept
and nothing more is received; the inbox goes on being served, so that a peer that does not read
stalls nobody else.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from userdisk import transport
from userdisk.counters import Tally
from userdisk.errors import UsageError
from userdisk.iscsi.connection import Connection, Phase
from userdisk.iscsi.environment import Environment, Peer
from userdisk.transport import Waker
from userdisk.unit import Buffer

log = logging.getLogger("userdisk")

TICK = 1.0  #: seconds between looks at time limits
STALL_LIMIT = 60.0  #: seconds that a peer may leave our output unread
USER_TIMEOUT = 60.0  #: seconds that sent data may stay unacknowledged
_LINGER = 1.0  # seconds for the peer to take the last output
_BACKLOG = 64


class Owner:
    """One connection with its socket and thread."""

    def __init__(self, portal: Portals, sock: socket.socket, peer: Peer) -> None:
        self._portal = portal
        self._sock = sock
        self.peer = peer
        self._waker = Waker()
        self._inbox: deque[Callable[[], None]] = deque()
        self.connection = Connection(portal.environment, peer, self.post, time.monotonic())
        name = f"iscsi {peer.remote[0]}:{peer.remote[1]}"
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the owner's thread. Raises RuntimeError if there cannot be one more."""
        try:
            self.thread.start()
        except RuntimeError:
            self._waker.close()
            raise

    def post(self, action: Callable[[], None]) -> None:
        """Have the owner's thread call `action`; from any thread, never blocks."""
        self._inbox.append(action)
        self._waker.wake()

    def stop(self, seconds: int) -> None:
        """Ask the initiator to log out within `seconds`, then end; from any thread."""
        self.post(lambda: self.connection.request_logout(seconds))

    def abort(self, reason: str) -> None:
        """End the connection at once; from any thread."""
        self.post(lambda: self.connection.fail(reason))
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    # -- the owner's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        connection = self.connection
        reason = "closed by the initiator"
        try:
            transport.prepare(self._sock, TICK, USER_TIMEOUT)
            self._serve()
        except OSError as error:
            reason = error.strerror or str(error)
        except BaseException:  # whatever it was, the session ends and the server can stop
            reason = "an error in userdisk"
            log.exception("connection %s:%d failed", *self.peer.remote)
        connection.lost(reason)
        with contextlib.suppress(OSError):
            self._sock.close()
        while not connection.finished:  # operations that cannot be cancelled
            self._waker.wait(None, TICK)
            self._serve_inbox()
        connection.end()
        log.info("connection %s:%d ended: %s", *self.peer.remote, connection.reason)
        self._portal.ended(self)
        self._waker.close()

    def _serve(self) -> None:
        connection, sock, inbox = self.connection, self._sock, self._inbox
        rest: list[Buffer] = []
        size = -1  # bytes in rest, if known
        stalled = 0.0
        while True:
            if inbox:
                self._serve_inbox()
                if connection.closed:
                    return
            live = connection.out.live
            if not rest and connection.out.buffers:
                size = connection.out.size
                rest = connection.take_output()
            if rest:
                rest = transport.send(sock, rest, size)
                size = -1
                if rest:
                    if live:  # it waits for the peer: what it shows may change before it is sent
                        rest = [bytes(b) if type(b) is memoryview else b for b in rest]
                    now = time.monotonic()
                    if self._waker.wait(sock, TICK, writing=True):
                        stalled = 0.0
                    else:
                        stalled += time.monotonic() - now
                        if stalled > STALL_LIMIT:
                            raise TimeoutError(f"did not read for {STALL_LIMIT:g} s")
                    continue
            if connection.phase is Phase.CLOSING:
                self._linger()
                return
            if connection.more:
                connection.resume()
                continue
            if connection.pending:
                ready = self._waker.wait(sock, TICK)
                connection.tick(time.monotonic())
                if not ready:
                    continue
            count = transport.receive(sock, connection.buffer())
            if count > 0:
                connection.received(count)
            elif count == 0:
                return
            else:
                connection.tick(time.monotonic())

    def _serve_inbox(self) -> None:
        inbox = self._inbox
        for _ in range(len(inbox)):
            self.connection.handle(inbox.popleft())

    def _linger(self) -> None:
        """Close without a reset, which could destroy the last response on its way."""
        self._sock.shutdown(socket.SHUT_WR)
        end = time.monotonic() + _LINGER
        scratch = memoryview(bytearray(65536))
        while time.monotonic() < end:
            if self._waker.wait(self._sock, 0.1) and not transport.receive(self._sock, scratch):
                return


class Portals:
    """The listening sockets of a server and the connections that came in through them.

    Args:
        environment: what all connections share.
        max_connections: at the same time; more are closed at once.
        max_logins: connections at the same time that have not logged in; one more, and the oldest
            of them is closed.
    """

    def __init__(
        self, environment: Environment, *, max_connections: int = 256, max_logins: int = 32
    ) -> None:
        self.environment = environment
        self._max_connections = max_connections
        self._max_logins = max_logins
        self._listeners: list[tuple[socket.socket, threading.Thread]] = []
        self._owners: dict[Owner, None] = {}  # the oldest first
        self._changed = threading.Condition()
        self._stopping = False
        self._past = Tally()
        self.accepted = 0  #: connections that were let in
        self.refused = 0  #: connections over a limit

    def listen(self, host: str, port: int, tag: int = 1) -> tuple[str, int]:
        """Listen on an address; returns it with the port that was chosen for port 0.

        `tag` is that of its portal group. Raises UsageError.
        """
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except socket.gaierror as error:
            raise UsageError(f"cannot listen on {where}: {error.strerror}") from None
        except UnicodeError:  # labels that are empty or too long
            raise UsageError(f"cannot listen on {where}: not a host name") from None
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and host in ("::", ""):
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            hint = ": is another server running?" if error.errno == errno.EADDRINUSE else ""
            raise UsageError(f"cannot listen on {where}: {error.strerror}{hint}") from None
        thread = threading.Thread(
            target=self._accept, args=(sock, tag), name=f"portal {where}", daemon=True
        )
        thread.start()
        self._listeners.append((sock, thread))
        bound: tuple[str, int] = sock.getsockname()[:2]
        return bound

    def _accept(self, listener: socket.socket, tag: int) -> None:
        while True:
            try:
                sock, remote = listener.accept()
            except OSError:
                if self._stopping:
                    return
                time.sleep(0.1)  # out of descriptors, perhaps: do not spin
                continue
            try:
                local = sock.getsockname()
            except OSError:
                sock.close()
                continue
            with self._changed:
                logins = [each for each in self._owners if each.connection.phase is Phase.LOGIN]
                if len(self._owners) >= self._max_connections or self._stopping:
                    self.refused += 1
                    sock.close()
                    continue
                if len(logins) >= self._max_logins:  # those that never log in keep nobody out
                    self.refused += 1
                    logins[0].abort("too many connections that have not logged in")
                self._begin(sock, Peer(_address(local), _address(remote), tag))

    def _begin(self, sock: socket.socket, peer: Peer) -> None:
        """Give a new connection its owner; the caller holds the condition."""
        owner = None
        try:
            owner = Owner(self, sock, peer)
            self._owners[owner] = None
            owner.start()
        except (OSError, RuntimeError) as error:  # no descriptor, or no thread
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
            self._past.add(owner.connection.counters)
            self._changed.notify_all()

    def counters(self) -> Tally:
        """What all connections did up to now, by unit."""
        with self._changed:
            total = Tally()
            total.add(self._past)
            for owner in self._owners:
                total.add(owner.connection.counters)
            return total

    def stop(self, seconds: int = 2) -> None:
        """Stop accepting, ask everybody to log out within `seconds`, end every connection.

        Returns when the last operation of a connection has left its unit. Blocks.
        """
        self._stopping = True
        for listener, thread in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
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


def _address(name: tuple[object, ...]) -> tuple[str, int]:
    """(host, port) of a socket name; IPv4 in its own form also on an IPv6 socket."""
    host, port = str(name[0]), name[1]
    assert isinstance(port, int)
    return host.removeprefix("::ffff:") if "." in host else host, port
