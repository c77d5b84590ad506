"""Which operations a test makes: WinSpd stgtest's random numbers, op mix and ranges.

Operation i does letter i mod len(mix). A round through the mix is a group; all of it is about one
range of blocks, which is chosen when the group begins.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from userdisk.errors import UsageError

_MULTIPLIER, _INCREMENT = 214013, 2531011
_MASK = 0xFFFFFFFF
_AHEAD = 3072  # bytes made at once
_MIX_LENGTH = 32  # characters of an op mix that are looked at

LETTERS = "RWFU"
DEFAULT_MIX = "WR"


class Random:
    """WinSpd's generator of bytes; the same for seeds 0 and 1.

    Each state follows from the one before by s * a + c; so the n-th from now is s * A + C with
    constants, and one multiplication of long numbers makes many bytes.
    """

    def __init__(self, seed: int) -> None:
        self._state = (seed & _MASK) or 1
        self._bytes = b""
        self._at = 0

    def take(self, count: int) -> int:
        """The next bytes, as a little-endian number."""
        at = self._at
        if at + count > len(self._bytes):
            self._bytes = self._bytes[at:] + self._more()
            at = 0
        self._at = at + count
        return int.from_bytes(self._bytes[at : at + count], "little")

    def _more(self) -> bytes:
        factors, terms = _powers()
        states = (self._state * factors + terms).to_bytes(8 * _AHEAD, "little")
        self._state = int.from_bytes(states[-8:-4], "little")
        return states[2::8]


@lru_cache(maxsize=1)
def _powers() -> tuple[int, int]:
    """The constants A and C of the next states, 64 bits for each."""
    factor, term = 1, 0
    factors, terms = bytearray(), bytearray()
    for _ in range(_AHEAD):
        term = (term * _MULTIPLIER + _INCREMENT) & _MASK
        factor = factor * _MULTIPLIER & _MASK
        factors += factor.to_bytes(8, "little")
        terms += term.to_bytes(8, "little")
    return int.from_bytes(factors, "little"), int.from_bytes(terms, "little")


def parse_mix(text: str) -> str:
    """The letters of an op mix, in upper case; others are passed over, as WinSpd does.

    Raises `UsageError` if it has none of them.
    """
    mix = "".join(c for c in text[:_MIX_LENGTH].upper() if c in LETTERS) if text else DEFAULT_MIX
    if not mix:
        raise UsageError(f"OPMIX {text[:40]!r}: has none of the letters R, W, F and U")
    return mix


class Plan(NamedTuple):
    """What a test is asked to do; a range that is None is random."""

    seed: int
    operations: int | None  #: None: no limit
    mix: str
    address: int | None
    count: int | None


class Generator:
    """The ranges of the groups, one after the other."""

    def __init__(self, plan: Plan, block_count: int, max_count: int) -> None:
        self._random = Random(plan.seed)
        self._plan = plan
        self._blocks, self._most = block_count, max_count
        self._next: int | None = None  # where the next group begins, if that is not random
        self.groups = 0  #: that have begun

    def group(self) -> tuple[int, int]:
        """Begin a group: the address and the count, cut at the end of the disk."""
        plan, blocks = self._plan, self._blocks
        if plan.address is None:
            address = self._random.take(8) % blocks
        elif self._next is None:
            address = plan.address % blocks
        else:
            address = self._next % blocks
        if plan.count is None:
            count = self._random.take(4) % self._most
        else:
            count = min(plan.count, self._most)
        count = count or 1
        self._next = address + count
        self.groups += 1
        return address, min(count, blocks - address)
