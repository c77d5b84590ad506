"""The tutorial's disk: a class of one's own that keeps its blocks in a file.

    userdisk serve examples/file_disk.py:FileDisk --option path=disk.img --size 64M

userdisk has a backend for files (`userdisk serve disk.img --size 64M`) that does more than this.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from userdisk import StorageUnit

BLOCK = 512


class FileDisk(StorageUnit):
    """A disk in the file `path`, which is made with `block_count` blocks if it does not exist."""

    product_id = "FileDisk"

    def __init__(self, path: str = "disk.img", block_count: int = 131072) -> None:
        super().__init__(block_count=block_count)
        self._path = path
        self._file = -1

    def open(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        if os.fstat(self._file).st_size < self.block_count * BLOCK:
            os.truncate(self._file, self.block_count * BLOCK)  # a hole: it takes no space

    def close(self) -> None:
        os.close(self._file)

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        if fua:
            self.flush()
        data = b""
        while len(data) < blocks * BLOCK:
            piece = os.pread(self._file, blocks * BLOCK - len(data), lba * BLOCK + len(data))
            if not piece:
                raise OSError(errno.EIO, "the file is shorter than the disk")
            data = data + piece if data else piece
        return data

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        done = 0
        while done < len(data):
            done += os.pwrite(self._file, data[done:], lba * BLOCK + done)
        if fua:
            self.flush()

    def flush(self) -> None:
        os.fsync(self._file)

    def unmap(self, extents: Sequence[tuple[int, int]]) -> None:
        for lba, blocks in extents:
            position, end = lba * BLOCK, (lba + blocks) * BLOCK
            while (position := self._next_data(position)) < end:
                count = min(end - position, 1 << 20)
                position += os.pwrite(self._file, bytes(count), position)

    def _next_data(self, position: int) -> int:
        """Where the next data starts: an extent may be as large as the disk, and all holes."""
        try:
            return os.lseek(self._file, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return self.block_count * BLOCK
