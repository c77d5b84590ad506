"""What is written: WinSpd stgtest's pattern, and versions of it that tell one write from another.

All aligned 8 bytes of a block hold one word, F(x), little endian. F is MurmurHash3's 64-bit
finaliser. In WinSpd's pattern x is the block's address + 1; a version stands above that. F can be
undone, so that a word tells which block and version it was made for.
"""

from __future__ import annotations

from functools import lru_cache

_C1, _C2 = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53
_WORD = (1 << 64) - 1
_INVERSE1, _INVERSE2 = pow(_C1, -1, 1 << 64), pow(_C2, -1, 1 << 64)
_LANE = 128  # bits: room for a product of two words
_MOST = 64  # words that are made together

WORD_LENGTH = 8  #: bytes


def finalise(x: int) -> int:
    """F."""
    x = (x ^ x >> 33) * _C1 & _WORD
    x = (x ^ x >> 33) * _C2 & _WORD
    return x ^ x >> 33


def undo(word: int) -> int:
    """The x that F makes `word` of."""
    x = (word ^ word >> 33) * _INVERSE2 & _WORD
    x = (x ^ x >> 33) * _INVERSE1 & _WORD
    return x ^ x >> 33


#: Words that no write has. In the model of a disk they stand for: anything may be there, and: one
#: of several words, which are listed elsewhere.
ANY = finalise(_WORD).to_bytes(8, "little")
SEVERAL = finalise(_WORD >> 1).to_bytes(8, "little")
ZERO = bytes(8)  #: what an unmapped block holds


class Pattern:
    """The words of a disk's blocks.

    Args:
        block_count: of the disk; versions stand above the bits that an address needs.
        first: the version that the first write has, when writes are told apart. Choose it at
            random, so that what an earlier test has left is not taken for this one's.
    """

    def __init__(self, block_count: int, first: int = 0) -> None:
        self.shift = (block_count + 1).bit_length()
        self._mask = (1 << 64 - self.shift) - 1
        self.first = first & self._mask

    def words(self, lba: int, blocks: int, serial: int | None = None) -> bytes:
        """The words of `blocks` blocks, 8 bytes each, as the write with this number has them.

        Without a number: WinSpd's pattern.
        """
        x = lba + 1
        if serial is not None:
            x += (self.first + serial & self._mask) << self.shift
        if blocks <= _MOST:
            return _words(x, blocks)
        return b"".join(_words(x + at, min(_MOST, blocks - at)) for at in range(0, blocks, _MOST))

    def origin(self, word: bytes) -> tuple[int, int]:
        """The block and the number of the write that the word was made for, if it was for one."""
        x = undo(int.from_bytes(word, "little"))
        return (x & (1 << self.shift) - 1) - 1, (x >> self.shift) - self.first & self._mask


@lru_cache(maxsize=_MOST)
def _lanes(count: int) -> tuple[int, int, int, int]:
    """For `count` lanes: 1 in each, 0, 1, 2..., and masks of 64 and 31 bits."""
    ones = sum(1 << _LANE * i for i in range(count))
    ramp = sum(i << _LANE * i for i in range(count))
    return ones, ramp, ones * _WORD, ones * (_WORD >> 33)


def _words(x: int, count: int) -> bytes:
    """F of x, x + 1, ...: as one long number with a lane for each."""
    ones, ramp, word, high = _lanes(count)
    lanes = ones * x + ramp
    lanes = (lanes ^ lanes >> 33 & high) * _C1 & word
    lanes = (lanes ^ lanes >> 33 & high) * _C2 & word
    lanes ^= lanes >> 33 & high
    made = lanes.to_bytes(16 * count, "little")
    return b"".join([made[i : i + 8] for i in range(0, 16 * count, 16)])


def fill(words: bytes, block_length: int) -> bytes:
    """The contents of blocks that hold these words."""
    times = block_length >> 3
    return b"".join([words[i : i + 8] * times for i in range(0, len(words), 8)])
