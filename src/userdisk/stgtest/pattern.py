"""What is written: each block says which block it is, and which write has written it.

Every eight bytes of block b hold the little-endian number F(b+1) XOR version, where F is the
64-bit finaliser of MurmurHash3. Version 0 is what every write writes as long as one operation is
under way at a time; otherwise each write has its own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from userdisk.unit import Buffer

ZERO: Final = -1  #: stands for a block of zeros
FOREIGN: Final = -2  #: a block that is no pattern, or not of one write
WORD: Final = 8
_MASK: Final = (1 << 64) - 1
_SERIAL: Final = (1 << 32) - 1
_CACHED = 1 << 17  # blocks


@lru_cache(_CACHED)
def finaliser(number: int) -> int:
    """F: a permutation of the 64-bit numbers."""
    number ^= number >> 33
    number = number * 0xFF51AFD7ED558CCD & _MASK
    number ^= number >> 33
    number = number * 0xC4CEB9FE1A85EC53 & _MASK
    return number ^ number >> 33


class Pattern:
    """Contents of a disk's blocks. Thread-safe.

    Args:
        block_length: bytes, a multiple of 8.
        nonce: the upper half of the versions of this run, so that an older run's are no match.
    """

    def __init__(self, block_length: int, nonce: int = 0) -> None:
        self._length = block_length
        self._words = block_length // WORD
        self._nonce = nonce << 32
        self._zeros = bytes(block_length)
        self._pack = struct.Struct("<Q").pack

    def data(self, lba: int, blocks: int, version: int) -> bytes:
        """What a write of that version (32 bits; 0: of none) stores."""
        stamp = self._nonce | version if version else 0
        pack, words = self._pack, self._words
        if blocks == 1:
            return pack(finaliser(lba + 1) ^ stamp) * words
        return b"".join(
            [pack(finaliser(block) ^ stamp) * words for block in range(lba + 1, lba + blocks + 1)]
        )

    def versions(self, lba: int, data: Buffer) -> list[int]:
        """The version that each block holds, or `ZERO`, or `FOREIGN`."""
        pack, words, length, zeros = self._pack, self._words, self._length, self._zeros
        whole = bytes(data)
        found: list[int] = []
        first = struct.unpack(f"<{len(whole) // WORD}Q", whole)[::words]
        for index, word in enumerate(first):
            block = whole[index * length : (index + 1) * length]
            if block == pack(word) * words:
                stamp = finaliser(lba + index + 1) ^ word
                if not stamp:
                    found.append(0)
                elif stamp ^ self._nonce <= _SERIAL and stamp != self._nonce and self._nonce:
                    found.append(stamp & _SERIAL)
                else:
                    found.append(ZERO if not word and block == zeros else FOREIGN)
            else:
                found.append(FOREIGN)
        return found


def detail(data: Buffer, lba: int, block_length: int) -> str:
    """Where a block stops being like its own first eight bytes, for messages."""
    view = bytes(data)
    (word,) = struct.unpack_from("<Q", view)
    stamp = finaliser(lba + 1) ^ word
    for offset in range(0, block_length, WORD):
        if view[offset : offset + WORD] != view[:WORD]:
            return f"torn at byte {offset}, begins with {word:#018x}"
    return f"every word is {word:#018x}, the pattern would be {word ^ stamp:#018x}"


def words_of(versions: Sequence[int]) -> str:
    """Versions in words, for messages."""
    names = {ZERO: "zeros", FOREIGN: "foreign data", 0: "the pattern"}
    return " or ".join(names.get(each, f"write {each}") for each in versions) or "nothing"
