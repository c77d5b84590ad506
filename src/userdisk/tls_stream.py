"""A socket's bytes inside TLS; see `transport.Stream`.

Theory of operation. TLS runs over memory, so that no call waits for the peer longer than the
socket's tick. `receive` asks the socket once at most: a peer that sends a byte now and then, also
of its handshake, cannot keep its owner from looking at time limits.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import deque

from userdisk import transport
from userdisk.unit import Buffer

_CHUNK = 128 << 10  # bytes of ciphertext that are received at once
_PIECE = 64 << 10  # bytes that are encrypted at once: what waits encrypted is no more


class TlsStream:
    """See `transport.Stream`. Raises ssl.SSLError, which is an OSError, when TLS goes wrong.

    Args:
        sock: prepared, with its tick.
        server_side: whether the other end begins the handshake.
        server_hostname: the name that the server's certificate has to be for; for clients.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool = True,
        server_hostname: str | None = None,
    ) -> None:
        self.buffered = False
        self._sock = sock
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._in, self._out, server_side=server_side, server_hostname=server_hostname
        )
        self._shaken = False
        self._plain: deque[memoryview] = deque()  # not yet encrypted
        self._cipher: list[Buffer] = []  # not yet sent
        self._chunk = memoryview(bytearray(_CHUNK))

    @property
    def rest(self) -> bool:
        """Output that waits for the socket (not for the end of the handshake)."""
        return bool(self._cipher) or (self._shaken and bool(self._plain))

    @property
    def secured(self) -> bool:
        """Whether the handshake is over."""
        return self._shaken

    def receive(self, buffer: memoryview) -> int:
        """See `transport.Stream`. Goes on with the handshake first."""
        if not self.buffered:
            self._begin()
            count = transport.receive(self._sock, self._chunk)
            if count < 0:
                return -1
            if count:
                self._in.write(self._chunk[:count])
            else:
                self._in.write_eof()
        self.buffered = False
        try:
            return self._read(buffer) if self._handshake() else -1
        finally:
            with contextlib.suppress(OSError):
                self.flush()  # answers of TLS itself, also why it refuses

    def send(self, buffers: list[Buffer], size: int = -1, *, live: bool = False) -> None:
        """See `transport.Stream`. What is sent before the end of the handshake waits for it."""
        for buffer in buffers:
            view = memoryview(buffer)
            if not view.c_contiguous or (live and type(buffer) is memoryview):
                view = memoryview(bytes(view))  # it waits for the peer: what it shows may change
            if view.nbytes:
                self._plain.append(view.cast("B"))
        self.flush()

    def flush(self) -> None:
        """See `transport.Stream`."""
        while True:
            if self._out.pending:
                self._cipher.append(self._out.read())
            if self._cipher:
                self._cipher = transport.send(self._sock, self._cipher)
            if self._cipher or not self._shaken or not self._plain:
                return
            self._encrypt()

    def finish(self) -> None:
        """See `transport.Stream`: a close_notify, then the end."""
        if self._shaken:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()  # does not wait for the peer's: that would be ssl.SSLWantRead
            self.flush()
        self._sock.shutdown(socket.SHUT_WR)

    # -- TLS -------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """A client speaks first."""
        if not self._shaken and not self._tls.server_side:
            self._handshake()
            self.flush()

    def _handshake(self) -> bool:
        """Whether it is over."""
        if not self._shaken:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            self._shaken = True
        return True

    def _read(self, buffer: memoryview) -> int:
        """Decrypt as much as there is and fits; a record is at most 16 KiB."""
        size = len(buffer)
        done = 0
        try:
            while done < size:
                count = int(self._tls.read(size - done, buffer[done:]))  # a number, with a buffer
                if not count:
                    break
                done += count
            self.buffered = done == size  # perhaps there is more
        except ssl.SSLWantReadError:
            return done or -1
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.buffered = bool(done)  # the end comes with the next call
        return done

    def _encrypt(self) -> None:
        """The next piece: small buffers share a record."""
        piece = bytearray()
        while self._plain and len(piece) < _PIECE:
            first = self._plain[0]
            room = _PIECE - len(piece)
            piece += first[:room]
            if len(first) > room:
                self._plain[0] = first[room:]
            else:
                self._plain.popleft()
        if piece:
            self._tls.write(piece)
