"""Asking the launcher for a browser: HTTP over its Unix socket, without a thread, bounded.

Each request has a connection of its own, made by this process: so the launcher sees its user.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Final

import h11

from userdisk import control
from userdisk.errors import UserdiskError

_CONNECT: Final = 5.0  # seconds
_PIECE: Final = 64 << 10
LARGEST: Final = 16 << 20  #: bytes of an answer that is not a stream


class Absent(UserdiskError):
    """No launcher answers."""


class Broken(UserdiskError):
    """It has answered with what is no answer, too much, or too late."""


class Answer:
    """The answer of a launcher, whose body comes as it is read. To be closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT)
        self.status = 0
        self.content_type = ""

    async def ask(self, method: str, target: str, body: bytes | None) -> None:
        """Send a request, and wait for the head of the answer. Raises `OSError`, `Broken`."""
        headers = [("Host", "localhost"), ("Connection", "close")]
        if body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        try:
            sent = self._http.send(h11.Request(method=method, target=target, headers=headers))
            sent = (sent or b"") + (self._http.send(h11.Data(data=body or b"")) or b"")
            sent += self._http.send(h11.EndOfMessage()) or b""
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise Broken(f"the request cannot be passed on: {error}") from None
        self._writer.write(sent)
        await self._writer.drain()
        event = await self._next()
        if not isinstance(event, h11.Response):
            raise Broken("the launcher has closed the connection")
        self.status = event.status_code
        types = [value for name, value in event.headers if name == b"content-type"]
        self.content_type = types[0].decode("ascii", "replace") if types else "text/plain"

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body. Raises `OSError`, `Broken` when it ends too early."""
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)

    async def body(self) -> bytes:
        """All of it. Raises as `pieces`."""
        body = bytearray()
        async for piece in self.pieces():
            body += piece
            if len(body) > LARGEST:
                raise Broken(f"the launcher's answer is longer than {LARGEST >> 20} MiB")
        return bytes(body)

    def close(self) -> None:
        """Whatever it still has to say; who reads sees the end."""
        self._writer.transport.abort()

    async def _next(self) -> object:
        try:
            event: object = self._http.next_event()
            while event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(_PIECE))
                event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise Broken(f"the launcher's answer: {error}") from None
        return event


class Upstream:
    """The launcher. For one event loop.

    Args:
        sockets: where one may answer; the first that does is asked.
    """

    def __init__(self, sockets: Callable[[], Iterable[Path]]) -> None:
        self._sockets = sockets

    async def ask(
        self, method: str, target: str, body: bytes | None = None, seconds: float = 60.0
    ) -> Answer:
        """The head of the answer, for which it has so many seconds.

        Raises `Absent`, `Broken`.
        """
        answer = Answer(*await self._connect())
        try:
            async with asyncio.timeout(seconds):
                await answer.ask(method, target, body)
        except TimeoutError:
            answer.close()
            raise Broken(f"the launcher has not answered within {seconds:g} s") from None
        except OSError as error:
            answer.close()
            raise Broken(f"the launcher has gone: {error.strerror or error}") from None
        except BaseException:
            answer.close()
            raise
        return answer

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        paths = list(self._sockets())
        for path in paths:
            try:
                with control.short(path) as name:
                    async with asyncio.timeout(_CONNECT):
                        return await asyncio.open_unix_connection(name)
            except (OSError, TimeoutError):
                continue
        where = " or ".join(map(str, paths))
        raise Absent(f"no launcher at {where}: start it with userdisk launcher run")


async def finished(answer: Answer, seconds: float) -> bytes:
    """The whole body. Raises `Broken`."""
    try:
        async with asyncio.timeout(seconds):
            return await answer.body()
    except TimeoutError:
        raise Broken(f"the launcher's answer has not ended within {seconds:g} s") from None
    except OSError as error:
        raise Broken(f"the launcher has gone: {error.strerror or error}") from None
