"""Who is at the other end of a Unix socket, for uvicorn: SO_PEERCRED; no user takes all of it."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from userdisk.launcher.rights import Caller

_CREDENTIALS: Final = struct.Struct("=iII")  # pid, uid, gid
_SILENT: Final = 10.0  # seconds until a peer must have sent a request
MOST: Final = 128  #: connections of one user; one more ends the oldest that asks for nothing


class PeerProtocol(H11Protocol):
    """Puts process, user and group of the peer where ASGI has the client's address."""

    _of_users: ClassVar[dict[int, dict[PeerProtocol, None]]] = {}  # the oldest first

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self.client = (peer_text(transport.get_extra_info("socket")), 0)
        self._user = caller_of(self.client).uid
        mine = self._of_users.setdefault(self._user, {})
        if len(mine) >= MOST:
            idle = next((each for each in mine if each.idle), self)
            idle.transport.close()
            mine.pop(idle, None)
        if not transport.is_closing():
            mine[self] = None
        self._silent = asyncio.get_running_loop().call_later(_SILENT, self._close_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._silent.cancel()
        mine = self._of_users.get(self._user, {})
        mine.pop(self, None)
        if not mine:
            self._of_users.pop(self._user, None)
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Whether no request of it is being answered."""
        cycle: Any = self.cycle
        return cycle is None or bool(cycle.response_complete)

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
