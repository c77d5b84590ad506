"""Finding the processes that serve, for commands that look at what they do."""

from __future__ import annotations

import os
from typing import Any, Final, NamedTuple

from userdisk import control
from userdisk.errors import UsageError, UserdiskError

_SECONDS: Final = 5.0


class Watched(NamedTuple):
    """A unit in a process that serves it."""

    process: Any  #: its control socket, a Path
    pid: int
    unit: str  #: what that process calls it


def stats_of_all() -> list[tuple[int, dict[str, Any]]]:
    """Process number and answer of each process of this user that serves. Blocks."""
    found = []
    for path in _processes():
        try:
            found.append((int(path.name), control.ask(path, {"verb": "stats"}, _SECONDS)))
        except (OSError, UserdiskError):
            continue  # it serves nothing itself, or has just ended
    return found


def find(what: str) -> tuple[Any, str | None]:
    """The control socket of the process that is meant, and the unit there (None: all of them).

    `what` is a process number, a unit as it was given to serve, one of its names, or a path.
    Raises `UserdiskError` if there is none, `UsageError` if there are several.
    """
    paths = {path.name: path for path in _processes()}
    if what in paths and what.isdecimal():
        return paths[what], None
    matches: list[Watched] = []
    for path in paths.values():
        try:
            info: dict[str, Any] = control.ask(path, {"verb": "info"}, _SECONDS)
            unit_pid = str(info.get("unit_pid", path.name))
            stats: dict[str, Any] = control.ask(
                paths.get(unit_pid, path), {"verb": "stats"}, _SECONDS
            )
        except (OSError, UserdiskError):
            continue
        names = list(stats["units"])
        for number, each in enumerate(info["units"][: len(names)]):
            if _is(what, each, info.get("folder", "/")):
                matches.append(Watched(paths.get(unit_pid, path), int(unit_pid), names[number]))
    unique = {(match.pid, match.unit): match for match in matches}
    if not unique:
        raise UserdiskError(f"{what}: no running process of this user serves it")
    if len(unique) > 1:
        pids = ", ".join(str(match.pid) for match in unique.values())
        raise UsageError(f"{what}: several serve it; name a process, one of {pids}")
    (match,) = unique.values()
    return match.process, match.unit


def _processes() -> list[Any]:
    if not control.available():
        raise UserdiskError("this needs Linux")
    return control.processes()


def _is(what: str, each: dict[str, Any], where: str) -> bool:
    if what == each["unit"] or what in each["names"] or what in each.get("urls", ()):
        return True
    if not os.path.exists(what):
        return False
    real = os.path.realpath(what)
    return real == os.path.realpath(os.path.join(where, each["unit"])) or real in each["names"]
