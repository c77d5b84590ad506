"""How fast it went: counts, rates, and latencies as percentiles that are right to one percent."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

_BITS = 8  # of a latency in microseconds that are kept
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
NAMES = {"R": "Read", "W": "Write", "F": "Flush", "U": "Unmap"}


class Latencies:
    """A histogram of microseconds."""

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)
        self.longest = 0.0  #: seconds

    def add(self, seconds: float, times: int = 1) -> None:
        """So many more."""
        micro = int(seconds * 1e6)
        if micro >> _BITS:
            shift = micro.bit_length() - _BITS
            micro = micro >> shift << shift
        self._counts[micro] += times
        if seconds > self.longest:
            self.longest = seconds

    def percentile(self, percent: float) -> float:
        """The microseconds that so many percent do not exceed; 0 if there are none."""
        wanted = sum(self._counts.values()) * percent / 100
        seen = 0
        for micro in sorted(self._counts):
            seen += self._counts[micro]
            if seen >= wanted:
                return micro
        return 0


@dataclass(slots=True)
class _Kind:
    count: int = 0
    bytes: int = 0


class Meter:
    """What has been done, by letter."""

    def __init__(self) -> None:
        self._kinds = {letter: _Kind() for letter in NAMES}
        self._latencies = {letter: Latencies() for letter in NAMES}
        self.count = 0
        self.refused = 0  #: times that the disk did not begin an operation, which was sent again

    def add(self, letter: str, size: int, seconds: float, times: int = 1) -> None:
        """So many operations, of `size` bytes together, have ended after so many seconds."""
        kind = self._kinds[letter]
        kind.count += times
        kind.bytes += size
        self.count += times
        self._latencies[letter].add(seconds, times)

    def rows(self, seconds: float) -> list[dict[str, object]]:
        """A row for each kind of operation that there was; rates over so many seconds."""
        seconds = seconds or 1e-9
        return [
            {
                "operation": NAMES[letter],
                "count": kind.count,
                "per_second": round(kind.count / seconds, 1),
                "bytes_per_second": round(kind.bytes / seconds),
                "latency_us": {
                    **{f"p{p:g}": self._latencies[letter].percentile(p) for p in PERCENTILES},
                    "max": round(self._latencies[letter].longest * 1e6),
                },
            }
            for letter, kind in self._kinds.items()
            if kind.count
        ]
