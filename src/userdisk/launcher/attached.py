"""The device of an instance: attaching, mounting, and taking it away in order."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from userdisk import control
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher.spec import Spec

if TYPE_CHECKING:
    from userdisk.attach.state import Record

_MOUNT_SECONDS: Final = 60.0  # to wait for who is at it
_FOLLOW_SECONDS: Final = 660.0  # while a process resizes its disk, it does nothing else
_MARGIN: Final = 10.0  # seconds for what is to be done when the unit is ready


class Note(Protocol):
    """Takes fields of `Status`; `missing`: what was asked for is not there."""

    def __call__(self, *, missing: bool, **fields: Any) -> None: ...


class Attached:
    """One device, or none if none is wanted. `attach` runs on a thread of its own.

    Args:
        note: called when something is different.
    """

    def __init__(self, spec: Spec, folder: Path, note: Note) -> None:
        self._spec = spec
        self._folder = folder
        self._note = note
        self._name = ""  # of the attachment
        self._record: Record | None = None  # while the attaching process runs
        self._made: Path | None = None  # the folder it is mounted on, if it was not there
        self._done = threading.Event()
        self._mountpoints: tuple[str, ...] = ()
        self._looking = threading.Lock()  # of who looks at them
        self._turn = threading.Lock()  # of who mounts, unmounts or ejects
        self._abandoned = False
        self.missing = spec.attach.wanted  #: something that was asked for is not there
        if not spec.attach.wanted:
            self._done.set()

    def attach(self) -> None:
        """Attach and mount; what goes wrong is noted. Blocks."""
        try:
            with self._turn:
                self._attach()
        except (UserdiskError, OSError) as error:
            if not self._abandoned:
                self._note(missing=self.missing, last_error=f"attaching: {error}")
        finally:
            self._done.set()

    @property
    def attached(self) -> bool:
        """Whether there is, or was, a device that needs the unit."""
        return bool(self._name)

    def wait(self) -> None:
        """Return when `attach` has ended."""
        self._done.wait()

    def abandon(self) -> None:
        """The unit cannot be had: see `attach` end."""
        self._abandoned = True
        self._done.wait()

    def _attach(self) -> None:
        from userdisk.attach import filesystem, launch

        wanted, unit = self._spec.attach, self._spec.unit or self._spec.program[0]
        if wanted.mount:
            filesystem.check_tools(wanted.format or None)
        request = {
            "folder": str(self._folder),
            "name": self._spec.id,
            "mountpoint": wanted.mount,
            "start_timeout": self._spec.start_timeout,
            "log_json": self._spec.log_json,
        }
        attached = launch.launch(
            "userdisk.launcher.attaching", unit, request, self._spec.start_timeout + _MARGIN
        )
        self._record = record = attached.record
        self._name = attached.folder.name
        self._note(missing=True, device=record.device, attach_pid=record.pid)
        threading.Thread(
            target=self._watch, args=(record.pid, record.start_time), daemon=True
        ).start()
        threading.Thread(target=self._watch_mounts, args=(record,), daemon=True).start()
        filesystem.add_partitions(attached.device)
        if wanted.mount:
            self._mount(record, Path(wanted.mount))
        else:
            self.missing = False
            self._note(missing=False)

    def mount(self, folder: str) -> None:
        """Mount the device, as its class says, but on this folder. Blocks.

        Raises `UsageError` and `UserdiskError` if it cannot be, or is mounted already.
        """
        with self._turned(_MOUNT_SECONDS):
            record = self._ready()
            from userdisk.attach import filesystem, mounts, release

            filesystem.check_tools(self._spec.attach.format or None)
            nodes = release.with_partitions(Path(record.device))
            if there := [each.folder for each in mounts.mounts_of(nodes)]:
                raise UserdiskError(f"it is mounted already, on {', '.join(there)}")
            self._mount(record, Path(folder))

    def unmount(self, *, force: bool) -> list[str]:
        """Unmount the device, which stays; returns remarks. Blocks while file systems write.

        Raises `UserdiskError` if it is in use and not forced, `UsageError` if it is not mounted.
        """
        with self._turned(_MOUNT_SECONDS):
            record = self._ready()
            from userdisk.attach import mounts, release

            device = Path(record.device)
            if not mounts.mounts_of(release.with_partitions(device)):
                raise UsageError("it is not mounted")
            try:
                remarks = release.unmount([device], force=force)
                self._remove_folder()
            finally:
                self._note_mounts(record)
            return remarks

    def follow(self) -> None:
        """Have the device show the size of the unit; waits until it is attached. Blocks.

        Raises `UserdiskError` and `OSError`.
        """
        self._done.wait()
        if self._record is not None:
            place = control.folder() / str(self._record.pid)
            control.ask(place, {"verb": "follow"}, _FOLLOW_SECONDS)

    def _ready(self) -> Record:
        if self._record is None or self._abandoned:
            raise UsageError("it has no device now")
        return self._record

    @contextlib.contextmanager
    def _turned(self, timeout: float) -> Iterator[None]:
        if not self._done.wait(timeout) or not self._turn.acquire(timeout=timeout):
            raise UserdiskError(f"it is being attached or mounted still, after {timeout:g} s")
        try:
            yield
        finally:
            self._turn.release()

    def _mount(self, record: Record, place: Path) -> None:
        from userdisk.attach import filesystem

        wanted = self._spec.attach
        self._made = None if place.exists() else place
        try:
            _folder(place, wanted.owner)
            node = filesystem.choose_partition(Path(record.device), wanted.partition)
            fresh = bool(wanted.format) and not record.read_only and not filesystem.content(node)
            if fresh:
                filesystem.make(wanted.format, node)
            filesystem.mount(
                node,
                place,
                options=wanted.mount_options,
                read_only=record.read_only,
                discards=record.discards,
                owner=wanted.owner,
            )
        except BaseException:
            self._remove_folder()
            raise
        if fresh and wanted.owner is not None:
            os.chown(place, wanted.owner, -1)
        was_missing, self.missing = self.missing, False
        mended = {"last_error": ""} if was_missing else {}
        self._note(missing=False, **mended)
        self._note_mounts(record)

    def _watch(self, pid: int, started: int) -> None:
        """See the attaching process end."""
        from userdisk.attach import state

        with state.opened_process(pid, started) as process:
            while process is not None and not state.wait_for_end(process, 3600.0):
                pass
        self.missing = True
        self._record = None
        self._note(
            missing=True,
            device="",
            mountpoints=(),
            attach_pid=0,
            **({} if self._abandoned else {"last_error": "the attaching process has ended"}),
        )

    def _watch_mounts(self, record: Record) -> None:
        """See what others mount and unmount (proc(5): mountinfo says so to poll)."""
        with open("/proc/self/mountinfo", "rb") as table:
            news = select.poll()
            news.register(table, select.POLLPRI)
            while self._record is record:
                news.poll()
                self._note_mounts(record)

    def _note_mounts(self, record: Record) -> None:
        from userdisk.attach import mounts, release

        with self._looking:
            found = mounts.mounts_of(release.with_partitions(Path(record.device)))
            folders = tuple(each.folder for each in found)
            if self._record is record and folders != self._mountpoints:
                self._mountpoints = folders
                self._note(missing=self.missing, mountpoints=folders)

    def eject(self, *, force: bool, timeout: float) -> list[str]:
        """Unmount, flush and detach; returns remarks.

        Raises `UserdiskError` if it is in use and not forced; nothing is different then.
        """
        began = time.monotonic()
        self._done.wait(timeout)
        left = max(began + timeout - time.monotonic(), 0.0)
        if not self._turn.acquire(timeout=left):  # who mounts waits for the unit, which may be gone
            return self._eject(force=force, timeout=timeout)
        try:
            return self._eject(force=force, timeout=timeout)
        finally:
            self._turn.release()

    def _eject(self, *, force: bool, timeout: float) -> list[str]:
        if not self._name:
            return []
        from userdisk.attach import eject

        try:
            entry = eject.find(self._name)
        except UsageError:
            return []  # somebody else has ejected it
        self._abandoned = True
        try:
            remarks = eject.eject(entry, force=force, timeout=timeout)
            self._remove_folder()
            return remarks
        except UserdiskError as error:
            if not entry.folder.path.exists():  # it has gone, though not without a fault
                self._remove_folder()
                return [str(error)]
            self._abandoned = False
            raise
        except BaseException:
            self._abandoned = False
            raise

    def _remove_folder(self) -> None:
        if self._made is not None:
            with contextlib.suppress(OSError):  # somebody keeps something there
                self._made.rmdir()
            self._made = None


def _folder(path: Path, owner: int | None) -> None:
    """The folder to mount on, made if it is missing. Raises `UsageError`."""
    if not path.exists():
        path.mkdir(parents=True)
        if owner is not None:
            os.chown(path, owner, -1)
    if not path.is_dir():
        raise UsageError(f"{path}: not a folder")
    if path.is_mount():
        raise UsageError(f"{path}: something is mounted there already")
