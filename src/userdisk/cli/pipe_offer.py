"""The option `--pipe` of `serve`: a socket for each unit, and what to type to use it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from userdisk.errors import UsageError

_MAX_PATH = 100  # bytes; the system has a little more


def pipe_paths(specs: Sequence[str], given: Sequence[str]) -> list[Path]:
    """The socket of each unit. Raises `UsageError` for too many or too few, or the same twice."""
    if given and len(given) != len(specs):
        raise UsageError(
            f"--pipe: given {len(given)} times, each of the {len(specs)} units needs one"
        )
    paths: list[Path] = []
    for text in given:
        path = Path(text.removeprefix("unix:"))
        if not text.removeprefix("unix:") or "\0" in text:
            raise UsageError(f"--pipe {text!r}: needs the path of a socket, as in disk.sock")
        if len(os.fsencode(path)) > _MAX_PATH:
            raise UsageError(f"--pipe {text}: a socket's path has at most {_MAX_PATH} bytes")
        if path in paths:
            raise UsageError(f"--pipe {text}: given twice; each unit needs a socket of its own")
        paths.append(path)
    return paths


def pipe_text(path: Path) -> str:
    """The commands for clients, as a paragraph of text."""
    spec = shlex.quote(f"spd:{os.path.abspath(path)}")
    lines = [
        "# any program that speaks WinSpd's pipe protocol, each message with its length in front",
        f"userdisk stgtest {spec} 1000 WRUR '*' '*'   # destroys what is on the disk",
        f"userdisk serve {spec}",
    ]
    return "\n".join(["Pipe", *(f"    {line}" for line in lines), ""])
