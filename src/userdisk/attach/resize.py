"""Another size for an attached disk, while it is in use; what the attaching process is asked.

Theory of operation. Three places have a size: the unit, in its process; the connection to it, which
was told at its start; the device. At every moment the device has the least, so that nothing is
asked of the unit that it has not. So the unit grows first and the device last. A disk that nobody
uses is cut the other way round. What stops half way is made good by asking again. A unit that
changes its size by itself has the attaching process `follow`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from userdisk import control
from userdisk.attach import Attachment, block, mounts, release
from userdisk.control import Answer, Verb
from userdisk.errors import UserdiskError

log = logging.getLogger("userdisk")

_LOOK_SECONDS: Final = 10.0
_RESIZE_SECONDS: Final = 600.0  # a unit may be busy
_STOP_SECONDS: Final = 10.0
_ONLY_UNUSED: Final = "it can be cut only when nothing uses it"


class Growing(Protocol):
    """What is asked of the connection to the unit; see `NbdDevice`."""

    size: int

    def check_ready(self) -> None: ...

    def grow(self, size: int) -> None: ...


class Asked(Protocol):
    """The process that has the unit now."""

    def pid(self) -> int: ...

    def control(self) -> Path:
        """Where it answers."""
        ...


class Resizing:
    """Gives one attached disk its sizes. All methods block, and may be called from any thread.

    Args:
        name: of the attachment.
        unit: as the user named it.
        where: the folder that the user was in.
        disk: the connection to the unit.
        attachment: what shows the device.
        process: has the unit.
        noted: called with the size when the device has another one.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        where: str,
        disk: Growing,
        attachment: Attachment,
        process: Asked,
        noted: Callable[[int], object],
    ) -> None:
        self._name = name
        self._unit = unit
        self._disk = disk
        self._attachment = attachment
        self._device = Path()
        self._process = process
        self._noted = noted
        self._where = where
        self._turn = threading.Lock()
        self._stopped = False
        self._resized = False
        self._control: control.Control | None = None
        self._shown = disk.size  # by the device, in bytes

    def listen(self, device: Path) -> None:
        """Answer on this process' control socket until `stop`; the attachment is open now."""
        self._device = device
        try:
            self._control = control.Control(self._verbs())
        except (UserdiskError, OSError) as error:
            log.warning("%s cannot be resized: %s", self._device, error)

    def _verbs(self) -> dict[str, Verb]:
        def resize(request: Mapping[str, object]) -> Answer:
            size = request.get("size")
            if not isinstance(size, int):
                raise UserdiskError("size: must be a number of bytes")
            before, now = self.resize(size, shrink=request.get("shrink") is True)
            return {"before": before, "size": now}

        def follow(request: Mapping[str, object]) -> Answer:
            try:
                self.follow()
            except UserdiskError as error:
                log.error("%s", error)  # who asks is the unit's process
                raise
            return {"size": self._shown}

        return {"info": self._info, "resize": resize, "follow": follow}

    def resize(self, size: int, *, shrink: bool) -> tuple[int, int]:
        """Give unit and device `size` bytes; returns what the device had, and what it has.

        Raises `UsageError` for a size that the unit cannot have, `UserdiskError` if it takes no
        other, or if the disk would be cut and something uses it.
        """
        with self._alone():
            self._check_ready()
            before = self._shown
            if size < before:
                self._cut(size, shrink=shrink)
            else:
                self._ask_to_resize(size, shrink=shrink)
                self._grow(size)
            return before, self._shown

    def follow(self) -> None:
        """Show the size that the unit has now. Raises `UserdiskError`."""
        with self._alone():
            self._check_ready()
            self._follow()

    def restore(self) -> None:
        """The unit has a new process, which is to have the size, too. Raises `UserdiskError`."""
        if self._resized:
            request = {"verb": "restore", "number": 0, "size": self._disk.size}
            self._ask(request, _LOOK_SECONDS)

    def stop(self) -> None:
        """Nothing is resized any more when this returns. Waits for what is under way, not long."""
        self._stopped = True
        if self._control is not None:
            self._control.close()
        if self._turn.acquire(timeout=_STOP_SECONDS):
            self._turn.release()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._turn:
            if self._stopped:
                raise UserdiskError(f"{self._unit}: is being ejected")
            try:
                yield
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                raise UserdiskError(f"{self._unit}: {where}{error.strerror or error}") from None

    # -- with the lock -------------------------------------------------------------------------

    def _check_ready(self) -> None:
        try:
            self._disk.check_ready()
        except UserdiskError as error:
            raise UserdiskError(f"{self._unit}: {error}") from None

    def _grow(self, size: int) -> None:
        if self._disk.size < size:
            try:
                self._disk.grow(size)
            except UserdiskError as error:
                raise UserdiskError(
                    f"{self._unit}: has {size} bytes now, but {self._device} does not: {error};"
                    " try again"
                ) from None
        self._show(size)

    def _cut(self, size: int, *, shrink: bool) -> None:
        self._ask_to_resize(size, shrink=shrink, only_check=True)
        self._refuse_used()
        try:
            with block.emptied(self._device):
                self._show(size)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise UserdiskError(
                f"{self._device} is in use{release.held_by(self._device)}; {_ONLY_UNUSED}"
            ) from None
        self._disk.size = size
        try:
            self._ask_to_resize(size, shrink=shrink)
        except UserdiskError:
            with contextlib.suppress(UserdiskError):  # what it has then is what counts
                self._follow()
            raise

    def _refuse_used(self) -> None:
        nodes = release.with_partitions(self._device)
        mounted = [mount.folder for mount in mounts.mounts_of(nodes)]
        if mounted:
            raise UserdiskError(
                f"{self._device} is mounted on {', '.join(mounted)}; {_ONLY_UNUSED}"
            )
        release.refuse_open([self._device], _ONLY_UNUSED)

    def _follow(self) -> None:
        size = self._unit_size()
        if size > self._shown:
            self._grow(size)
        elif size < self._shown:
            self._refuse_used()
            self._show(size)
            self._disk.size = size

    def _show(self, size: int) -> None:
        before = self._shown
        self._attachment.resize(size)
        self._shown = size
        self._noted(size)
        if size != before:
            self._resized = True
            log.info("%s: %s has %d bytes now, not %d", self._unit, self._device, size, before)

    # -- the unit's process --------------------------------------------------------------------

    def _ask_to_resize(self, size: int, *, shrink: bool, only_check: bool = False) -> None:
        self._ask(
            {"verb": "resize", "number": 0, "size": size, "shrink": shrink, "check": only_check},
            _RESIZE_SECONDS,
        )

    def _unit_size(self) -> int:
        units = self._ask({"verb": "info"}, _LOOK_SECONDS)["units"]
        assert isinstance(units, list)
        return int(units[0]["size"])

    def _ask(self, request: Mapping[str, object], timeout: float) -> Answer:
        pid = self._process.pid()
        try:
            return control.ask(self._process.control(), request, timeout, process=pid)
        except TimeoutError:
            raise UserdiskError(
                f"{self._unit}: is busy: no answer within {timeout:g} s; what was asked may still"
                " be done"
            ) from None
        except OSError as error:
            raise UserdiskError(
                f"{self._unit}: its process (pid {pid}) does not answer: {error.strerror};"
                " try again"
            ) from None

    def _info(self, request: Mapping[str, object]) -> Answer:
        nodes = release.with_partitions(self._device)
        folders = [mount.folder for mount in mounts.mounts_of(nodes)]
        return {
            "pid": os.getpid(),
            "folder": self._where,
            "attached": self._name,
            "unit_pid": self._process.pid(),
            "units": [
                {
                    "unit": self._unit,
                    "names": [self._name, str(self._device), *folders],
                    "size": self._shown,
                }
            ],
        }
