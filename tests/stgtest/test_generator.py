"""The published examples of WinSpd's generator, and the rules for ranges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.errors import UsageError
from userdisk.stgtest.generator import Generator, Plan, Random, parse_mix

BYTES = bytes.fromhex("2923BE84E16CD6AE529049F1")


def lcg(seed: int, count: int) -> bytes:
    """The definition, a byte at a time."""
    state, found = seed or 1, bytearray()
    for _ in range(count):
        state = (state * 214013 + 2531011) % 2**32
        found.append(state >> 16 & 0xFF)
    return bytes(found)


def test_the_published_bytes() -> None:
    assert Random(1).take(12) == int.from_bytes(BYTES, "little")
    assert Random(0).take(12) == int.from_bytes(BYTES, "little")
    assert lcg(1, 12) == BYTES


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (1, [(926505, 82), (637937, 7), (876068, 51), (768835, 9), (775261, 19), (973596, 64)]),
        (42, [(889007, 65), (48031, 75), (32998, 88), (515201, 20)]),
    ],
)
def test_the_published_groups(seed: int, expected: list[tuple[int, int]]) -> None:
    generator = Generator(Plan(seed, 10, "WRUR", None, None), 1048576, 128)
    assert [generator.group() for _ in expected] == expected


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 12), max_size=2000))
def test_many_bytes_at_once_are_the_same_bytes(seed: int, sizes: list[int]) -> None:
    random, expected, at = Random(seed), lcg(seed, sum(sizes)), 0
    for size in sizes:
        assert random.take(size) == int.from_bytes(expected[at : at + size], "little")
        at += size


def test_fixed_ranges_follow_each_other_and_wrap() -> None:
    generator = Generator(Plan(1, None, "W", 90, 8), 100, 16)
    assert [generator.group() for _ in range(4)] == [(90, 8), (98, 2), (6, 8), (14, 8)]


def test_a_fixed_address_after_random_counts() -> None:
    counts = [n % 16 or 1 for n in (int.from_bytes(lcg(7, 40)[i : i + 4], "little")
                                    for i in range(0, 40, 4))]  # fmt: skip
    generator = Generator(Plan(7, None, "W", 0, None), 10**6, 16)
    at = 0
    for count in counts:
        assert generator.group() == (at, count)
        at += count


@pytest.mark.parametrize(("count", "used"), [(0, 1), (1, 1), (16, 16), (17, 16), (2**32 - 1, 16)])
def test_counts_are_at_least_one_and_at_most_the_limit(count: int, used: int) -> None:
    assert Generator(Plan(1, 1, "W", 0, count), 100, 16).group() == (0, used)


def test_an_address_past_the_end_wraps() -> None:
    assert Generator(Plan(1, 1, "W", 2**64 - 1, 1), 100, 16).group() == (15, 1)


def test_a_limit_of_one_block() -> None:
    generator = Generator(Plan(1, 1, "W", None, None), 1, 1)
    assert [generator.group() for _ in range(3)] == [(0, 1)] * 3


@pytest.mark.parametrize(
    ("text", "mix"),
    [("", "WR"), ("wrur", "WRUR"), ("W-R", "WR"), ("W" * 40, "W" * 32), ("." * 31 + "RW", "R")],
)
def test_mixes(text: str, mix: str) -> None:
    assert parse_mix(text) == mix


def test_a_mix_without_operations() -> None:
    with pytest.raises(UsageError, match="OPMIX 'xyz': has none of the letters R, W, F and U"):
        parse_mix("xyz")
