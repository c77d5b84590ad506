"""Sizes as people write them: 4096, 64M, 1.5G, 10GiB; always in powers of 1024."""

from __future__ import annotations

import re

from userdisk.errors import UsageError

_SIZE = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,18}))?([KMGTPE]?)(i?B)?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_LARGEST = 1 << 63


def parse_size(text: str) -> int:
    """The number of bytes that `text` says; raises `UsageError` for anything else.

    K, M, G, T, P and E are powers of 1024, alone or as KiB and so on. GB is refused, because to
    some it means 10^9.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is not a size: write bytes, or a number and K, M, G, T, P or E")
    whole, fraction, letter, suffix = found.groups()
    unit = 1 << 10 * _POWERS[letter.upper()]
    if suffix in ("B", "b") and letter:
        raise UsageError(f"{text!r} could be decimal or binary: write {whole}{letter}iB or bytes")
    size = int(whole) * unit
    if fraction:
        part = int(fraction) * unit
        if part % 10 ** len(fraction):
            raise UsageError(f"{text!r} is not a whole number of bytes")
        size += part // 10 ** len(fraction)
    if size >= _LARGEST:
        raise UsageError(f"{text!r} is larger than a disk can be (less than 8E)")
    return size


def misfit(size: int, length: int) -> str:
    """Why a size that is no number of whole blocks cannot be; a small one has lost its unit."""
    hint = f"; did you mean {size}M?" if 0 < size < length else ""
    return f"{size} bytes are not a multiple of block_length {length}{hint}"


def format_size(size: int) -> str:
    """`size` bytes in words: exact, and in the largest unit that keeps it short."""
    for letter in "EPTGMK":
        unit = 1 << 10 * _POWERS[letter]
        if size >= unit and size % unit == 0:
            return f"{size // unit} {letter}iB"
    return f"{size} bytes"
