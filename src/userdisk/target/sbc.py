"""Block commands: READ, WRITE, SYNCHRONIZE CACHE, READ CAPACITY (SBC-4 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.operation import Kind, Operation
from userdisk.scsi import capacity, sense
from userdisk.scsi.opcodes import Opcode
from userdisk.target import provisioning
from userdisk.target.command import GOOD, CheckCondition, Command, Completion, Receive, Steps
from userdisk.target.data_in import data_in
from userdisk.target.extent import Addressed, decode
from userdisk.unit import Buffer

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit


def check_range(lu: LogicalUnit, lba: int, blocks: int) -> None:
    """Raise CheckCondition unless the blocks exist; no blocks at the very end do."""
    if lba + blocks > lu.block_count:
        raise CheckCondition(sense.lba_out_of_range(max(lba, lu.block_count)))


def _addressed(lu: LogicalUnit, cdb: bytes) -> Addressed:
    found = decode(cdb)
    check_range(lu, found.lba, found.blocks)
    if found.blocks > lu.max_blocks:
        raise CheckCondition(sense.invalid_field_in_cdb(found.length_byte))
    return found


def read(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """READ(6), (10), (12) and (16)."""
    lba, blocks, fua, _ = _addressed(lu, command.cdb)
    # what an initiator does not take is not read; the residual count says that there is more
    announced = min(blocks, -(-command.data_in_length // lu.block_length))
    return _read(lu, lba, announced, fua, blocks * lu.block_length) if blocks else GOOD


def _read(lu: LogicalUnit, lba: int, left: int, fua: bool, wanted: int) -> Steps:
    buffers: list[Buffer] = []
    while left:
        blocks = min(left, lu.step)
        data = yield Operation(Kind.READ, lba, blocks, fua=fua)
        buffers.append(lu.gate.checked_read(data, blocks * lu.block_length))
        lba += blocks
        left -= blocks
    return Completion(0, buffers, wanted=wanted)


def write(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """WRITE(6), (10), (12) and (16); refused before it starts, it changes nothing."""
    lba, blocks, fua, _ = _addressed(lu, command.cdb)
    wanted = blocks * lu.block_length
    # an initiator that announces less has less written, and the residual count says so
    announced = min(wanted, command.data_out_length)
    if announced % lu.block_length:
        raise CheckCondition(sense.data_out_too_short(), wanted)
    return _write(lu, lba, announced // lu.block_length, fua, wanted) if blocks else GOOD


def _write(lu: LogicalUnit, lba: int, left: int, fua: bool, wanted: int) -> Steps:
    granule = lu.block_length
    while left:
        data = yield Receive(min(left, lu.step) * granule, granule)
        blocks, rest = divmod(len(data), granule)
        if rest or not blocks:
            raise CheckCondition(sense.data_out_too_short(), wanted)
        yield Operation(Kind.WRITE, lba, blocks, data=data, fua=fua)
        lba += blocks
        left -= blocks
    return Completion(wanted=wanted)


def synchronize_cache(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """SYNCHRONIZE CACHE(10) and (16): flushes all of the unit, whatever the range.

    IMMED is accepted and not used: answering late is allowed, answering early would not be a flush.
    """
    cdb = command.cdb
    if cdb[0] == Opcode.SYNCHRONIZE_CACHE_10:
        lba, blocks = int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[7:9], "big")
    else:
        lba, blocks = int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big")
    check_range(lu, lba, blocks)
    return GOOD if lu.parameters.write_protected else _flush()


def _flush() -> Steps:
    yield Operation(Kind.FLUSH)
    return GOOD


def _check_partial(lba: int, partial: bool) -> None:
    if lba and not partial:  # LOGICAL BLOCK ADDRESS without PMI (SBC-2 5.10)
        raise CheckCondition(sense.invalid_field_in_cdb(2))


def read_capacity_10(lu: LogicalUnit, command: Command) -> Completion:
    """Size and block length in 32 bits."""
    cdb = command.cdb
    _check_partial(int.from_bytes(cdb[2:6], "big"), bool(cdb[8] & 1))
    return data_in(capacity.short(lu.block_count, lu.block_length), 8)


def read_capacity_16(lu: LogicalUnit, command: Command) -> Completion:
    """Size, block lengths and provisioning."""
    cdb = command.cdb
    _check_partial(int.from_bytes(cdb[2:10], "big"), bool(cdb[14] & 1))
    data = capacity.long(
        lu.block_count,
        lu.block_length,
        exponent=(lu.parameters.physical_block_length // lu.block_length).bit_length() - 1,
        provisioned=provisioning.offered(lu),
        zeroes=lu.gate.unit.unmap_zeroes,
    )
    return data_in(data, int.from_bytes(cdb[10:14], "big"))
