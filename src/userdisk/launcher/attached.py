"""The device of an instance: attaching, mounting, and taking it away in order."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any, Protocol

from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher.spec import Spec


class Note(Protocol):
    """Takes fields of `Status`."""

    def __call__(self, **fields: Any) -> None: ...


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
        self._made: Path | None = None  # the folder it is mounted on, if it was not there
        self._done = threading.Event()
        self._abandoned = False
        self.missing = spec.attach.wanted  #: something that was asked for is not there
        if not spec.attach.wanted:
            self._done.set()

    def attach(self) -> None:
        """Attach and mount; what goes wrong is noted. Blocks."""
        try:
            self._attach()
        except (UserdiskError, OSError) as error:
            if not self._abandoned:
                self._note(last_error=f"attaching: {error}")
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
        request = {"folder": str(self._folder), "name": self._spec.id, "mountpoint": wanted.mount}
        attached = launch.launch(
            "userdisk.launcher.attaching", unit, request, self._spec.start_timeout
        )
        record = attached.record
        self._name = attached.folder.name
        self._note(device=str(attached.device), attach_pid=record.pid)
        threading.Thread(
            target=self._watch, args=(record.pid, record.start_time), daemon=True
        ).start()
        filesystem.add_partitions(attached.device)
        if wanted.mount:
            place = Path(wanted.mount)
            self._made = None if place.exists() else place
            _folder(place, wanted.owner)
            node = filesystem.choose_partition(attached.device, wanted.partition)
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
            if fresh and wanted.owner is not None:
                os.chown(place, wanted.owner, -1)
            self.missing = False
            self._note(mountpoints=(str(place),))
        else:
            self.missing = False
            self._note()

    def _watch(self, pid: int, started: int) -> None:
        """See the attaching process end."""
        from userdisk.attach import state

        with state.opened_process(pid, started) as process:
            while process is not None and not state.wait_for_end(process, 3600.0):
                pass
        self.missing = True
        self._note(
            device="",
            mountpoints=(),
            attach_pid=0,
            **({} if self._abandoned else {"last_error": "the attaching process has ended"}),
        )

    def eject(self, *, force: bool, timeout: float) -> list[str]:
        """Unmount, flush and detach; returns remarks.

        Raises `UserdiskError` if it is in use and not forced; nothing is different then.
        """
        self._done.wait(timeout)
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
