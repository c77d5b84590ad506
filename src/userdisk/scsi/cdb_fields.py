"""Parts that many CDBs have in common, as fields (SPC-6 4.2, SBC-4 5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from userdisk.scsi.fields import Field

_NACA = 2  # bit of CONTROL


def control(byte: int) -> tuple[Field, ...]:
    """The last byte; its vendor specific bits come first."""
    return (Field("VENDOR SPECIFIC CONTROL", byte, 2), Field("NACA", byte, 1, _NACA))


SERVICE_ACTION = Field("SERVICE ACTION", 1, 5, 4)

_PROTECT = {"R": "RDPROTECT", "W": "WRPROTECT", "V": "VRPROTECT", "O": "ORPROTECT"}


def range_6() -> Sequence[Field]:
    """READ(6), WRITE(6)."""
    return (Field("LOGICAL BLOCK ADDRESS", 1, 21, 4), Field("TRANSFER LENGTH", 4), *control(5))


def range_10(length: str = "TRANSFER LENGTH") -> Sequence[Field]:
    """A 4-byte address, a group number and a 2-byte length, in 10 bytes."""
    return (
        Field("LOGICAL BLOCK ADDRESS", 2, 32),
        Field("GROUP NUMBER", 6, 6, 5),
        Field(length, 7, 16),
        *control(9),
    )


def range_12(length: str = "TRANSFER LENGTH") -> Sequence[Field]:
    """A 4-byte address, a 4-byte length and a group number, in 12 bytes."""
    return (
        Field("LOGICAL BLOCK ADDRESS", 2, 32),
        Field(length, 6, 32),
        Field("GROUP NUMBER", 10, 6, 5),
        *control(11),
    )


def range_16(length: str = "TRANSFER LENGTH") -> Sequence[Field]:
    """An 8-byte address, a 4-byte length and a group number, in 16 bytes."""
    return (
        Field("LOGICAL BLOCK ADDRESS", 2, 64),
        Field(length, 10, 32),
        Field("GROUP NUMBER", 14, 6, 5),
        *control(15),
    )


def flags(protect: str, *names: str) -> Sequence[Field]:
    """Byte 1 of a block command: protection, and which of DPO, FUA, BYTCHK it has."""
    bits = {
        "DPO": Field("DPO", 1, 1, 4),
        "FUA": Field("FUA", 1, 1, 3),
        "RARC": Field("RARC", 1, 1, 2),
        "BYTCHK": Field("BYTCHK", 1, 2, 2),
        "ANCHOR": Field("ANCHOR", 1, 1, 4),
        "UNMAP": Field("UNMAP", 1, 1, 3),
        "NDOB": Field("NDOB", 1, 1, 0),
        "IMMED": Field("IMMED", 1, 1, 1),
        "SYNC_NV": Field("SYNC_NV", 1, 1, 2),
    }
    head = (Field(_PROTECT[protect], 1, 3),) if protect else ()
    return (*head, *(bits[name] for name in names))


def allocation(byte: int, bits: int, last: int) -> Sequence[Field]:
    """ALLOCATION LENGTH at `byte`, and CONTROL."""
    return (Field("ALLOCATION LENGTH", byte, bits), *control(last))


def parameters(byte: int, bits: int, last: int) -> Sequence[Field]:
    """PARAMETER LIST LENGTH at `byte`, and CONTROL."""
    return (Field("PARAMETER LIST LENGTH", byte, bits), *control(last))
