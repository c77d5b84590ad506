"""A client's bytes over a socket inside TLS: one thread receives while others send.

A lock guards the state of OpenSSL, and is never held while the socket is waited for.
What TLS itself has to say while receiving (a new key) goes out with the next send, in order.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from userdisk.plain_link import PlainLink

if TYPE_CHECKING:
    from userdisk.unit import Buffer

_CHUNK = 128 << 10  # bytes of ciphertext that are received at once
_PIECE = 64 << 10  # bytes that are encrypted at once


class TlsLink(PlainLink):
    """TLS over a socket, as its client. The handshake is made at once.

    Args:
        hostname: whose certificate the server must show, if the context checks names.

    Raises ssl.SSLError, which is an OSError, and TimeoutError.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, hostname: str | None) -> None:
        super().__init__(sock)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=hostname)
        self._state = threading.Lock()
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                self._more()
            except ssl.SSLError:
                self._flush()  # the server may want to know why
                raise
        self._flush()

    def receive(self, buffer: memoryview) -> int:
        """See `PlainLink.receive`."""
        while True:
            try:
                with self._state:
                    return int(self._tls.read(len(buffer), buffer))
            except ssl.SSLWantReadError:
                self._more()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return 0

    def send(self, buffers: Sequence[Buffer]) -> None:
        """See `PlainLink.send`."""
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            for at in range(0, view.nbytes, _PIECE):
                with self._state:
                    self._tls.write(view[at : at + _PIECE])
                self._flush()

    def _flush(self) -> None:
        with self._state:
            output = self._out.read()
        if output:
            self.socket.sendall(output)

    def _more(self) -> None:
        data = self.socket.recv(_CHUNK)
        with self._state:
            if data:
                self._in.write(data)
            else:
                self._in.write_eof()
