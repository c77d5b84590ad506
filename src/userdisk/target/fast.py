"""Where READ and WRITE keep their fields: one layout for the engine and for a port's fast path.

SBC-4 5.16 to 5.20, 5.40 to 5.46 (the 10, 12 and 16 byte CDBs).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from userdisk.scsi.opcodes import Opcode
from userdisk.unit import Buffer

#: (buffer, offset) -> five numbers.
Unpack: TypeAlias = "Callable[[Buffer, int], tuple[Any, ...]]"

FUA = 0x08  #: in flags: to or from the medium
FLAGS = 0x18  #: the bits of flags that are plain: DPO (a hint) and FUA
GROUP = 0x3F  #: the bits of group that are plain

_TEN = struct.Struct(">xBIBHB").unpack_from
_TWELVE = struct.Struct(">xBIIBB").unpack_from
_SIXTEEN = struct.Struct(">xBQIBB").unpack_from

#: opcode -> (unpack, is_write, group_first). `unpack(buffer, offset of the CDB)` gives
#: (flags, lba, group, blocks, control) if `group_first`, else (flags, lba, blocks, group, control):
#: the longer CDBs have these two the other way round.
EXTENT: dict[int, tuple[Unpack, bool, bool]] = {
    Opcode.READ_10: (_TEN, False, True),
    Opcode.WRITE_10: (_TEN, True, True),
    Opcode.READ_12: (_TWELVE, False, False),
    Opcode.WRITE_12: (_TWELVE, True, False),
    Opcode.READ_16: (_SIXTEEN, False, False),
    Opcode.WRITE_16: (_SIXTEEN, True, False),
}

#: opcode -> byte of TRANSFER LENGTH, for field pointers.
LENGTH_BYTE: dict[int, int] = {
    Opcode.READ_10: 7,
    Opcode.WRITE_10: 7,
    Opcode.READ_12: 6,
    Opcode.WRITE_12: 6,
    Opcode.READ_16: 10,
    Opcode.WRITE_16: 10,
    Opcode.READ_6: 4,
    Opcode.WRITE_6: 4,
}


class Extent(NamedTuple):
    """What a READ or WRITE addresses."""

    lba: int
    blocks: int
    fua: bool


def decode(cdb: bytes) -> Extent:
    """The extent of a READ or WRITE of any length; in the 6-byte ones 0 blocks means 256."""
    opcode = cdb[0]
    if opcode in (Opcode.READ_6, Opcode.WRITE_6):
        return Extent(int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256, False)
    unpack, _, group_first = EXTENT[opcode]
    flags, lba, group, blocks, _ = unpack(cdb, 0)
    return Extent(lba, blocks if group_first else group, bool(flags & FUA))
