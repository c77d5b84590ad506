"""The one place that sends and receives on sockets, and that wakes a thread which waits for one.

Sockets stay in blocking mode, with SO_RCVTIMEO as the tick of whoever waits (a Python time-out
would cost a poll before every call). Sending is tried without waiting first; only what does not
fit waits. `PlainStream` is a socket as the portal and the clients see it; `tls_stream.py` has the
encrypted one.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Sequence
from typing import Protocol

from userdisk.unit import Buffer

_VECTORED = hasattr(socket.socket, "sendmsg")
_NO_WAIT = getattr(socket, "MSG_DONTWAIT", 0)
_EVENTFD = hasattr(os, "eventfd")
_IOV_MAX = 1024
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))  # seconds, probes


class Stream(Protocol):
    """A connection's bytes. One thread uses it; nothing blocks longer than the socket's tick."""

    @property
    def rest(self) -> bool:
        """Output was not taken by the socket: wait until it is writable, then `flush`."""

    @property
    def buffered(self) -> bool:
        """What was received waits inside: `receive` again, without waiting for the socket."""

    def receive(self, buffer: memoryview) -> int:
        """Bytes received into `buffer`; 0: the end; -1: none yet. Raises OSError."""

    def send(self, buffers: list[Buffer], size: int = -1, *, live: bool = False) -> None:
        """Send in order what the socket takes now, and keep the rest; only if not `rest`.

        `size`: bytes in all, if known. `live`: views in it may change after the call.
        """

    def flush(self) -> None:
        """Send more of the rest."""

    def finish(self) -> None:
        """Say that no more output comes."""


class PlainStream:
    """See `Stream`: the socket itself."""

    buffered = False

    def __init__(self, sock: socket.socket) -> None:
        self.rest = False
        self._sock = sock
        self._unsent: list[Buffer] = []
        self._receive_into = sock.recv_into
        self._send_message = sock.sendmsg if _VECTORED else None

    def receive(self, buffer: memoryview) -> int:
        """See `Stream`."""
        try:
            return self._receive_into(buffer)
        except (BlockingIOError, InterruptedError, TimeoutError):
            return -1

    def send(self, buffers: list[Buffer], size: int = -1, *, live: bool = False) -> None:
        """See `Stream`."""
        unsent = buffers
        if self._send_message is not None and len(buffers) <= _IOV_MAX:  # nearly always enough
            try:
                sent = self._send_message(buffers, (), _NO_WAIT)
                if sent == size:
                    return
                unsent = _after(buffers, sent)
            except (BlockingIOError, BufferError, TypeError):
                pass  # nothing was sent: see below
        unsent = send(self._sock, unsent)
        if unsent:
            if live:  # it waits for the peer: what it shows may change before it is sent
                unsent = [bytes(b) if type(b) is memoryview else b for b in unsent]
            self._unsent = unsent
            self.rest = True

    def flush(self) -> None:
        """See `Stream`."""
        self._unsent = send(self._sock, self._unsent)
        self.rest = bool(self._unsent)

    def finish(self) -> None:
        """See `Stream`."""
        self._sock.shutdown(socket.SHUT_WR)


def prepare(sock: socket.socket, tick: float, user_timeout: float) -> None:
    """Set a connection's options: no delay, the tick, and when an unreachable peer is given up."""
    sock.setblocking(True)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = int(user_timeout * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        # A peer that has nothing to say may be gone: NBD has no pings.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    set_tick(sock, tick)


def set_tick(sock: socket.socket, tick: float) -> None:
    """`receive` of a blocking socket says after so many seconds that nothing has come."""
    if os.name == "posix":
        seconds = int(tick)
        span = struct.pack("@ll", seconds, int((tick - seconds) * 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, int(tick * 1000))


def receive(sock: socket.socket, buffer: memoryview) -> int:
    """Receive into `buffer`; 0 at the end of the stream, -1 when a tick passed without data."""
    try:
        return sock.recv_into(buffer)
    except (BlockingIOError, InterruptedError, TimeoutError):
        return -1


def send(sock: socket.socket, buffers: Sequence[Buffer], size: int = -1) -> list[Buffer]:
    """Send the buffers in order, as far as the socket takes them now; returns the rest.

    `size`: bytes in all, if known: saves a look at each buffer when everything is taken at once.
    Raises OSError when the connection is gone.
    """
    rest: list[Buffer] = list(buffers) if _VECTORED else [b"".join(buffers)]
    while rest:
        try:
            sent = _send_some(sock, rest)
        except BlockingIOError:
            return rest
        except (BufferError, TypeError):  # a unit's view that is not contiguous
            rest = [bytes(buffer) for buffer in rest]
            continue
        if sent == size:
            return []
        size = -1
        rest = _after(rest, sent)
    return []


def _send_some(sock: socket.socket, buffers: Sequence[Buffer]) -> int:
    if _VECTORED:
        return sock.sendmsg(buffers[:_IOV_MAX], (), _NO_WAIT)
    return sock.send(buffers[0], _NO_WAIT)


def _after(buffers: Sequence[Buffer], sent: int) -> list[Buffer]:
    """What is left of the buffers when the first `sent` bytes are gone."""
    for index, buffer in enumerate(buffers):
        view = memoryview(buffer)
        length = view.nbytes
        if sent < length:
            plain = view.format == "B" and view.ndim == 1
            return [(view if plain else memoryview(bytes(view)))[sent:], *buffers[index + 1 :]]
        sent -= length
    return []


class Waker:
    """Lets any thread wake the one that waits for a socket in `wait`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        if _EVENTFD:
            self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._pair = socket.socketpair()
            for end in self._pair:
                end.setblocking(False)
            self._read, self._write = (end.fileno() for end in self._pair)

    def wake(self) -> None:
        """End the current or the next `wait`. Never blocks; does nothing after `close`."""
        with self._lock, contextlib.suppress(OSError):  # full: it is awake already
            if self._closed:  # the descriptor may be another file by now
                return
            if _EVENTFD:
                os.eventfd_write(self._write, 1)
            else:
                self._pair[1].send(b"\0")

    def wait(self, sock: socket.socket | None, seconds: float, *, writing: bool = False) -> bool:
        """Wait until `sock` can be read (or written), for `wake`, or for the time.

        True if it is the socket. Without a socket only a wake ends it early.
        """
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(self._read, select.POLLIN)
            if sock is not None:
                poll.register(sock, select.POLLOUT if writing else select.POLLIN)
            ready = {fd for fd, _ in poll.poll(seconds * 1000)}
        else:
            wanted = [] if sock is None else [sock.fileno()]
            readable, writable, _ = select.select(
                [self._read, *([] if writing else wanted)], wanted if writing else [], [], seconds
            )
            ready = {*readable, *writable}
        if self._read in ready:
            with contextlib.suppress(BlockingIOError):
                if _EVENTFD:
                    os.eventfd_read(self._read)
                else:
                    self._pair[0].recv(4096)
        return sock is not None and sock.fileno() in ready

    def close(self) -> None:
        """Free the descriptors; `wake` may still be called."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if _EVENTFD:
                os.close(self._read)
            else:
                for end in self._pair:
                    end.close()
