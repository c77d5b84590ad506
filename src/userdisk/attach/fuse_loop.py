"""A disk by way of FUSE and a loop device: works on every stock kernel, and needs root.

The attaching process is a FUSE file system with one file; the loop driver makes a block device of
that file. Reads, writes, flushes and discards of the device come back as READ, WRITE, FSYNC and
FALLOCATE.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from userdisk.attach import block, loop, mounts
from userdisk.attach.device import BlockDevice
from userdisk.attach.fuse import FILE_NAME
from userdisk.attach.fuse_server import FuseServer
from userdisk.attach.mounts import MountFlag, UnmountFlag
from userdisk.errors import UsageError, UserdiskError

NAME: Final = "fuse_loop"

_FUSE: Final = Path("/dev/fuse")
_DETACH_SECONDS: Final = 3.0
_UNMOUNT_SECONDS: Final = 2.0


def missing() -> list[str]:
    """What this machine or user lacks for this way; empty if it can be tried."""
    lacks = []
    if os.geteuid() != 0:
        lacks.append("root (try sudo)")
    if not _FUSE.exists():
        lacks.append(f"{_FUSE} (try modprobe fuse; in a container, --device {_FUSE})")
    if not loop.CONTROL.exists():
        lacks.append(
            f"{loop.CONTROL} (try modprobe loop; in a container, --privileged with the host's /dev)"
        )
    return lacks


class FuseLoop:
    """One attached disk. The methods block, and belong to one thread.

    Args:
        disk: what is attached; stays the caller's.
        folder: an empty folder to mount on.
        ended: called on some thread when the disk has gone without `close`, e.g. by losetup -d.
    """

    def __init__(self, disk: BlockDevice, folder: Path, ended: Callable[[], None]) -> None:
        if disk.size >= 1 << 63:
            raise UsageError("the disk is larger than a file can be: 2^63 - 1 bytes")
        self._disk = disk
        self._folder = folder
        self._ended = ended
        self._descriptor = -1
        self._server: FuseServer | None = None
        self.device: Path | None = None  #: /dev/loopN while it is open

    def open(self) -> Path:
        """Make the block device. On failure nothing is left. Raises `UserdiskError`, `OSError`."""
        try:
            self._mount()
            self.device = loop.attach(
                self._file, self._disk.block_length, read_only=self._disk.read_only
            )
        except BaseException:
            self.close()
            raise
        return self.device

    def close(self) -> list[str]:
        """Take the device away; returns what went wrong, one line each.

        Whoever still has the device open (and all file systems on it) sees errors from then on.
        """
        problems = []
        if self.device is not None:
            problems += free_device(self.device)
            self.device = None
        if self._server is not None:
            problems += unmount_folder(self._folder)
            self._server.join(_UNMOUNT_SECONDS)
            self._server = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        return problems

    def resize(self, size: int) -> None:
        """See `Attachment.resize`."""
        assert self._server is not None and self.device is not None
        before = os.stat(self._file).st_size
        try:
            self._server.resize(size)
            os.stat(self._file)  # the kernel asks for it: the loop driver takes it from there
            loop.set_capacity(self.device)
            if (shown := block.size(self.device)) != size:
                raise UserdiskError(f"{self.device}: the kernel does not follow: {shown} bytes")
        except BaseException:
            self._server.resize(before)
            raise
        if before < size and before % mmap.PAGESIZE:
            block.read_anew(self.device, before)

    @property
    def _file(self) -> Path:
        return self._folder / os.fsdecode(FILE_NAME)

    def _mount(self) -> None:
        self._descriptor = os.open(_FUSE, os.O_RDWR | os.O_CLOEXEC)
        server = FuseServer(
            self._descriptor, self._disk, released=self._released, ended=self._ended
        )
        options = (
            f"fd={self._descriptor},rootmode=40000,user_id=0,group_id=0"
            f",max_read={server.max_transfer}"
        )
        flags = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC
        try:
            mounts.mount("userdisk", self._folder, "fuse.userdisk", flags, options)
        except OSError as error:
            reason = error.strerror
            if error.errno == errno.EPERM:
                reason = "not permitted; root needs the capability CAP_SYS_ADMIN"
            raise UserdiskError(f"mounting FUSE on {self._folder}: {reason}") from None
        self._server = server
        server.start()

    def _released(self) -> None:
        # While the device is being made, the file is closed once by this process.
        if self.device is not None:
            self._ended()


def clean(folder: Path) -> list[str]:
    """Remove what a killed process left on `folder`; returns what went wrong.

    The process may still be about to end: it cannot while it waits for its own device, so all that
    waits for the device gets errors first.
    """
    problems = []
    with contextlib.suppress(OSError):  # busy, but that ends the connection
        mounts.unmount(folder, UnmountFlag.FORCE)
    for device in devices(folder):
        problems += free_device(device)
    return problems + unmount_folder(folder)


def devices(folder: Path) -> list[Path]:
    """The block devices that exist for the mount on `folder`."""
    return loop.find(folder / os.fsdecode(FILE_NAME))


def free_device(device: Path) -> list[str]:
    """Detach a loop device; returns what went wrong."""
    try:
        if loop.detach(device, _DETACH_SECONDS):
            return []
    except OSError as error:
        return [f"{device}: {error.strerror}"]
    return [f"{device} is still open somewhere; it goes away when it is closed"]


def unmount_folder(folder: Path) -> list[str]:
    """Unmount FUSE, by force if it must be; returns what went wrong."""
    deadline = time.monotonic() + _UNMOUNT_SECONDS
    while any(found.folder == str(folder) for found in mounts.mounts()):
        late = time.monotonic() > deadline
        flags = UnmountFlag.FORCE | UnmountFlag.DETACH if late else UnmountFlag.NOFOLLOW
        try:
            mounts.unmount(folder, flags)
        except OSError as error:
            if late or error.errno != errno.EBUSY:
                return [f"{folder}: {error.strerror}"]
            time.sleep(0.02)  # the loop driver closes its file a moment after the detaching
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()
    return []


attachment = FuseLoop
