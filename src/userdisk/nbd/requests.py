"""What each command of the transmission phase does (doc/proto.md, "Request types").

A table by command: which flags it takes, what is wrong with a range past the end, and a handler. A
handler is a generator: it yields the operations that it needs one after the other, and `Receive`
for payload, and returns the reply. A request that is refused changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, TypeAlias

from userdisk.errors import StorageError
from userdisk.nbd import wire
from userdisk.nbd.export import MAX_PAYLOAD, Export
from userdisk.nbd.replies import ENCODERS, Encoder, Part, Replies, Request
from userdisk.nbd.wire import Allocation, Command, CommandFlag, Error
from userdisk.operation import Kind, Operation
from userdisk.unit import Buffer, Extent, overrides

#: The identifier of `base:allocation`, the only metadata context.
ALLOCATION_ID = 1

_LONG = 1 << 20  # bytes: what does more is not for the connection's thread
_PIECE = 1 << 20  # bytes of a WRITE that are received before the unit gets them
_SPARSE = 64 << 10  # bytes: a shorter READ is not searched for holes
_MOST_PARTS = 64  # of a READ
_MOST_EXTENTS = 1024  # of one answer to BLOCK_STATUS
_MOST_CALLS = 64  # of the unit's `extents`, unless nothing was found
_UNMAPPED = 1 << 30  # bytes of one call of the unit's `unmap`


class Refused(Exception):
    """The request cannot be done; `message` may be told to the client."""

    def __init__(self, error: Error, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


class Receive(NamedTuple):
    """So many bytes of the request's payload are wanted."""

    size: int


#: Yields operations (is sent their results; `StorageError` is thrown into it) and `Receive` (is
#: sent a view); returns the reply.
Steps: TypeAlias = Generator[Operation | Receive, Any, list[Buffer]]


class Service:
    """What the requests of one connection are answered from.

    Args:
        export: that was chosen.
        replies: the form that was agreed on.
        allocation: the client has asked for `base:allocation`.
    """

    def __init__(self, export: Export, replies: Replies, *, allocation: bool) -> None:
        unit = export.gate.unit
        parameters = export.gate.parameters
        self.export = export
        self.gate = export.gate
        self.size = parameters.size  #: in bytes, as the client was told
        self.replies = replies
        self.encoder: Encoder = ENCODERS[replies]
        self.allocation = allocation
        self.block_length = parameters.block_length
        self.shift = parameters.block_length.bit_length() - 1
        self.step = parameters.max_transfer_length
        self.piece = min(self.step, _PIECE - _PIECE % parameters.block_length)
        self.writable = not (export.read_only or parameters.write_protected)
        self.sparse = overrides(unit, "extents")
        self.unmaps = parameters.unmap_supported
        #: The longest READ and WRITE in bytes that the fast path may do.
        self.fast_read = self.fast_write = 0
        if self.gate.inline_read:
            sparse = self.sparse and self.encoder.sparse
            self.fast_read = min(self.step, _SPARSE - 1 if sparse else _LONG)
        if self.gate.inline_write and self.writable:
            self.fast_write = self.piece
        #: WRITE_ZEROES can be done without writing
        self.zeroes_fast = self.unmaps and unit.unmap_zeroes

    def start(self, request: Request) -> Steps:
        """Check a request and start it. Raises `Refused`."""
        rule = RULES.get(request.command)
        if rule is None:
            raise Refused(Error.EINVAL, "there is no such command")
        allowed = rule.flags | CommandFlag.FUA  # which is good for every command
        if self.replies is Replies.SIMPLE:
            allowed &= ~CommandFlag.DF
        if self.replies is not Replies.EXTENDED:
            allowed &= ~CommandFlag.PAYLOAD_LEN
        if request.flags & ~allowed.value:  # as numbers: a flag's complement has known flags only
            raise Refused(Error.EINVAL, "the command has no such flag")
        if rule.changes and not self.writable:
            raise Refused(Error.EPERM, "the export is read-only")
        rule.check(self, request, rule)
        return rule.handler(self, request)

    def check_range(self, request: Request, past_end: Error) -> None:
        """Raise `Refused` unless offset and length are blocks of the disk."""
        offset, length = request.offset, request.length
        if not length:
            raise Refused(Error.EINVAL, "the length is zero")
        if (offset | length) & (self.block_length - 1):
            raise Refused(
                Error.EINVAL, f"offset and length must be multiples of {self.block_length}"
            )
        # the disk may have been cut since the client was told its size
        if offset + length > min(self.size, self.gate.parameters.size):
            raise Refused(past_end, "past the end of the disk")

    def blocks(self, request: Request) -> tuple[int, int]:
        """The lba and the number of blocks of a request."""
        return request.offset >> self.shift, request.length >> self.shift

    def runs(self, request: Request, length: int) -> Iterator[tuple[int, int]]:
        """The range of a request in runs of at most `length` bytes, as (lba, blocks)."""
        lba, left = self.blocks(request)
        most = max(length >> self.shift, 1)
        while left:
            blocks = min(left, most)
            yield lba, blocks
            lba += blocks
            left -= blocks


