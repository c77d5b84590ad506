"""REPORT LUNS data (SPC-5 6.35)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from userdisk.scsi.fields import Field

HEADER_LENGTH = 8
HEADER: Sequence[Field] = (Field("LUN LIST LENGTH", 0, 32),)
LUN_LENGTH = 8
LUN: Sequence[Field] = (Field("LUN", 0, 64),)

#: SELECT REPORT values: all but well-known units, only well-known units (none), all.
SELECT_REPORTS = (0x00, 0x01, 0x02)


def encode(luns: Sequence[int]) -> bytes:
    """The list of 8-byte LUN fields."""
    return struct.pack(f">I4x{len(luns)}Q", 8 * len(luns), *luns)
