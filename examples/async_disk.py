"""A disk on a far-away store, with `async def` methods: many requests wait at the same time.

    userdisk serve examples/async_disk.py:AsyncDisk --size 64M --option latency_ms=20

The store here is a dictionary behind a delay; put your client's `await` in its place. The store
keeps objects of 64 KiB, so a write to part of one reads it first; `concurrent = True` lets
requests overlap, and a lock for each object keeps two of them from changing it at once.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence

from userdisk import StorageUnit

OBJECT = 65536


class Store:
    """What a client library of an object store looks like: each call takes a while."""

    def __init__(self, latency: float) -> None:
        self._objects: dict[int, bytes] = {}
        self._latency = latency

    async def get(self, key: int) -> bytes:
        await asyncio.sleep(self._latency)
        return self._objects.get(key, bytes(OBJECT))

    async def put(self, key: int, value: bytes) -> None:
        await asyncio.sleep(self._latency)
        self._objects[key] = value


class AsyncDisk(StorageUnit):
    """A disk over a `Store`; its methods run on an event loop that belongs to the unit."""

    product_id = "AsyncDisk"
    block_length = 512
    physical_block_length = 4096
    concurrent = True

    def __init__(self, block_count: int = 131072, latency_ms: int = 5) -> None:
        super().__init__(block_count=block_count)
        self._store = Store(latency_ms / 1000)
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        async def piece(key: int, start: int, end: int) -> bytes:
            return (await self._store.get(key))[start:end]

        parts = _parts(lba * self.block_length, blocks * self.block_length)
        return b"".join(await asyncio.gather(*(piece(*part) for part in parts)))

    async def write(self, lba: int, data: memoryview, fua: bool) -> None:
        offset, changes = 0, []
        for key, start, end in _parts(lba * self.block_length, len(data)):
            changes.append(self._change(key, start, data[offset : offset + end - start]))
            offset += end - start
        await asyncio.gather(*changes)

    async def unmap(self, extents: Sequence[tuple[int, int]]) -> None:
        for lba, blocks in extents:
            for key, start, end in _parts(lba * self.block_length, blocks * self.block_length):
                await self._change(key, start, memoryview(bytes(end - start)))

    async def _change(self, key: int, start: int, data: memoryview) -> None:
        async with self._locks[key]:
            old = b"" if len(data) == OBJECT else await self._store.get(key)
            new = b"".join((old[:start], data, old[start + len(data) :]))
            await self._store.put(key, new)


def _parts(offset: int, length: int) -> Iterator[tuple[int, int, int]]:
    """The objects that hold a range of bytes: (key, first byte, byte past the last)."""
    end = offset + length
    while offset < end:
        start = offset % OBJECT
        size = min(OBJECT - start, end - offset)
        yield offset // OBJECT, start, start + size
        offset += size
