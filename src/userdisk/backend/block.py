"""A block device of this machine as a disk (Linux): size, sectors and discard are the kernel's."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time

from userdisk import identity
from userdisk.backend import holes
from userdisk.backend.descriptor import DescriptorUnit, lock
from userdisk.backend.size import format_size
from userdisk.errors import UsageError

_BLKDISCARD = 0x1277  # struct { u64 offset, length }
_RANGE = struct.Struct("=QQ")

_LOCK_SECONDS = 2.0  # udev holds a shared lock while it looks at a device that has changed


class BlockDeviceUnit(DescriptorUnit):
    """A block device, opened exclusively unless it is `read_only`; see `DescriptorUnit`."""

    product_id = "block device"

    def _examine(
        self, size: int | None, block_length: int | None, read_only: bool
    ) -> tuple[int, int, int | None]:
        found, folder = _look_at(self.path)
        logical = _number(folder, "queue/logical_block_size", 512)
        physical = _number(folder, "queue/physical_block_size", logical)
        block_length = block_length or logical
        if block_length < logical:
            raise UsageError(
                f"{self.path}: block_length {block_length} is less than the device's, {logical}"
            )
        if size is not None and size != found:
            raise UsageError(
                f"{self.path}: the device has {format_size(found)},"
                f" not {format_size(size)} as asked for"
            )
        self._granule = max(_number(folder, "queue/discard_granularity", 0), logical)
        self._alignment = _number(folder, "discard_alignment", 0) % self._granule
        #: The device zeroes by itself, so that discarded blocks can be promised to read as zeros.
        self.unmap_zeroes = _number(folder, "queue/write_zeroes_max_bytes", 0) > 0
        if not self.unmap_zeroes and not _number(folder, "queue/discard_max_bytes", 0):
            self.unmap_supported = False
        return found, block_length, max(physical, block_length)

    def _place(self) -> identity.Place:
        return identity.device(self.path)

    def _open_descriptor(self) -> int:
        flags = os.O_RDONLY if self.write_protected else os.O_RDWR | os.O_EXCL
        try:
            descriptor = os.open(self.path, flags | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise UsageError(f"{self.path} is in use: mounted, or opened by another") from None
            raise UsageError(f"{self.path}: cannot be opened: {error.strerror}") from None
        try:
            _lock_patiently(descriptor, self.path, shared=self.write_protected)
            size = os.lseek(descriptor, 0, os.SEEK_END)
            if size != self._size:
                raise UsageError(f"{self.path}: its size has changed to {format_size(size)}")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _deallocate(self, offset: int, length: int) -> None:
        if self.unmap_zeroes:
            # On a device, punching a hole guarantees zeros or is refused, and zero_range then
            # has the kernel write them: the promise holds either way.
            self._fill(offset, length, (holes.punch, holes.zero_range))
            return
        start = -(-(offset - self._alignment) // self._granule) * self._granule + self._alignment
        end = (offset + length - self._alignment) // self._granule * self._granule
        end += self._alignment
        if start >= end:  # less than the device can discard: allowed to be ignored
            return
        try:
            fcntl.ioctl(self._descriptor, _BLKDISCARD, _RANGE.pack(start, end - start))
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise self._error(error, start // self.block_length, writing=True) from error


def _look_at(path: str) -> tuple[int, str]:
    """The device's size in bytes, and its folder in sysfs."""
    try:
        found = os.stat(path)
        if not stat.S_ISBLK(found.st_mode):
            raise UsageError(f"{path}: is not a block device")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.lseek(descriptor, 0, os.SEEK_END)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UsageError(f"{path}: cannot be opened: {error.strerror}") from None
    if size == 0:
        raise UsageError(f"{path}: the device has no medium")
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    return size, f"/sys/dev/block/{number}"


def _number(folder: str, name: str, default: int) -> int:
    """A number from sysfs; a partition's queue is that of its disk."""
    for place in (folder, os.path.join(os.path.realpath(folder), "..")):
        try:
            with open(os.path.join(place, name)) as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return default


def _lock_patiently(descriptor: int, path: str, *, shared: bool) -> None:
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            lock(descriptor, path, shared=shared)
            return
        except UsageError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.05)
