"""A disk that can be tried out: an image that is only read, and changes that are forgotten.

    userdisk serve examples/overlay_disk.py:OverlayDisk --option image=backup.img

Each block that is written is kept in memory; everything else comes from the image, which is never
changed. Look into a backup, run a repair on it, or let a test destroy it: stop, and it never was.
"""

from __future__ import annotations

import os

from userdisk import StorageUnit, UsageError


class OverlayDisk(StorageUnit):
    """A writable view of the file `image`."""

    product_id = "OverlayDisk"
    cache_supported = False  # there is no more durable place to flush to: nothing is kept

    def __init__(self, image: str, block_length: int = 512) -> None:
        try:
            self._file = os.open(image, os.O_RDONLY)
        except OSError as error:
            raise UsageError(f"{image}: {error.strerror}") from None
        blocks, rest = divmod(os.fstat(self._file).st_size, block_length)
        if rest or not blocks:
            raise UsageError(f"{image}: not a whole number of blocks of {block_length} bytes")
        super().__init__(block_count=blocks, block_length=block_length)
        self._changed: dict[int, bytes] = {}

    def close(self) -> None:
        os.close(self._file)

    def read(self, lba: int, blocks: int, fua: bool) -> bytearray:
        size = self.block_length
        data = bytearray(blocks * size)
        if os.preadv(self._file, [data], lba * size) != len(data):
            raise OSError("the image became shorter")
        if self._changed:
            for i in range(blocks):
                block = self._changed.get(lba + i)
                if block is not None:
                    data[i * size : (i + 1) * size] = block
        return data

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        size = self.block_length
        for i in range(len(data) // size):
            self._changed[lba + i] = bytes(data[i * size : (i + 1) * size])
