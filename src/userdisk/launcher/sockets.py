"""The sockets of an instance that its shim holds: they listen while the unit's process is away."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Final

from userdisk.errors import UserdiskError
from userdisk.short_path import short

NBD: Final = "nbd"
_BACKLOG: Final = 64
_LISTENS: Final = 0x10000  # __SO_ACCEPTCON in /proc/net/unix


def listen_unix(path: Path) -> socket.socket:
    """A Unix socket that listens, for this user alone. Raises `UserdiskError`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        with short(path) as name:
            sock.bind(name)
        path.chmod(0o600)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise UserdiskError(f"{path}: {error.strerror}") from None
    return sock


def is_listening(path: Path) -> bool:
    """Whether some program listens on a Unix socket; it is not disturbed by the question."""
    wanted = os.fspath(path)
    with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            words = line.rstrip("\n").split(maxsplit=7)
            if len(words) == 8 and words[7] == wanted and int(words[3], 16) & _LISTENS:
                return True
    return False
