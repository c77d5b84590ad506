"""Data-in of a command, cut to its allocation length (SPC-5 4.2.5.6)."""

from __future__ import annotations

from userdisk.target.command import Completion


def data_in(data: bytes, allocation_length: int) -> Completion:
    """GOOD, with at most `allocation_length` bytes of data."""
    return Completion(0, (data[:allocation_length],) if allocation_length else ())
