"""A block device or a file of this machine as a port: past the page cache where that can be."""

from __future__ import annotations

import errno
import mmap
import os
import queue
import stat
import struct
import threading
from collections.abc import Sequence

from userdisk.backend import holes
from userdisk.backend.descriptor import lock
from userdisk.errors import UsageError
from userdisk.stgtest import held
from userdisk.stgtest.port import MOST_BYTES, Geometry, Inbox, Op

_BLKDISCARD, _BLKSSZGET = 0x1277, 0x1268
_RANGE = struct.Struct("=QQ")
_THREADS = 16
_BLOCK = 512  # bytes, of a file


class DevicePort:
    """A descriptor and threads that wait for the system. The constructor blocks.

    Args:
        changes: something will be written, so that a device in use is refused.
        destroy: do not refuse it.
        depth: operations under way; 16 of them at a time are in the system.
        timeout: seconds to wait for the next operation to end.

    Raises `UsageError`.
    """

    kind = Op
    plain = False

    def __init__(
        self, path: str, timeout: float, *, depth: int, changes: bool, destroy: bool
    ) -> None:
        self._path = path
        self._inbox = Inbox(path, timeout)
        self.collect = self._inbox.collect
        try:
            self._block_device = stat.S_ISBLK(os.stat(path).st_mode)
            if self._block_device and changes and not destroy and (found := held.uses(path)):
                raise UsageError(
                    f"{path}: is in use ({', '.join(found[:3])}); --destroy overwrites it anyway"
                )
            exclusive = os.O_EXCL if self._block_device and changes and not destroy else 0
            self._descriptor, self._length = self._open(changes, exclusive)
        except OSError as error:
            words = "is in use" if error.errno == errno.EBUSY else error.strerror
            raise UsageError(f"{path}: cannot be opened: {words}") from None
        try:
            self.geometry = self._geometry(changes)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._waiting: queue.SimpleQueue[Op | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name="stgtest device", daemon=True)
            for _ in range(min(depth, _THREADS))
        ]
        for thread in self._threads:
            thread.start()

    def _open(self, changes: bool, exclusive: int) -> tuple[int, int]:
        """A descriptor, and the block length."""
        flags = (os.O_RDWR if changes else os.O_RDONLY) | os.O_CLOEXEC | exclusive
        descriptor = os.open(self._path, flags)
        try:
            if changes and not self._block_device:
                lock(descriptor, self._path, shared=False)
            length = _BLOCK
            if self._block_device:
                import fcntl

                (length,) = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4)))
            if hasattr(os, "O_DIRECT"):
                self._try_direct(descriptor, length)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, length

    def _try_direct(self, descriptor: int, length: int) -> None:
        """Leave the page cache out, if blocks of this length can be had so."""
        import fcntl

        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
            with mmap.mmap(-1, mmap.PAGESIZE) as page, memoryview(page) as room:
                os.preadv(descriptor, [room[:length]], length)
        except OSError:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)

    def _geometry(self, changes: bool) -> Geometry:
        size = os.lseek(self._descriptor, 0, os.SEEK_END)
        length = self._length
        if size < length:
            raise UsageError(f"{self._path}: has {size} bytes, less than a block")
        return Geometry(
            size // length,
            length,
            MOST_BYTES // length,
            cached=True,
            fua=hasattr(os, "RWF_DSYNC"),
            flushes=True,
            unmaps=not self._block_device or held.discards(self._path),
            zeroes=not self._block_device,
            read_only=not changes,
        )

    def submit(self, operations: Sequence[Op]) -> None:
        """See `Port.submit`."""
        for op in operations:
            self._waiting.put(op)

    def _work(self) -> None:
        with mmap.mmap(-1, MOST_BYTES) as memory, memoryview(memory) as room:
            while (op := self._waiting.get()) is not None:
                try:
                    self._run(op, room)
                except OSError as error:
                    op.error = error.strerror or str(error)
                self._inbox.put(op)

    def _run(self, op: Op, room: memoryview) -> None:
        offset, length = op.lba * self._length, op.blocks * self._length
        with room[:length] as data:
            if op.letter == "R":
                size = os.preadv(self._descriptor, [data], offset)
                op.data = bytes(data[:size])
            elif op.letter == "W":
                data[:] = op.data_out
                flags = os.RWF_DSYNC if op.fua else 0
                size = os.pwritev(self._descriptor, [data], offset, flags)
            elif op.letter == "F":
                os.fsync(self._descriptor)
                return
            else:
                self._unmap(offset, length)
                return
        if size != length:
            op.error = f"only {size} of {length} bytes were moved"

    def _unmap(self, offset: int, length: int) -> None:
        if self._block_device:
            import fcntl

            fcntl.ioctl(self._descriptor, _BLKDISCARD, _RANGE.pack(offset, length))
        elif not holes.punch(self._descriptor, offset, length):
            raise OSError(errno.EOPNOTSUPP, "the file system cannot punch holes")

    def close(self, *, stuck: bool = False) -> None:
        """See `Port.close`."""
        if stuck:
            return
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        os.close(self._descriptor)
