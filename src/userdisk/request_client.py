"""A connection on which any number of threads have requests under way: what our clients share.

Theory of operation. Each request is sent at once, under a lock. One thread receives, and calls
`done` of those that have ended. When the connection is lost, that thread ends all that is under
way; from then on a sender ends its request itself. What the bytes mean is known to the stream.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from userdisk.errors import NotReady, StorageError

if TYPE_CHECKING:
    from userdisk.unit import Buffer

SEND_SECONDS = 60  #: a peer that takes nothing for so long is given up


class ConnectionLost(NotReady):
    """The connection ended before the answer came: what was asked for may be done or not."""


class _Request(Protocol):
    """`error` is set when it has ended so; `done` is called then."""

    error: StorageError | None
    done: Callable[[Any], None] | None


R = TypeVar("R", bound=_Request)


class Stream(Protocol[R]):
    """The protocol, without I/O. `received` raises when the peer breaks it: then `lost` is called.

    `encode` is called by one thread at a time; the rest by the one that receives.
    """

    finished: list[R]  #: requests that have ended; the owner takes them

    def encode(self, request: R) -> list[Buffer]:
        """What to send."""

    def buffer(self) -> memoryview:
        """Where the next bytes go; never empty."""

    def received(self, size: int) -> None:
        """`size` bytes are in `buffer()`."""

    def lost(self, error: StorageError) -> None:
        """All that is under way ends with this error."""


class Link(Protocol):
    """How bytes pass; raises OSError."""

    socket: socket.socket

    def receive(self, buffer: memoryview) -> int:
        """Bytes received into `buffer`; 0: the end."""

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of it. One thread at a time."""


class RequestClient(Generic[R]):
    """A connection that is ready for requests. Thread-safe.

    Args:
        where: what messages begin with.
        peer: what the other end is called in them.
        broken: what the stream raises when the peer breaks the protocol.
        timeout: seconds for the answers that `close` awaits.
        send_timeout: whole seconds after which a peer that takes nothing is given up; 0: never.

    A context manager: leaving it closes.
    """

    def __init__(
        self,
        where: str,
        link: Link,
        stream: Stream[R],
        *,
        peer: str,
        broken: type[Exception],
        timeout: float,
        send_timeout: float = SEND_SECONDS,
    ) -> None:
        self._where = where
        self._peer = peer
        self._broken = broken
        self._timeout = timeout
        self._link = link
        self._socket = link.socket
        self._stream = stream
        _let_sends_end(link.socket, send_timeout)
        self._sending = threading.Lock()
        self._idle = threading.Condition()
        self._waiting = 0  # requests without an answer
        self._closing = self._ended = False
        self._lost: ConnectionLost | None = None
        self._receiver = threading.Thread(target=self._receive, name=f"{peer} answers", daemon=True)
        self._receiver.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lost(self) -> bool:
        """The connection is gone; every request fails from now on."""
        return self._lost is not None

    # -- requests ------------------------------------------------------------------------------

    def submit(self, request: R, done: Callable[[R], None] | None = None) -> None:
        """Send a request; `done` is called when it has ended, on the thread that receives.

        It is called at once, on this thread, when the request cannot be sent. Blocks only while
        the peer takes no data. `done` must not block. A request is used once, and one that has
        an `error` is not sent.
        """
        if done is not None:
            request.done = done
        if request.error is None:
            with self._idle:
                if self._closing or self._lost:
                    request.error = self._lost or ConnectionLost(f"{self._where}: was closed")
                else:
                    self._waiting += 1
        if request.error is not None:
            _tell(request)
            return
        with self._sending:
            late = self._ended
            if not late:
                output = self._stream.encode(request)
                try:
                    self._link.send(output)
                except BlockingIOError:
                    self._give_up(f"the {self._peer} takes no data")
                except OSError as error:
                    self._give_up(f"the connection broke: {error.strerror or error}")
        if late:
            request.error = self._lost
            self._end(request)

    def wait(self, request: R, timeout: float | None = None) -> None:
        """Send a request and wait until it has ended. Raises its `StorageError`.

        A peer that does not answer within `timeout` seconds is given up: the connection ends.
        """
        ended = threading.Lock()
        ended.acquire()
        self.submit(request, lambda _: ended.release())
        if not ended.acquire(timeout=-1 if timeout is None else timeout):
            self._give_up(f"no answer in {timeout:g} seconds")
            ended.acquire()
        if request.error is not None:
            raise request.error

    def close(self) -> None:
        """Wait for the answers that are missing, end the connection. May be called again."""
        with self._idle:
            self._closing = True
            self._idle.wait_for(lambda: not self._waiting or self._lost, self._timeout)
        if self._lost is None:
            with contextlib.suppress(OSError):
                self._say_goodbye()
        self._give_up("was closed")
        if threading.current_thread() is not self._receiver:
            self._receiver.join()
            self._socket.close()

    def abort(self) -> None:
        """End the connection at once: what is under way fails. `close` is still to be called."""
        self._give_up("was closed")

    def _say_goodbye(self) -> None:
        """Tell the peer that nothing more comes, if the protocol has words for it."""

    # -- the thread that receives --------------------------------------------------------------

    def _receive(self) -> None:
        why = f"the {self._peer} closed the connection"
        try:
            while size := self._link.receive(self._stream.buffer()):
                self._stream.received(size)
                self._tell_finished()
        except self._broken as error:
            why = str(error)
        except OSError as error:
            why = f"the connection broke: {error.strerror or error}"
        except MemoryError:
            why = "no memory for an answer"
        finally:
            self._give_up(why)
            with self._sending:
                self._ended = True  # from now on a sender ends its request itself
            assert self._lost is not None
            self._stream.lost(self._lost)
            self._tell_finished()

    def _tell_finished(self) -> None:
        finished, self._stream.finished = self._stream.finished, []
        for request in finished:
            self._end(request)

    def _end(self, request: R) -> None:
        with self._idle:
            self._waiting -= 1
            if not self._waiting:
                self._idle.notify_all()
        _tell(request)

    def _give_up(self, why: str) -> None:
        """The connection is of no use any more; the thread that receives ends the rest."""
        with self._idle:
            if self._lost is None:
                self._lost = ConnectionLost(f"{self._where}: {why}")
            self._idle.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def _tell(request: _Request) -> None:
    done, request.done = request.done, None
    if done is not None:
        done(request)


def _let_sends_end(sock: socket.socket, seconds: float) -> None:
    """Receiving waits as long as it takes, sending does not."""
    sock.settimeout(None)
    # Windows wants milliseconds, all others a struct timeval.
    span = int(seconds) * 1000 if os.name == "nt" else struct.pack("@ll", int(seconds), 0)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
