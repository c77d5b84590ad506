"""Moving blocks from unit to unit, in steps of at most 1 MiB (SPC-5 5.18.7.2).

What is read is a row of ranges, seen as one run of bytes, so that units with different block
lengths fit together. Between two steps a copy may be aborted; before each the unit is asked again
whether the initiator may read or write it now.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from userdisk.errors import StorageError
from userdisk.operation import Exclusive, Kind, Operation, Sequel
from userdisk.scsi import sense
from userdisk.scsi.copy_status import Progress
from userdisk.scsi.opcodes import Opcode
from userdisk.target.command import CHECK_CONDITION, Command, Completion
from userdisk.unit import Extents

if TYPE_CHECKING:
    from userdisk.target.nexus import Path

STEP = 1 << 20  # bytes

Moving: TypeAlias = "Generator[Operation, Any, Any]"


class Refused(Exception):
    """A unit did not do its part: `completion` is what it would have answered its initiator."""

    def __init__(self, path: Path, completion: Completion) -> None:
        super().__init__(path.lun)
        self.path = path
        self.completion = completion


def check(path: Path, opcode: Opcode, lba: int, blocks: int) -> None:
    """Raise Refused if the unit would not let the path's nexus read or write now.

    Unit attentions are left alone: they are the initiator's, not the copy's.
    """
    answer = _refusal(path, opcode, lba, blocks)
    if answer is not None:
        raise Refused(path, answer)


def _refusal(path: Path, opcode: Opcode, lba: int, blocks: int) -> Completion | None:
    return path.lu.refusal(Command(struct.pack(">BxQIxx", opcode, lba, blocks), path))


def step(path: Path, *others: Path) -> int:
    """How many bytes to move at a time: whole blocks of all the units."""
    granule = max(each.lu.block_length for each in (path, *others))
    return max(granule, min(STEP, path.lu.step * path.lu.block_length) // granule * granule)


def read(path: Path, lba: int, blocks: int, progress: Progress) -> Moving:
    """Read blocks; returns the list of their buffers. Raises Refused."""
    lu = path.lu
    buffers = []
    while blocks:
        count = min(blocks, lu.step, max(1, STEP // lu.block_length))
        data = yield from _operate(path, Operation(Kind.READ, lba, count))
        try:
            buffers.append(lu.gate.checked_read(data, count * lu.block_length))
        except StorageError as error:
            raise _refused(path, error, lba) from error
        progress.operations += 1
        lba += count
        blocks -= count
    return buffers


def gather(path: Path, ranges: Extents, start: int, length: int, progress: Progress) -> Moving:
    """Bytes `start` to `start + length` of what the ranges hold one after another."""
    unit = path.lu.block_length
    buffers: list[Any] = []
    for lba, blocks in ranges:
        size = blocks * unit
        first, last = max(start, 0), min(start + length, size)
        if first < last:
            whole = first // unit, -(-last // unit)  # the blocks that these bytes are in
            found = yield from read(path, lba + whole[0], whole[1] - whole[0], progress)
            if first % unit or last % unit:
                data = memoryview(b"".join(found))
                found = [data[first - whole[0] * unit : last - whole[0] * unit]]
            buffers += found
        start -= size
    return buffers


def write(
    path: Path, lba: int, data: Sequence[Any], progress: Progress, *, alone: bool = False
) -> Moving:
    """Write buffers that are whole blocks together. Raises Refused.

    Args:
        alone: ask the unit and write with nobody else in it. It does not have the command among its
            tasks: so a reservation there that has been answered keeps it out all the same.
    """
    lu = path.lu
    view = memoryview(data[0] if len(data) == 1 else b"".join(data)).cast("B").toreadonly()
    at = 0
    while at < len(view):
        piece = view[at : at + lu.step * lu.block_length]
        blocks = len(piece) // lu.block_length
        if alone:
            yield from _write_alone(path, lba, blocks, piece)
        else:
            check(path, Opcode.WRITE_16, lba, blocks)
            yield from _operate(path, Operation(Kind.WRITE, lba, blocks, data=piece))
        progress.operations += 1
        lba += blocks
        at += len(piece)


def _write_alone(path: Path, lba: int, blocks: int, data: memoryview) -> Moving:
    def steps() -> Sequel:
        answer = _refusal(path, Opcode.WRITE_16, lba, blocks)
        if answer is None:
            yield Operation(Kind.WRITE, lba, blocks, data=data)
        return answer

    answer = yield from _operate(path, Exclusive(steps, lba, blocks))
    if answer is not None:
        raise Refused(path, answer)


def zero(path: Path, lba: int, blocks: int, progress: Progress) -> Moving:
    """Make blocks zero, no more than one step takes. Raises Refused."""
    check(path, Opcode.WRITE_16, lba, blocks)
    yield from _operate(path, Operation(Kind.ZERO, lba, blocks))
    progress.operations += 1


def _operate(path: Path, operation: Operation) -> Moving:
    operation.gate = path.lu.gate
    operation.offload = True  # one of many
    try:
        return (yield operation)
    except StorageError as error:
        raise _refused(path, error, operation.lba) from error


def _refused(path: Path, error: StorageError, lba: int) -> Refused:
    """What the unit would have answered its own initiator."""
    what = sense.from_error(error, lba if error.lba is None else error.lba)
    data = what.encode(descriptor=path.lu.descriptor_sense)
    return Refused(path, Completion(CHECK_CONDITION, (), data))
