"""The fast path: runs of plain READ and WRITE requests, straight from the wire to the unit.

It takes what nearly every request of a busy disk is: no flags, whole blocks, an inline unit that
nothing restrains, all of a write's data here. At the first request that is anything else it stops,
and the general path (connection, tasks, requests) takes that one. Both give the same answers.

Requests of a busy disk have few lengths, so a length is checked when it is new, and compared after
that. Everything in the loop is a local name; a request costs one unpack, one call of the unit and
one header.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from userdisk.nbd import wire
from userdisk.nbd.incoming import LANDING
from userdisk.nbd.outgoing import OUTPUT_BUFFERS, OUTPUT_BYTES
from userdisk.nbd.replies import Replies, Request
from userdisk.nbd.wire import DONE, Chunk, Command, CommandFlag
from userdisk.operation import Era, Kind

if TYPE_CHECKING:
    from userdisk.counters import Counters
    from userdisk.gate import Gate
    from userdisk.nbd.connection import Connection
    from userdisk.nbd.requests import Service
    from userdisk.unit import Parameters

#: magic, flags and command as eight bytes; cookie, offset, length
_REQUEST = struct.Struct(">8s8sQI")
_EXTENDED_REQUEST = struct.Struct(">8s8sQQ")
_HEAD = struct.Struct(">IHH").pack

#: magic, flags and type as eight bytes; cookie, length of the payload; its offset
_DATA = struct.Struct(">8s8sIQ").pack
#: magic, flags and type; cookie, offset, length of the payload; its offset
_EXTENDED_DATA = struct.Struct(">8s8sQQQ").pack

_SIMPLE_GOOD = struct.pack(">II", wire.SIMPLE_REPLY_MAGIC, 0)
_DATA_HEAD = _HEAD(wire.STRUCTURED_REPLY_MAGIC, DONE, Chunk.OFFSET_DATA)
_EXTENDED_DATA_HEAD = _HEAD(wire.EXTENDED_REPLY_MAGIC, DONE, Chunk.OFFSET_DATA)
_DONE_HEAD = _HEAD(wire.STRUCTURED_REPLY_MAGIC, DONE, Chunk.NONE)
_EXTENDED_DONE_HEAD = _HEAD(wire.EXTENDED_REPLY_MAGIC, DONE, Chunk.NONE)
_NO_LENGTH = bytes(4)
_EXTENDED_DONE = struct.Struct(">8s8sQQ").pack

_OFFSET = wire.OFFSET.size
_PLAIN = (0, int(CommandFlag.PAYLOAD_LEN))  # flags of a WRITE
_SMALL = OUTPUT_BYTES // (OUTPUT_BUFFERS // 2)  # bytes: of such reads the buffers are the limit

#: What depends on extended headers: a request's layout, how READ and WRITE begin, and the lengths
#: of the headers of their replies.
_LAYOUTS = {
    False: (
        _REQUEST,
        _HEAD(wire.REQUEST_MAGIC, 0, Command.READ),
        _HEAD(wire.REQUEST_MAGIC, 0, Command.WRITE),
        wire.STRUCTURED_REPLY.size + _OFFSET,
        wire.STRUCTURED_REPLY.size,
    ),
    True: (
        _EXTENDED_REQUEST,
        _HEAD(wire.EXTENDED_REQUEST_MAGIC, 0, Command.READ),
        _HEAD(wire.EXTENDED_REQUEST_MAGIC, CommandFlag.PAYLOAD_LEN, Command.WRITE),
        wire.EXTENDED_REPLY.size + _OFFSET,
        wire.EXTENDED_REPLY.size,
    ),
}


class Lane(NamedTuple):
    """What stays as it is for a connection."""

    gate: Gate
    read: Callable[..., Any]
    write: Callable[..., Any]
    live: bool
    alone: bool  # every operation runs on the thread of its connection
    parameters: Parameters  # of the unit, when the connection began
    size: int
    shift: int
    mask: int
    longest_read: int
    longest_write: int
    simple: bool
    extended: bool
    unpack: Callable[[bytearray, int], tuple[bytes, bytes, int, int]]
    header_length: int
    read_head: bytes
    write_head: bytes
    read_header: int  # bytes
    done_header: int
    counters: Counters


def lane(service: Service, counters: Counters) -> Lane:
    """What `run` needs to know of a connection; read and written blocks go to the counters."""
    gate = service.gate
    unit = gate.unit
    simple, extended = service.replies is Replies.SIMPLE, service.replies is Replies.EXTENDED
    layout, read_head, write_head, read_header, done_header = _LAYOUTS[extended]
    if simple:
        read_header = done_header = wire.SIMPLE_REPLY.size
    return Lane(
        gate,
        unit.read,
        unit.write,
        unit.live_reads,
        gate.all_inline,
        gate.parameters,
        service.size,
        service.shift,
        service.block_length - 1,
        service.fast_read,
        service.fast_write,
        simple,
        extended,
        layout.unpack_from,
        layout.size,
        read_head,
        write_head,
        read_header,
        done_header,
        counters,
    )


def run(connection: Connection) -> None:
    """Answer the plain requests at the start of what was received, up to the first other one."""
    incoming, out = connection.incoming, connection.out
    # fmt: off
    (gate, read, write, live, alone, parameters, size, shift, mask, longest_read, longest_write,
     simple, extended, unpack, header_length, read_head, write_head, read_header, done_header,
     counters) = connection.lane
    # fmt: on
    pos, end = incoming.start, incoming.end
    last = end - header_length
    if pos > last:
        return
    if gate.restraint is not None or not connection.enter(gate) or gate.restraint is not None:
        return  # before, too: a unit that is being erased is not waited for
    buffer, view = incoming.buffer, incoming.view
    copied = live and (gate.shared or not alone)
    viewed = out.live  # the output has views of live memory
    if gate.parameters is not parameters:  # resized
        size = min(size, gate.parameters.size)
    append = out.buffers.append
    read_length = write_length = -1  # no length is like it
    read_last = read_blocks = write_last = 0
    reads = writes = found = written = 0
    room = (OUTPUT_BUFFERS - len(out.buffers)) // 2  # requests, of two buffers at most
    sampler = connection.sampler
    clock = sampler.clock
    began = -1.0  # of the request that is timed; negative: not yet, or not any more
    before = others = 0  # requests before it, and writes of them
    stop = max(room - sampler.position, 0) if sampler.active else 0  # at this room it begins, ends

    while pos <= last:
        if room <= stop:
            if room <= 0:
                break
            if began < 0:
                began, before, others, stop = clock(), reads + writes, writes, room - 1
            else:  # it was the last one
                sampler.sample = Kind.WRITE if writes > others else Kind.READ, began, clock()
                began, stop = -1.0, 0
        head, cookie, offset, length = unpack(buffer, pos)

        if head == read_head:
            if length != read_length:
                if not 0 < length <= longest_read or length & mask:
                    break
                read_length, read_last, read_blocks = length, size - length, length >> shift
                if length > _SMALL:  # where the batch ends if all that follows is like this
                    less = max(room - (OUTPUT_BYTES - out.size - found) // length - 1, 0)
                    room, stop = room - less, max(stop - less, 0)
            if offset > read_last or offset & mask:
                break
            pos += header_length
            try:
                data = read(offset >> shift, read_blocks, False)
                if type(data) is memoryview:
                    if data.nbytes != length or data.itemsize != 1:
                        data = gate.checked_read(data, length)
                    if live:
                        if copied:
                            data = bytes(data)
                        else:
                            viewed = True
                elif type(data) is not bytes or len(data) != length:
                    data = gate.checked_read(data, length)
                    if live:  # not a view, so that nobody would copy it later
                        data = bytes(data)
            except BaseException as error:  # whatever a unit raises, as in `Gate.run`
                kind, failure = Kind.READ, error
            else:
                if simple:
                    append(_SIMPLE_GOOD + cookie)
                elif extended:
                    append(
                        _EXTENDED_DATA(
                            _EXTENDED_DATA_HEAD, cookie, offset, length + _OFFSET, offset
                        )
                    )
                else:
                    append(_DATA(_DATA_HEAD, cookie, length + _OFFSET, offset))
                append(data)
                reads += 1
                found += length
                room -= 1
                continue

        elif head == write_head:
            if length != write_length:
                if not 0 < length <= longest_write or length & mask:
                    break
                write_length, write_last = length, size - length
            if offset > write_last or offset & mask:
                break
            data_start = pos + header_length
            data_end = data_start + length
            if data_end > end:
                break
            if viewed:
                out.settle()
                viewed = False
            pos = data_end
            try:
                write(offset >> shift, view[data_start:data_end], False)
            except BaseException as error:  # likewise
                kind, failure = Kind.WRITE, error
            else:
                if simple:
                    append(_SIMPLE_GOOD + cookie)
                elif extended:
                    append(_EXTENDED_DONE(_EXTENDED_DONE_HEAD, cookie, offset, 0))
                else:
                    append(_DONE_HEAD + cookie + _NO_LENGTH)
                writes += 1
                written += length
                room -= 1
                continue

        else:
            break

        # the unit raised: the general path makes the answer, and this one goes on behind it
        command = Command.READ if kind is Kind.READ else Command.WRITE
        connection.tasks.fail(Request(0, command, cookie, offset, length), kind, failure)
        room -= 1
        began, stop = -1.0, 0

    incoming.start = pos
    out.live = viewed
    out.size += found + reads * read_header + writes * done_header
    if reads:
        counters.reads += reads
        counters.read_bytes += found
    if writes:
        counters.writes += writes
        counters.written_bytes += written
    if sampler.active:
        sampler.position = 0  # if none was timed, the next batch begins with one that is
        if began >= 0 and reads + writes > before:
            sampler.sample = Kind.WRITE if writes > others else Kind.READ, began, clock()
        counters.take(sampler)


def lands(service: Service, request: Request) -> bool:
    """Whether an admitted WRITE is plain, and the unit may get its data when all of it is here."""
    offset, length = request.offset, request.length
    return (
        request.command == Command.WRITE
        and request.flags in _PLAIN
        and LANDING <= length <= service.fast_write
        and not (offset | length) & (service.block_length - 1)
        and offset + length <= min(service.size, service.gate.parameters.size)
    )


def landed(connection: Connection, request: Request, data: memoryview, era: Era) -> bool:
    """Its data is here: write it. False: that is not so plain any more, and nothing was done."""
    service, out, tasks = connection.service, connection.out, connection.tasks
    gate, sampler = service.gate, connection.sampler
    if request.offset + request.length > gate.parameters.size:
        return False
    if gate.restraint is not None or not connection.enter(gate) or gate.restraint is not None:
        return False
    if out.live:
        out.settle()
    try:
        if era.over is not None:
            raise era.over()
        began = sampler.clock() if sampler.active else 0.0
        gate.unit.write(request.offset >> service.shift, data, False)
        if sampler.active:
            sampler.sample = Kind.WRITE, began, sampler.clock()
    except BaseException as error:  # likewise
        tasks.fail(request, Kind.WRITE, error)
    else:
        out.add(service.encoder.good(request))
        counters = connection.counters[gate]
        counters.writes += 1
        counters.written_bytes += request.length
        counters.take(sampler)
    tasks.forgo(request)
    return True
