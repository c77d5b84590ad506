"""Who is at the other end of a Unix socket, for uvicorn: SO_PEERCRED, and silent peers closed."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from userdisk.launcher.rights import Caller

_CREDENTIALS: Final = struct.Struct("=iII")  # pid, uid, gid
_SILENT: Final = 10.0  # seconds until a peer must have sent a request


class PeerProtocol(H11Protocol):
    """Puts process, user and group of the peer where ASGI has the client's address."""

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.client = (peer_text(transport.get_extra_info("socket")), 0)
        self._silent = asyncio.get_running_loop().call_later(_SILENT, self._close_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._silent.cancel()
        super().connection_lost(exc)

    def _close_silent(self) -> None:
        begun: object = self.cycle
        if begun is None:
            self.transport.close()


def peer_text(sock: socket.socket) -> str:
    """Process, user and group id of the peer."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return ".".join(map(str, _CREDENTIALS.unpack(raw)))


def caller_of(client: tuple[str, int] | None) -> Caller:
    """The caller of a request, from what ASGI calls its client."""
    assert client is not None, "the protocol says who it is"
    pid, uid, gid = map(int, client[0].split("."))
    return Caller(uid, gid, pid)
