"""The published words of WinSpd's pattern; versions; what is in a block that was read."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.stgtest.pattern import FOREIGN, ZERO, Pattern, detail, finaliser, words_of

VECTORS = {
    0: 0xB456BCFC34C2CB2C,
    1: 0x3ABF2A20650683E7,
    2: 0x0B5181C509F8D8CE,
    7: 0x46ABCCA593A3C687,
    1000: 0x59505935B2C498AC,
}
NONCE = 0x9E3779B9


@pytest.mark.parametrize("block", VECTORS)
def test_the_published_words(block: int) -> None:
    assert finaliser(block + 1) == VECTORS[block]
    assert Pattern(512).data(block, 1, 0) == struct.pack("<Q", VECTORS[block]) * 64


@pytest.mark.parametrize("length", [8, 512, 4096])
@given(lba=st.integers(0, 2**54), blocks=st.integers(1, 200), version=st.integers(0, 2**32 - 1))
def test_what_was_written_is_recognised(length: int, lba: int, blocks: int, version: int) -> None:
    contents = Pattern(length, NONCE)
    data = contents.data(lba, blocks, version)
    stamp = NONCE << 32 | version if version else 0
    assert data == b"".join(
        struct.pack("<Q", finaliser(block + 1) ^ stamp) * (length // 8)
        for block in range(lba, lba + blocks)
    )
    assert contents.versions(lba, data) == [version] * blocks


def test_blocks_of_several_kinds() -> None:
    contents = Pattern(512, NONCE)
    torn = contents.data(3, 1, 5)[:256] + contents.data(3, 1, 6)[256:]
    last = contents.data(4, 1, 7)[:504] + bytes(8)
    data = contents.data(0, 1, 9) + bytes(512) + contents.data(9, 1, 5) + torn + last
    assert contents.versions(0, data) == [9, ZERO, FOREIGN, FOREIGN, FOREIGN]
    assert contents.mixed(3, torn) == {5, 6}
    assert contents.mixed(4, last) == {7, ZERO}
    assert FOREIGN in contents.mixed(3, b"x" * 512)


def test_another_run_is_foreign() -> None:
    data = Pattern(512, NONCE).data(0, 4, 7)
    assert Pattern(512, NONCE + 1).versions(0, data) == [FOREIGN] * 4
    assert Pattern(512).versions(0, data) == [FOREIGN] * 4


def test_without_a_nonce_there_is_one_pattern() -> None:
    contents = Pattern(512)
    data = contents.data(60, 10, 0)
    assert contents.versions(60, data) == [0] * 10
    assert contents.versions(60, data[:-512] + bytes(512)) == [0] * 9 + [ZERO]
    assert contents.versions(61, data) == [FOREIGN] * 10


def test_words_for_people() -> None:
    contents = Pattern(512, NONCE)
    assert words_of([ZERO, FOREIGN, 0, 12]) == "zeros or foreign data or the pattern or write 12"
    torn = contents.data(3, 1, 5)[:256] + contents.data(3, 1, 6)[256:]
    assert detail(torn, 3, 512).startswith("torn at byte 256, begins with 0x")
    assert "the pattern would be 0x3abf2a20650683e7" in detail(contents.data(9, 1, 5), 1, 512)
