"""Operations as NBD requests, and the answers as what a unit would have said; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from userdisk.nbd.wire import Allocation, Command, CommandFlag
from userdisk.nbd_client import Request
from userdisk.operation import Kind, Operation

if TYPE_CHECKING:
    from userdisk.unit import Extent

COMMANDS: Final = {
    Kind.READ: Command.READ,
    Kind.WRITE: Command.WRITE,
    Kind.FLUSH: Command.FLUSH,
    Kind.UNMAP: Command.TRIM,
    Kind.ZERO: Command.WRITE_ZEROES,
    Kind.EXTENTS: Command.BLOCK_STATUS,
}
CHANGING: Final = frozenset({Kind.WRITE, Kind.UNMAP, Kind.ZERO})

#: Zeroes are zeroes that take room: what is to become a hole comes as an UNMAP. To look for holes
#: in what is read would cost more than to send them.
_FLAGS: Final = {Command.WRITE_ZEROES: CommandFlag.NO_HOLE, Command.READ: CommandFlag.DF}
_LONGEST: Final = 1 << 31  # bytes of one TRIM: their length is a 32-bit number


def ranges_of(operation: Operation, block_length: int) -> list[tuple[int, int]]:
    """(offset, length), in bytes, of each request that the operation needs."""
    length = block_length
    if operation.kind is not Kind.UNMAP:
        return [(operation.lba * length, operation.blocks * length)]
    return [
        (start, min(_LONGEST, (lba + blocks) * length - start))
        for lba, blocks in operation.extents
        for start in range(lba * length, (lba + blocks) * length, _LONGEST)
    ]


def request_of(
    command: Command, offset: int, length: int, data: memoryview | bytes | None
) -> Request:
    """A request, with the flags that its command has here."""
    flags = _FLAGS.get(command, CommandFlag(0))
    return Request(command, offset, length, data=data, flags=flags)


def extents_of(operation: Operation, request: Request, block_length: int) -> list[Extent]:
    """What an operation of the kind EXTENTS asked for; at least one block. Lengths in bytes."""
    from userdisk.unit import Extent  # which few disks are asked for

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
