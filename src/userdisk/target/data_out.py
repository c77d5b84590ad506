"""Data-out of a command: as one (parameter lists, what is written in one piece), or in blocks."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from userdisk.scsi import sense
from userdisk.target.command import CheckCondition, Command, Receive

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit


def receive_all(command: Command, length: int) -> Generator[Receive, Any, bytes]:
    """Data-out of `length` bytes as one; raises CheckCondition if less was announced."""
    if command.data_out_length < length:
        raise CheckCondition(sense.data_out_too_short(), length)
    pieces = []
    left = length
    while left:
        data = yield Receive(left, whole=length)
        if not data:
            raise CheckCondition(sense.data_out_too_short(), length)
        pieces.append(bytes(data))
        left -= len(data)
    return b"".join(pieces)


def receive_blocks(
    lu: LogicalUnit, blocks: int, wanted: int
) -> Generator[Receive, Any, memoryview]:
    """The next whole blocks of data-out: 1 to `blocks`, no more than one operation takes.

    `wanted` is what the command moves in all, for the residual count if there are none.
    """
    granule = lu.block_length
    data: memoryview = yield Receive(min(blocks, lu.step) * granule, granule)
    if not data or len(data) % granule:
        raise CheckCondition(sense.data_out_too_short(), wanted)
    return data
