"""`userdisk resize`: another size for a disk that is being served."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from userdisk.cli.names import size_text
from userdisk.errors import UsageError, UserdiskError

_HELP = """Give a disk that `userdisk serve` offers another size; its initiators are told.

UNIT is what was given to serve (a path may be written in another way), the name of its target if it
is the only unit there, or its NBD export. SIZE is as for --size; +SIZE is so much more.

An image file grows, sparse. A disk in memory, and a class with take_size, takes the size. A block
device, or a class with measure, must have been resized before. NBD clients see the new size when
they connect again.
"""

_LOOK_SECONDS = 5.0
_RESIZE_SECONDS = 600.0  # a unit may be busy


def resize(unit: str, size: str, shrink: bool) -> int:
    """See `_HELP`."""
    from userdisk import control
    from userdisk.backend.size import parse_size

    wanted = parse_size(size.removeprefix("+"))
    if not control.available():
        raise UserdiskError("resize: needs Linux")
    path, number, found = _find(unit)
    if size.startswith("+"):
        wanted += found
    answer = control.ask(
        path,
        {"verb": "resize", "number": number, "size": wanted, "shrink": shrink},
        _RESIZE_SECONDS,
    )
    before, now = int(str(answer["before"])), int(str(answer["size"]))
    if before == now:
        click.echo(f"{unit}: has {size_text(now)} already")
    else:
        click.echo(f"{unit}: {size_text(before)}, now {size_text(now)}")
    return 0


def _find(unit: str) -> tuple[Path, int, int]:
    """The control socket of the process that has the unit, its number there, and its size."""
    from userdisk import control

    found = []
    for path in control.processes():
        try:
            info: dict[str, Any] = control.ask(path, {"verb": "info"}, _LOOK_SECONDS)
        except OSError:
            continue  # it has just ended, or does not answer
        for number, each in enumerate(info["units"]):
            if _is(unit, each, info["folder"]):
                found.append((path, number, int(each["size"])))
    if not found:
        raise UserdiskError(f"{unit}: no running userdisk serve of this user has it")
    if len(found) > 1:
        raise UsageError(f"{unit}: stands for {len(found)} units; name one by its path or export")
    return found[0]


def _is(unit: str, each: dict[str, Any], where: str) -> bool:
    if unit == each["unit"] or unit in each["names"]:
        return True
    theirs = os.path.join(where, each["unit"])
    return os.path.exists(unit) and os.path.realpath(unit) == os.path.realpath(theirs)


commands = [
    click.Command(
        "resize",
        callback=resize,
        params=[
            click.Argument(["unit"], metavar="UNIT"),
            click.Argument(["size"], metavar="SIZE"),
            click.Option(["--shrink"], is_flag=True, help="Also cut it; what is beyond is lost."),
        ],
        help=_HELP,
    )
]
