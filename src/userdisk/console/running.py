"""Running the console: its socket, uvicorn, the link that is always good, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterable
from typing import Final

import uvicorn

from userdisk.console.app import Console
from userdisk.console.guard import HEADERS
from userdisk.console.link import Link
from userdisk.console.own import Own
from userdisk.console.pages import pages
from userdisk.console.protocol import ConsoleProtocol
from userdisk.console.upstream import Upstream
from userdisk.errors import UsageError
from userdisk.launcher import places

log = logging.getLogger("userdisk")

_BACKLOG: Final = 128
_RENEW: Final = 15.0  # seconds between looks at the age of the token
_STOP_SECONDS: Final = 2
_MAX_HEAD: Final = 32 << 10


def run(
    listen: tuple[str, int],
    shown: str,
    names: Iterable[str],
    said: Callable[[str, bool], None],
    *,
    remote: bool = False,
    until_eof: bool = False,
) -> int:
    """Serve until a signal; returns the exit status. Blocks; for the main thread.

    Args:
        listen: address and port; port 0 chooses one.
        shown: the host in the link.
        names: under which others know this machine.
        said: gets the link, and whether it is that of another, which runs already; then that is
            all.
        until_eof: also end with standard input.

    Raises `UsageError` for an address that cannot be had, and `UserdiskError`.
    """
    link = Link()
    if not link.acquire():
        said(link.read(), True)
        return 0
    try:
        with _listen(listen) as sock:
            own = Own(sock.getsockname()[1], remote, frozenset(name.lower() for name in names))
            asyncio.run(_serve(sock, f"http://{shown}:{own.port}/", own, link, said, until_eof))
    finally:
        link.release()
    return 0


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--listen: cannot listen on {host} port {port}: {why}") from None
    return sock


async def _serve(
    sock: socket.socket,
    address: str,
    own: Own,
    link: Link,
    said: Callable[[str, bool], None],
    until_eof: bool,
) -> None:
    written = ""

    def renew() -> None:
        """Have the link in the file be one that is good."""
        nonlocal written
        url = f"{address}#login={console.tokens.current()}"
        if url == written:
            return
        try:
            link.write(url)
        except OSError as error:
            log.error("console: the link cannot be written: %s", error.strerror)
        else:
            written = url

    console = Console(own, Upstream(places.api_sockets), pages(), renew)
    config = uvicorn.Config(
        console.app,
        http=ConsoleProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        headers=list(HEADERS),
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_STOP_SECONDS,
        h11_max_incomplete_event_size=_MAX_HEAD,
    )

    def ready() -> None:
        renew()
        said(written, False)

    server = _Server(config, console, ready)
    uvicorn_log = logging.getLogger("uvicorn.error")
    uvicorn_log.setLevel(logging.ERROR)  # what strangers send is no news,
    uvicorn_log.addFilter(lambda record: not server.should_exit)  # nor what the end cuts off
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has ended
        signal.signal(number, lambda number, frame: None)
    tasks = [asyncio.create_task(_renewing(renew))]
    if until_eof:
        tasks.append(asyncio.create_task(_until_eof(server)))
    try:
        await server.serve(sockets=[sock])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Server(uvicorn.Server):
    """Says when it is ready, and ends streams when it stops."""

    def __init__(self, config: uvicorn.Config, console: Console, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._console = console
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._console.end_streams()
        await super().shutdown(sockets)


async def _renewing(renew: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(_RENEW)
        renew()


async def _until_eof(server: uvicorn.Server) -> None:
    """End with whoever holds the other end of standard input."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        while await reader.read(4096):
            pass
    server.should_exit = True