def _read(service: Service, request: Request) -> Steps:
    if (
        service.sparse
        and service.encoder.sparse
        and request.length >= _SPARSE
        and not request.flags & CommandFlag.DF
    ):
        runs = yield from _mapped(service, request)
    else:
        runs = [Extent(*service.blocks(request))]
    parts = []
    for run in runs:
        length = run.blocks << service.shift
        offset = run.lba << service.shift
        data = None
        if not run.zero:
            data = yield from _data(service, run.lba, run.blocks)
        parts.append(Part(offset, length, data))
    return service.encoder.data(request, parts)


def _data(service: Service, lba: int, blocks: int) -> Generator[Operation, Any, Buffer]:
    """The content of blocks in one piece: copied only if it takes several reads."""
    most = service.step >> service.shift
    offload = blocks << service.shift > _LONG
    if blocks <= most:
        data: Buffer = yield Operation(Kind.READ, lba, blocks, offload=offload)
        return data
    whole = bytearray(blocks << service.shift)
    at = 0
    while blocks:
        count = min(blocks, most)
        data = yield Operation(Kind.READ, lba, count, offload=offload)
        whole[at : at + len(data)] = data
        at += len(data)
        lba += count
        blocks -= count
    return whole


def _mapped(service: Service, request: Request) -> Generator[Operation, Any, list[Extent]]:
    """The range of a READ as runs of data and of zeros; data wherever that is not known."""
    lba, left = service.blocks(request)
    runs: list[Extent] = []
    while left and len(runs) < _MOST_PARTS:
        try:
            found = yield Operation(Kind.EXTENTS, lba, left, offload=bool(runs))
            extents = service.gate.checked_extents(found, lba, left)
        except StorageError:
            break  # it may be read all the same
        for extent in extents:
            if runs and runs[-1].zero == extent.zero:
                before = runs.pop()
                extent = Extent(before.lba, before.blocks + extent.blocks, zero=extent.zero)
            runs.append(extent)
        lba, left = _rest(request, service, runs)
    runs = runs[: _MOST_PARTS - 1]
    lba, left = _rest(request, service, runs)
    if left:
        runs.append(Extent(lba, left))
    return runs


def _rest(request: Request, service: Service, runs: list[Extent]) -> tuple[int, int]:
    """What follows the runs, up to the end of the request."""
    lba, blocks = service.blocks(request)
    if not runs:
        return lba, blocks
    after = runs[-1].lba + runs[-1].blocks
    return after, lba + blocks - after


def _write(service: Service, request: Request) -> Steps:
    lba, left = service.blocks(request)
    fua = bool(request.flags & CommandFlag.FUA)
    pieces = request.length > service.piece
    while left:
        data = yield Receive(min(left << service.shift, service.piece))
        blocks = len(data) >> service.shift
        yield Operation(Kind.WRITE, lba, blocks, data=data, fua=fua and not pieces)
        lba += blocks
        left -= blocks
    if fua and pieces:
        yield Operation(Kind.FLUSH)
    return service.encoder.good(request)


def _flush(service: Service, request: Request) -> Steps:
    if not service.gate.parameters.write_protected:  # a reader may ask for what others wrote
        yield Operation(Kind.FLUSH)
    return service.encoder.good(request)


def _trim(service: Service, request: Request) -> Steps:
    """Advice: a unit that cannot unmap keeps its blocks."""
    if service.unmaps:
        yield from _unmap(service, request)
    return service.encoder.good(request)


def _unmap(service: Service, request: Request) -> Generator[Operation, Any, None]:
    offload = request.length > _LONG
    for run in service.runs(request, _UNMAPPED):
        yield Operation(Kind.UNMAP, extents=[run], offload=offload)
    if request.flags & CommandFlag.FUA or service.gate.write_through:  # unmap has no FUA
        yield Operation(Kind.FLUSH)


def _write_zeroes(service: Service, request: Request) -> Steps:
    fast = service.zeroes_fast and not request.flags & CommandFlag.NO_HOLE
    if request.flags & CommandFlag.FAST_ZERO and not fast:
        raise Refused(Error.ENOTSUP, "it would be no faster than writing")
    if fast:
        yield from _unmap(service, request)
    else:
        offload = request.length > _LONG
        for lba, blocks in service.runs(request, service.step):
            yield Operation(Kind.ZERO, lba, blocks, offload=offload)
        if request.flags & CommandFlag.FUA:
            yield Operation(Kind.FLUSH)
    return service.encoder.good(request)


def _cache(service: Service, request: Request) -> Steps:
    """Advice: there is no cache that it could fill."""
    yield from ()
    return service.encoder.good(request)


