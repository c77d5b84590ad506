"""A raw image file as a disk: created sparse, locked, and flushed with fdatasync."""

from __future__ import annotations

import contextlib
import os
import stat

from userdisk import identity, whole_file
from userdisk.backend.descriptor import DescriptorUnit, lock
from userdisk.backend.size import format_size
from userdisk.errors import UsageError
from userdisk.unit import Usage

_STAT_BLOCK = 512  # bytes: what st_blocks counts, whatever the file system's block is


class FileUnit(DescriptorUnit):
    """A raw image file; see `DescriptorUnit`.

    It is created, sparse, if there is none (or it is empty) and `size` is given. With `read_only`
    the lock is shared, so that several processes may read the image.
    """

    product_id = "image file"
    _new = True  # until the first open: it may create the image, later ones may not

    def _examine(
        self, size: int | None, block_length: int | None, read_only: bool
    ) -> tuple[int, int, int | None]:
        return _disk_size(self.path, size, read_only), block_length or self.block_length, None

    def _place(self) -> identity.Place:
        return identity.beside(self.path, read_only=self.write_protected)

    def _open_descriptor(self) -> int:
        flags = os.O_RDONLY if self.write_protected else os.O_RDWR
        new, self._new = self._new, False
        try:
            descriptor = os.open(self.path, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            if not new:
                raise UsageError(f"{self.path}: the image has gone") from None
            descriptor = self._create()
        except OSError as error:
            raise _cannot_open(self.path, error, self.write_protected) from None
        try:
            lock(descriptor, self.path, shared=self.write_protected)
            size = os.fstat(descriptor).st_size
            if size == 0 and new:
                self._grow(descriptor)
            elif size != self._size:
                raise _wrong_size(self.path, self._size, size)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def usage(self) -> Usage:
        """What the image occupies, and what its file system still has. Blocks."""
        try:
            occupied = os.fstat(self._descriptor).st_blocks * _STAT_BLOCK
            system = os.fstatvfs(self._descriptor)
        except OSError as error:
            raise self._error(error, None, writing=False) from error
        available = system.f_bavail * system.f_frsize
        return Usage(-(-occupied // self.block_length), available // self.block_length)

    def _create(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be created: {error.strerror}") from None

    def _grow(self, descriptor: int) -> None:
        """Give an empty image its size; the file and its name are on the medium then."""
        try:
            os.ftruncate(descriptor, self._size)
            os.fsync(descriptor)
            whole_file.sync_folder(os.path.dirname(os.path.abspath(self.path)))
        except OSError as error:
            # What is left has no size, and no data: it is taken away if it is ours to remove.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.unlink(self.path)
            raise UsageError(
                f"{self.path}: cannot be made {format_size(self._size)} large: {error.strerror}"
            ) from None
        self._made = True


def _disk_size(path: str, size: int | None, read_only: bool) -> int:
    """The size that the disk will have, in bytes."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if read_only or size is None:
            hint = "" if read_only else "; give a size (--size) to create it"
            raise UsageError(f"{path}: there is no such image{hint}") from None
        return size
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(f"{path}: is not a file")
    if found.st_size == 0:
        if read_only or size is None:
            hint = "" if read_only else "; give a size (--size) to make a disk of it"
            raise UsageError(f"{path}: the image is empty{hint}")
        return size
    if size is not None and size != found.st_size:
        raise _wrong_size(path, size, found.st_size)
    return found.st_size


def _wrong_size(path: str, wanted: int, found: int) -> UsageError:
    return UsageError(
        f"{path}: the image has {format_size(found)}, not {format_size(wanted)} as asked for"
    )


def _cannot_open(path: str, error: OSError, read_only: bool) -> UsageError:
    hint = "" if read_only else " for writing; a read-only disk may be possible"
    return UsageError(f"{path}: cannot be opened{hint}: {error.strerror}")
