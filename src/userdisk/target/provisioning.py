"""Logical block provisioning: UNMAP (SBC-4 4.7, 5.35)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from userdisk.operation import Kind, Operation
from userdisk.scsi import sense
from userdisk.target.command import GOOD, CheckCondition, Command, Completion, Steps
from userdisk.target.data_out import receive_all
from userdisk.target.extent import check_range, is_long

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit

#: The limits that the block limits page announces: blocks of one command, and descriptors.
MAX_BLOCKS = 1 << 20
MAX_DESCRIPTORS = 256

_HEADER = 8
_DESCRIPTOR = struct.Struct(">QI4x")


def offered(lu: LogicalUnit) -> bool:
    """Whether the unit has UNMAP, and so is thin."""
    return lu.parameters.unmap_supported


def unmap(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """UNMAP; all descriptors are checked before the unit sees the first."""
    length = int.from_bytes(command.cdb[7:9], "big")
    return _unmap(lu, command, length) if length else GOOD


def _unmap(lu: LogicalUnit, command: Command, length: int) -> Steps:
    extents = _decode(lu, (yield from receive_all(command, length)))
    if extents:
        total = sum(blocks for _, blocks in extents)
        yield Operation(Kind.UNMAP, extents=extents, offload=is_long(lu, total))
    return Completion(wanted=length)


def _decode(lu: LogicalUnit, data: bytes) -> list[tuple[int, int]]:
    """The (lba, blocks) pairs of a parameter list, without empty ones."""
    if len(data) < _HEADER:
        raise CheckCondition(sense.parameter_list_length_error())
    following, described = struct.unpack_from(">HH", data)
    if 2 + following > len(data) or _HEADER + described > len(data):
        raise CheckCondition(sense.parameter_list_length_error())
    if 2 + following < _HEADER + described:
        raise CheckCondition(sense.invalid_field_in_parameter_list(0))
    count = described // _DESCRIPTOR.size  # an incomplete last descriptor is ignored
    if count > MAX_DESCRIPTORS:
        raise CheckCondition(sense.invalid_field_in_parameter_list(2))
    extents = []
    total = 0
    for at in range(_HEADER, _HEADER + count * _DESCRIPTOR.size, _DESCRIPTOR.size):
        lba, blocks = _DESCRIPTOR.unpack_from(data, at)
        total += blocks
        check_range(lu, lba, blocks)
        if total > MAX_BLOCKS:
            raise CheckCondition(sense.invalid_field_in_parameter_list(at + 8))
        if blocks:
            extents.append((lba, blocks))
    return extents
