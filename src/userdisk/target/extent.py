"""What a block command addresses: CDB layouts, range checks, steps (SBC-4 4.5, 5.2).

The place of LBA and length follows from the CDB's length, which the opcode's group code tells
(SAM-6 5.2). A command that defines fewer bits of a field has the others reserved: the operation
table refuses them, so they are zero here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from userdisk.scsi import sense
from userdisk.target.command import CheckCondition, Command

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit

#: Bytes: what moves more runs in steps of at most so many, on threads of the unit.
LONG = 1 << 20

_FUA = 0x08
_6, _10, _12, _16 = (
    struct.Struct(layout) for layout in (">xBHBx", ">xBIxHx", ">xBIIxx", ">xBQIxx")
)


class _Layout(NamedTuple):
    fields: struct.Struct  #: flags, lba, blocks
    length_byte: int  #: where TRANSFER LENGTH begins, for field pointers


#: group code -> layout
_LAYOUTS: dict[int, _Layout] = {
    0: _Layout(_6, 4),
    1: _Layout(_10, 7),
    2: _Layout(_10, 7),
    4: _Layout(_16, 10),
    5: _Layout(_12, 6),
}


class Addressed(NamedTuple):
    """The blocks of a command."""

    lba: int
    blocks: int
    fua: bool
    length_byte: int


def decode(cdb: bytes) -> Addressed:
    """What a block command addresses; 0 blocks of a 6-byte CDB are 256."""
    fields, length_byte = _LAYOUTS[cdb[0] >> 5]
    flags, lba, blocks = fields.unpack_from(cdb)
    if fields is _6:  # the LBA's high bits are where flags are in others
        return Addressed((flags & 0x1F) << 16 | lba, blocks or 256, False, length_byte)
    return Addressed(lba, blocks, bool(flags & _FUA), length_byte)


def check_range(lu: LogicalUnit, lba: int, blocks: int) -> None:
    """Raise CheckCondition unless the blocks exist; no blocks at the very end do."""
    if lba + blocks > lu.block_count:
        raise CheckCondition(sense.lba_out_of_range(max(lba, lu.block_count)))


def addressed(lu: LogicalUnit, cdb: bytes) -> Addressed:
    """The blocks of a command, which exist; whether it may have so many is not asked."""
    found = decode(cdb)
    check_range(lu, found.lba, found.blocks)
    return found


def transferred(lu: LogicalUnit, cdb: bytes) -> Addressed:
    """The blocks of a command that moves their data: at most MAXIMUM TRANSFER LENGTH."""
    found = addressed(lu, cdb)
    if found.blocks > lu.max_blocks:
        raise CheckCondition(sense.invalid_field_in_cdb(found.length_byte))
    return found


def announced(lu: LogicalUnit, command: Command, blocks: int) -> int:
    """How many of the blocks to write: an initiator that announces less has less written.

    The residual count says so. Raises CheckCondition if the last would not be whole.
    """
    wanted = blocks * lu.block_length
    whole, rest = divmod(min(wanted, command.data_out_length), lu.block_length)
    if rest:
        raise CheckCondition(sense.data_out_too_short(), wanted)
    return whole


def steps(lu: LogicalUnit, lba: int, blocks: int) -> Iterator[tuple[int, int]]:
    """(lba, blocks) of the operations of a command that may be long."""
    most = min(lu.step, LONG // lu.block_length)
    end = lba + blocks
    while lba < end:
        yield lba, min(most, end - lba)
        lba += most


def is_long(lu: LogicalUnit, blocks: int) -> bool:
    """Whether a command of so many blocks is long: its operations are offloaded."""
    return blocks * lu.block_length > LONG
