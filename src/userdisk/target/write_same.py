"""WRITE SAME: one block for all of a range (SBC-4 5.49, 5.50)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.operation import Kind, Operation
from userdisk.scsi import sense
from userdisk.scsi.opcodes import Opcode
from userdisk.target import provisioning
from userdisk.target.command import GOOD, CheckCondition, Command, Completion, Steps
from userdisk.target.data_out import receive_all
from userdisk.target.extent import addressed, is_long, steps

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit

#: Blocks: as many as WRITE SAME(10) can say. That is soon written, and nobody needs more.
MAX_BLOCKS = (1 << 16) - 1

_UNMAP, _NDOB = 0x08, 0x01


def write_same(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """WRITE SAME(10) and (16); no blocks are those up to the end of the disk."""
    cdb = command.cdb
    lba, blocks, _, length_byte = addressed(lu, cdb)
    unmap = bool(cdb[1] & _UNMAP)
    if unmap and not provisioning.offered(lu):
        raise CheckCondition(sense.invalid_field_in_cdb(1, 3))
    blocks = blocks or lu.block_count - lba
    if blocks > MAX_BLOCKS:
        raise CheckCondition(sense.invalid_field_in_cdb(length_byte))
    length = lu.block_length
    if cdb[0] == Opcode.WRITE_SAME_16 and cdb[1] & _NDOB:
        length = 0
    elif command.data_out_length != length:
        raise CheckCondition(sense.data_out_too_short(), length)
    return _write_same(lu, command, lba, blocks, unmap, length) if blocks else GOOD


def _write_same(
    lu: LogicalUnit, command: Command, lba: int, blocks: int, unmap: bool, length: int
) -> Steps:
    block = yield from receive_all(command, length)
    zeros = not any(block)
    if zeros and unmap and lu.gate.unit.unmap_zeroes:
        offload = is_long(lu, blocks)
        yield Operation(Kind.UNMAP, extents=[(lba, blocks)], offload=offload)
        if lu.gate.write_through:  # unmap has no FUA
            yield Operation(Kind.FLUSH)
    elif zeros:
        yield from _zero(lu, lba, blocks)
    else:
        yield from _repeat(lu, lba, blocks, block)
    return Completion(wanted=length)


def _zero(lu: LogicalUnit, lba: int, blocks: int) -> Steps:
    offload = is_long(lu, blocks)
    for at, count in steps(lu, lba, blocks):
        yield Operation(Kind.ZERO, at, count, offload=offload)
    return GOOD


def _repeat(lu: LogicalUnit, lba: int, blocks: int, block: bytes) -> Steps:
    offload = is_long(lu, blocks)
    whole = memoryview(b"")
    for at, count in steps(lu, lba, blocks):
        whole = whole or memoryview(block * count)  # the first step is the longest
        yield Operation(Kind.WRITE, at, count, data=whole[: count * len(block)], offload=offload)
    return GOOD
