"""Instances that are started again when the service is: one file each, replaced atomically."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from userdisk import whole_file
from userdisk.errors import UserdiskError
from userdisk.launcher import places, spec
from userdisk.launcher.spec import Spec


def save(given: Spec) -> None:
    """Remember an instance. Raises `UserdiskError`; what was remembered before stays then."""
    folder = places.state_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        spec.write(folder, _name(given.id), given)
    except OSError as error:
        raise UserdiskError(
            f"{folder}: {error.strerror}: the disk is not remembered for the next start"
        ) from None


def resized(id_: str, size: int) -> None:
    """A disk has so many bytes now; if its class gives a size, it has to come back with this one.

    Does nothing if it is not remembered. Raises as `save`.
    """
    try:
        given = spec.read_spec(places.state_folder(), _name(id_))
    except UserdiskError:
        return
    if given.options.get("size") not in (None, str(size)):
        save(replace(given, options={**given.options, "size": str(size)}))


def forget(id_: str) -> None:
    """Remember it no more. Raises `UserdiskError`."""
    folder = places.state_folder()
    try:
        (folder / _name(id_)).unlink()
        whole_file.sync_folder(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserdiskError(f"{folder}: {error.strerror}") from None


def load() -> tuple[list[Spec], list[str]]:
    """All that are remembered, and what is wrong with others, a line each."""
    found, problems = [], []
    paths: list[Path] = []
    with contextlib.suppress(FileNotFoundError):
        paths = sorted(places.state_folder().glob("*.json"))
    for path in paths:
        try:
            found.append(spec.read_spec(path.parent, path.name))
        except UserdiskError as error:
            problems.append(str(error))
    return found, problems


def _name(id_: str) -> str:
    return f"{id_}.json"
