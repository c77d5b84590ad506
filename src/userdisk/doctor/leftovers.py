"""What killed processes left: attachments, state folders, dead FUSE mounts, iSCSI sessions.

Nothing of a living process is ever a leftover: a process is known by its id and its start time.
What is in doubt is named, with what to do, and not removed.
"""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from userdisk import attach
from userdisk.attach import eject, fuse_loop, mounts, release, state
from userdisk.attach.mounts import Mount
from userdisk.attach.state import Folder
from userdisk.errors import UserdiskError

_PROBE_SECONDS: Final = 2.0
_EJECT_SECONDS: Final = 3.0
_NEW: Final = ".new-"
_SESSIONS: Final = Path("/sys/class/iscsi_session")
_OUR_TARGETS: Final = "io.userdisk:"


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that nobody needs any more."""

    kind: str  #: "attachment", "state folder", "mount" or "iSCSI session"
    name: str
    says: str
    advice: str = ""  #: what to do about what is not removed
    remove: Callable[[], list[str]] | None = None  #: returns remarks; raises `UserdiskError`


def leftovers() -> list[Leftover]:
    """Everything that is left of killed servers on this machine. For root; changes nothing.

    Raises `UserdiskError` if the state folder cannot be read.
    """
    return [*_attachments(), *_folders(), *_mounts(), *sessions()]


def _attachments() -> Iterator[Leftover]:
    for entry in eject.entries():
        record, name = entry.record, entry.folder.name
        if entry.status not in ("killed", "failed") or state.alive(record):
            continue
        if _running(record.unit_pid, record.unit_start_time):
            yield Leftover(
                "attachment",
                name,
                f"{record.unit} lost its attaching process (pid {record.pid}); the process that"
                f" has the unit still runs (pid {record.unit_pid})",
                f"userdisk eject {name}",
            )
            continue
        why = record.failed or f"its process (pid {record.pid}) was killed"
        what = ", ".join([*map(str, entry.devices), *entry.mountpoints])
        says = f"{record.unit}: {why}" + (f"; it still has {what}" if what else "")
        yield Leftover("attachment", name, says, remove=_ejecting(entry))


def _ejecting(entry: eject.Entry) -> Callable[[], list[str]]:
    def remove() -> list[str]:
        if entry.folder.read() != entry.record:  # it changed: perhaps somebody lives there now
            raise UserdiskError(f"{entry.folder.path}: changed meanwhile; look again")
        return eject.eject(entry, force=False, timeout=_EJECT_SECONDS)

    return remove


def _running(pid: int, started: int) -> bool:
    return pid != 0 and state.start_time(pid) == started


def _folders() -> Iterator[Leftover]:
    try:
        paths = sorted(path for path in state.root().iterdir() if path.is_dir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserdiskError(f"{state.root()}: {error.strerror}") from None
    for path in paths:
        folder = Folder(path)
        record = folder.read()
        if path.name.startswith(_NEW):
            yield from _unfinished(folder)
        elif record is None and path.exists():
            if mounts_on(folder.mount):
                continue  # it is among the mounts
            yield Leftover(
                "state folder",
                path.name,
                "it has no record that can be read, and nothing is mounted there",
                remove=functools.partial(_remove_folder, folder),
            )


def _unfinished(folder: Folder) -> Iterator[Leftover]:
    """A folder that a process was about to make: its id is in the name."""
    number = folder.path.name.removeprefix(_NEW)
    pid = int(number) if number.isdecimal() else 0
    record = folder.read()
    # Without a record the start time is not known; then any process of that id may be the one.
    alive = state.alive(record) if record else state.start_time(pid) is not None
    if pid and not alive and folder.path.exists():
        yield Leftover(
            "state folder",
            folder.path.name,
            f"process {pid} was killed while it made it",
            remove=functools.partial(_remove_folder, folder),
        )


def _remove_folder(folder: Folder) -> list[str]:
    if mounts_on(folder.mount):
        raise UserdiskError(f"{folder.mount}: something is mounted there now; look again")
    try:
        folder.remove()
    except OSError as error:
        raise UserdiskError(f"{folder.path}: {error.strerror}") from None
    return []


def mounts_on(folder: Path) -> list[Mount]:
    """What is mounted on a folder."""
    return [found for found in mounts.mounts() if found.folder == str(folder)]


def _mounts() -> Iterator[Leftover]:
    """Dead FUSE mounts that no record speaks of."""
    known = {str(folder.mount) for folder in state.folders() if folder.read() is not None}
    for found in mounts.mounts():
        if found.kind != "fuse.userdisk" or found.folder in known or not is_dead(found.folder):
            continue
        devices = ", ".join(map(str, fuse_loop.devices(Path(found.folder))))
        says = "its process is gone" + (f"; {devices} is on it" if devices else "")
        root = state.root()
        if root in Path(found.folder).parents:
            yield Leftover("mount", found.folder, says, remove=_unmounting(found))
            continue
        other = Path(found.folder).parents[min(2, len(Path(found.folder).parents) - 1)]
        yield Leftover(
            "mount",
            found.folder,
            f"{says}; it is of another state folder",
            f"USERDISK_RUN={other} userdisk doctor --clean",
        )


def _unmounting(found: Mount) -> Callable[[], list[str]]:
    folder = Folder(Path(found.folder).parent)

    def remove() -> list[str]:
        if not is_dead(found.folder) or folder.read() is not None:
            raise UserdiskError(f"{found.folder}: changed meanwhile; look again")
        way = attach.way("fuse_loop")
        devices = way.devices(folder.mount)
        release.refuse_open(devices, "end that first")
        release.release(devices, force=False)
        problems = way.clean(folder.mount)
        if problems:
            raise UserdiskError("; ".join(problems))
        return _remove_folder(folder) if folder.path.parent == state.root() else []

    return remove


def is_dead(folder: str) -> bool:
    """Whether a FUSE mount has lost its process. One that does not answer in 2 s has not."""
    answers: list[int] = []

    def ask() -> None:
        try:
            os.stat(folder)
        except OSError as error:
            answers.append(error.errno or 0)
        else:
            answers.append(0)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PROBE_SECONDS)
    return answers == [errno.ENOTCONN]


def sessions(folder: Path = _SESSIONS) -> Iterator[Leftover]:
    """Sessions of Linux's initiator to a target of userdisk that does not answer: only told."""
    for session in sorted(folder.glob("session*")):
        try:
            target = (session / "targetname").read_text().strip()
            condition = (session / "state").read_text().strip()
        except OSError:
            continue
        if condition != "LOGGED_IN" and _OUR_TARGETS in target:
            yield Leftover(
                "iSCSI session",
                target,
                f"the target does not answer ({condition.lower()}); the kernel tries again",
                f"start the server again, or give the disk up: iscsiadm -m node -T {target} -u",
            )
