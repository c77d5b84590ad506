"""`/metrics` over HTTP, for a server without a launcher: few requests at a time, briefly each."""

from __future__ import annotations

import contextlib
import http.server
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Any, Final

from userdisk.errors import UsageError
from userdisk.telemetry.prometheus import CONTENT_TYPE

_SECONDS: Final = 5.0  # for a request to come, and for its answer to go
_AT_ONCE: Final = 4
_HINT: Final = b"userdisk: the metrics are at /metrics\n"


class MetricsServer:
    """Answers GET /metrics on an address until it is closed.

    Args:
        address: host and port; port 0 chooses one.
        page: makes the page; called on threads of the server, several at a time.

    Raises `UsageError` for an address that cannot be had.
    """

    def __init__(self, address: tuple[str, int], page: Callable[[], str]) -> None:
        try:
            self._server = _Server(address, page)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or str(error)
            where = f"{address[0]} port {address[1]}"
            raise UsageError(f"--metrics: cannot listen on {where}: {why}") from None
        host, port = self._server.server_address[:2]
        self.address: tuple[str, int] = str(host), int(port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    """Drops a connection when enough others are served."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], page: Callable[[], str]) -> None:
        self.page = page
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        family, _, _, _, place = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        self.address_family = family
        super().__init__(place[:2], _Handler)  # type: ignore[arg-type]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self._room.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or is too slow, is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = _SECONDS
    server_version = "userdisk"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        # `timeout` is for each receive: somebody who sends a byte now and then would stay.
        self._watch = threading.Timer(_SECONDS, self._cut)
        self._watch.daemon = True
        self._watch.start()

    def finish(self) -> None:
        self._watch.cancel()
        super().finish()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(200, CONTENT_TYPE, self.server.page().encode())
        elif path == "/":
            self._send(200, "text/plain; charset=utf-8", _HINT)
        else:
            self.send_error(404)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are not logged."""
