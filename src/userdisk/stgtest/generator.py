"""Which operation comes when, and where: the sequence that a seed stands for."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, chain, cycle, repeat
from operator import sub
from typing import Final

from userdisk.errors import UsageError

RANDOM: Final = -1  #: an address or count that is drawn for each group
_MIX_LENGTH: Final = 32  # letters that count
_LETTERS: Final = "RWFU"
_MASK: Final = 0xFFFFFF
_LANE: Final = 6  # bytes: twice those of a state
_AHEAD: Final = 1536  # bytes that are made at once: whole rows of every layout
_ROUNDS: Final = 192  # that are made at once, if no bytes are needed for them


class Random:
    """The generator of bytes: a linear congruential one with 32 bits; a seed of 0 acts as 1.

    A byte is bits 16 to 23 of a state, in which no higher bits have a part: 24 bits are kept. The
    n-th state from now is state * A + C, with constants for each n: so one multiplication of long
    numbers makes many bytes.
    """

    def __init__(self, seed: int) -> None:
        self._state = ((seed & 0xFFFFFFFF) or 1) & _MASK

    def draws(self, layout: str) -> Iterator[tuple[int, ...]]:
        """Numbers of these formats of `struct`, in turn, many at a time. It does not end."""
        row = struct.calcsize("<" + layout)
        unpack = struct.Struct("<" + layout * (_AHEAD // row)).unpack
        while True:
            yield unpack(self._more())

    def _more(self) -> bytes:
        factors, terms = _powers()
        states = (self._state * factors + terms).to_bytes(_LANE * _AHEAD, "little")
        self._state = int.from_bytes(states[-_LANE:], "little") & _MASK
        return states[2::_LANE]


@lru_cache(maxsize=1)
def _powers() -> tuple[int, int]:
    """A and C of the next states, in lanes that are so wide that no carry reaches the next one."""
    factor, term = 1, 0
    factors, terms = bytearray(), bytearray()
    for _ in range(_AHEAD):
        term = (term * 214013 + 2531011) & _MASK
        factor = factor * 214013 & _MASK
        factors += factor.to_bytes(_LANE, "little")
        terms += term.to_bytes(_LANE, "little")
    return int.from_bytes(factors, "little"), int.from_bytes(terms, "little")


def effective_mix(text: str) -> str:
    """The letters of an operation mix that count, in upper case; empty means writes and reads.

    Raises `UsageError` if none is left.
    """
    if not text:
        return "WR"
    mix = "".join(letter for letter in text[:_MIX_LENGTH].upper() if letter in _LETTERS)
    if not mix:
        raise UsageError(f"{text[:40]}: a mix of operations is letters R, W, F and U, such as WRUR")
    return mix


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done on a disk of `block_count` blocks, `max_count` of them at once.

    `address` and `count` are in blocks, or `RANDOM`. Each round through `mix` has one range.
    """

    seed: int
    mix: str
    address: int
    count: int
    block_count: int
    max_count: int

    def operations(self) -> Iterator[tuple[str, int, int]]:
        """Letter, address and count of each operation. It does not end.

        Nothing of it runs for each operation in Python: it would be a tenth of what one costs.
        """
        return chain.from_iterable(map(self._operations, self._ranges()))

    def _operations(self, ranges: tuple[list[int], list[int]]) -> Iterator[tuple[str, int, int]]:
        addresses, counts = ranges
        if (times := len(self.mix)) > 1:
            addresses = [address for address in addresses for _ in range(times)]
            counts = [count for count in counts for _ in range(times)]
        return zip(cycle(self.mix), addresses, counts)

    def _ranges(self) -> Iterator[tuple[list[int], list[int]]]:
        """Addresses and counts of rounds, many at a time. It does not end."""
        disk, most, address = self.block_count, self.max_count, self.address
        somewhere, some = address == RANDOM, self.count == RANDOM
        layout = "Q" * somewhere + "I" * some
        counts = [min(self.count, most) or 1] * _ROUNDS
        for drawn in Random(self.seed).draws(layout) if layout else repeat(()):
            if some:
                counts = [number % most or 1 for number in drawn[somewhere :: len(layout)]]
            if somewhere:
                addresses = [place % disk for place in drawn[:: len(layout)]]
            else:
                addresses = [place % disk for place in accumulate(counts, initial=address)]
                address = addresses.pop()
            if max(addresses) + most <= disk:
                yield addresses, counts
            else:  # some may go past the end
                rests = map(sub, repeat(disk), addresses)
                yield addresses, list(map(min, counts, rests))
