"""Which operation comes when, and where: the sequence that a seed stands for."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, repeat
from typing import Any, Final

from userdisk.errors import UsageError

RANDOM: Final = -1  #: an address or count that is drawn for each group
_MIX_LENGTH: Final = 32  # letters that count
_LETTERS: Final = "RWFU"
_MASK: Final = 0xFFFFFFFF
_AHEAD: Final = 3072  # bytes that are made at once


class Random:
    """The generator of bytes: a linear congruential one with 32 bits; a seed of 0 acts as 1.

    The n-th state from now is state * A + C, with constants for each n: so one multiplication of
    long numbers makes many bytes.
    """

    def __init__(self, seed: int) -> None:
        self._state = (seed & _MASK) or 1

    def draws(self, layout: str) -> Iterator[tuple[Any, ...]]:
        """What `struct` makes of the next bytes, again and again. It does not end."""
        return chain.from_iterable(self._many(struct.Struct(layout)))

    def _many(self, layout: struct.Struct) -> Iterator[Iterator[tuple[Any, ...]]]:
        rest = b""
        while True:
            rest += self._more()
            whole = len(rest) - len(rest) % layout.size
            yield layout.iter_unpack(rest[:whole])
            rest = rest[whole:]

    def _more(self) -> bytes:
        factors, terms = _powers()
        states = (self._state * factors + terms).to_bytes(8 * _AHEAD, "little")
        self._state = int.from_bytes(states[-8:-4], "little")
        return states[2::8]  # bits 16 to 23 of each


@lru_cache(maxsize=1)
def _powers() -> tuple[int, int]:
    """A and C of the next states, 64 bits for each, so that no carry reaches the next one."""
    factor, term = 1, 0
    factors, terms = bytearray(), bytearray()
    for _ in range(_AHEAD):
        term = (term * 214013 + 2531011) & _MASK
        factor = factor * 214013 & _MASK
        factors += factor.to_bytes(8, "little")
        terms += term.to_bytes(8, "little")
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

    def groups(self) -> Iterator[tuple[int, int]]:
        """The range of each round: address and count. It does not end."""
        return (group[1:] for group in replace(self, mix="R").operations())

    def operations(self) -> Iterator[tuple[str, int, int]]:
        """Letter, address and count of each operation. It does not end."""
        disk, most, mix = self.block_count, self.max_count, self.mix
        fixed = min(self.count, most) or 1
        draws = Random(self.seed).draws
        if self.address == RANDOM and self.count == RANDOM:
            for place, number in draws("<QI"):
                address = place % disk
                count = min(number % most or 1, disk - address)
                for letter in mix:
                    yield letter, address, count
        elif self.address == RANDOM:
            last = disk - fixed
            for (place,) in draws("<Q"):
                address = place % disk
                count = fixed if address <= last else disk - address
                for letter in mix:
                    yield letter, address, count
        else:
            numbers = draws("<I") if self.count == RANDOM else repeat((fixed,))
            address, random = self.address, self.count == RANDOM
            for (number,) in numbers:
                address %= disk
                whole = number % most or 1 if random else number
                count = min(whole, disk - address)
                for letter in mix:
                    yield letter, address, count
                address += whole
