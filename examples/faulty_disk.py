"""A disk that goes wrong as real ones do, to test software against.

    userdisk serve examples/faulty_disk.py:FaultyDisk --size 64M --option bad=1000-1007,5000
    userdisk serve examples/faulty_disk.py:FaultyDisk --size 64M --option space=32M
    userdisk serve examples/faulty_disk.py:FaultyDisk --size 64M --option fail_after=1000

bad: blocks that cannot be read until they are written again, as on a disk with spare blocks.
space: how much can be in use; a write beyond that fails, though the disk claims to be larger.
fail_after: so many operations succeed, and none after them.
"""

from __future__ import annotations

from collections.abc import Sequence

from userdisk import HardwareError, MediumError, OutOfSpace, StorageUnit, UsageError


class FaultyDisk(StorageUnit):
    """A disk in memory with faults that are chosen by options."""

    product_id = "FaultyDisk"

    def __init__(
        self,
        block_count: int = 131072,
        bad: str = "",
        space: int | None = None,
        fail_after: int | None = None,
    ) -> None:
        super().__init__(block_count=block_count)
        self._blocks: dict[int, bytes] = {}
        self._bad = _numbers(bad, block_count)
        self._space = block_count if space is None else space // self.block_length
        self._left = -1 if fail_after is None else fail_after

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        self._count()
        if self._bad:
            for number in range(lba, lba + blocks):
                if number in self._bad:
                    raise MediumError("a bad block", lba=number)
        zeros = bytes(self.block_length)
        return b"".join(self._blocks.get(number, zeros) for number in range(lba, lba + blocks))

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self._count()
        for offset in range(0, len(data), self.block_length):
            number = lba + offset // self.block_length
            if number not in self._blocks and len(self._blocks) >= self._space:
                raise OutOfSpace(f"all {self._space} blocks are in use", lba=number)
            self._blocks[number] = bytes(data[offset : offset + self.block_length])
            self._bad.discard(number)

    def unmap(self, extents: Sequence[tuple[int, int]]) -> None:
        self._count()
        for lba, blocks in extents:
            if blocks < len(self._blocks):
                for number in range(lba, lba + blocks):
                    self._blocks.pop(number, None)
            else:
                kept = self._blocks.items()
                self._blocks = {n: data for n, data in kept if not lba <= n < lba + blocks}

    def _count(self) -> None:
        if self._left == 0:
            raise HardwareError("the disk is broken")
        self._left -= self._left > 0


def _numbers(text: str, block_count: int) -> set[int]:
    """The block numbers of "1000-1007,5000"."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            raise UsageError(f"bad: {part!r} is not a block number or FIRST-LAST") from None
        if not 0 <= low <= high < block_count:
            raise UsageError(f"bad: {part!r} is not within blocks 0 to {block_count - 1}")
        numbers.update(range(low, high + 1))
    return numbers
