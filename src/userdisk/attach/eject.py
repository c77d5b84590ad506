"""Finding attached disks and taking them away, whether their process is alive or was killed."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from userdisk import attach
from userdisk.attach import mounts, release, state
from userdisk.attach.state import Folder, Record
from userdisk.errors import UsageError, UserdiskError

_KILL_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 3.0
_ADVICE: Final = "end that first, or use --force"

Status = Literal["starting", "attached", "killed", "failed"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One attachment as it is now."""

    folder: Folder
    record: Record
    status: Status
    devices: list[Path]
    mountpoints: list[str]


def entries() -> list[Entry]:
    """All attachments, with leftovers of killed processes, by name."""
    return [_entry(folder, record) for folder in state.folders() if (record := folder.read())]


def find(target: str) -> Entry:
    """The attachment by its name, its device or a partition, or a folder it is mounted on.

    Raises `UsageError`.
    """
    known = entries()
    path = os.path.realpath(target)
    for entry in known:
        nodes = [str(node) for device in entry.devices for node in release.with_partitions(device)]
        if target == entry.folder.name or path in nodes or path in entry.mountpoints:
            return entry
    for entry in known:  # what it was before somebody else unmounted or detached it
        if path in (entry.record.device, entry.record.mountpoint):
            return entry
    raise UsageError(
        f"{target}: no disk of userdisk is attached there{_same_unit(known, target)}"
        " (see userdisk list)"
    )


def _same_unit(known: list[Entry], target: str) -> str:
    """What the disks are called that were attached with this text.

    That is said, and not ejected: the same text may mean another file in another folder.
    """
    names = [entry.folder.name for entry in known if entry.record.unit == target]
    return f"; a unit is ejected by its disk's name, here {' or '.join(names)}" if names else ""


def eject(entry: Entry, *, force: bool, timeout: float) -> list[str]:
    """Unmount, flush, and take the disk away; returns remarks, one line each.

    Blocks at most about `timeout` seconds for the unit to write. Raises `UserdiskError` if
    something uses the disk and `force` is not given (nothing is stopped then), and if the last
    flush failed (the disk is gone then; with `force` that is a remark).
    """
    if entry.status == "failed":
        entry.folder.remove()
        return [f"{entry.record.unit} was ejected before: {entry.record.failed}"]
    # A file system that a program serves (NTFS) ends with its mount, and has the device open.
    programs = release.served_by_programs(entry.devices)
    if not force and not programs:
        release.refuse_open(entry.devices, _ADVICE)
    remarks = release.release(entry.devices, force=force)
    if not force and programs:
        release.refuse_open(entry.devices, _ADVICE)
    with state.opened_process(entry.record.pid, entry.record.start_time) as process:
        if process is not None:
            state.signal_process(process, signal.SIGTERM)
            if not state.wait_for_end(process, min(timeout, _KILL_SECONDS) if force else timeout):
                if not force:
                    raise UserdiskError(
                        f"{entry.record.unit} is still writing after {timeout:g} s (pid"
                        f" {entry.record.pid}); it goes on; --force gives up what is not written"
                    )
                state.signal_process(process, signal.SIGKILL)
                attach.way(entry.record.way).clean(entry.folder.mount)
                state.wait_for_end(process, _KILL_SECONDS)
                _end_unit(entry.folder.read() or entry.record, force=True, timeout=0)
                remarks.append(f"{entry.record.unit} was killed; unwritten data is lost")
        else:
            remarks.append(
                f"the process of {entry.record.unit} was killed; data not flushed before is lost"
            )
            patience = min(timeout, _KILL_SECONDS) if force else timeout
            remarks += _end_unit(entry.record, force=force, timeout=patience)
    left = entry.folder.read()  # gone if the process ended in order
    if left is None:
        return remarks
    problems = [left.failed] if left.failed else []
    problems += [line for line in clean(entry.folder, left) if line not in left.failed]
    if problems and not force:
        raise UserdiskError(f"{entry.record.unit} is ejected, but {'; '.join(problems)}")
    return remarks + problems


def clean(folder: Folder, record: Record) -> list[str]:
    """Remove what a process that has ended left; returns what went wrong."""
    problems = _end_unit(folder.read() or record, force=True, timeout=_STOP_SECONDS)
    way = attach.way(record.way)
    try:
        release.release(way.devices(folder.mount), force=True)
    except (UserdiskError, OSError) as error:
        problems.append(str(error))
    problems += way.clean(folder.mount)
    try:
        folder.remove()
    except OSError as error:
        problems.append(f"{folder.path}: {error.strerror}")
    return problems


def _end_unit(record: Record, *, force: bool, timeout: float) -> list[str]:
    """See the unit's process end, whose attaching process has ended; returns remarks.

    It flushes and closes the unit by itself. Raises `UserdiskError` if it does not within `timeout`
    seconds and `force` is not given.
    """
    with state.opened_process(record.unit_pid, record.unit_start_time) as process:
        if process is None or state.wait_for_end(process, timeout):
            return []
        if not force:
            raise UserdiskError(
                f"{record.unit} is still writing after {timeout:g} s (pid {record.unit_pid}); it"
                " goes on; --force gives up what is not written"
            )
        state.signal_process(process, signal.SIGKILL)
        state.wait_for_end(process, _KILL_SECONDS)
    return [f"the process that held {record.unit} was killed; unwritten data is lost"]


def _entry(folder: Folder, record: Record) -> Entry:
    devices = attach.way(record.way).devices(folder.mount)
    nodes = [node for device in devices for node in release.with_partitions(device)]
    mountpoints = [mount.folder for mount in mounts.mounts_of(nodes)] if nodes else []
    status: Status = "failed" if record.failed else "killed"
    if state.alive(record):
        status = "attached" if record.device else "starting"
    return Entry(folder, record, status, devices, mountpoints)
