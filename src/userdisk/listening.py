"""Listening sockets: TCP addresses, Unix sockets with their files, and Windows' named pipes."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from userdisk.errors import UsageError
from userdisk.named_pipe import NamedPipeListener, is_named_pipe

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

#: (host, port), or the path of a Unix socket
Address = tuple[str, int] | Path | str

_BACKLOG = 64
_LONGEST_PATH = 107  # bytes, of sun_path without its end
_PROBE = 1.0  # seconds for a server to take a connection
_PATIENCE = 3.0  # seconds to wait for others that begin to listen in the same folder


class Accepts(Protocol):
    """What `Listener.socket` is for the portal."""

    def accept(self) -> tuple[socket.socket, Any]:
        """Wait for a client: its socket and address. Raises OSError."""


class Listens(Protocol):
    """What the portal asks of a listener."""

    @property
    def socket(self) -> Accepts:
        """Where clients come in."""

    @property
    def address(self) -> Address:
        """As bound."""

    @property
    def where(self) -> str:
        """The address, for people."""

    def close(self) -> None:
        """Stop listening; ends `accept`."""


def listen(address: Address, inherited: socket.socket | None = None) -> Listens:
    """A listener of the kind that the address asks for. Raises UsageError if it cannot be had.

    `inherited`: one that listens there already, for another process as well.
    """
    if inherited is not None:
        return Inherited(inherited, address)
    if not isinstance(address, tuple) and is_named_pipe(address):
        return NamedPipeListener(str(address))
    return Listener(address)


class Listener:
    """A socket that listens. Raises UsageError if it cannot."""

    def __init__(self, address: Address) -> None:
        self._file: tuple[int, int] | None = None  # device and inode of a Unix socket
        self.address: Address  #: as bound: with the port that was chosen for port 0
        if isinstance(address, tuple):
            self.where = _text(*address)
            self.socket = _tcp(address, self.where)
            bound: tuple[str, int] = self.socket.getsockname()[:2]
            self.address = bound
        else:
            path = Path(address)
            self.where = f"unix:{path}"
            self.socket = _unix(path, self.where)
            status = os.lstat(path)
            self._file = status.st_dev, status.st_ino
            self.address = path

    def close(self) -> None:
        """Stop listening; remove the file of a Unix socket, if it is still ours."""
        if isinstance(self.address, Path):  # while it still listens: so nobody replaces it now
            with contextlib.suppress(OSError):
                status = os.lstat(self.address)
                if (status.st_dev, status.st_ino) == self._file:
                    os.unlink(self.address)
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self.socket.close()


class Inherited:
    """A socket that listens already, and goes on listening when this process has ended."""

    def __init__(self, sock: socket.socket, address: Address) -> None:
        self.socket = self  # `accept` is all that is asked of it
        self._sock = sock
        self._sock.setblocking(False)  # holds for who has it, too, who only keeps it
        self._closed, self._close = socket.socketpair()
        self._poll = select.poll()
        for each in (self._sock, self._closed):
            self._poll.register(each, select.POLLIN)
        self.address = address  # a Unix socket may have been bound by another name
        if isinstance(address, tuple):
            bound: tuple[str, int] = sock.getsockname()[:2]
            self.address = bound
        self.where = _text(*bound) if isinstance(address, tuple) else f"unix:{address}"

    def accept(self) -> tuple[socket.socket, Any]:
        """Wait for a client: its socket and address. Raises OSError, also after `close`."""
        while self._sock.fileno() >= 0:
            if self._closed.fileno() in (descriptor for descriptor, _ in self._poll.poll()):
                for each in (self._sock, self._closed, self._close):
                    each.close()
                break
            with contextlib.suppress(BlockingIOError):  # somebody else took it
                return self._sock.accept()
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def close(self) -> None:
        """Accept nobody any more; whoever connects waits for the next process.

        The descriptors are closed by who is in `accept`, or calls it next.
        """
        with contextlib.suppress(OSError):
            self._close.send(b"\0")


def _text(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tcp(address: tuple[str, int], where: str) -> socket.socket:
    host, port = address
    try:
        family, kind, protocol, _, found = socket.getaddrinfo(
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
        sock.bind(found)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        hint = ": is another server running?" if error.errno == errno.EADDRINUSE else ""
        raise UsageError(f"cannot listen on {where}: {error.strerror}{hint}") from None
    return sock


def _unix(path: Path, where: str) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise UsageError(f"cannot listen on {where}: no Unix sockets on this system")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise UsageError(f"cannot listen on {where}: the path is longer than {_LONGEST_PATH} bytes")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _alone_in(path.parent):
            _make_room(path, where)
            sock.bind(os.fspath(path))
            os.chmod(path, 0o600)  # before anybody can connect: it does not listen yet
            sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on {where}: {error.strerror}") from None
    except UsageError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder: of two that find a dead socket there, one replaces it, the other then sees it.

    Who cannot have the lock in time goes on: whoever may open the folder could keep it for ever.
    """
    descriptor = -1
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # not ours to read: as without locks
                descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
                _lock(descriptor)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    assert fcntl is not None
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                return
            time.sleep(0.01)


def _make_room(path: Path, where: str) -> None:
    """Remove the socket of a server that is gone. Raises UsageError for anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"cannot listen on {where}: there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (TimeoutError, BlockingIOError):  # it listens, but its queue is full
            pass
    raise UsageError(f"cannot listen on {where}: another server listens there")
