"""Running the service: its socket, uvicorn, and what systemd wants to know (sd_notify)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvicorn

from userdisk import control
from userdisk.errors import UserdiskError
from userdisk.launcher import console_child, places
from userdisk.launcher.api import Api
from userdisk.launcher.peer import PeerProtocol

_ACTIVATED: Final = 3  # the first descriptor that systemd hands over
_BACKLOG: Final = 128
_MAX_CONNECTIONS: Final = 512
_PROBE: Final = 2.0  # seconds
_STOP_SECONDS: Final = 5


def run(discovery: tuple[str, int] | None = None, console: Sequence[str] = ()) -> int:
    """Serve the API until a signal; returns the exit status. Blocks; for the main thread.

    `discovery`: an iSCSI address that lists all targets. `console`: a command that runs one.
    Raises `UserdiskError` if another service is there, or an address cannot be had.
    """
    sock, own = _activated(), None
    if sock is None:
        own = places.api_socket()
        sock = _listen(own)
    try:
        asyncio.run(_serve(sock, discovery, console))
    finally:
        sock.close()
        if own is not None:
            with contextlib.suppress(OSError):
                own.unlink()
    return 0


async def _serve(
    sock: socket.socket, discovery: tuple[str, int] | None, console: Sequence[str]
) -> None:
    api = Api()
    if discovery is not None:
        api.launcher.discover(discovery)
    config = uvicorn.Config(
        api.app,
        http=PeerProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=_STOP_SECONDS,
        h11_max_incomplete_event_size=32 << 10,
    )
    server = _Server(config, api, console)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again when it has ended
        signal.signal(number, lambda number, frame: None)
    await server.serve(sockets=[sock])


class _Server(uvicorn.Server):
    """Says when it is ready, and ends streams when it stops."""

    def __init__(self, config: uvicorn.Config, api: Api, console: Sequence[str]) -> None:
        super().__init__(config)
        self._api = api
        self._command = console
        self._console: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        notify("READY=1")
        if self._command:
            self._console = asyncio.create_task(console_child.keep(self._command, self._at))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        notify("STOPPING=1")
        self._api.end_streams()
        await super().shutdown(sockets)
        if self._console is not None:
            self._console.cancel()
            await asyncio.gather(self._console, return_exceptions=True)

    def _at(self, address: str) -> None:
        self._api.launcher.console = address


def notify(state: str) -> None:
    """Tell the service manager, if there is one (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
    ):
        sock.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        sock.sendall(state.encode())


def _activated() -> socket.socket | None:
    """The socket that systemd has opened for this process, if it has (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if count != "1":
        raise UserdiskError(f"systemd handed over {count or 'no'} sockets; one is wanted")
    sock = socket.socket(fileno=_ACTIVATED)
    sock.set_inheritable(False)
    return sock


def _listen(path: Path) -> socket.socket:
    """A socket that everybody may connect to: who may do what is decided for each request."""
    sock: socket.socket | None = None
    try:
        control.own_folder(path.parent, 0o755)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with control.short(path) as name:
            try:
                sock.bind(name)
            except OSError:
                _refuse_second(path, name)
                path.unlink()
                sock.bind(name)
        path.chmod(0o666 if os.getuid() == 0 else 0o600)
        sock.listen(_BACKLOG)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise UserdiskError(f"{path}: {error.strerror}") from None
    return sock


def _refuse_second(path: Path, name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE)
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            return  # of one that was killed
        except OSError:
            pass
    raise UserdiskError(f"{path}: a launcher runs already")
