"""An NBD client with sockets and threads: `Client` is one connection to one export.

How requests pass is `userdisk.request_client`; the protocol is `userdisk.nbd.client_negotiation`
and `userdisk.nbd.client`.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from userdisk.errors import UserdiskError
from userdisk.nbd.client import ClientTransmission
from userdisk.nbd.client_negotiation import ClientNegotiation, Found, Listed, NbdError, Wishes
from userdisk.nbd.client_request import Request, Result
from userdisk.nbd.uri import Uri
from userdisk.plain_link import PlainLink
from userdisk.request_client import SEND_SECONDS, ConnectionLost, RequestClient

if TYPE_CHECKING:  # loaded when it is used: it takes longer than all else
    import ssl

__all__ = ["Client", "ConnectionLost", "Listed", "NbdError", "Request", "Uri", "list_exports"]


class Client(RequestClient[Request]):
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
        send_timeout: float = SEND_SECONDS,
    ) -> None:
        self.uri = uri
        wishes = replace(wishes or Wishes(), export=uri.export, tls=uri.tls)
        link, negotiation, rest = _negotiated(uri, wishes, timeout)
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
            self._transmission = ClientTransmission(self.found, rest)
            super().__init__(
                uri.where,
                link,
                self._transmission,
                peer="server",
                broken=NbdError,
                timeout=timeout,
                send_timeout=send_timeout,
            )
        except NbdError as error:
            link.socket.close()
            raise NbdError(f"{uri.where}: {error}") from None
        except BaseException:
            link.socket.close()
            raise

    def submit(self, request: Request, done: Callable[[Request], None] | None = None) -> None:
        """See `RequestClient.submit`. What this server cannot take is not sent."""
        request.error = request.refused(self.found)
        super().submit(request, done)

    def call(self, request: Request, *, timeout: float | None = None) -> Result:
        """Send a request and wait for its result; see `wait`."""
        self.wait(request, timeout)
        return request.result

    def _say_goodbye(self) -> None:
        with self._sending:
            self._link.send([self._transmission.goodbye()])


def list_exports(uri: Uri, *, timeout: float = 10.0) -> list[Listed]:
    """Names and descriptions of a server's exports; the URI's own name does not matter.

    Blocks for up to `timeout` seconds. Raises `UserdiskError`.
    """
    link, negotiation, _ = _negotiated(uri, Wishes(tls=uri.tls, listing=True), timeout)
    with link.socket, contextlib.suppress(OSError):
        link.send(negotiation.out)  # ABORT; the server may be gone already
    assert negotiation.listed is not None
    return negotiation.listed


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
                from userdisk.tls_link import TlsLink

                assert context is not None
                link = TlsLink(sock, context, uri.hostname or uri.host or None)
                negotiation.secured()
                output, negotiation.out = negotiation.out, []
                link.send(output)
        sock.settimeout(timeout)
    except TimeoutError:
        sock.close()
        raise NbdError(f"{uri.where}: no answer in {timeout:g} seconds") from None
    except OSError as error:
        sock.close()
        why = _why(error) if context is not None else ""
        raise NbdError(f"{uri.where}: {why or error.strerror or error}") from None
    except NbdError as error:
        sock.close()
        raise NbdError(f"{uri.where}: {error}") from None
    except BaseException:
        sock.close()
        raise
    return link, negotiation, bytes(pending)


def _context(uri: Uri) -> ssl.SSLContext:
    """Whom to trust, and what to show, as the URI says."""
    import ssl

    from userdisk import tls

    folder = Path(uri.certificates) if uri.certificates else None
    named = bool(uri.hostname or uri.host)  # a Unix socket has no name of its own
    context = tls.client_context(folder, verify_name=uri.verify and named)
    if not uri.verify:
        context.verify_mode = ssl.CERT_NONE
    return context


def _why(error: OSError) -> str:
    """What OpenSSL says, in words; nothing if it is not OpenSSL that failed."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS failed: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or str(error)).lower().replace('_', ' ')}"
    return ""


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
