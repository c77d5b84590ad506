"""What a target's name stands for: who opens it as a port."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from userdisk.errors import UsageError, UserdiskError
from userdisk.nbd.uri import is_uri
from userdisk.stgtest.port import Port


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a target is opened. `timeout`: seconds for that, and for each answer.

    `changes`: it will be written to. `destroy`: even if it holds something.
    """

    timeout: float = 10.0
    depth: int = 1
    connections: int = 1
    changes: bool = False
    destroy: bool = False


def open_port(name: str, wishes: Wishes) -> Port:
    """Open a target: an iSCSI URL, an NBD URI, `spd:PATH`, a file, a block device, or a unit.

    Blocks for the timeout at most, if the target is remote. Raises `UsageError`.
    """
    try:
        return _open(name, wishes)
    except UserdiskError as error:
        words = str(error)
        raise UsageError(words if name in words else f"{name}: {words}") from error
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from error


def _open(name: str, wishes: Wishes) -> Port:
    timeout, connections = wishes.timeout, wishes.connections
    scheme, _, rest = name.partition(":")
    if scheme == "iscsi":
        from userdisk.stgtest.over_iscsi import open_iscsi

        url = rest if rest.startswith("iscsi:") else name
        return open_iscsi(url, timeout, connections)
    if is_uri(name) or (scheme == "nbd" and is_uri(rest)):
        from userdisk.stgtest.over_nbd import NbdPort

        return NbdPort(name if is_uri(name) else rest, timeout, connections)
    if scheme == "spd":
        from userdisk.stgtest.over_pipe import PipePort

        if not rest:
            raise UsageError("spd: needs the path of a device's socket, as in spd:/run/disk.sock")
        return PipePort(name, rest, timeout, connections, depth=wishes.depth)
    if connections > 1:
        raise UsageError(f"--connections {connections}: {name} has no connections; use --depth")
    if _is_stored(name):
        from userdisk.stgtest.on_device import DevicePort

        return DevicePort(
            name, timeout, depth=wishes.depth, changes=wishes.changes, destroy=wishes.destroy
        )
    from userdisk.stgtest.inside import open_inside

    return open_inside(name, timeout)


def _is_stored(name: str) -> bool:
    """A file or a device node; not a unit, which has a scheme or a class after a colon."""
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        if ":" in name:
            return False
        raise UsageError(f"{name}: there is no such file, device or unit") from None
    if stat.S_ISSOCK(mode):
        raise UsageError(f"{name}: is a socket; a device's pipe is spd:{name}")
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise UsageError(f"{name}: is neither a file nor a block device")
    if name.endswith(".py"):
        raise UsageError(f"{name}: name the class as well, {name}:Class")
    return True
