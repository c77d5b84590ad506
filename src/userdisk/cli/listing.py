"""`userdisk list`: what is attached, what launchers run, and what processes of this user serve."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from userdisk import control
from userdisk.attach import eject
from userdisk.cli.logs import tell
from userdisk.errors import UserdiskError

_LOOK_SECONDS: Final = 5.0

_COLUMNS: Final = ("NAME", "DEVICE", "SIZE", "UNIT", "MOUNTED ON", "STATUS")


@dataclass(frozen=True, slots=True)
class Running:
    """A disk that a process of this user has, as that process says."""

    socket: Path  #: its control socket
    pid: int
    number: int  #: of the disk there
    attached: str  #: the attachment's name; empty: it is served
    unit: str  #: as the user named it
    folder: str  #: where the user named it
    names: Sequence[str]
    urls: Sequence[str]
    size: int  #: in bytes
    block_length: int
    read_only: bool

    @property
    def handle(self) -> str:
        """What stands for this one, if anything does."""
        if self.attached:
            return self.names[1]  # the device
        return self.urls[0] if self.urls else f"{self.unit} in {self.folder} (pid {self.pid})"

    def is_file(self, path: str) -> bool:
        """Whether this path is the disk's file or device, or a folder that it is mounted on."""
        if not os.path.exists(path):
            return False
        real = os.path.realpath(path)
        theirs = os.path.join(self.folder, self.unit)
        return real == os.path.realpath(theirs) or real in self.names

    def is_called(self, name: str) -> bool:
        """Whether this is one of its names, or how the user named it."""
        return name == self.unit or name in self.names or name in self.urls


def running(known: Container[int] = ()) -> list[Running]:
    """The disks of this user's processes that answer; `known` ones are not asked. Blocks."""
    if not control.available():
        return []
    found: list[tuple[Path, dict[str, Any]]] = []
    for path in control.processes():
        if int(path.name) in known:
            continue
        try:
            found.append((path, control.ask(path, {"verb": "info"}, _LOOK_SECONDS)))
        except (OSError, UserdiskError):
            continue  # it has just ended, or does not answer
    # A process behind an attached disk is that disk: who attaches it stands for both.
    behind = {info["pid"]: info for _, info in found}
    attached = {info["unit_pid"] for _, info in found if "unit_pid" in info}
    return [
        _running(path, info, number, each, behind.get(info.get("unit_pid")))
        for path, info in found
        if info["pid"] not in attached
        for number, each in enumerate(info["units"])
    ]


def _running(
    path: Path,
    info: dict[str, Any],
    number: int,
    each: dict[str, Any],
    behind: dict[str, Any] | None,
) -> Running:
    same = [each, *(behind["units"] if behind is not None else ())]
    return Running(
        socket=path,
        pid=int(info["pid"]),
        number=number,
        attached=str(info.get("attached", "")),
        unit=str(each["unit"]),
        folder=str(info["folder"]),
        names=[str(name) for one in same for name in one["names"]],
        urls=[str(url) for one in same for url in one.get("urls", ())],
        size=int(each["size"]),
        block_length=int(each.get("block_length", 0)),
        read_only=each.get("read_only") is True,
    )


def _list(as_json: bool) -> None:
    from userdisk.cli import launched

    root = not hasattr(os, "geteuid") or os.geteuid() == 0
    found = launched.instances()
    ids, pids = ({each[key] for each in found} for key in ("id", "unit_pid"))
    entries = [each for each in (eject.entries() if root else []) if not _is_one_of(each, ids)]
    served = [disk for disk in running(pids) if not disk.attached]
    if as_json:
        records = [
            *map(_entry_as_json, entries),
            *map(launched.as_json, found),
            *map(_served_as_json, served),
        ]
        click.echo(json.dumps(records, indent=2))
        return
    if not entries and not found and not served:
        only = "nothing is attached or served"
        tell(only if root else "this user serves nothing; sudo shows what is attached")
        return
    rows = [
        _COLUMNS,
        *map(_entry_row, entries),
        *map(launched.row, found),
        *map(_served_row, served),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _is_one_of(entry: eject.Entry, ids: set[str]) -> bool:
    """Whether it is the device of a launcher's disk, which is listed itself."""
    return entry.folder.name in ids and entry.status in ("starting", "attached")


def _entry_as_json(entry: eject.Entry) -> dict[str, Any]:
    return dataclasses.asdict(entry.record) | {
        "name": entry.folder.name,
        "status": entry.status,
        "devices": [str(device) for device in entry.devices],
        "mountpoints": entry.mountpoints,
        "urls": [],
    }


def _served_as_json(disk: Running) -> dict[str, Any]:
    return {
        "unit": disk.unit,
        "folder": disk.folder,
        "pid": disk.pid,
        "size": disk.size,
        "block_length": disk.block_length,
        "read_only": disk.read_only,
        "name": _name(disk),
        "names": list(disk.names),
        "status": "served",
        "devices": [],
        "mountpoints": [],
        "urls": list(disk.urls),
    }


_STATUS: Final = {
    "starting": "starting",
    "attached": "attached",
    "killed": "left over: its process (pid {pid}) was killed; userdisk eject {name}",
    "failed": "ejected, but {failed}; userdisk eject {name} forgets it",
}


def _entry_row(entry: eject.Entry) -> tuple[str, ...]:
    record = entry.record
    status = _STATUS[entry.status].format(
        pid=record.pid, failed=record.failed, name=entry.folder.name
    )
    return (
        entry.folder.name,
        ", ".join(map(str, entry.devices)) or "-",
        short_size(record.size) if record.size else "-",
        record.unit,
        ", ".join(entry.mountpoints) or "-",
        status
        + (", read-only" if record.read_only and entry.status == "attached" else "")
        + (f"; {record.trouble}" if record.trouble and entry.status == "attached" else ""),
    )


def _served_row(disk: Running) -> tuple[str, ...]:
    where = f" at {disk.urls[0]}" if disk.urls else ""
    more = f" and {len(disk.urls) - 1} more" if len(disk.urls) > 1 else ""
    access = ", read-only" if disk.read_only else ""
    status = f"served{where}{more} (pid {disk.pid}){access}"
    return _name(disk), "-", short_size(disk.size), disk.unit, "-", status


def _name(disk: Running) -> str:
    return disk.names[0] if disk.names else disk.unit


def short_size(size: int) -> str:
    """Bytes as people read them, rounded."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.4g} {unit}"
    return f"{size} B"


list_ = click.Command(
    "list",
    callback=_list,
    params=[click.Option(["--json", "as_json"], is_flag=True, help="Print as JSON.")],
    help="Show what is attached, what killed processes left behind, the disks of launchers, and"
    " what this user's processes serve. Without root only the last two.",
)
