"""Disks on a file descriptor: what an image file and a block device have in common.

Theory of operation. Reads and writes go through the page cache; `flush` is fdatasync. When that
fails, Linux has marked the pages clean: they may be lost, and the next fdatasync would succeed. So
every flush after a failed one fails, until the unit is opened anew.
"""

from __future__ import annotations

import errno
import os
import threading
import weakref
from abc import abstractmethod
from collections.abc import Iterable

from userdisk import errors, identity
from userdisk.backend import holes
from userdisk.errors import MediumError, NotReady, UsageError, WriteError, WriteProtected
from userdisk.unit import Buffer, Extent, Extents, Inline, Parameters, StorageUnit

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

#: What the kernel says of a medium that cannot be read or written: EIO, or more exactly.
_MEDIUM = frozenset(
    getattr(errno, name)
    for name in ("EIO", "ENODATA", "EILSEQ", "EBADMSG", "EUCLEAN", "EREMOTEIO")
    if hasattr(errno, name)
)

_ZEROS = memoryview(bytes(1 << 20))


class DescriptorUnit(StorageUnit):
    """A disk on a file descriptor, opened and locked at once; `close` closes it.

    Args:
        path: of what the disk is on.
        size: of the disk in bytes; must be that of what is there already.
        guid, new_guid: the disk's identity; without them the one in its state file
            (`userdisk.identity`).

    Raises `UsageError`: sizes that do not fit, what cannot be opened or is in use. Operations
    block, and may overlap on any threads.
    """

    inline = Inline.READ | Inline.WRITE
    concurrent = True
    workers = 4
    persistent = True

    _descriptor = -1
    _size: int  # in bytes
    _made = False  # just now: what its state file says is of another disk

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size: int | None = None,
        block_length: int | None = None,
        physical_block_length: int | None = None,
        guid: str | None = None,
        new_guid: bool = False,
        product_id: str | None = None,
        product_revision: str | None = None,
        read_only: bool = False,
        removable: bool | None = None,
        unmap_supported: bool | None = None,
        soft_threshold: int | None = None,
    ) -> None:
        self.path = os.fspath(path)
        if fcntl is None or not hasattr(os, "pread"):
            raise UsageError(f"{self.path}: files and devices can be disks on POSIX systems only")
        self._closer: weakref.finalize[..., DescriptorUnit] | None = None
        self._sync_lock = threading.Lock()
        self._lost: str | None = None
        self._size, length, physical = self._examine(size, block_length, read_only)
        super().__init__(
            guid=guid,
            block_count=self._blocks(self._size, length),
            block_length=length,
            physical_block_length=physical_block_length or physical,
            product_id=product_id,
            product_revision=product_revision,
            write_protected=read_only,
            removable=removable,
            unmap_supported=unmap_supported,
            soft_threshold=soft_threshold,
        )
        self.open()
        if guid is None:
            try:
                identity.identify(self, self._place(), new_guid=new_guid or self._made)
            except BaseException:
                self.close()
                raise

    @abstractmethod
    def _examine(
        self, size: int | None, block_length: int | None, read_only: bool
    ) -> tuple[int, int, int | None]:
        """The disk's size, block length and physical one, with what is asked for.

        All in bytes. Raises `UsageError`.
        """

    @abstractmethod
    def _place(self) -> identity.Place:
        """Where its identity is kept."""

    @abstractmethod
    def _open_descriptor(self) -> int:
        """Open and lock what the disk is on. Raises `UsageError`."""

    def _blocks(self, size: int, block_length: int) -> int:
        """How many blocks a size in bytes is."""
        if block_length > 0 and size % block_length:
            raise UsageError(
                f"{self.path}: its size, {size} bytes, is not a multiple of"
                f" the block length, {block_length}"
            )
        return size // max(block_length, 1)

    def open(self) -> None:
        """Open and lock; does nothing when it is open. Raises `UsageError`."""
        if self._descriptor >= 0:
            return
        self._descriptor = self._open_descriptor()
        self._closer = weakref.finalize(self, os.close, self._descriptor)
        self._lost = None

    def measure(self) -> None:
        """See `StorageUnit.measure`. Raises `UsageError` for a size that no disk can have."""
        if self._descriptor < 0:
            return
        size = os.lseek(self._descriptor, 0, os.SEEK_END)
        self.resized(self._blocks(size, self.block_length))

    def take_size(self, parameters: Parameters) -> None:
        """See `StorageUnit.take_size`."""
        super().take_size(parameters)
        self._size = parameters.size

    def close(self) -> None:
        """Close the descriptor, which unlocks."""
        self._descriptor = -1
        if self._closer is not None:
            closer, self._closer = self._closer, None
            closer()

    # -- reading -------------------------------------------------------------------------------

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        """Fresh bytes. `fua`: what the cache holds is made durable first."""
        if fua and not self.write_protected:
            self.flush()
        length = blocks * self.block_length
        try:
            # preadv into a bytearray, which is zeroed first, takes a third longer.
            data = os.pread(self._descriptor, length, lba * self.block_length)
        except OSError as error:
            if error.errno not in _MEDIUM:
                raise self._error(error, lba, writing=False) from error
            return self._read_blocks(lba, blocks)
        if len(data) == length:
            return data
        return self._read_blocks(lba, blocks)

    def _read_blocks(self, lba: int, blocks: int) -> bytes:
        """Read block by block, to find the first that cannot be read."""
        found = bytearray()
        for block in range(lba, lba + blocks):
            try:
                found += self._read_block(block)
            except OSError as error:
                raise self._error(error, block, writing=False) from error
        return bytes(found)

    def _read_block(self, lba: int) -> bytes:
        data = b""
        while len(data) < self.block_length:
            offset = lba * self.block_length + len(data)
            more = os.pread(self._descriptor, self.block_length - len(data), offset)
            if not more:
                raise MediumError(f"{self.path} ends before block {lba}: was it cut?", lba=lba)
            data += more
        return data

    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        """Data and holes, as the file system tells them."""
        return holes.extents(self._descriptor, lba, blocks, self.block_length)

    # -- writing -------------------------------------------------------------------------------

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        """Write to the page cache; `fua`: and make all that it holds durable."""
        self._write(lba * self.block_length, data)
        if fua:
            self.flush()

    def _write(self, offset: int, data: memoryview) -> None:
        if self.write_protected:
            raise WriteProtected(f"{self.path} was opened read-only")
        done = 0
        length = data.nbytes
        try:
            while done < length:
                done += os.pwrite(self._descriptor, data[done:] if done else data, offset + done)
        except OSError as error:
            lba = (offset + done) // self.block_length
            raise self._error(error, lba, writing=True) from error

    def flush(self) -> None:
        """Return when all that was written is on the medium."""
        if self.write_protected:
            return
        with self._sync_lock:  # so that of two flushes at once none misses the failure
            if self._lost is not None:
                raise WriteError(self._lost)
            try:
                _sync(self._descriptor)
            except OSError as error:
                self._lost = f"{self.path}: an earlier flush failed: {error.strerror}"
                raise self._error(error, None, writing=True) from error

    def zero(self, lba: int, blocks: int, fua: bool) -> None:
        """Zeros that stay allocated, where the file system can do that without writing them."""
        self._zero(lba * self.block_length, blocks * self.block_length)
        if fua:
            self.flush()

    def unmap(self, extents: Extents) -> None:
        """Deallocate the blocks, which then read as zeros."""
        for lba, blocks in extents:
            if blocks:
                self._deallocate(lba * self.block_length, blocks * self.block_length)

    def _deallocate(self, offset: int, length: int) -> None:
        self._fill(offset, length, (holes.punch,))

    def _zero(self, offset: int, length: int) -> None:
        self._fill(offset, length, (holes.zero_range,))

    def _fill(self, offset: int, length: int, ways: Iterable[holes.Way]) -> None:
        """Have the range read as zeros by the first way that works here, or by writing."""
        if self.write_protected:
            raise WriteProtected(f"{self.path} was opened read-only")
        try:
            if any(way(self._descriptor, offset, length) for way in ways):
                return
        except OSError as error:
            raise self._error(error, offset // self.block_length, writing=True) from error
        for at in range(offset, offset + length, len(_ZEROS)):
            self._write(at, _ZEROS[: min(len(_ZEROS), offset + length - at)])

    def _error(self, error: OSError, lba: int | None, *, writing: bool) -> errors.StorageError:
        """The error table's entry, with the path and the block."""
        if self._descriptor < 0:
            return NotReady(f"{self.path} is closed", lba=lba)
        if error.errno in _MEDIUM:
            kind: type[errors.StorageError] = WriteError if writing else MediumError
        else:
            kind = type(errors.from_exception(error, writing=writing))
        return kind(f"{self.path}: {error.strerror}", lba=lba)


def lock(descriptor: int, path: str, *, shared: bool) -> None:
    """Lock an open file for this process, or raise `UsageError`. Does not block."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{path} is in use by another process, or named twice") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be locked: {error.strerror}") from None


def _sync(descriptor: int) -> None:
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync leaves data in the drive's cache
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)
