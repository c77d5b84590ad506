"""An NBD client with sockets and threads: `Client` is one connection to one export.

Any number of threads submit requests; each is sent at once, under a lock. One thread receives and
calls `done`. The protocol is `userdisk.nbd.client_negotiation` and `userdisk.nbd.client`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

from userdisk import tls
from userdisk.errors import NotReady, UserdiskError
from userdisk.nbd.client import ClientTransmission
from userdisk.nbd.client_negotiation import ClientNegotiation, Found, Listed, NbdError, Wishes
from userdisk.nbd.client_request import Request, Result
from userdisk.nbd.uri import Uri
from userdisk.tls_link import PlainLink, TlsLink

__all__ = ["Client", "ConnectionLost", "Listed", "NbdError", "Request", "Uri", "list_exports"]

_SEND_SECONDS = 60.0  # a server that takes nothing for so long is given up


class ConnectionLost(NotReady):
    """The connection ended before the answer came: what was asked for may be done or not."""


class Client:
    """A connection to an export, negotiated on creation. Thread-safe.

    Args:
        uri: where the export is.
        timeout: seconds for connecting and negotiating, and for the answers that `close` awaits.
        wishes: features to leave out; the export and TLS are those of the URI.
        send_timeout: whole seconds after which a server that takes nothing is given up; 0: never.

    `size`, `minimum`, `preferred` and `maximum` (of the data of one READ or WRITE) are bytes.
    Raises `UserdiskError` when the export cannot be used. A context manager: leaving it closes.
    """

    def __init__(
        self,
        uri: Uri,
        *,
        timeout: float = 10.0,
        wishes: Wishes | None = None,
        send_timeout: float = _SEND_SECONDS,
    ) -> None:
        self.uri = uri
        self._timeout = timeout
        wishes = replace(wishes or Wishes(), export=uri.export, tls=uri.tls)
        self._link, negotiation, rest = _negotiated(uri, wishes, timeout)
        self._socket = self._link.socket
        try:
            assert negotiation.found is not None
            self.found: Found = negotiation.found
            self.size = self.found.size
            self.minimum = self.found.minimum
            self.preferred = self.found.preferred
            self.maximum = self.found.maximum
            self.flags = self.found.flags
            self.description = self.found.description
            self.read_only = bool(self.flags & self.flags.READ_ONLY)
            self._stream = ClientTransmission(self.found, rest)
            _let_sends_end(self._socket, send_timeout)
        except NbdError as error:
            self._socket.close()
            raise NbdError(f"{uri.where}: {error}") from None
        except BaseException:
            self._socket.close()
            raise
        self._sending = threading.Lock()
        self._idle = threading.Condition()
        self._waiting = 0  # requests without an answer
        self._closing = self._ended = False
        self._lost: ConnectionLost | None = None
        self._receiver = threading.Thread(target=self._receive, name="nbd receiver", daemon=True)
        self._receiver.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lost(self) -> bool:
        """The connection is gone; every request fails from now on."""
        return self._lost is not None

    # -- requests --------------------------------------------------------------------------------

    def submit(self, request: Request, done: Callable[[Request], None] | None = None) -> None:
        """Send a request; `done` is called when it has ended, on the thread that receives.

        It is called at once, on this thread, when the request cannot be sent. Blocks only while
        the server takes no data. `done` must not block. A request is used once.
        """
        if done is not None:
            request.done = done
        request.error = request.refused(self.found)
        if request.error is None:
            with self._idle:
                if self._closing or self._lost:
                    request.error = self._lost or ConnectionLost(f"{self.uri.where}: was closed")
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
                except OSError as error:
                    self._give_up(f"the connection broke: {error.strerror or error}")
        if late:
            request.error = self._lost
            self._end(request)

    def call(self, request: Request, *, timeout: float | None = None) -> Result:
        """Send a request and wait for its result. Raises its `StorageError`.

        A server that does not answer within `timeout` seconds is given up: the connection ends.
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
        if self._lost is None:
            with contextlib.suppress(OSError), self._sending:
                self._link.send([self._stream.goodbye()])
        self._give_up("was closed")
        if threading.current_thread() is not self._receiver:
            self._receiver.join()
            self._socket.close()

    def abort(self) -> None:
        """End the connection at once: what is under way fails. `close` is still to be called."""
        self._give_up("was closed")

    # -- the thread that receives ------------------------------------------------------------------

    def _receive(self) -> None:
        why = "the server closed the connection"
        try:
            while size := self._link.receive(self._stream.buffer()):
                self._stream.received(size)
                self._tell_finished()
        except NbdError as error:
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
                self._lost = ConnectionLost(f"{self.uri.where}: {why}")
            self._idle.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def list_exports(uri: Uri, *, timeout: float = 10.0) -> list[Listed]:
    """Names and descriptions of a server's exports; the URI's own name does not matter.

    Blocks for up to `timeout` seconds. Raises `UserdiskError`.
    """
    link, negotiation, _ = _negotiated(uri, Wishes(tls=uri.tls, listing=True), timeout)
    with link.socket, contextlib.suppress(OSError):
        link.send(negotiation.out)  # ABORT; the server may be gone already
    assert negotiation.listed is not None
    return negotiation.listed


