"""A client of the pipe protocol with a socket and a thread: `Client` is one connection.

Any number of threads submit requests; each is sent at once, under a lock. One thread receives and
calls `done`. The protocol is `userdisk.spd.client`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Self

from userdisk import named_pipe
from userdisk.errors import NotReady, UserdiskError
from userdisk.named_pipe import is_named_pipe
from userdisk.spd.client import Exchange, Request
from userdisk.spd.wire import Parameters, ProtocolError

_SEND_SECONDS = 60  # a device that takes nothing for so long is given up


class ConnectionLost(NotReady):
    """The connection ended before the answer came: what was asked for may be done or not."""


class Client:
    """A connection to a device; its parameters are there when this returns. Thread-safe.

    Args:
        path: of its Unix socket.
        timeout: seconds for connecting, and for the answers that `close` awaits.

    Raises `UserdiskError` when the device cannot be used. A context manager: leaving it closes.
    """

    def __init__(self, path: str, *, timeout: float = 10.0) -> None:
        self.path = path
        self._timeout = timeout
        self._exchange = Exchange()
        self._socket = _connected(path, timeout)
        try:
            self.parameters: Parameters = self._begin()
        except BaseException:
            self._socket.close()
            raise
        self._sending = threading.Lock()
        self._idle = threading.Condition()
        self._waiting = 0  # requests without an answer
        self._closing = self._ended = False
        self._lost: ConnectionLost | None = None
        self._receiver = threading.Thread(target=self._receive, name="pipe receiver", daemon=True)
        self._receiver.start()

    def _begin(self) -> Parameters:
        """Wait for the parameters."""
        exchange, end = self._exchange, time.monotonic() + self._timeout
        try:
            while exchange.parameters is None:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
                size = self._socket.recv_into(exchange.buffer())
                if not size:
                    raise ProtocolError("the device closed the connection")
                exchange.received(size)
        except TimeoutError:
            raise UserdiskError(f"{self.path}: no answer in {self._timeout:g} seconds") from None
        except OSError as error:
            raise UserdiskError(f"{self.path}: {error.strerror or error}") from None
        except ProtocolError as error:
            raise UserdiskError(f"{self.path}: {error}") from None
        self._socket.settimeout(None)
        with contextlib.suppress(OSError):
            span = struct.pack("@ll", _SEND_SECONDS, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
        return exchange.parameters

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lost(self) -> bool:
        """The connection is gone; every request fails from now on."""
        return self._lost is not None

    # -- requests ------------------------------------------------------------------------------

    def submit(self, request: Request, done: Callable[[Request], None]) -> None:
        """Send a request within the device's limits; `done` is called when it has ended.

        On the thread that receives, or at once on this one, if it cannot be sent. Blocks only while
        the device takes no data. `done` must not block. A request is used once.
        """
        request.done = done
        with self._idle:
            if self._closing or self._lost:
                request.error = self._lost or ConnectionLost(f"{self.path}: was closed")
            else:
                self._waiting += 1
        if request.error is not None:
            _tell(request)
            return
        with self._sending:
            late = self._ended
            if not late:
                try:
                    self._socket.sendall(b"".join(self._exchange.encode(request)))
                except OSError as error:
                    self._give_up(f"the connection broke: {error.strerror or error}")
        if late:
            request.error = self._lost
            self._end(request)

    def call(self, request: Request, *, timeout: float | None = None) -> bytes:
        """Send a request and wait for what a READ found. Raises its `StorageError`.

        A device that does not answer within `timeout` seconds is given up: the connection ends.
        """
        ended = threading.Event()
        self.submit(request, lambda _: ended.set())
        if not ended.wait(timeout):
            self._give_up(f"no answer in {timeout:g} seconds")
            ended.wait()
        if request.error is not None:
            raise request.error
        return request.result

    def close(self) -> None:
        """Wait for the answers that are missing, end the connection. May be called again."""
        with self._idle:
            self._closing = True
            self._idle.wait_for(lambda: not self._waiting or self._lost, self._timeout)
        self._give_up("was closed")
        if threading.current_thread() is not self._receiver:
            self._receiver.join()
            self._socket.close()

    def abort(self) -> None:
        """End the connection at once: what is under way fails. `close` is still to be called."""
        self._give_up("was closed")

    # -- the thread that receives --------------------------------------------------------------

    def _receive(self) -> None:
        why = "the device closed the connection"
        try:
            while size := self._socket.recv_into(self._exchange.buffer()):
                self._exchange.received(size)
                self._tell_finished()
        except ProtocolError as error:
            why = str(error)
        except OSError as error:
            why = f"the connection broke: {error.strerror or error}"
        finally:
            self._give_up(why)
            with self._sending:
                self._ended = True  # from now on a sender ends its request itself
            assert self._lost is not None
            self._exchange.lost(self._lost)
            self._tell_finished()

    def _tell_finished(self) -> None:
        finished, self._exchange.finished = self._exchange.finished, []
        for request in finished:
            self._end(request)

    def _end(self, request: Request) -> None:
        with self._idle:
            self._waiting -= 1
            if not self._waiting:
                self._idle.notify_all()
        _tell(request)

    def _give_up(self, why: str) -> None:
        """The connection is of no use any more; the thread that receives ends the rest."""
        with self._idle:
            if self._lost is None:
                self._lost = ConnectionLost(f"{self.path}: {why}")
            self._idle.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def _tell(request: Request) -> None:
    done, request.done = request.done, None
    if done is not None:
        done(request)


def _connected(path: str, timeout: float) -> socket.socket:
    if is_named_pipe(path):
        return named_pipe.connect(path)
    if not hasattr(socket, "AF_UNIX"):
        raise UserdiskError(f"{path}: this system's Python has no Unix sockets")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except TimeoutError:
        sock.close()
        raise UserdiskError(f"{path}: no answer in {timeout:g} seconds") from None
    except OSError as error:
        sock.close()
        raise UserdiskError(f"{path}: cannot connect: {error.strerror or error}") from None
    except BaseException:
        sock.close()
        raise
    return sock
