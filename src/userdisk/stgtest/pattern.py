"""What is written: each block says which block it is, and which write has written it.

Every eight bytes of block b hold the little-endian number F(b+1) XOR version, where F is the
64-bit finaliser of MurmurHash3. Version 0 is what every write writes as long as one operation is
under way at a time; otherwise each write has its own.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache
from operator import xor
from typing import Final

from userdisk.unit import Buffer

ZERO: Final = -1  #: stands for a block of zeros
FOREIGN: Final = -2  #: a block that is no pattern, or not of one write
WORD: Final = 8
_MASK: Final = (1 << 64) - 1
_SERIAL: Final = (1 << 32) - 1
_CHUNK: Final = 16  # blocks whose words are kept together
_CACHED: Final = 1 << 19  # blocks whose words are kept
_PLAIN: Final = 16 << 20  # bytes of blocks that are kept
_WORD: Final = struct.Struct("<Q")
_NOTHING: Final = bytes(WORD)


_FACTORS: Final = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
#: A chunk's words are made at once, in a long number with 128 bits for each.
_ONES: Final = sum(1 << 128 * lane for lane in range(_CHUNK))
_RAMP: Final = sum(lane << 128 * lane for lane in range(_CHUNK))
_LOW, _HIGH = _ONES * _MASK, _ONES * (_MASK >> 33)
_LANES: Final = struct.Struct("<" + "Q8x" * _CHUNK)


def finaliser(number: int) -> int:
    """F: a permutation of the 64-bit numbers."""
    first, second = _FACTORS
    number ^= number >> 33
    number = number * first & _MASK
    number ^= number >> 33
    number = number * second & _MASK
    return number ^ number >> 33


@lru_cache(_CACHED // _CHUNK)
def _chunk(index: int) -> list[int]:
    """F(b+1) of the blocks of one chunk."""
    first, second = _FACTORS
    lanes = _ONES * (index * _CHUNK + 1) + _RAMP
    lanes ^= lanes >> 33 & _HIGH
    lanes = lanes * first & _LOW
    lanes ^= lanes >> 33 & _HIGH
    lanes = lanes * second & _LOW
    lanes ^= lanes >> 33 & _HIGH
    return list(_LANES.unpack(lanes.to_bytes(_LANES.size, "little")))


def _numbers(lba: int, blocks: int) -> list[int]:
    """F(b+1) of each block."""
    index, at = divmod(lba, _CHUNK)
    found = _chunk(index)[at : at + blocks]
    while len(found) < blocks:
        index += 1
        found += _chunk(index)[: blocks - len(found)]
    return found


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
        self._whole = lru_cache(max(1, _PLAIN // (_CHUNK * block_length)))(self._plain_chunk)

    def data(self, lba: int, blocks: int, version: int) -> bytes:
        """What a write of that version (32 bits; 0: of none) stores."""
        if not version:
            return self._plain(lba, blocks)
        stamp = self._nonce | version
        return self._filled([number ^ stamp for number in _numbers(lba, blocks)])

    def _filled(self, heads: list[int]) -> bytes:
        """Blocks that are full of these words."""
        pack, words = _WORD.pack, self._words
        return b"".join([pack(head) * words for head in heads])

    def _plain_chunk(self, index: int) -> bytes:
        return self._filled(_chunk(index))

    def _plain(self, lba: int, blocks: int) -> bytes:
        """The pattern without versions; what is written again and again is kept."""
        index, at = divmod(lba, _CHUNK)
        length = self._length
        if at + blocks <= _CHUNK:
            return self._whole(index)[at * length : (at + blocks) * length]
        last, end = divmod(lba + blocks, _CHUNK)
        pieces = [self._whole(index)[at * length :]]
        pieces += [self._whole(each) for each in range(index + 1, last)]
        if end:
            pieces.append(self._whole(last)[: end * length])
        return b"".join(pieces)

    def versions(self, lba: int, data: Buffer) -> list[int]:
        """The version that each block holds, or `ZERO`, or `FOREIGN`."""
        words, length, version = self._words, self._length, self._version
        whole = bytes(data)
        blocks = len(whole) // length
        if not self._nonce and whole == self._plain(lba, blocks):
            return [0] * blocks
        if whole[:WORD] == _NOTHING and whole == bytes(len(whole)):
            return [ZERO] * blocks
        heads = _words(whole)[::words].tolist()
        stamps = list(map(xor, _numbers(lba, blocks), heads))
        if stamps.count(stamps[0]) == blocks and 0 not in heads:  # all of one write
            found = [version(stamps[0])] * blocks
        else:
            found = [
                version(stamp) if head else ZERO for stamp, head in zip(stamps, heads, strict=True)
            ]
        if whole != self._filled(heads):
            for index, start in enumerate(range(0, len(whole), length)):
                if whole[start : start + length] != whole[start : start + WORD] * words:
                    found[index] = FOREIGN
        return found

    def mixed(self, lba: int, block: Buffer) -> set[int]:
        """The versions that the words of one block hold: several, if writes of it overlapped."""
        words = set(struct.unpack(f"<{self._words}Q", block))
        number = finaliser(lba + 1)
        return {self._version(number ^ word) if word else ZERO for word in words}

    def _version(self, stamp: int) -> int:
        if not stamp:
            return 0
        serial = stamp ^ self._nonce
        return serial if 0 < serial <= _SERIAL and self._nonce else FOREIGN


def _words(data: bytes) -> memoryview:
    """Little-endian words, whatever this machine's order is."""
    if sys.byteorder == "little":
        return memoryview(data).cast("Q")
    words = array("Q", data)
    words.byteswap()
    return memoryview(words)


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
