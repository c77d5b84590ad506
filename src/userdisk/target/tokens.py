"""Copies with tokens: POPULATE TOKEN and WRITE USING TOKEN (SBC-4 4.28, 5.12, 5.59).

Windows calls it offloaded data transfer (ODX). All of a list is checked before a token is made or
a block written. Status always comes when the work is done, also with IMMED, which allows that; a
failure on the way is then told by RECEIVE ROD TOKEN INFORMATION only. MAXIMUM TOKEN TRANSFER SIZE
keeps the work short.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from userdisk.operation import Exclusive, Sequel
from userdisk.scsi import inquiry, rod_token, sense
from userdisk.scsi import third_party_copy as limits
from userdisk.scsi.copy_status import BLOCKS, Progress, State
from userdisk.scsi.opcodes import ThirdPartyCopyOut
from userdisk.scsi.sense import Asc, Pointer, Sense, SenseKey
from userdisk.target import copying, rods, sbc
from userdisk.target.command import BUSY, GOOD, CheckCondition, Command, Completion, Steps
from userdisk.target.data_out import receive_all
from userdisk.target.extent import check_range
from userdisk.unit import Extents

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.nexus import Path
    from userdisk.target.rods import Rod

#: data length, flags, inactivity timeout, ROD type, range descriptor length
_POPULATE = struct.Struct(">HBxII2xH")
#: data length, flags, offset into ROD, ROD token, range descriptor length
_WRITE = struct.Struct(">HB5xQ512s6xH")
_RANGE = struct.Struct(">QI4x")
_IMMED, _RTV, _DEL_TKN = 0x01, 0x02, 0x02
_LONGEST = (1 << 16) + 1  # bytes of a list: what its data length can say, and itself


def _list_length(cdb: bytes, header: struct.Struct) -> int:
    length = int.from_bytes(cdb[10:14], "big")
    if length and not header.size <= length <= _LONGEST:
        raise CheckCondition(sense.parameter_list_length_error())
    return length


def _identifier(command: Command) -> int:
    return int.from_bytes(command.cdb[6:10], "big")


def _ranges(lu: LogicalUnit, data: bytes, start: int, described: int) -> Extents:
    """The ranges of a list, without empty ones; raises CheckCondition.

    Descriptors that are not complete are ignored.
    """
    if described < _RANGE.size:
        raise CheckCondition(sense.invalid_field_in_parameter_list(start - 2))
    end = min(start + described, len(data))
    places = range(start, end - _RANGE.size + 1, _RANGE.size)
    if len(places) > limits.MAX_RANGES:
        pointer = Pointer(start - 2, None, in_cdb=False)
        raise CheckCondition(
            Sense(SenseKey.ILLEGAL_REQUEST, Asc.TOO_MANY_SEGMENT_DESCRIPTORS, None, pointer)
        )
    found = []
    left = limits.MAX_TOKEN_BYTES // lu.block_length
    for at in places:
        lba, blocks = _RANGE.unpack_from(data, at)
        left -= blocks
        if left < 0:
            raise CheckCondition(sense.invalid_field_in_parameter_list(at + 8))
        if blocks:
            check_range(lu, lba, blocks)
            found.append((lba, blocks))
    last = 0
    for lba, blocks in sorted(found):
        if lba < last:
            raise CheckCondition(sense.invalid_field_in_parameter_list(start))
        last = lba + blocks
    return found


# -- POPULATE TOKEN ----------------------------------------------------------------------------


def populate_token(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """POPULATE TOKEN: make a token for the data of the ranges. No block is read."""
    length = _list_length(command.cdb, _POPULATE)
    return _populate_token(lu, command, length) if length else GOOD


def _populate_token(lu: LogicalUnit, command: Command, length: int) -> Steps:
    data = yield from receive_all(command, length)
    data_length, flags, timeout, kind, described = _POPULATE.unpack_from(data)
    if data_length < _POPULATE.size - 2 + _RANGE.size:
        raise CheckCondition(sense.invalid_field_in_parameter_list(0))
    if data_length < _POPULATE.size - 2 + described:
        raise CheckCondition(sense.invalid_field_in_parameter_list(14))
    if timeout > limits.MAX_INACTIVITY:
        raise CheckCondition(sense.invalid_field_in_parameter_list(4))
    if flags & _RTV and kind not in (limits.CHANGE_VULNERABLE, limits.POINT_IN_TIME_ANY):
        raise CheckCondition(sense.invalid_field_in_parameter_list(8))
    ranges = _ranges(lu, data, _POPULATE.size, described)
    progress = Progress(ThirdPartyCopyOut.POPULATE_TOKEN, BLOCKS)
    nexus, identifier = command.path.nexus, _identifier(command)
    if not lu.copies.begin(nexus, identifier, progress):
        return BUSY
    token = _token(command.path, ranges)

    def make() -> Sequel:
        yield from ()
        lu.rods.add(token, ranges, timeout or limits.DEFAULT_INACTIVITY)

    try:
        yield Exclusive(make)
    except CheckCondition as refused:
        answer = lu.check_condition(refused.sense, length)
        progress.end(State.FAILED, answer.status, answer.sense)
        return answer
    except BaseException:  # GeneratorExit: the command was aborted
        progress.end(State.TERMINATED)
        raise
    progress.transferred = sum(blocks for _, blocks in ranges)
    lu.copies.keep_token(nexus, identifier, token)
    progress.end(State.COMPLETED)
    return Completion(wanted=length)


def _token(path: Path, ranges: Extents) -> bytes:
    lu = path.lu
    what = lu.parameters
    names = inquiry.designators(what.guid, what.product_id, path.nexus.target.name)
    device = next(name for name in names if name.association == 2)
    return rod_token.encode(
        limits.CHANGE_VULNERABLE,
        lu.random(rod_token.RANDOM_LENGTH),
        unit=rod_token.identification(names[0], lu.block_length),
        size=sum(blocks for _, blocks in ranges) * lu.block_length,
        capacity=sbc.capacity_data(lu),
        target=device.encode(),
    )


# -- WRITE USING TOKEN -------------------------------------------------------------------------


def write_using_token(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """WRITE USING TOKEN: write what a token stands for, or zeros."""
    length = _list_length(command.cdb, _WRITE)
    return _write_using_token(lu, command, length) if length else GOOD


def _write_using_token(lu: LogicalUnit, command: Command, length: int) -> Steps:
    data = yield from receive_all(command, length)
    data_length, flags, offset, token, described = _WRITE.unpack_from(data)
    if data_length < _WRITE.size - 2 + _RANGE.size or data_length != _WRITE.size - 2 + described:
        raise CheckCondition(sense.invalid_field_in_parameter_list(0))
    ranges = _ranges(lu, data, _WRITE.size, described)
    rod = _rod(lu, command, token, offset, ranges)
    progress = Progress(ThirdPartyCopyOut.WRITE_USING_TOKEN, BLOCKS)
    if not lu.copies.begin(command.path.nexus, _identifier(command), progress):
        return BUSY
    try:
        if rod is None:
            answer = yield from _zeros(command.path, ranges, progress)
        else:
            rod.lu.rods.use(rod)
            try:
                answer = yield from _rod_data(command.path, rod, offset, ranges, progress)
            finally:
                rod.lu.rods.used(rod)
            if flags & _DEL_TKN:
                rod.lu.rods.remove([rod], Asc.TOKEN_DELETED)
    except BaseException:  # GeneratorExit: the command was aborted
        progress.end(State.TERMINATED)
        raise
    answer = answer._replace(wanted=length)
    whole = progress.transferred == sum(blocks for _, blocks in ranges)
    progress.end(State.COMPLETED if whole else State.PARTIAL, answer.status, answer.sense)
    return Completion(wanted=length) if flags & _IMMED else answer


def _rod(
    lu: LogicalUnit, command: Command, token: bytes, offset: int, ranges: Extents
) -> Rod | None:
    """What a token stands for; None: zeros. Raises CheckCondition if it cannot be used here."""
    header = rod_token.header(token)
    if not header.length_is_right:
        raise _invalid(Asc.INVALID_TOKEN_LENGTH)
    if header.kind == limits.ZEROS:
        return None
    if header.kind != limits.CHANGE_VULNERABLE:
        raise _invalid(Asc.UNSUPPORTED_TOKEN_TYPE)
    rod = rods.find(command.path.nexus.target, token)
    if offset * lu.block_length >= rod.size:
        raise CheckCondition(sense.invalid_field_in_parameter_list(8))
    if rod.lu.gate is lu.gate and rod.touches(ranges):  # its first write would cancel it
        raise _invalid(Asc.INVALID_TOKEN_OPERATION)
    return rod


def _invalid(code: Asc) -> CheckCondition:
    return CheckCondition(Sense(SenseKey.ILLEGAL_REQUEST, code))


def _zeros(path: Path, ranges: Extents, progress: Progress) -> copying.Moving:
    lu = path.lu
    most = min(lu.step, copying.step(path) // lu.block_length)
    try:
        for lba, blocks in ranges:
            for at in range(lba, lba + blocks, most):
                count = min(most, lba + blocks - at)
                yield from copying.zero(path, at, count, progress)
                progress.transferred += count
    except copying.Refused as refused:
        return refused.completion
    return GOOD


def _rod_data(
    path: Path, rod: Rod, offset: int, ranges: Extents, progress: Progress
) -> copying.Moving:
    """Returns the completion. What a unit fails to write it answers itself, in its own words."""
    lu = path.lu
    source = next(each for each in path.nexus.paths.values() if each.lu is rod.lu)
    most = copying.step(path, source) // lu.block_length
    position = offset * lu.block_length
    for lba, blocks in ranges:
        for at in range(lba, lba + blocks, most):
            left = -(-(rod.size - position) // lu.block_length)
            count = min(most, lba + blocks - at, left)
            length = count * lu.block_length
            if not count:
                return _underrun(lu, progress)
            try:
                data = yield from copying.gather(source, rod.ranges, position, length, progress)
            except copying.Refused:
                return _underrun(lu, progress)
            if not rod.alive:  # a write has come first
                return _underrun(lu, progress)
            if position + length > rod.size:  # of the last block that is not all there
                data.append(bytes(position + length - rod.size))
            try:
                yield from copying.write(path, at, data, progress)
            except copying.Refused as refused:
                return refused.completion
            progress.transferred += count
            position += length
            if count < min(most, lba + blocks - at):
                return _underrun(lu, progress)
    return GOOD


def _underrun(lu: LogicalUnit, progress: Progress) -> Completion:
    """Less was transferred than asked (SBC-4 4.28.2)."""
    count = progress.transferred
    key = SenseKey.COPY_ABORTED if count else SenseKey.ILLEGAL_REQUEST
    return lu.check_condition(Sense(key, Asc.COPY_TARGET_DATA_UNDERRUN, count))
