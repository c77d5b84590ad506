"""Which operation comes when, and where: the sequence that a seed stands for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from userdisk.errors import UsageError

RANDOM: Final = -1  #: an address or count that is drawn for each group
_MIX_LENGTH: Final = 32  # letters that count
_LETTERS: Final = "RWFU"


class Random:
    """The generator of bytes: a linear congruential one with 32 bits; a seed of 0 acts as 1."""

    def __init__(self, seed: int) -> None:
        self._state = (seed or 1) & 0xFFFFFFFF

    def byte(self) -> int:
        """The next byte."""
        self._state = (self._state * 214013 + 2531011) & 0xFFFFFFFF
        return self._state >> 16 & 0xFF

    def number(self, size: int) -> int:
        """The next `size` bytes as a little-endian number."""
        return int.from_bytes(bytes(self.byte() for _ in range(size)), "little")


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
        random = Random(self.seed)
        fixed = min(self.count, self.max_count) or 1
        address, count = self.address, 0
        while True:
            address = random.number(8) if self.address == RANDOM else address + count
            address %= self.block_count
            count = fixed
            if self.count == RANDOM:
                count = random.number(4) % self.max_count or 1
            count = min(count, self.block_count - address)
            yield address, count

    def operations(self) -> Iterator[tuple[str, int, int]]:
        """Letter, address and count of each operation. It does not end."""
        for address, count in self.groups():
            for letter in self.mix:
                yield letter, address, count
