"""ROD tokens: 512 bytes that stand for the data of blocks (SPC-5 5.18.6.4, SBC-4 4.28)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from userdisk.scsi.inquiry import Designator
from userdisk.scsi.third_party_copy import CSCD_LENGTH, IDENTIFICATION

LENGTH = 512
_REST = LENGTH - 8  # ROD TOKEN LENGTH
#: Of these the last are EXTENDED ROD TOKEN DATA, which nobody can guess.
RANDOM_LENGTH = 8 + 256
_DESCRIPTION = struct.Struct(">IxxH8s32s16s32x")
_TARGET_LENGTH = 128


class Header(NamedTuple):
    """What every token begins with."""

    kind: int
    rest: int

    @property
    def length_is_right(self) -> bool:
        """ROD TOKEN LENGTH is that of a block device's tokens."""
        return self.rest == _REST


def header(token: bytes) -> Header:
    """The header of a token."""
    return Header(*struct.unpack_from(">IxxH", token))


def identifier(token: bytes) -> bytes:
    """COPY MANAGER ROD TOKEN IDENTIFIER: another one for each token, but no secret."""
    return token[8:16]


def identification(name: Designator, block_length: int) -> bytes:
    """An identification CSCD descriptor: a logical unit by one of its names."""
    return struct.pack(
        ">BxHBBxB20sI",
        IDENTIFICATION,
        0,
        name.code_set,
        name.association << 4 | name.kind,
        len(name.value),
        name.value,
        block_length,
    )


def encode(
    kind: int,
    random: bytes,
    *,
    unit: bytes,
    size: int,
    capacity: bytes,
    target: bytes,
) -> bytes:
    """A token.

    Args:
        kind: ROD type.
        random: `RANDOM_LENGTH` bytes that nobody can predict.
        unit: the identification CSCD descriptor of the unit whose data it is.
        size: of the data, in bytes.
        capacity: READ CAPACITY(16) data of the unit.
        target: the designation descriptor of the target device; left out if it is too long.
    """
    assert len(unit) == CSCD_LENGTH and len(random) == RANDOM_LENGTH
    name = target if len(target) <= _TARGET_LENGTH else b""
    return (
        _DESCRIPTION.pack(kind, _REST, random[:8], unit, size.to_bytes(16, "big"))
        + capacity[8:].ljust(32, b"\0")
        + name.ljust(_TARGET_LENGTH, b"\0")
        + random[8:]
    )
