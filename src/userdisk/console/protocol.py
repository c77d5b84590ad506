"""A connection of a browser, for uvicorn: whose it is, and how long it may be silent.

There is room for a bounded number. When it is full, the oldest connection that is silent, or whose
request is not of a session, makes room for the new one: who does not log in delays nobody.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

from userdisk.console import peers
from userdisk.console.guard import HEADERS

MOST: Final = 64  #: connections
_SILENT: Final = 10.0  # seconds for the head of a request to come
_BAD: Final = b"the request is no HTTP, or its head is longer than 32 KiB"


class ConsoleProtocol(H11Protocol):
    """Says who asks as `state["who"]`, and closes what is silent."""

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._silent = asyncio.get_running_loop().call_later(_SILENT, self._close_silent)
        self._make_room()
        peer, own = (transport.get_extra_info(name) for name in ("peername", "sockname"))
        if not peer:  # it has gone already
            transport.abort()
            return
        self.app_state = {**self.app_state, "who": peers.who(peer[:2], own[:2]), "session": None}

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._silent.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """See uvicorn."""
        self._silent.cancel()
        self._silent = asyncio.get_running_loop().call_later(_SILENT, self._close_silent)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """See uvicorn; with our headers."""
        lines = [
            "HTTP/1.1 400 Bad Request",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(_BAD)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in HEADERS),
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("ascii") + _BAD)
        self.transport.close()

    @property
    def _waits(self) -> bool:
        """Whether there is no request under way."""
        cycle: Any = self.cycle
        return cycle is None or bool(cycle.response_complete)

    def _close_silent(self) -> None:
        if self._waits:
            self.transport.abort()

    def _make_room(self) -> None:
        others = [each for each in self.connections if isinstance(each, ConsoleProtocol)]
        if len(others) <= MOST:
            return
        strangers = [each for each in others if each is not self and each._is_strange]
        oldest = min(strangers, key=lambda each: each._silent.when(), default=self)
        oldest.connections.discard(oldest)
        oldest.transport.abort()

    @property
    def _is_strange(self) -> bool:
        return self._waits or self.scope["state"]["session"] is None
