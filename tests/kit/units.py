"""Units for tests: memory with counters and fault hooks, in every way that a unit can run."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from userdisk.unit import Buffer, Extents, Inline, StorageUnit, Usage

#: Called before an operation with its name, lba and blocks; may raise or block.
Fault = Callable[[str, int, int], None]


class RamUnit(StorageUnit):
    """A disk in a bytearray, serial, on a worker thread of its own.

    `calls` counts operations by name, `log` has them in order as (name, lba, blocks, fua).
    """

    block_count = 2048

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.memory = bytearray(self.parameters.size)
        self.calls: Counter[str] = Counter()
        self.log: list[tuple[str, int, int, bool]] = []
        self.fault: Fault | None = None

    def _begin(self, name: str, lba: int = 0, blocks: int = 0, fua: bool = False) -> None:
        self.calls[name] += 1
        self.log.append((name, lba, blocks, fua))
        if self.fault is not None:
            self.fault(name, lba, blocks)

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        self._begin("read", lba, blocks, fua)
        length = self.block_length
        return bytes(memoryview(self.memory)[lba * length : (lba + blocks) * length])

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        length = self.block_length
        self._begin("write", lba, len(data) // length, fua)
        self.memory[lba * length : lba * length + len(data)] = data

    def flush(self) -> None:
        self._begin("flush")

    def unmap(self, extents: Extents) -> None:
        length = self.block_length
        for lba, blocks in extents:
            self._begin("unmap", lba, blocks)
            self.memory[lba * length : (lba + blocks) * length] = bytes(blocks * length)


class HeldUnit(RamUnit):
    """Its reads wait until `go` is set."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.go = threading.Event()

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        assert self.go.wait(30)
        return super().read(lba, blocks, fua)


class InlineRamUnit(RamUnit):
    """Every operation runs on the connection's own thread."""

    inline = Inline.ALL


class ConcurrentRamUnit(RamUnit):
    """Operations overlap on four threads."""

    concurrent = True
    workers = 4


class AsyncRamUnit(RamUnit):
    """Operations are coroutines on the unit's event loop."""

    async def read(self, lba: int, blocks: int, fua: bool) -> Buffer:  # type: ignore[override]
        return super().read(lba, blocks, fua)

    async def write(self, lba: int, data: memoryview, fua: bool) -> None:  # type: ignore[override]
        super().write(lba, data, fua)

    async def flush(self) -> None:  # type: ignore[override]
        super().flush()

    async def unmap(self, extents: Extents) -> None:  # type: ignore[override]
        super().unmap(extents)


#: Every way that a unit can run, by name.
KINDS: dict[str, type[RamUnit]] = {
    "inline": InlineRamUnit,
    "serial": RamUnit,
    "concurrent": ConcurrentRamUnit,
    "async": AsyncRamUnit,
}


class LiveRamUnit(InlineRamUnit):
    """`read` returns views of the live memory."""

    live_reads = True

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        self._begin("read", lba, blocks, fua)
        length = self.block_length
        return memoryview(self.memory)[lba * length : (lba + blocks) * length].toreadonly()


class AbleRamUnit(InlineRamUnit):
    """Offers whatever a unit can offer."""

    atomic_blocks = 8
    removable = True

    def erase(self) -> None:
        self._begin("erase")
        self.memory[:] = bytes(len(self.memory))

    def crypto_erase(self) -> None:
        self._begin("crypto_erase")
        self.memory[:] = bytes(len(self.memory))

    def usage(self) -> Usage:
        self._begin("usage")
        blocks = len(self.memory) // self.block_length
        return Usage(blocks // 2, blocks - blocks // 2)


class ThickRamUnit(StorageUnit):
    """Neither flush nor unmap: no volatile cache, not thin."""

    block_count = 2048

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.memory = bytearray(self.parameters.size)

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        length = self.block_length
        return bytes(self.memory[lba * length : (lba + blocks) * length])

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self.memory[lba * self.block_length : lba * self.block_length + len(data)] = data
