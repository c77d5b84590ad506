"""Disks with a cache in the server's memory: one is honest, the others lie, each in its own way."""

from __future__ import annotations

import os

from userdisk.unit import StorageUnit

BLOCKS = 512


class WriteBack(StorageUnit):
    """Writes are in memory until they are flushed: what a killed server loses, it may lose."""

    block_count = BLOCKS
    guid = "6e7a1c40-52a8-4d6e-9d4e-3b7f5f0c1a01"

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._file = -1
        self._cache: dict[int, bytes] = {}
        self._dirty: dict[int, bytes] = {}

    def open(self) -> None:
        self._file = os.open(self._path, os.O_RDWR)

    def close(self) -> None:
        os.close(self._file)

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        return b"".join(self.block(block) for block in range(lba, lba + blocks))

    def block(self, lba: int) -> bytes:
        return self._cache.get(lba) or os.pread(self._file, 512, lba * 512)

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        for number in range(len(data) // 512):
            block = bytes(data[number * 512 : number * 512 + 512])
            self._cache[lba + number] = self._dirty[lba + number] = block
        if fua:
            self.flush()

    def flush(self) -> None:
        for lba, block in self._dirty.items():
            os.pwrite(self._file, block, lba * 512)
        self._dirty.clear()


class ForgetsOne(WriteBack):
    """Each flush leaves out one block, which goes on to be read from the cache."""

    def flush(self) -> None:
        if self._dirty:
            self._dirty.popitem()
        super().flush()


class IgnoresFua(WriteBack):
    """Its flush is honest; FUA is not."""

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        super().write(lba, data, False)


class Stale(WriteBack):
    """Sometimes a block is read as it was before its last write."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._before: dict[int, bytes] = {}
        self._reads = 0

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        for block in range(lba, lba + len(data) // 512):
            self._before[block] = self.block(block)
        super().write(lba, data, fua)

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        self._reads += 1
        data = super().read(lba, blocks, fua)
        if self._reads % 50 == 0 and lba in self._before:
            return self._before[lba] + data[512:]
        return data
