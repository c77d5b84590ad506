"""The launchers that a user may ask about images: the system's, then his own."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from userdisk import control
from userdisk.desktop.opening import EJECT_SECONDS, Absent, Disk, DiskClass, Refused
from userdisk.errors import UserdiskError
from userdisk.launcher.client import Client, Failed, instance_path
from userdisk.launcher.places import api_sockets, classes_folder

__all__ = ["RealLauncher", "classes_folder", "extensions", "launchers"]

_CONNECT_SECONDS: Final = 5.0
_INSTANCES: Final = "/v1/instances"


class RealLauncher:
    """A launcher behind its Unix socket. Each call has a connection of its own."""

    def __init__(self, path: Path, title: str) -> None:
        self._path = path
        self._title = title

    def classes(self) -> Sequence[DiskClass]:
        """All classes."""
        return [
            DiskClass(each["name"], tuple(each["opens"]), each["may_start"], each["error"])
            for each in self._ask("GET", "/v1/classes")["classes"]
        ]

    def disks(self) -> Sequence[Disk]:
        """What runs, as far as this user may know."""
        return [_disk(each) for each in self._ask("GET", _INSTANCES)["instances"]]

    def start(self, kind: str, path: str) -> Disk | None:
        """Start the disk of an image, up to its mount; None if it runs already."""
        wanted = {"class": kind, "name": path, "arguments": [path], "wait": True}
        try:
            return _disk(self._ask("POST", _INSTANCES, wanted))
        except Failed as error:
            if error.status == 409:
                return None
            raise

    def eject(self, disk: Disk, force: bool, timeout: float = EJECT_SECONDS) -> None:
        """Unmount, flush and stop it; `timeout`: seconds that it may take to write."""
        query = {"force": force, "timeout": timeout}
        self._ask("DELETE", instance_path(disk.id), query=query)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, object] | None = None,
    ) -> dict[str, Any]:
        self._probe()
        try:
            return Client(self._path).call(method, path, query, body)
        except Failed as error:
            if error.status == 403:
                raise Refused(str(error)) from None
            raise

    def _probe(self) -> None:
        """Tell a launcher that is not there from one that fails."""
        try:
            with (
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe,
                control.short(self._path) as name,
            ):
                probe.settimeout(_CONNECT_SECONDS)
                probe.connect(name)
        except PermissionError:
            raise Refused(f"{self._title} does not let you connect ({self._path})") from None
        except OSError:
            raise Absent(f"no launcher answers at {self._path}") from None


def launchers() -> list[RealLauncher]:
    """Those that a user may ask, the one to prefer first."""
    paths = list(api_sockets())
    titles = ["the system's launcher", "your launcher"] if len(paths) > 1 else ["the launcher"]
    return [RealLauncher(path, title) for path, title in zip(paths, titles, strict=True)]


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


def _disk(instance: Mapping[str, Any]) -> Disk:
    return Disk(
        instance["id"],
        instance["name"],
        tuple(instance["mountpoints"]),
        instance["last_error"],
        coming=instance["state"] in ("starting", "restarting"),
    )
