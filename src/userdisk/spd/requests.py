"""What each request of the pipe protocol does: checks and a handler, in a table by kind.

A handler is a generator: it yields the operations that it needs, one after the other, and returns
the response's payload. A request that is refused changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, TypeAlias

from userdisk.errors import OutOfRange, StorageError, Unsupported, WriteProtected
from userdisk.gate import Gate
from userdisk.operation import Kind as Does
from userdisk.operation import Operation
from userdisk.spd import wire
from userdisk.spd.wire import CHECK_CONDITION, Flag, Kind, Parameters, Status
from userdisk.unit import Buffer

_INVALID_FIELD = Status(CHECK_CONDITION, 0x5, 0x24, 0x00)
_INVALID_LIST = Status(CHECK_CONDITION, 0x5, 0x26, 0x00)

_EXTENTS = 256  # of one call of the unit's `unmap`
_UNMAPPED = 1 << 30  # bytes of one call
_LONG = 1 << 20  # bytes: what does more is not for the connection's thread

Extent: TypeAlias = tuple[int, int]  #: lba and blocks

#: Yields operations (is sent their results; `StorageError` is thrown into it); returns payload.
Steps: TypeAlias = Generator[Operation, Any, Buffer]


class Refused(Exception):
    """The request cannot be done."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status


class Request(NamedTuple):
    """A message of a client. `payload` is a view of it."""

    hint: int
    kind: int
    lba: int
    blocks: int  #: of an UNMAP: the number of its descriptors
    fua: bool
    payload: memoryview


def decode(message: memoryview) -> Request:
    """The request in a message of at least `wire.HEADER` bytes."""
    hint, kind, lba, blocks, flags = wire.REQUEST.unpack_from(message)
    if kind == Kind.UNMAP:
        hint, kind, blocks = wire.UNMAP_REQUEST.unpack_from(message)
        lba = flags = 0
    return Request(hint, kind, lba, blocks, bool(flags & wire.FUA), message[wire.HEADER :])


def status_of(error: StorageError) -> Status:
    """What a client is told of a failure."""
    return Status(CHECK_CONDITION, *error.sense, error.lba)


class Device:
    """What requests are answered from: a unit, as it was announced to one client."""

    def __init__(self, gate: Gate, announced: Parameters) -> None:
        self.gate = gate
        self.announced = announced
        self.writable = not announced.flags & Flag.WRITE_PROTECTED

    def start(self, request: Request) -> Steps:
        """Check a request and start it. Raises `Refused`."""
        rule = _RULES.get(request.kind)
        if rule is None or not request.hint:
            raise Refused(status_of(Unsupported()) if rule is None else _INVALID_FIELD)
        if rule.changes and not self.writable:
            raise Refused(status_of(WriteProtected()))
        rule.check(self, request)
        return rule.handler(self, request)

    def cost(self, request: Request) -> int:
        """Bytes that it may hold of memory."""
        if request.kind == Kind.READ:
            return min(
                request.blocks * self.announced.block_length, self.announced.max_transfer_length
            )
        return len(request.payload)

    def check_range(self, lba: int, blocks: int) -> None:
        """Raise `Refused` unless these are blocks of the disk, which may have been cut since."""
        end = min(self.announced.block_count, self.gate.parameters.block_count)
        if lba + blocks > end:
            raise Refused(status_of(OutOfRange(lba=max(lba, end))))


def _check_data(device: Device, request: Request) -> None:
    """A READ or WRITE: its range, how much it moves, and that the payload is what it says."""
    device.check_range(request.lba, request.blocks)
    length = request.blocks * device.announced.block_length
    payload = length if request.kind == Kind.WRITE else 0
    if length > device.announced.max_transfer_length or len(request.payload) != payload:
        raise Refused(_INVALID_FIELD)


def _check_flush(device: Device, request: Request) -> None:
    device.check_range(request.lba, request.blocks)
    if request.payload:
        raise Refused(_INVALID_FIELD)


def _check_unmap(device: Device, request: Request) -> None:
    if not device.announced.flags & Flag.UNMAP_SUPPORTED:
        raise Refused(status_of(Unsupported()))
    if len(request.payload) != request.blocks * wire.DESCRIPTOR.size:
        raise Refused(_INVALID_LIST)
    total = 0
    for lba, blocks, _ in wire.DESCRIPTOR.iter_unpack(request.payload):
        device.check_range(lba, blocks)
        total += blocks
    if total > device.announced.block_count:  # the same blocks again and again: work for nothing
        raise Refused(_INVALID_LIST)


def _read(device: Device, request: Request) -> Steps:
    if not request.blocks:
        return b""
    data: Buffer = yield Operation(Does.READ, request.lba, request.blocks, fua=request.fua)
    return data


def _write(device: Device, request: Request) -> Steps:
    if request.blocks:
        yield Operation(
            Does.WRITE, request.lba, request.blocks, data=request.payload, fua=request.fua
        )
    return b""


def _flush(device: Device, request: Request) -> Steps:
    """Whatever its range: everything. 0 blocks are all that follow."""
    if device.writable:
        yield Operation(Does.FLUSH)
    return b""


def _unmap(device: Device, request: Request) -> Steps:
    found = wire.DESCRIPTOR.iter_unpack(request.payload)
    extents = [(lba, blocks) for lba, blocks, _ in found if blocks]
    length = device.announced.block_length
    offload = len(extents) > _EXTENTS or sum(blocks for _, blocks in extents) * length > _LONG
    for piece in _pieces(extents, _UNMAPPED // length):
        yield Operation(Does.UNMAP, extents=piece, offload=offload)
    if extents and device.gate.write_through:  # unmap has no FUA
        yield Operation(Does.FLUSH)
    return b""


def _pieces(extents: list[Extent], most: int) -> Iterator[list[Extent]]:
    """The extents in lists of `_EXTENTS` and `most` blocks at most: others come in between."""
    piece: list[Extent] = []
    left = most
    for lba, rest in extents:
        while rest:
            blocks = min(rest, left)
            piece.append((lba, blocks))
            lba, rest, left = lba + blocks, rest - blocks, left - blocks
            if not left or len(piece) == _EXTENTS:
                yield piece
                piece, left = [], most
    if piece:
        yield piece


class _Rule(NamedTuple):
    check: Callable[[Device, Request], None]
    handler: Callable[[Device, Request], Steps]
    changes: bool  # the blocks


_RULES: dict[int, _Rule] = {
    Kind.READ: _Rule(_check_data, _read, False),
    Kind.WRITE: _Rule(_check_data, _write, True),
    Kind.FLUSH: _Rule(_check_flush, _flush, False),
    Kind.UNMAP: _Rule(_check_unmap, _unmap, True),
}
