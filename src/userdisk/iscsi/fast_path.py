"""The fast path: runs of plain READ and WRITE commands, straight from the wire to the unit.

It takes what nearly every command of a busy disk is: READ or WRITE (10) or (16), SIMPLE, no flags,
the announced length equal to the CDB's, all write data immediate, an inline unit, nothing pending
for the nexus. At the first command that is anything else it stops, and the general path
(connection, tasks, the engine) takes that one. Both give the same answers: tests compare them.

Commands of a busy disk look alike: they differ in their numbers and in the lba. So the first of a
kind is decoded and checked field by field (`_shape`), and those that follow are compared with it,
as bytes; what was learned is kept with the path for the next batch (`Path.lane`). Everything in the
loop is a local name; a command costs one unpack, one call of the unit and one pack. RFC 7143 11.3
(command), 11.4 (response), 11.7 (Data-In with status); SBC-4 5.16, 5.40.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from userdisk.iscsi.digest import digest
from userdisk.iscsi.outgoing import OUTPUT_BUFFERS, OUTPUT_BYTES
from userdisk.operation import Kind

if TYPE_CHECKING:
    from userdisk.iscsi.connection import Connection
    from userdisk.target.logical_unit import LogicalUnit

#: the first 16 bytes (opcode, flags, lengths, lun), itt, expected length, cmd_sn, CDB bytes 0-1,
#: lba, and what follows the lba in the CDB, up to its control byte
_COMMAND_10 = struct.Struct(">16sIII4xHI4s6x").unpack_from
_COMMAND_16 = struct.Struct(">16sIII4xHQ6s").unpack_from
_HEAD = struct.Struct(">HHI8s").unpack
#: what follows the lba: group number, blocks, control; blocks, group number, control
_TAIL_10 = struct.Struct(">BHB").unpack
_TAIL_16 = struct.Struct(">IBB").unpack

#: the first 16 bytes, itt, the four bytes that follow, stat_sn, exp_cmd_sn, max_cmd_sn
_RESPONSE = struct.Struct(">16sI4sIII12x").pack
_DATA_IN_START = struct.Struct(">II8s").pack

_READ_COMMAND = 0x01C1  # SCSI Command; final, read, SIMPLE
_WRITE_COMMAND = 0x01A1  # SCSI Command; final, write, SIMPLE
_READ_10, _READ_16, _WRITE_10, _WRITE_16 = 0x2800, 0x8800, 0x2A00, 0x8A00

_DATA_IN_GOOD = 0x25810000  # Data-In, final, with status GOOD
_RESPONSE_GOOD = bytes.fromhex("2180000000000000 0000000000000000")
_NO_TTT = b"\xff\xff\xff\xff"
_NO_SNACK = bytes(4)

_NUMBERS_END = 0xFFFFF000  # the general path takes the numbers around 2^32


class _Shape(NamedTuple):
    """What commands have in common that differ only in their numbers and their lba."""

    writing: bool
    unpack: Callable[[bytearray, int], tuple[Any, ...]]
    head: bytes
    cdb: int
    tail: bytes
    blocks: int


def run(connection: Connection) -> None:
    """Answer the plain commands at the start of what was received, up to the first other PDU."""
    incoming, out = connection.incoming, connection.out
    buffer, view = incoming.buffer, incoming.view
    pos, end = incoming.start, incoming.end
    exp_cmd_sn, stat_sn = out.exp_cmd_sn, out.stat_sn
    window = out.window
    if exp_cmd_sn > _NUMBERS_END or stat_sn > _NUMBERS_END or window < 0:
        return
    first = len(out.buffers)
    data_digest = incoming.data_digest
    digests = data_digest or incoming.header_digest
    header_length = 52 if incoming.header_digest else 48
    data_trailer = 4 if data_digest else 0
    stop = stat_sn_end = room_end = stat_sn + (OUTPUT_BUFFERS - first) // (4 if digests else 2)
    sampler = connection.sampler
    clock = sampler.clock
    timed = -1  # the command that is timed
    began = -1.0  # when it did; negative: not yet, or not any more
    others = 0  # writes before it
    size = out.size  # and the data that is read
    append = out.buffers.append
    viewed = out.live  # the output has views of live memory
    # the next names are about this one, whose lun is `current`; its unit's gate is held
    path: Any = connection.recent
    current = b""
    lu: Any = None
    gate: Any = None
    read: Any = None
    write: Any = None
    live = copied = False
    read_limit = write_limit = 0
    unpack: Callable[[bytearray, int], tuple[Any, ...]] = _COMMAND_10
    read_shape = write_shape = None
    read_head = read_tail = write_head = write_tail = start = b""
    read_cdb = write_cdb = read_last = write_last = 0
    read_blocks = write_blocks = read_length = write_length = 0
    first_stat_sn, first_size = stat_sn, size  # for `_count`, as are writes and written
    writes = written = 0
    learned = False
    # a unit that is being erased is not waited for
    held = path is not None and path.ready and connection.enter(path.lu.gate)
    lane = path.lane if held and path.ready else None  # once: another thread may forget it
    if lane is not None:
        # fmt: off
        (current, lu, gate, read, write, live, read_limit, write_limit, unpack,
         read_shape, read_head, read_tail, read_cdb, read_last, read_blocks, read_length, start,
         write_shape, write_head, write_tail, write_cdb, write_last, write_blocks, write_length,
         ) = lane
        # fmt: on
        copied = live and (gate.shared or not gate.all_inline or data_digest)
        if read_length:
            stop = min(room_end, stat_sn + (OUTPUT_BYTES - size) // read_length + 1)
            stat_sn_end = stop
    if sampler.active:
        timed = stat_sn + sampler.position
        stop = min(stat_sn_end, timed)

    last = end - header_length
    while pos <= last:
        head, itt, expected, cmd_sn, cdb, lba, tail = unpack(buffer, pos)
        if cmd_sn != exp_cmd_sn or stat_sn >= stop:
            if cmd_sn != exp_cmd_sn or stat_sn >= stat_sn_end:
                break
            if stat_sn == timed:
                began, others, stop = clock(), writes, stat_sn + 1
            else:  # it was the last one
                if began >= 0:
                    kind = Kind.WRITE if writes > others else Kind.READ
                    sampler.sample = kind, began, clock()
                began, timed, stop = -1.0, -1, stat_sn_end
        if digests and not _intact(view, pos, 48, header_length - 48):
            break

        if (
            head == read_head
            and tail == read_tail
            and expected == read_length
            and cdb == read_cdb
            and lba <= read_last
        ):
            pos += header_length
            exp_cmd_sn += 1
            try:
                data = read(lba, read_blocks, False)
                if type(data) is memoryview:
                    if data.nbytes != read_length or digests:  # whose place is told by len()
                        data = gate.checked_read(data, read_length)
                    if live:
                        if copied:
                            data = bytes(data)
                        viewed = True
                elif type(data) is not bytes or len(data) != read_length:
                    data = gate.checked_read(data, read_length)
                    if live:  # not a view, so that nobody would copy it later
                        data = bytes(data)
            except BaseException as error:  # whatever a unit raises, as in `Gate.run`
                kind, failure, blocks = Kind.READ, error, read_blocks
            else:
                append(_RESPONSE(start, itt, _NO_TTT, stat_sn, exp_cmd_sn, exp_cmd_sn + window))
                append(data)
                stat_sn += 1
                size += read_length
                continue

        elif (
            head == write_head
            and tail == write_tail
            and expected == write_length
            and cdb == write_cdb
            and lba <= write_last
        ):
            data_start = pos + header_length
            data_end = data_start + write_length
            if data_end + data_trailer > end:
                break
            if data_digest and not _intact(view, data_start, write_length, data_trailer):
                break
            if viewed:
                out.settle()
                viewed = False
            exp_cmd_sn += 1
            pos = data_end + data_trailer
            try:
                write(lba, view[data_start:data_end], False)
            except BaseException as error:  # likewise
                kind, failure, blocks = Kind.WRITE, error, write_blocks
            else:
                append(
                    _RESPONSE(
                        _RESPONSE_GOOD, itt, _NO_SNACK, stat_sn, exp_cmd_sn, exp_cmd_sn + window
                    )
                )
                stat_sn += 1
                writes += 1
                written += write_length
                continue

        else:
            shape = _shape(buffer, pos)
            if shape is None:
                break
            if shape in (read_shape, write_shape):
                if unpack is shape.unpack:
                    break
                unpack = shape.unpack  # reads and writes whose CDBs are of different length
                continue
            lun = shape.head[8:]
            if lun != current:
                found = connection.paths.get(int.from_bytes(lun, "big"))
                if found is None:
                    break
                if not (found.ready and connection.enter(found.lu.gate) and found.ready):
                    learned = False  # the path before is not ours any more
                    break
                if current:
                    _count(
                        connection,
                        lu,
                        stat_sn - first_stat_sn,
                        size - first_size,
                        writes,
                        written,
                    )
                    if sampler.active:
                        connection.counters[gate].take(sampler)
                    first_stat_sn, first_size, writes, written = stat_sn, size, 0, 0
                connection.recent = path = found
                current = lun
                lu = path.lu
                gate = lu.gate
                unit = gate.unit
                read, write = unit.read, unit.write
                read_limit, write_limit = _limits(connection, lu)
                live = unit.live_reads
                copied = live and (gate.shared or not gate.all_inline or data_digest)
                read_shape = write_shape = None
                read_head = write_head = b""
                read_length = 0
            length = shape.blocks * lu.block_length
            if shape.writing:
                if (
                    not 0 < length <= write_limit
                    or int.from_bytes(shape.head[4:8], "big") != length
                ):
                    break  # all of the data has to be immediate (a multiple of 512: no padding)
                write_shape, write_length = shape, length
                _, unpack, write_head, write_cdb, write_tail, write_blocks = shape
                write_last = lu.block_count - write_blocks
            else:
                if not 0 < length <= read_limit:
                    break
                read_shape, read_length = shape, length
                _, unpack, read_head, read_cdb, read_tail, read_blocks = shape
                read_last = lu.block_count - read_blocks
                start = _DATA_IN_START(_DATA_IN_GOOD, length, lun)
                # where the batch ends if all that follows is like this
                stat_sn_end = min(room_end, stat_sn + (OUTPUT_BYTES - size) // length + 1)
                stop = min(stat_sn_end, timed) if stat_sn <= timed else stat_sn_end
            learned = True
            continue

        # the unit raised: the general path builds the answer, and goes on after this command
        _count(connection, lu, stat_sn - first_stat_sn, size - first_size, writes, written)
        out.exp_cmd_sn, out.stat_sn = exp_cmd_sn, stat_sn
        if digests:
            out.add_digests(first)
        address = int.from_bytes(current, "big"), itt, expected
        connection.tasks.answer_failure(lu, kind, failure, address, (lba, blocks))
        append, first = out.buffers.append, len(out.buffers)
        first_stat_sn = stat_sn = out.stat_sn
        first_size = size = out.size
        writes = written = 0
        began = -1.0

    if began >= 0 and stat_sn > timed:
        sampler.sample = Kind.WRITE if writes > others else Kind.READ, began, clock()
    if current:
        _count(connection, lu, stat_sn - first_stat_sn, size - first_size, writes, written)
        if sampler.active:
            sampler.position = 0  # if none was timed, the next batch begins with one that is
            connection.counters[gate].take(sampler)
    out.exp_cmd_sn, out.stat_sn = exp_cmd_sn, stat_sn
    out.live = viewed
    if digests:
        out.add_digests(first)
    incoming.start = pos
    if learned:
        # fmt: off
        path.lane = (
            current, lu, gate, read, write, live, read_limit, write_limit, unpack,
            read_shape, read_head, read_tail, read_cdb, read_last, read_blocks, read_length, start,
            write_shape, write_head, write_tail, write_cdb, write_last, write_blocks, write_length,
        )
        # fmt: on


def _shape(buffer: bytearray, pos: int) -> _Shape | None:
    """The shape of the command at `pos`; None if it is not a plain one."""
    opcode = buffer[pos + 32]
    unpack, tail_of = (_COMMAND_16, _TAIL_16) if opcode & 0x80 else (_COMMAND_10, _TAIL_10)
    head, _, _, _, cdb, _, tail = unpack(buffer, pos)
    flags, reserved, lengths, _ = _HEAD(head)
    if flags == _READ_COMMAND and cdb in (_READ_10, _READ_16) and not lengths:
        writing = False
    elif flags == _WRITE_COMMAND and cdb in (_WRITE_10, _WRITE_16):
        writing = True
    else:
        return None
    fields = tail_of(tail)
    blocks, group = (fields[0], fields[1]) if opcode & 0x80 else (fields[1], fields[0])
    if reserved or group or fields[2]:
        return None
    return _Shape(writing, unpack, head, cdb, tail, blocks)


def _intact(view: memoryview, start: int, length: int, trailer: int) -> bool:
    """Whether the digest after these bytes is theirs; yes, if there is none."""
    end = start + length
    return not trailer or digest(view[start:end]) == view[end : end + trailer]


def _count(
    connection: Connection, lu: LogicalUnit, commands: int, read: int, writes: int, written: int
) -> None:
    """Count `commands` that went well: `writes` of them wrote; bytes read and written."""
    connection.out.size += read + 48 * commands
    counters = connection.counters[lu.gate]
    counters.reads += commands - writes
    counters.read_bytes += read
    counters.writes += writes
    counters.written_bytes += written


def _limits(connection: Connection, lu: LogicalUnit) -> tuple[int, int]:
    """The largest read and write in bytes that may be done here; 0: none."""
    gate, parameters, negotiated = lu.gate, lu.parameters, connection.negotiated
    read = write = 0
    if gate.inline_read:
        read = min(
            parameters.max_transfer_length,
            negotiated.max_recv_data_segment_length,
            negotiated.max_burst_length,
        )
    if gate.inline_write and negotiated.immediate_data and not parameters.write_protected:
        write = min(parameters.max_transfer_length, negotiated.first_burst_length)
    return read, write
