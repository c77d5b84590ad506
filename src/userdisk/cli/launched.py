"""Disks of the launchers, for `userdisk list`."""

from __future__ import annotations

import json
from typing import Any, Final

from userdisk.cli.listing import short_size
from userdisk.cli.logs import tell
from userdisk.errors import UserdiskError
from userdisk.launcher import places

_SECONDS: Final = 10.0

Instance = dict[str, Any]  #: as the API gives it


def instances() -> list[Instance]:
    """What the launchers show this user; a launcher that does not answer is said. Blocks."""
    found: list[Instance] = []
    for path in places.api_sockets():
        if not path.exists():
            continue
        from userdisk.launcher.client import Client, Unreachable

        try:
            found += Client(path).call("GET", "/v1/instances", timeout=_SECONDS)["instances"]
        except Unreachable:
            continue
        except UserdiskError as error:
            tell(f"userdisk: {error}")
    return found


def urls(found: Instance) -> list[str]:
    """Where the disk is offered."""
    iscsi = [f"iscsi://{found['portal']}/{found['target']}/0"] if found["portal"] else []
    return [*iscsi, *([found["nbd_uri"]] if found["nbd_uri"] else [])]


def row(found: Instance) -> tuple[str, ...]:
    """For people: name, device, size, unit, where it is mounted, status."""
    return (
        found["id"],
        found["device"] or "-",
        short_size(found["size"]) if found["size"] else "-",
        found["unit"] if found["unit"].isprintable() else json.dumps(found["unit"]),
        ", ".join(found["mountpoints"]) or "-",
        _status(found),
    )


def _status(found: Instance) -> str:
    serves = found["portal"] and found["unit_pid"] and not found["device"]
    at = f" at {urls(found)[0]}" if serves else ""
    pid = f" (pid {found['unit_pid']})" if found["unit_pid"] else ""
    access = ", read-only" if found["read_only"] else ""
    times = f", restarted {found['restarts']} times" if found["restarts"] else ""
    wrong = found["state"] not in ("running", "starting", "stopping")
    why = f": {' '.join(found['last_error'].split())}" if wrong and found["last_error"] else ""
    return f"{found['state']}{at}{pid}{access}{times}{why}"


def as_json(found: Instance) -> dict[str, Any]:
    """With the keys that every disk has in the list; `launcher` has the API's."""
    return {
        "unit": found["unit"],
        "folder": "/",
        "pid": found["unit_pid"],
        "size": found["size"],
        "block_length": found["block_length"],
        "read_only": found["read_only"],
        "name": found["id"],
        "names": [found["name"], *([found["target"]] if found["target"] else [])],
        "status": found["state"],
        "devices": [found["device"]] if found["device"] else [],
        "mountpoints": found["mountpoints"],
        "urls": urls(found),
        "launcher": found,
    }