def _tell(request: Request) -> None:
    done, request.done = request.done, None
    if done is not None:
        done(request)


# -- sockets ---------------------------------------------------------------------------------------


def _negotiated(
    uri: Uri, wishes: Wishes, timeout: float
) -> tuple[PlainLink, ClientNegotiation, bytes]:
    """A connection on which all is agreed, and what came after that."""
    context = _context(uri) if uri.tls else None
    end = time.monotonic() + timeout
    sock = _connect(uri, timeout)
    link = PlainLink(sock)
    room = memoryview(bytearray(1 << 16))
    negotiation = ClientNegotiation(wishes)
    pending = bytearray()
    try:
        while not negotiation.done:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
            size = link.receive(room)
            if not size:
                raise NbdError("the server closed the connection")
            pending += room[:size]
            used = negotiation.received(memoryview(bytes(pending)))
            del pending[:used]
            if negotiation.out and negotiation.listed is None:
                output, negotiation.out = negotiation.out, []
                link.send(output)
            if negotiation.secures:
                assert context is not None
                link = TlsLink(sock, context, uri.hostname or uri.host or None)
                negotiation.secured()
                output, negotiation.out = negotiation.out, []
                link.send(output)
        sock.settimeout(timeout)
    except TimeoutError:
        sock.close()
        raise NbdError(f"{uri.where}: no answer in {timeout:g} seconds") from None
    except ssl.SSLError as error:
        sock.close()
        raise NbdError(f"{uri.where}: TLS failed: {_why(error)}") from None
    except OSError as error:
        sock.close()
        raise NbdError(f"{uri.where}: {error.strerror or error}") from None
    except NbdError as error:
        sock.close()
        raise NbdError(f"{uri.where}: {error}") from None
    except BaseException:
        sock.close()
        raise
    return link, negotiation, bytes(pending)


def _context(uri: Uri) -> ssl.SSLContext:
    """Whom to trust, and what to show, as the URI says."""
    folder = Path(uri.certificates) if uri.certificates else None
    named = bool(uri.hostname or uri.host)  # a Unix socket has no name of its own
    context = tls.client_context(folder, verify_name=uri.verify and named)
    if not uri.verify:
        context.verify_mode = ssl.CERT_NONE
    return context


def _why(error: ssl.SSLError) -> str:
    """What OpenSSL says, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.rstrip(".")
    return (error.reason or str(error)).lower().replace("_", " ")


def _connect(uri: Uri, timeout: float) -> socket.socket:
    try:
        if not uri.socket:
            sock = socket.create_connection((uri.host, uri.port), timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout)
            path = uri.socket
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
        except BaseException:
            sock.close()
            raise
        return sock
    except TimeoutError:
        raise UserdiskError(f"{uri.where}: no answer in {timeout:g} seconds") from None
    except (OSError, UnicodeError) as error:
        words = getattr(error, "strerror", None) or error
        raise UserdiskError(f"{uri.where}: cannot connect: {words}") from None


def _let_sends_end(sock: socket.socket, seconds: float) -> None:
    """Receiving waits as long as it takes, sending does not."""
    sock.settimeout(None)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(seconds), 0))
