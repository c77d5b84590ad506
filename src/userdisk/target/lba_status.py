"""GET LBA STATUS(16): which blocks are mapped (SBC-4 5.7, 6.5.4).

The unit's extents, adjacent runs of one state merged, from the requested block on.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from userdisk.operation import Kind, Operation
from userdisk.scsi import lba_status, sense
from userdisk.target import provisioning
from userdisk.target.command import CheckCondition, Command, Completion, Steps
from userdisk.target.data_in import data_in

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit

_HEADER, _DESCRIPTOR = lba_status.HEADER_STRUCT, lba_status.DESCRIPTOR_STRUCT
_MOST_DESCRIPTORS = 1024
_MOST_CALLS = 64  # of `extents`; more only while nothing is found
_MOST_BLOCKS = (1 << 32) - 1  # of one descriptor

_MAPPED, _DEALLOCATED = 0, 1  # PROVISIONING STATUS
#: REPORT TYPE -> the states that are reported; none is ever anchored
_REPORTED: dict[int, frozenset[int]] = {
    0: frozenset({_MAPPED, _DEALLOCATED}),
    1: frozenset({_DEALLOCATED}),  # other than mapped
    2: frozenset({_MAPPED}),
    3: frozenset({_DEALLOCATED}),
}
_RTP = 0x01  # the report type was processed
_BY_ALLOCATION_LENGTH, _BY_CAPACITY = 1 << 1, 3 << 1  # COMPLETION CONDITION


class _Run(NamedTuple):
    lba: int
    blocks: int
    state: int


def get_lba_status(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """GET LBA STATUS(16)."""
    cdb = command.cdb
    lba, allocation = struct.unpack_from(">QI", cdb, 2)
    if lba >= lu.block_count:
        raise CheckCondition(sense.lba_out_of_range(lba))
    if cdb[14] not in _REPORTED:
        raise CheckCondition(sense.invalid_field_in_cdb(14))
    return _status(lu, lba, allocation, _REPORTED[cdb[14]])


def _status(lu: LogicalUnit, lba: int, allocation: int, reported: frozenset[int]) -> Steps:
    asked = max(1, -(-(allocation - _HEADER.size) // _DESCRIPTOR.size))
    room = min(asked, _MOST_DESCRIPTORS)
    thin = provisioning.offered(lu)
    runs: list[_Run] = []
    calls = 0
    while lba < lu.block_count and len(runs) <= room and (calls < _MOST_CALLS or not runs):
        left = lu.block_count - lba
        found = yield Operation(Kind.EXTENTS, lba, left, offload=calls > 0)
        calls += 1
        for extent in lu.gate.checked_extents(found, lba, left):
            state = _DEALLOCATED if thin and not extent.mapped else _MAPPED
            if state in reported:
                _add(runs, _Run(lba, extent.blocks, state), room)
            lba += extent.blocks
    if len(runs) > room:
        ended = _BY_ALLOCATION_LENGTH if room == asked else 0
    else:
        ended = _BY_CAPACITY if lba == lu.block_count else 0
    body = b"".join(_DESCRIPTOR.pack(*run) for run in runs[:room])
    return data_in(_HEADER.pack(4 + len(body), ended | _RTP) + body, allocation)


def _add(runs: list[_Run], run: _Run, room: int) -> None:
    """Append a run, or lengthen the last one; stops at one more than there is room for."""
    lba, blocks, state = run
    if runs and runs[-1].state == state and runs[-1].lba + runs[-1].blocks == lba:
        before = runs.pop()
        lba, blocks = before.lba, before.blocks + blocks
    while blocks and len(runs) <= room:
        part = min(blocks, _MOST_BLOCKS)
        runs.append(_Run(lba, part, state))
        lba += part
        blocks -= part
