"""Block commands: READ, WRITE, PRE-FETCH, SYNCHRONIZE CACHE, READ CAPACITY (SBC-4 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.operation import Kind, Operation
from userdisk.scsi import capacity, sense
from userdisk.target import provisioning
from userdisk.target.command import GOOD, CheckCondition, Command, Completion, Steps
from userdisk.target.data_in import data_in
from userdisk.target.data_out import receive_blocks
from userdisk.target.extent import addressed, announced, transferred
from userdisk.unit import Buffer

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit


def read(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """READ(6), (10), (12) and (16)."""
    lba, blocks, fua, _ = transferred(lu, command.cdb)
    # what an initiator does not take is not read; the residual count says that there is more
    taken = min(blocks, -(-command.data_in_length // lu.block_length))
    return _read(lu, lba, taken, fua, blocks * lu.block_length) if blocks else GOOD


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
    lba, blocks, fua, _ = transferred(lu, command.cdb)
    whole = announced(lu, command, blocks)
    return _write(lu, lba, whole, fua, blocks * lu.block_length) if blocks else GOOD


def _write(lu: LogicalUnit, lba: int, left: int, fua: bool, wanted: int) -> Steps:
    while left:
        data = yield from receive_blocks(lu, left, wanted)
        blocks = len(data) // lu.block_length
        yield Operation(Kind.WRITE, lba, blocks, data=data, fua=fua)
        lba += blocks
        left -= blocks
    return Completion(wanted=wanted)


def pre_fetch(lu: LogicalUnit, command: Command) -> Completion:
    """PRE-FETCH(10) and (16): there is no cache that it could fill, and that is no error."""
    addressed(lu, command.cdb)
    return GOOD


def synchronize_cache(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """SYNCHRONIZE CACHE(10) and (16): flushes all of the unit, whatever the range.

    IMMED is accepted and not used: answering late is allowed, answering early would not be a flush.
    """
    addressed(lu, command.cdb)
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
    return data_in(capacity_data(lu), int.from_bytes(cdb[10:14], "big"))


def capacity_data(lu: LogicalUnit) -> bytes:
    """READ CAPACITY(16) data, which is also in ROD tokens."""
    return capacity.long(
        lu.block_count,
        lu.block_length,
        exponent=(lu.parameters.physical_block_length // lu.block_length).bit_length() - 1,
        provisioned=provisioning.offered(lu),
        zeroes=lu.gate.unit.unmap_zeroes,
    )
