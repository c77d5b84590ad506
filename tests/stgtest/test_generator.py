"""The published examples of WinSpd's generator, and the rules for ranges."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.errors import UsageError
from userdisk.stgtest.generator import RANDOM, Plan, Random, effective_mix

BYTES = bytes.fromhex("2923BE84E16CD6AE529049F1")


def lcg(seed: int, count: int) -> bytes:
    """The definition, a byte at a time."""
    state, found = seed or 1, bytearray()
    for _ in range(count):
        state = (state * 214013 + 2531011) % 2**32
        found.append(state >> 16 & 0xFF)
    return bytes(found)


def groups(
    address: int, count: int, number: int, *, seed: int = 1, blocks: int = 100, most: int = 16
) -> list[tuple[int, int]]:
    operations = Plan(seed, "W", address, count, blocks, most).operations()
    return [found[1:] for found in islice(operations, number)]


def test_the_published_bytes() -> None:
    assert bytes(next(Random(1).draws("B"))[:12]) == BYTES
    assert bytes(next(Random(0).draws("B"))[:12]) == BYTES
    assert lcg(1, 12) == BYTES


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (1, [(926505, 82), (637937, 7), (876068, 51), (768835, 9), (775261, 19), (973596, 64)]),
        (42, [(889007, 65), (48031, 75), (32998, 88), (515201, 20)]),
    ],
)
def test_the_published_groups(seed: int, expected: list[tuple[int, int]]) -> None:
    found = groups(RANDOM, RANDOM, len(expected), seed=seed, blocks=1048576, most=128)
    assert found == expected


@given(st.integers(0, 2**32 - 1), st.sampled_from(["Q", "I", "QI"]))
def test_many_bytes_at_once_are_the_same_bytes(seed: int, layout: str) -> None:
    size, count = struct.calcsize("<" + layout), 1200
    expected = struct.iter_unpack("<" + layout, lcg(seed, size * count))
    found = chain.from_iterable(Random(seed).draws(layout))
    assert list(islice(found, count * len(layout))) == list(chain.from_iterable(expected))


def the_definition(plan: Plan) -> Iterator[tuple[str, int, int]]:
    """A range at a time, from the bytes."""
    drawn = iter(lcg(plan.seed, 40_000))
    address = plan.address

    def number(size: int) -> int:
        return int.from_bytes(islice(drawn, size), "little")

    while True:
        if plan.address == RANDOM:
            address = number(8)
        address %= plan.block_count
        whole = min(plan.count, plan.max_count)
        if plan.count == RANDOM:
            whole = number(4) % plan.max_count
        whole = whole or 1
        count = min(whole, plan.block_count - address)
        yield from ((letter, address, count) for letter in plan.mix)
        address += whole


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["R", "WR", "WRURF"]),
    st.sampled_from([RANDOM, 0, 7, 2**64 - 1]),
    st.sampled_from([RANDOM, 0, 1, 8, 2**32 - 1]),
    st.sampled_from([(1, 1), (9, 8), (100, 16), (2**20, 128), (2**40 + 1, 2048)]),
)
def test_operations_are_those_of_the_definition(
    seed: int, mix: str, address: int, count: int, disk: tuple[int, int]
) -> None:
    plan = Plan(seed, mix, address, count, *disk)
    number = 1500  # more than are made at once
    assert list(islice(plan.operations(), number)) == list(islice(the_definition(plan), number))


def test_each_letter_of_a_round_has_the_same_range() -> None:
    found = list(islice(Plan(1, "WRU", 5, 2, 100, 16).operations(), 7))
    assert found == [
        ("W", 5, 2), ("R", 5, 2), ("U", 5, 2), ("W", 7, 2), ("R", 7, 2), ("U", 7, 2), ("W", 9, 2),
    ]  # fmt: skip


def test_fixed_ranges_follow_each_other_and_wrap() -> None:
    assert groups(90, 8, 4) == [(90, 8), (98, 2), (6, 8), (14, 8)]


def test_a_fixed_address_after_random_counts() -> None:
    drawn = lcg(7, 40)
    counts = [int.from_bytes(drawn[at : at + 4], "little") % 16 or 1 for at in range(0, 40, 4)]
    at = 0
    for count, found in zip(counts, groups(0, RANDOM, 10, seed=7, blocks=10**6), strict=True):
        assert found == (at, count)
        at += count


@pytest.mark.parametrize(("count", "used"), [(0, 1), (1, 1), (16, 16), (17, 16), (2**32 - 1, 16)])
def test_counts_are_at_least_one_and_at_most_the_limit(count: int, used: int) -> None:
    assert groups(0, count, 1) == [(0, used)]


def test_an_address_past_the_end_wraps() -> None:
    assert groups(2**64 - 1, 1, 1) == [(15, 1)]


def test_a_limit_of_one_block() -> None:
    assert groups(RANDOM, RANDOM, 3, blocks=1, most=1) == [(0, 1)] * 3


@pytest.mark.parametrize(
    ("text", "mix"),
    [("", "WR"), ("wrur", "WRUR"), ("W-R", "WR"), ("W" * 40, "W" * 32), ("." * 31 + "RW", "R")],
)
def test_mixes(text: str, mix: str) -> None:
    assert effective_mix(text) == mix


def test_a_mix_without_operations() -> None:
    with pytest.raises(UsageError, match="xyz: a mix of operations is letters R, W, F and U"):
        effective_mix("xyz")
