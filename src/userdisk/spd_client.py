"""A client of the pipe protocol with a socket and a thread: `Client` is one connection.

How requests pass is `userdisk.request_client`, the protocol `userdisk.spd.client`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from userdisk import named_pipe
from userdisk.errors import UserdiskError
from userdisk.named_pipe import is_named_pipe
from userdisk.request_client import SEND_SECONDS, RequestClient
from userdisk.spd.client import Exchange, Request
from userdisk.spd.wire import Parameters, ProtocolError
from userdisk.unit import Buffer


class Client(RequestClient[Request]):
    """A connection to a device; its parameters are there when this returns. Thread-safe.

    Args:
        path: of its Unix socket.
        timeout: seconds for connecting, and for the answers that `close` awaits.
        send_timeout: whole seconds after which a device that takes nothing is given up; 0: never.

    Raises `UserdiskError` when the device cannot be used. A context manager: leaving it closes.
    """

    def __init__(
        self, path: str, *, timeout: float = 10.0, send_timeout: float = SEND_SECONDS
    ) -> None:
        exchange = Exchange()
        link = _Link(_connected(path, timeout))
        try:
            self.parameters = _parameters(path, link, exchange, timeout)
            super().__init__(
                path,
                link,
                exchange,
                peer="device",
                broken=ProtocolError,
                timeout=timeout,
                send_timeout=send_timeout,
            )
        except BaseException:
            link.socket.close()
            raise

    def call(self, request: Request, *, timeout: float | None = None) -> bytes:
        """Send a request and wait for what a READ found; see `wait`."""
        self.wait(request, timeout)
        return request.result


class _Link:
    """The socket itself; Windows' have no `sendmsg`."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def receive(self, buffer: memoryview) -> int:
        """Bytes received into `buffer`; 0: the end."""
        return self.socket.recv_into(buffer)

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of it."""
        self.socket.sendall(b"".join(buffers))


def _parameters(path: str, link: _Link, exchange: Exchange, timeout: float) -> Parameters:
    """What the device says of itself, which comes first."""
    end = time.monotonic() + timeout
    try:
        while exchange.parameters is None:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            link.socket.settimeout(left)
            size = link.receive(exchange.buffer())
            if not size:
                raise ProtocolError("the device closed the connection")
            exchange.received(size)
    except TimeoutError:
        raise UserdiskError(f"{path}: no answer in {timeout:g} seconds") from None
    except OSError as error:
        raise UserdiskError(f"{path}: {error.strerror or error}") from None
    except ProtocolError as error:
        raise UserdiskError(f"{path}: {error}") from None
    return exchange.parameters


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
