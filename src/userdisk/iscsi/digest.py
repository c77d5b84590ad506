"""CRC32C digests of headers and data (RFC 7143 13.1; the CRC is RFC 3385's).

The package crc32c does the arithmetic; without it digests are not offered.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

from userdisk.unit import Buffer


@functools.cache
def available() -> bool:
    """Whether digests can be computed at all."""
    return importlib.util.find_spec("crc32c") is not None


@functools.cache
def _crc() -> Callable[[Buffer, int], int]:
    import crc32c

    return crc32c.crc32c


def digest(*buffers: Buffer) -> bytes:
    """The digest of the buffers one after the other, as it goes over the wire."""
    value = 0
    crc = _crc()
    for buffer in buffers:
        value = crc(buffer, value)
    return value.to_bytes(4, "little")