def _block_status(service: Service, request: Request) -> Steps:
    wanted = True
    if request.flags & CommandFlag.PAYLOAD_LEN:
        payload = yield Receive(request.length)
        request, wanted = _chosen(request, payload)
        service.check_range(request, Error.EINVAL)
    if not service.allocation:
        raise Refused(Error.EINVAL, "no metadata context was agreed on")
    if not wanted:
        raise Refused(Error.EINVAL, "no metadata context was chosen")
    found = yield from _statuses(service, request)
    return service.encoder.status(request, ALLOCATION_ID, found)


def _chosen(request: Request, payload: Buffer) -> tuple[Request, bool]:
    """The range that a BLOCK_STATUS with payload is about, and whether our context is chosen."""
    (length,) = wire.CONTEXTS_PAYLOAD.unpack_from(payload)
    chosen = [
        int.from_bytes(payload[at : at + wire.CONTEXT_ID.size], "big")
        for at in range(wire.CONTEXTS_PAYLOAD.size, len(payload), wire.CONTEXT_ID.size)
    ]
    if not set(chosen) <= {ALLOCATION_ID} or len(set(chosen)) != len(chosen):
        raise Refused(Error.EINVAL, "there is no such metadata context, or it is named twice")
    return request._replace(length=length), bool(chosen)


def _statuses(
    service: Service, request: Request
) -> Generator[Operation, Any, list[tuple[int, int]]]:
    lba, left = service.blocks(request)
    if service.replies is not Replies.EXTENDED:  # lengths have 32 bits
        left = min(left, 0xFFFFFFFF >> service.shift)
    one = bool(request.flags & CommandFlag.REQ_ONE)
    statuses: list[tuple[int, int]] = []
    calls = 0
    while left and len(statuses) < _MOST_EXTENTS and calls < _MOST_CALLS:
        found = yield Operation(Kind.EXTENTS, lba, left, offload=calls > 0)
        calls += 1
        for extent in service.gate.checked_extents(found, lba, left):
            _add(statuses, extent.blocks << service.shift, _FLAGS[extent.mapped, extent.zero])
            lba += extent.blocks
            left -= extent.blocks
        if one and len(statuses) > 1:
            break
    return statuses[:1] if one else statuses[:_MOST_EXTENTS]


_FLAGS: dict[tuple[bool, bool], int] = {
    (mapped, zero): (0 if mapped else Allocation.HOLE) | (Allocation.ZERO if zero else 0)
    for mapped in (False, True)
    for zero in (False, True)
}


def _add(statuses: list[tuple[int, int]], length: int, flags: int) -> None:
    """Append a run, or lengthen the last one."""
    if statuses and statuses[-1][1] == flags:
        length += statuses.pop()[0]
    statuses.append((length, flags))


# -- the table -------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """A command: what it takes, how its range is checked, and who does it."""

    handler: Callable[[Service, Request], Steps]
    check: Callable[[Service, Request, Rule], None]
    flags: CommandFlag = CommandFlag(0)
    changes: bool = False
    past_end: Error = Error.EINVAL


def _range(service: Service, request: Request, rule: Rule) -> None:
    service.check_range(request, rule.past_end)


def _payload_range(service: Service, request: Request, rule: Rule) -> None:
    if request.length > MAX_PAYLOAD:
        raise Refused(Error.EINVAL, f"the length is over {MAX_PAYLOAD}")
    service.check_range(request, rule.past_end)


def _no_range(service: Service, request: Request, rule: Rule) -> None:
    if request.offset or request.length:
        raise Refused(Error.EINVAL, "offset and length must be zero")


def _status_range(service: Service, request: Request, rule: Rule) -> None:
    if not request.flags & CommandFlag.PAYLOAD_LEN:
        service.check_range(request, rule.past_end)
    elif (
        request.length < wire.CONTEXTS_PAYLOAD.size
        or (request.length - wire.CONTEXTS_PAYLOAD.size) % wire.CONTEXT_ID.size
        or request.length > wire.MAX_STRING
    ):
        raise Refused(Error.EINVAL, "the payload has a wrong length")


RULES: dict[int, Rule] = {
    Command.READ: Rule(_read, _payload_range, CommandFlag.DF),
    Command.WRITE: Rule(
        _write, _payload_range, CommandFlag.PAYLOAD_LEN, changes=True, past_end=Error.ENOSPC
    ),
    Command.FLUSH: Rule(_flush, _no_range),
    Command.TRIM: Rule(_trim, _range, changes=True),
    Command.CACHE: Rule(_cache, _range),
    Command.WRITE_ZEROES: Rule(
        _write_zeroes,
        _range,
        CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO,
        changes=True,
        past_end=Error.ENOSPC,
    ),
    Command.BLOCK_STATUS: Rule(
        _block_status, _status_range, CommandFlag.REQ_ONE | CommandFlag.PAYLOAD_LEN
    ),
}
