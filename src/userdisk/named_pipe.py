"""Windows' named pipes as sockets, on which each message has its length in front.

A pipe cannot be waited for together with sockets. So two threads carry messages between it and one
end of a socket pair; the other end is a connection like any other. `multiprocessing.connection` has
the pipes, with messages.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Any, Protocol

from userdisk.errors import UsageError, UserdiskError

PREFIX = "\\\\.\\pipe\\"
_FAMILY = "AF_PIPE"
_LENGTH = struct.Struct("<I")
_BUFFER = 8192  # bytes
_TICK = 0.2  # seconds until the end of the socket is noticed
_LONGEST = (64 << 20) + 48  # bytes of a device's message
_REQUEST = (1 << 20) + 48  # bytes of a client's: a longer one is refused by whoever reads it, too
_REJECT_REMOTE_CLIENTS = 8  # PIPE_REJECT_REMOTE_CLIENTS; `_winapi` has no name for it


class _Pipe(Protocol):
    """A connection of messages; one thread sends, another receives."""

    def send_bytes(self, buf: bytes) -> None: ...
    def recv_bytes(self, maxlength: int | None = None) -> bytes: ...
    def poll(self, timeout: float | None = 0.0) -> bool: ...
    def close(self) -> None: ...


def is_named_pipe(address: object) -> bool:
    """Whether it is the name of such a pipe."""
    return str(address).startswith(PREFIX)


class NamedPipeListener:
    """A named pipe that clients can open; see `userdisk.listening.Listener`.

    Raises UsageError if it cannot be had.
    """

    def __init__(self, address: str, *, family: str = _FAMILY) -> None:
        self.address = self.where = address
        self.socket = self  # `accept` is all that is asked of it
        self._family = family
        self._closing = False
        try:
            self._listener: Any = _listener(address, family)
        except ValueError:
            raise UsageError(f"{address}: only Windows has named pipes") from None
        except OSError as error:
            raise UsageError(f"cannot listen on {address}: {error.strerror or error}") from None

    def accept(self) -> tuple[socket.socket, tuple[object, ...]]:
        """Wait for a client; returns its socket. Raises OSError."""
        try:
            pipe: Any = self._listener.accept()
        except AssertionError:  # that is how it says that a client went as it came
            raise OSError("the client is gone") from None
        if self._closing:
            pipe.close()
            raise OSError("closed")
        return _bridged(pipe, _REQUEST), (self.where, 0)

    def close(self) -> None:
        """Stop listening."""
        self._closing = True
        with contextlib.suppress(OSError):  # wakes who waits in accept
            _pipes().Client(self.address, self._family).close()
        self._listener.close()


def connect(address: str, *, family: str = _FAMILY) -> socket.socket:
    """A socket to the device behind a named pipe. Raises UserdiskError."""
    try:
        pipe: Any = _pipes().Client(address, family)
    except ValueError:
        raise UserdiskError(f"{address}: only Windows has named pipes") from None
    except OSError as error:
        raise UserdiskError(f"{address}: cannot connect: {error.strerror or error}") from None
    return _bridged(pipe, _LONGEST)


def _listener(address: str, family: str) -> Any:
    """Raises ValueError where there are no such pipes."""
    pipes = _pipes()
    if family == _FAMILY and hasattr(pipes, "PipeListener"):
        return local_only(pipes.PipeListener, vars(pipes)["_winapi"])(address)
    return pipes.Listener(address, family)


def _pipes() -> Any:
    """The standard library's pipes, imported where they are used: every server imports this."""
    from multiprocessing import connection

    return connection


def local_only(base: Any, winapi: Any) -> Any:
    """The standard library's listener, without clients of other machines.

    It has no parameter for that: so each instance of the pipe is made here, otherwise as there.
    """

    def new_handle(self: Any, first: bool = False) -> Any:
        access = winapi.PIPE_ACCESS_DUPLEX | winapi.FILE_FLAG_OVERLAPPED
        if first:
            access |= winapi.FILE_FLAG_FIRST_PIPE_INSTANCE
        mode = winapi.PIPE_TYPE_MESSAGE | winapi.PIPE_READMODE_MESSAGE | winapi.PIPE_WAIT
        return winapi.CreateNamedPipe(
            self._address,
            access,
            mode | _REJECT_REMOTE_CLIENTS,
            winapi.PIPE_UNLIMITED_INSTANCES,
            _BUFFER,
            _BUFFER,
            winapi.NMPWAIT_WAIT_FOREVER,
            winapi.NULL,
        )

    return type("LocalPipeListener", (base,), {"_new_handle": new_handle})


def _bridged(pipe: _Pipe, longest: int) -> socket.socket:
    """The other end of a pair whose first end the pipe is carried to and from.

    `longest`: bytes of a message that comes.
    """
    near, far = socket.socketpair()
    ended = threading.Event()
    for carry, arguments in (
        (_to_socket, (pipe, near, ended, longest)),
        (_to_pipe, (pipe, near, ended)),
    ):
        threading.Thread(target=carry, args=arguments, name="named pipe", daemon=True).start()
    return far


def _to_socket(pipe: _Pipe, sock: socket.socket, ended: threading.Event, longest: int) -> None:
    """Carry what the other end of the pipe says, until one of both is gone; close the pipe.

    That also ends a send to a client that does not read.
    """
    with contextlib.suppress(OSError, EOFError):
        while not ended.is_set():
            if pipe.poll(_TICK):
                message = pipe.recv_bytes(longest)
                sock.sendall(_LENGTH.pack(len(message)) + message)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
    pipe.close()


def _to_pipe(pipe: _Pipe, sock: socket.socket, ended: threading.Event) -> None:
    """Carry what the socket says, until one of both is gone; close the socket."""
    with contextlib.suppress(OSError, EOFError):
        while True:
            (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
            if length > _LONGEST:
                break
            pipe.send_bytes(_exactly(sock, length))
    ended.set()
    sock.close()


def _exactly(sock: socket.socket, size: int) -> bytes:
    """The next `size` bytes. Raises EOFError."""
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(data)
