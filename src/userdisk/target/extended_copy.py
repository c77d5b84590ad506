"""EXTENDED COPY(LID1): segments of blocks, from logical unit to logical unit (SPC-5 6.5, 5.18.7).

The whole list is decoded and every segment checked before the first is copied; a list that cannot
be carried out changes nothing. What is wrong with the list itself is an ILLEGAL REQUEST, what is
wrong with a segment or a unit makes the copy ABORTED, with the segment's number.

Segments are copied one after another. One whose source and destination overlap is copied from the
end that keeps the source whole, as if all of it had been read first. Residual data is not carried
over: a segment that is not whole blocks of both units is refused, whatever PAD and CAT say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from userdisk.scsi import inquiry, sense
from userdisk.scsi import third_party_copy as limits
from userdisk.scsi.copy_status import BYTES, Progress, State
from userdisk.scsi.opcodes import Opcode, ThirdPartyCopyOut
from userdisk.scsi.sense import Asc, Pointer, Relayed, Sense, SenseKey
from userdisk.target import copying
from userdisk.target.command import (
    BUSY,
    GOOD,
    CheckCondition,
    Command,
    Completion,
    Steps,
)
from userdisk.target.data_out import receive_all
from userdisk.target.nexus import Path

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit

#: LIST IDENTIFIER, flags, CSCD descriptor list length, segment and inline data lengths
_HEADER = struct.Struct(">BBH4xII")
#: type, peripheral device type, code set, designator type, its length, designator, block length
_CSCD = struct.Struct(">BB2xBBxB20sI")
#: type, flags, length, CSCD IDs, blocks, LBAs
_SEGMENT = struct.Struct(">BBHHH2xHQQ")
_DC = 0x02
_SOURCE, _DESTINATION = 1, 2
_HOLD, _DISCARD, _NO_IDENTIFIER = 0, 2, 3  # LIST ID USAGE


class _Cscd(NamedTuple):
    """A copy source or copy destination, as a descriptor names it."""

    at: int  #: of the descriptor in the parameter list
    device_type: int
    name: tuple[int, int, bytes]  #: designator type, code set, designator
    block_length: int


class _Asked(NamedTuple):
    """A segment descriptor."""

    flags: int
    source: int
    destination: int
    blocks: int
    source_lba: int
    destination_lba: int


class _List(NamedTuple):
    """A parameter list."""

    identifier: int | None
    cscds: list[_Cscd]
    segments: list[_Asked]


class _Segment(NamedTuple):
    """A segment that can be copied."""

    source: Path
    destination: Path
    source_lba: int
    destination_lba: int
    length: int


def extended_copy(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """EXTENDED COPY(LID1)."""
    length = int.from_bytes(command.cdb[10:14], "big")
    if not length:
        return GOOD
    if not _HEADER.size <= length <= _HEADER.size + limits.MAX_LIST_LENGTH:
        raise CheckCondition(sense.parameter_list_length_error())
    return _extended_copy(lu, command, length)


def _extended_copy(lu: LogicalUnit, command: Command, length: int) -> Steps:
    asked = _decode((yield from receive_all(command, length)))
    nexus = command.path.nexus
    progress = Progress(ThirdPartyCopyOut.EXTENDED_COPY_LID1, BYTES)
    if asked.identifier is not None and not lu.copies.begin(nexus, asked.identifier, progress):
        return BUSY
    try:
        segments = list(_checked(command.path, asked))
        for number, segment in enumerate(segments):
            progress.segments = number + 1
            yield from _copy(command.path, segment, number, asked.segments[number], asked, progress)
    except CheckCondition as refused:
        answer = lu.check_condition(refused.sense, length)
        progress.end(State.FAILED, answer.status, answer.sense)
        return answer
    except BaseException:  # GeneratorExit: the command was aborted
        progress.end(State.TERMINATED)
        raise
    progress.end(State.COMPLETED)
    return Completion(wanted=length)


# -- the parameter list ------------------------------------------------------------------------


def _decode(data: bytes) -> _List:
    """A parameter list whose form is right; raises CheckCondition."""
    identifier, flags, cscd_length, segment_length, inline_length = _HEADER.unpack_from(data)
    usage = flags >> 3 & 3
    if usage not in (_HOLD, _DISCARD, _NO_IDENTIFIER):
        raise CheckCondition(sense.invalid_field_in_parameter_list(1, 4))
    if usage == _NO_IDENTIFIER and identifier:
        raise CheckCondition(sense.invalid_field_in_parameter_list(0))
    start = _HEADER.size + cscd_length
    end = start + segment_length
    if cscd_length + segment_length > limits.MAX_LIST_LENGTH:
        raise CheckCondition(sense.parameter_list_length_error())
    if inline_length:
        raise CheckCondition(_illegal(Asc.INLINE_DATA_LENGTH_EXCEEDED, 12))
    if end > len(data):
        raise CheckCondition(sense.parameter_list_length_error())
    return _List(
        None if usage == _NO_IDENTIFIER else identifier,
        list(_decode_cscds(data[:start])),
        list(_decode_segments(data[:end], start)),
    )


def _illegal(code: Asc, byte: int) -> Sense:
    return Sense(SenseKey.ILLEGAL_REQUEST, code, None, Pointer(byte, None, False))


def _decode_cscds(data: bytes) -> Iterator[_Cscd]:
    for number, at in enumerate(range(_HEADER.size, len(data), _CSCD.size)):
        if number == limits.MAX_CSCDS:
            raise CheckCondition(_illegal(Asc.TOO_MANY_TARGET_DESCRIPTORS, at))
        if data[at] != limits.IDENTIFICATION:
            raise CheckCondition(_illegal(Asc.UNSUPPORTED_TARGET_DESCRIPTOR_TYPE, at))
        if at + _CSCD.size > len(data):
            raise CheckCondition(sense.invalid_field_in_parameter_list(2))
        _, device, code_set, kind, length, designator, block_length = _CSCD.unpack_from(data, at)
        if length > len(designator):
            raise CheckCondition(sense.invalid_field_in_parameter_list(at + 7))
        name = _name(kind & 0x3F, code_set & 0xF, designator[:length])
        yield _Cscd(at, device & 0x1F, name, block_length & 0xFFFFFF)


def _name(kind: int, code_set: int, value: bytes) -> tuple[int, int, bytes]:
    """A designator, in a form that can be compared; its association is in `kind`."""
    return kind, code_set, value.rstrip(b"\0") if kind == 8 else value


def _decode_segments(data: bytes, start: int) -> Iterator[_Asked]:
    for number, at in enumerate(range(start, len(data), _SEGMENT.size)):
        if number == limits.MAX_SEGMENTS:
            raise CheckCondition(_illegal(Asc.TOO_MANY_SEGMENT_DESCRIPTORS, at))
        if data[at] != limits.BLOCK_TO_BLOCK:
            raise CheckCondition(_illegal(Asc.UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE, at))
        if at + _SEGMENT.size > len(data):
            raise CheckCondition(sense.invalid_field_in_parameter_list(8))
        _, flags, length, *rest = _SEGMENT.unpack_from(data, at)
        if length != _SEGMENT.size - 4:
            raise CheckCondition(sense.invalid_field_in_parameter_list(at + 2))
        yield _Asked(flags, *rest)


# -- what the segments need --------------------------------------------------------------------


def _aborted(
    code: int,
    number: int,
    pointer: Pointer,
    relayed: Relayed | None = None,
    residual: int | None = None,
) -> CheckCondition:
    return CheckCondition(
        Sense(SenseKey.COPY_ABORTED, code, residual, pointer, number, relayed=relayed)
    )


def _in_segment(byte: int) -> Pointer:
    return Pointer(byte, None, in_cdb=False, in_segment=True)


def _checked(path: Path, asked: _List) -> Iterator[_Segment]:
    """The segments, if all of them can be copied."""
    names: dict[tuple[int, int, bytes], Path] = {}
    if asked.cscds:
        for each in path.nexus.paths.values():
            what = each.lu.parameters
            for name in inquiry.designators(what.guid, what.product_id, None):
                names.setdefault(_name(name.kind, name.code_set, name.value), each)
    for number, segment in enumerate(asked.segments):
        yield _check_segment(
            segment,
            number,
            asked,
            _resolve(path, names, asked, segment.source, number, 4),
            _resolve(path, names, asked, segment.destination, number, 6),
        )


def _resolve(
    path: Path,
    names: dict[tuple[int, int, bytes], Path],
    asked: _List,
    identifier: int,
    number: int,
    byte: int,
) -> Path:
    """The way to the unit that a CSCD descriptor ID names."""
    if identifier == limits.ADDRESSED_UNIT:
        return path
    if identifier >= len(asked.cscds):
        raise _aborted(Asc.COPY_TARGET_NOT_REACHABLE, number, _in_segment(byte))
    cscd = asked.cscds[identifier]
    found = names.get(cscd.name)
    if found is None:
        raise _aborted(Asc.COPY_TARGET_NOT_REACHABLE, number, Pointer(cscd.at, None, False))
    if cscd.device_type:
        raise _aborted(Asc.INCORRECT_COPY_TARGET_TYPE, number, Pointer(cscd.at, None, False))
    if cscd.block_length not in (0, found.lu.block_length):
        pointer = Pointer(cscd.at + 29, None, False)
        raise _aborted(Asc.INVALID_FIELD_IN_PARAMETER_LIST, number, pointer)
    return found


def _check_segment(
    asked: _Asked, number: int, whole: _List, source: Path, destination: Path
) -> _Segment:
    source_length, destination_length = source.lu.block_length, destination.lu.block_length
    length = asked.blocks * (destination_length if asked.flags & _DC else source_length)
    if length % source_length or length % destination_length:
        raise _aborted(Asc.UNEXPECTED_INEXACT_SEGMENT, number, _in_segment(10))
    segment = _Segment(source, destination, asked.source_lba, asked.destination_lba, length)
    blocks = length // source_length, length // destination_length
    if asked.source_lba + blocks[0] > source.lu.block_count:
        raise _aborted(Asc.NO_ADDITIONAL_SENSE, number, _in_segment(12))
    if asked.destination_lba + blocks[1] > destination.lu.block_count:
        raise _aborted(Asc.NO_ADDITIONAL_SENSE, number, _in_segment(20))
    try:
        copying.check(source, Opcode.READ_16, asked.source_lba, blocks[0])
    except copying.Refused as refused:
        _fail(refused.completion, _SOURCE, number, asked, whole)
    try:
        copying.check(destination, Opcode.WRITE_16, asked.destination_lba, blocks[1])
    except copying.Refused as refused:
        _fail(refused.completion, _DESTINATION, number, asked, whole)
    return segment


def _fail(
    completion: Completion,
    role: int,
    number: int,
    asked: _Asked,
    whole: _List,
    residual: int | None = None,
) -> NoReturn:
    """A unit has not done its part: raise CheckCondition with what it answered."""
    identifier = asked.source if role == _SOURCE else asked.destination
    if identifier == limits.ADDRESSED_UNIT:
        pointer = _in_segment(4 if role == _SOURCE else 6)
    else:
        pointer = Pointer(whole.cscds[identifier].at, None, False)
    relayed = Relayed(role, completion.status, completion.sense)
    raise _aborted(Asc.THIRD_PARTY_DEVICE_FAILURE, number, pointer, relayed, residual)


# -- copying -----------------------------------------------------------------------------------


def _copy(
    path: Path, segment: _Segment, number: int, asked: _Asked, whole: _List, progress: Progress
) -> copying.Moving:
    source, destination, source_lba, destination_lba, length = segment
    source_length, destination_length = source.lu.block_length, destination.lu.block_length
    size = copying.step(destination, source)
    before = progress.transferred
    elsewhere = destination.lu is not path.lu
    within = 0 < destination_lba - source_lba < length // source_length
    backward = within and source.lu.gate is destination.lu.gate
    offsets = range(0, length, size)
    written = 0
    for offset in reversed(offsets) if backward else offsets:
        count = min(size, length - offset)
        role = _SOURCE
        try:
            lba, blocks = source_lba + offset // source_length, count // source_length
            copying.check(source, Opcode.READ_16, lba, blocks)
            data = yield from copying.read(source, lba, blocks, progress)
            role = _DESTINATION
            lba = destination_lba + offset // destination_length
            yield from copying.write(destination, lba, data, progress, alone=elsewhere)
        except copying.Refused as refused:
            # of what is written from the end on, nothing counts before all of it is
            left = length - (0 if backward else written)
            residual = left // destination_length if written else None
            _fail(refused.completion, role, number, asked, whole, residual)
        written += count
        if not backward:
            progress.transferred += count
    progress.transferred = before + length
