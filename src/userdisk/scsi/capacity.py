"""READ CAPACITY data (SBC-4 5.20, 5.21)."""

from __future__ import annotations

from collections.abc import Sequence

from userdisk.scsi import fields
from userdisk.scsi.fields import Field

_MAX_U32 = (1 << 32) - 1

SHORT_LENGTH = 8
SHORT: Sequence[Field] = (
    Field("RETURNED LOGICAL BLOCK ADDRESS", 0, 32),
    Field("LOGICAL BLOCK LENGTH IN BYTES", 4, 32),
)

LONG_LENGTH = 32
LONG: Sequence[Field] = (
    Field("RETURNED LOGICAL BLOCK ADDRESS", 0, 64),
    Field("LOGICAL BLOCK LENGTH IN BYTES", 8, 32),
    Field("RC BASIS", 12, 2, 5),
    Field("P_TYPE", 12, 3, 3),
    Field("PROT_EN", 12, 1, 0),
    Field("P_I_EXPONENT", 13, 4),
    Field("LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT", 13, 4, 3),
    Field("LBPME", 14, 1, 7),
    Field("LBPRZ", 14, 1, 6),
    Field("LOWEST ALIGNED LOGICAL BLOCK ADDRESS", 14, 14, 5),
)


def short(block_count: int, block_length: int) -> bytes:
    """READ CAPACITY(10) data; FFFFFFFFh tells the initiator to use READ CAPACITY(16)."""
    return fields.encode(
        SHORT_LENGTH,
        SHORT,
        {
            "RETURNED LOGICAL BLOCK ADDRESS": min(block_count - 1, _MAX_U32),
            "LOGICAL BLOCK LENGTH IN BYTES": block_length,
        },
    )


def long(
    block_count: int, block_length: int, *, exponent: int, provisioned: bool, zeroes: bool
) -> bytes:
    """READ CAPACITY(16) data.

    Args:
        exponent: a physical block is 2^exponent logical blocks.
        provisioned: the unit is thin (LBPME).
        zeroes: unmapped blocks read as zeros (LBPRZ).
    """
    return fields.encode(
        LONG_LENGTH,
        LONG,
        {
            "RETURNED LOGICAL BLOCK ADDRESS": block_count - 1,
            "LOGICAL BLOCK LENGTH IN BYTES": block_length,
            "LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT": exponent,
            "LBPME": int(provisioned),
            "LBPRZ": int(provisioned and zeroes),
        },
    )
