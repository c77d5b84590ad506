"""`userdisk resize`: another size for a disk that is being served or attached."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import click

from userdisk.cli.names import size_text
from userdisk.errors import UsageError, UserdiskError

if TYPE_CHECKING:
    from userdisk.cli.listing import Running

_HELP = """Give a disk that is served or attached another size, while it is in use.

UNIT is what was given to serve, attach or mount (a path may be written in another way), a name that
`userdisk list` shows, the device, a folder it is mounted on, the name of its target if it is the
only unit there, or its NBD export. SIZE is as for --size; +SIZE is so much more.

An image file grows, sparse. A disk in memory, and a class with take_size, takes the size. A block
device, or a class with measure, must have been resized before. iSCSI initiators are told, and an
attached device has the new size at once; then its file system can grow (resize2fs, xfs_growfs). NBD
clients see the new size when they connect again. An attached disk is cut only when nothing uses it.
"""

_RESIZE_SECONDS: Final = 660.0  # a unit may be busy
_LARGEST: Final = 1 << 63
_MAX_CHOICES: Final = 4  # that an error names


def resize(unit: str, size: str, shrink: bool) -> int:
    """See `_HELP`."""
    from userdisk import control
    from userdisk.backend.size import parse_size

    wanted = parse_size(size.removeprefix("+"))
    if not control.available():
        raise UserdiskError("resize: needs Linux")
    found = _find(unit)
    if size.startswith("+"):
        wanted += found.size
    if not 0 < wanted < _LARGEST:
        raise UsageError(f"{size}: no disk can have {wanted} bytes (1 block to less than 8E)")
    answer = control.ask(
        found.socket,
        {"verb": "resize", "number": found.number, "size": wanted, "shrink": shrink},
        _RESIZE_SECONDS,
    )
    before, now = int(str(answer["before"])), int(str(answer["size"]))
    if before == now:
        click.echo(f"{unit}: has {size_text(now)} already")
    else:
        click.echo(f"{unit}: {size_text(before)}, now {size_text(now)}")
    return 0


def _find(unit: str) -> Running:
    """The one disk that this may stand for. A path that is one's own file goes before a name."""
    from userdisk.cli.listing import running

    disks = running()
    found = [disk for disk in disks if disk.is_file(unit)]
    found = found or [disk for disk in disks if disk.is_called(unit)]
    if not found:
        raise UserdiskError(_why_none(unit))
    if len(found) > 1:
        choices = [disk.handle for disk in found[:_MAX_CHOICES]]
        raise UsageError(f"{unit}: stands for {len(found)} disks; name one: {', '.join(choices)}")
    return found[0]


def _why_none(unit: str) -> str:
    if os.geteuid() != 0:
        return (
            f"{unit}: no running userdisk serve of this user has it; attached disks need root (try"
            " sudo)"
        )
    from userdisk.attach import eject

    try:
        entry = eject.find(unit)
    except UserdiskError:
        return f"{unit}: no running userdisk serve, attach or mount of this user has it"
    if entry.status == "killed":
        return f"{unit}: its process (pid {entry.record.pid}) was killed; only eject is possible"
    return f"{unit}: is {entry.status}, and does not answer"


commands = [
    click.Command(
        "resize",
        callback=resize,
        params=[
            click.Argument(["unit"], metavar="UNIT|DEVICE|NAME"),
            click.Argument(["size"], metavar="SIZE"),
            click.Option(["--shrink"], is_flag=True, help="Also cut it; what is beyond is lost."),
        ],
        help=_HELP,
    )
]
