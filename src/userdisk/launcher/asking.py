"""Asking the processes of an instance: its shim, and that of its unit."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from userdisk import control
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import places, shims
from userdisk.launcher.instances import Known

_SECONDS: Final = 2.0
_AT_ONCE: Final = 16


class NotFound(UsageError):
    """There is no such instance, or the caller may not know of it."""


class Busy(UserdiskError):
    """Something uses the disk."""


def ask(known: Known, verb: str, seconds: float, /, **fields: object) -> dict[str, Any]:
    """Ask a shim. Raises `NotFound`, `Busy`, `UserdiskError`, as it does."""
    id_ = known.spec.id
    if not known.alive:
        raise UserdiskError(f"{id_}: the process that kept it was killed; it can only be stopped")
    try:
        return shims.ask(places.instance_folder(id_), verb, seconds, **fields)
    except FileNotFoundError:
        raise NotFound(f"{id_}: it has just gone") from None
    except OSError as error:
        raise UserdiskError(f"{id_}: it does not answer: {error}") from None
    except UserdiskError as error:
        if "busy" in str(error) or "in use" in str(error):
            raise Busy(str(error)) from None
        if "stopped already" in str(error):
            raise shims.Exists(f"{id_}: {error}") from None
        raise


def stats(known: Known) -> dict[str, Any]:
    """What it has done. Blocks for 2 seconds at most; raises `UserdiskError`.

    The path is the word of a process that may be another user's, so it must answer itself there.
    """
    try:
        path, process = serving(known), known.status.unit_pid
        return control.ask(path, {"verb": "stats"}, _SECONDS, process=process)
    except OSError as error:
        raise UserdiskError(f"{known.spec.id}: it does not answer: {error}") from None


def serving(known: Known) -> Path:
    """The control socket of its unit's process. Raises `UserdiskError` if there is none."""
    if not known.alive or not known.status.control or not known.status.unit_pid:
        raise UserdiskError(f"{known.spec.id}: it does not serve now")
    return Path(known.status.control)


def _stats_or_none(known: Known) -> dict[str, Any] | None:
    try:
        return stats(known)
    except UserdiskError:
        return None


def all_stats(seen: Iterable[Known]) -> list[tuple[Known, dict[str, Any]]]:
    """The same of many, but of those that do not answer."""
    asked = list(seen)
    with ThreadPoolExecutor(_AT_ONCE, "stats") as pool:
        answers = pool.map(_stats_or_none, asked)
        return [
            (known, answer)
            for known, answer in zip(asked, answers, strict=True)
            if answer is not None
        ]
