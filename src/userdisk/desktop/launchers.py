"""The launchers that a user may ask about images: the system's, then his own."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from userdisk.desktop.opening import Absent, Disk, DiskClass, Refused
from userdisk.errors import UserdiskError
from userdisk.launcher.places import api_sockets, classes_folder

__all__ = ["HttpLauncher", "classes_folder", "extensions", "launchers"]

_SECONDS: Final = (
    120.0  # for a start that formats or checks nothing; the launcher's own are shorter
)
_LARGEST: Final = 16 << 20
_REFUSALS: Final = (403, 404)


class HttpLauncher:
    """A launcher behind its Unix socket. Not thread-safe; each call has a connection of its own."""

    def __init__(self, path: Path, title: str) -> None:
        self._path = path
        self._title = title

    @property
    def title(self) -> str:
        """Whose it is, for people."""
        return self._title

    def classes(self) -> Sequence[DiskClass]:
        """All classes."""
        return [
            DiskClass(each["name"], tuple(each["opens"]), each["may_start"], each["error"])
            for each in self._ask("GET", "/v1/classes")["classes"]
        ]

    def disks(self) -> Sequence[Disk]:
        """What runs, as far as this user may know."""
        return [_disk(each) for each in self._ask("GET", "/v1/instances")["instances"]]

    def start(self, kind: str, path: str) -> Disk | None:
        """Start the disk of an image, up to its mount; None if it runs already."""
        wanted = {"class": kind, "name": path, "arguments": [path], "wait": True}
        try:
            return _disk(self._ask("POST", "/v1/instances", wanted))
        except _Conflict:
            return None

    def eject(self, disk: Disk, force: bool) -> None:
        """Unmount, flush and stop it."""
        self._ask("POST", f"/v1/instances/{quote(disk.id)}/eject", {"force": force})

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        connection = _Connection(self._path)
        try:
            connection.request(
                method,
                path,
                None if body is None else json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            text = answer.read(_LARGEST)
        except (FileNotFoundError, ConnectionRefusedError):
            raise Absent(f"no launcher at {self._path}") from None
        except PermissionError:
            raise Refused(f"{self._title} does not let you connect ({self._path})") from None
        except (OSError, http.client.HTTPException) as error:
            raise UserdiskError(f"{self._title} does not answer: {error}") from None
        finally:
            connection.close()
        try:
            content = json.loads(text or b"{}")
        except ValueError:
            content = {"error": text[:200].decode(errors="replace")}
        if answer.status < 300 and isinstance(content, dict):
            return content
        error_text = content.get("error") if isinstance(content, dict) else None
        message = str(error_text or f"status {answer.status}")
        if answer.status == 409:
            raise _Conflict(message)
        raise (Refused if answer.status in _REFUSALS else UserdiskError)(message)


def launchers() -> list[HttpLauncher]:
    """Those that a user may ask, the one to prefer first."""
    paths = list(api_sockets())
    titles = ["the system's launcher", "your launcher"] if len(paths) > 1 else ["the launcher"]
    return [HttpLauncher(path, title) for path, title in zip(paths, titles, strict=True)]


def extensions() -> list[str]:
    """The endings that the classes of all launchers open; none of those that do not answer."""
    found: dict[str, None] = {}
    for launcher in launchers():
        try:
            for each in launcher.classes():
                found |= dict.fromkeys(each.opens)
        except UserdiskError:
            continue
    return list(found)


class _Conflict(UserdiskError):
    """It runs already, or is in use."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _disk(instance: Mapping[str, Any]) -> Disk:
    return Disk(
        instance["id"],
        instance["name"],
        tuple(instance["mountpoints"]),
        instance["last_error"],
    )
