"""What a READ or WRITE addresses: the CDB layouts (SBC-4 5.15 to 5.20, 5.40 to 5.46)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from userdisk.scsi.opcodes import Opcode

_FUA = 0x08
_6, _10, _12, _16 = (
    struct.Struct(layout) for layout in (">xBHBx", ">xBIxHx", ">xBIIxx", ">xBQIxx")
)


class _Layout(NamedTuple):
    fields: struct.Struct  #: flags, lba, blocks
    length_byte: int  #: where TRANSFER LENGTH begins, for field pointers


_LAYOUTS: dict[int, _Layout] = {
    Opcode.READ_6: _Layout(_6, 4),
    Opcode.WRITE_6: _Layout(_6, 4),
    Opcode.READ_10: _Layout(_10, 7),
    Opcode.WRITE_10: _Layout(_10, 7),
    Opcode.READ_12: _Layout(_12, 6),
    Opcode.WRITE_12: _Layout(_12, 6),
    Opcode.READ_16: _Layout(_16, 10),
    Opcode.WRITE_16: _Layout(_16, 10),
}


class Addressed(NamedTuple):
    """The blocks of a READ or WRITE."""

    lba: int
    blocks: int
    fua: bool
    length_byte: int


def decode(cdb: bytes) -> Addressed:
    """What a READ or WRITE of any CDB length addresses; 0 blocks of a 6-byte CDB are 256."""
    fields, length_byte = _LAYOUTS[cdb[0]]
    flags, lba, blocks = fields.unpack_from(cdb)
    if fields is _6:  # the LBA's high bits are where flags are in others
        return Addressed((flags & 0x1F) << 16 | lba, blocks or 256, False, length_byte)
    return Addressed(lba, blocks, bool(flags & _FUA), length_byte)
