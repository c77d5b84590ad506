"""What a disk should hold: byte arrays for a few windows of it, whatever its size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from userdisk.unit import Parameters

#: Where address arithmetic goes wrong: 2^31 and 2^32 bytes, 2^31 and 2^32 blocks.
_EDGES_BYTES = (1 << 31, 1 << 32)
_EDGES_BLOCKS = (1 << 31, 1 << 32)


@dataclass
class Window:
    """`blocks` blocks of the disk from `lba` on, and what they should hold.

    `known[n]` is 0 for a block whose contents nothing promises (it was unmapped).
    """

    lba: int
    blocks: int
    block_length: int
    data: bytearray = field(init=False, repr=False)
    known: bytearray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.data = bytearray(self.blocks * self.block_length)
        self.known = bytearray(self.blocks)

    @property
    def end(self) -> int:
        """The block after the last."""
        return self.lba + self.blocks

    def put(self, lba: int, data: bytes | bytearray | memoryview) -> None:
        """These bytes are there now."""
        first = lba - self.lba
        blocks = len(data) // self.block_length
        self.data[first * self.block_length : (first + blocks) * self.block_length] = data
        self.known[first : first + blocks] = b"\x01" * blocks

    def forget(self, lba: int, blocks: int) -> None:
        """Anything may be there now."""
        self.known[lba - self.lba : lba - self.lba + blocks] = bytes(blocks)

    def difference(self, lba: int, data: bytes) -> int | None:
        """The first block in which `data`, read at `lba`, is not what should be there."""
        length = self.block_length
        first = lba - self.lba
        count = len(data) // length
        if self.data[first * length : (first + count) * length] == data:
            return None
        for block in range(count):
            expected = self.data[(first + block) * length : (first + block + 1) * length]
            if self.known[first + block] and data[block * length :][:length] != expected:
                return lba + block
        return None

    def describe(self, lba: int, found: bytes) -> str:
        """How a block differs: where, and whether another block's contents are there."""
        at = (lba - self.lba) * self.block_length
        expected = bytes(self.data[at : at + self.block_length])
        if not any(found):
            return "it reads as zeros"
        if not any(expected):
            return "it should read as zeros"
        elsewhere = self.data.find(found)
        if elsewhere >= 0 and elsewhere % self.block_length == 0:
            return f"it holds what belongs to block {self.lba + elsewhere // self.block_length}"
        byte = next(
            n for n, pair in enumerate(zip(expected, found, strict=True)) if len({*pair}) > 1
        )
        return f"byte {byte} is {found[byte]:#04x} instead of {expected[byte]:#04x}"


def windows(parameters: Parameters, size: int) -> list[Window]:
    """Windows of about `size` bytes at the start, at the end, and around the edges that exist."""
    length, count = parameters.block_length, parameters.block_count
    blocks = max(size // length, 8)
    if count <= 2 * blocks:
        return [Window(0, count, length)]
    edges = [*(edge // length for edge in _EDGES_BYTES), *_EDGES_BLOCKS]
    starts = [0, *(edge - blocks // 2 for edge in edges), count - blocks]
    return [Window(lba, blocks, length) for lba in _apart(starts, blocks, count - blocks)]


def _apart(starts: Iterable[int], blocks: int, last: int) -> Iterator[int]:
    """Those of the starts that are on the disk and do not overlap the one before or the last."""
    end = 0
    for start in sorted({*starts}):
        if start >= end and (start == last or start + blocks <= last):
            yield start
            end = start + blocks
