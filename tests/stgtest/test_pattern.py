"""The published words of WinSpd's pattern; versions; what a word tells of itself."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.stgtest.pattern import ANY, SEVERAL, ZERO, Pattern, fill, finalise, undo

VECTORS = {
    0: 0xB456BCFC34C2CB2C,
    1: 0x3ABF2A20650683E7,
    2: 0x0B5181C509F8D8CE,
    7: 0x46ABCCA593A3C687,
    1000: 0x59505935B2C498AC,
}


@pytest.mark.parametrize("block", VECTORS)
def test_the_published_words(block: int) -> None:
    assert finalise(block + 1) == VECTORS[block]
    assert Pattern(5000).words(block, 1) == struct.pack("<Q", VECTORS[block])
    data = fill(Pattern(5000).words(block, 1), 512)
    assert data == struct.pack("<Q", VECTORS[block]) * 64


@given(st.integers(0, 2**64 - 1))
def test_the_function_can_be_undone(x: int) -> None:
    assert undo(finalise(x)) == x


@given(
    st.integers(1, 2**54), st.integers(0, 2**64), st.integers(0, 2**40), st.integers(1, 200),
    st.data(),
)  # fmt: skip
def test_words_of_many_blocks(
    blocks: int, first: int, serial: int, count: int, data: st.DataObject
) -> None:
    lba = data.draw(st.integers(0, blocks - 1))
    count = min(count, blocks - lba)
    pattern = Pattern(blocks, first)
    words = pattern.words(lba, count, serial)
    version = (first + serial) % 2 ** (64 - pattern.shift)
    assert words == b"".join(
        struct.pack("<Q", finalise(lba + i + 1 + (version << pattern.shift))) for i in range(count)
    )
    room = 2 ** (64 - pattern.shift)
    assert pattern.origin(words[:8]) == (lba, serial % room)
    for word in (ANY, SEVERAL, ZERO):
        assert word not in [words[i : i + 8] for i in range(0, len(words), 8)]


def test_blocks_are_filled_with_their_words() -> None:
    words = Pattern(100).words(3, 4)
    data = fill(words, 16)
    assert data == b"".join(words[i : i + 8] * 2 for i in range(0, 32, 8))


def test_the_last_block_of_the_largest_disk_has_no_reserved_word() -> None:
    for blocks in (2**10 - 2, 2**10 - 1, 2**10, 2**54 - 1, 2**54):
        pattern = Pattern(blocks)
        words = {pattern.words(blocks - 1, 1, serial) for serial in range(-3, 3)}
        assert not words & {ANY, SEVERAL, ZERO}
