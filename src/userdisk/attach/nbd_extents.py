"""The answer to an NBD BLOCK STATUS as extents of a unit; pure."""

from __future__ import annotations

from userdisk.nbd.wire import Allocation
from userdisk.nbd_client import Request
from userdisk.operation import Operation
from userdisk.unit import Extent


def extents_of(operation: Operation, request: Request, block_length: int) -> list[Extent]:
    """What an operation of the kind EXTENTS asked for; at least one block. Lengths in bytes."""
    extents, lba = [], operation.lba
    assert isinstance(request.result, list)
    for size, flags in request.result:
        blocks = min(size // block_length, operation.lba + operation.blocks - lba)
        if blocks < 1:
            break
        mapped, zero = not flags & Allocation.HOLE, bool(flags & Allocation.ZERO)
        extents.append(Extent(lba, blocks, mapped=mapped, zero=zero))
        lba += blocks
    return extents or [Extent(operation.lba, operation.blocks)]
