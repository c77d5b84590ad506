"""The fast path: runs of plain READ and WRITE commands, straight from the wire to the unit.

It takes what nearly every command of a busy disk is: READ or WRITE (10) or (16), SIMPLE, no flags,
the announced length equal to the CDB's, all write data immediate, an inline unit, nothing pending
for the nexus. At the first command that is anything else it stops, and the general path
(connection, tasks, the engine) takes that one. Both give the same answers: tests compare them.

Everything in the loop is a local name; a command costs one unpack, one call of the unit and one
pack. RFC 7143 11.3 (command), 11.4 (response), 11.7 (Data-In with status).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from userdisk.iscsi.digest import digest
from userdisk.iscsi.outgoing import OUTPUT_BUFFERS, OUTPUT_BYTES
from userdisk.operation import Kind
from userdisk.unit import Buffer

if TYPE_CHECKING:
    from userdisk.iscsi.connection import Connection
    from userdisk.target.logical_unit import LogicalUnit

#: opcode and flags, lengths, lun, itt, expected length, cmd_sn, CDB bytes 0-1, then of a
#: 10-byte CDB: lba, and group number, blocks and control as one number. The lun stays bytes: a
#: 64-bit number costs three times as much to decode.
_COMMAND = struct.Struct(">H2xI8sIII4xHII6x").unpack_from
#: of a 16-byte CDB, from byte 2 on: lba, blocks, group number and control
_CDB_16 = struct.Struct(">QIH").unpack_from
#: the first 16 bytes, itt, the four bytes that follow, stat_sn, exp_cmd_sn, max_cmd_sn
_RESPONSE = struct.Struct(">16sI4sIII12x").pack
_DATA_IN_START = struct.Struct(">II8s").pack

_READ_COMMAND = 0x01C1  # SCSI Command; final, read, SIMPLE
_WRITE_COMMAND = 0x01A1  # SCSI Command; final, write, SIMPLE
_READ_10, _READ_16, _WRITE_10, _WRITE_16 = 0x2800, 0x8800, 0x2A00, 0x8A00
_NOT_BLOCKS = 0xFF0000FF  # group number and control in the word that holds a 10-byte CDB's blocks

_DATA_IN_GOOD = 0x25810000  # Data-In, final, with status GOOD
_RESPONSE_GOOD = bytes.fromhex("2180000000000000 0000000000000000")
_NO_TTT = b"\xff\xff\xff\xff"
_NO_SNACK = bytes(4)

_NUMBERS_END = 0xFFFFF000  # the general path takes the numbers around 2^32


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
    stat_sn_end = room_end = stat_sn + (OUTPUT_BUFFERS - first) // 2
    data_digest = incoming.data_digest
    digests = data_digest or incoming.header_digest
    header_length = 52 if incoming.header_digest else 48
    data_trailer = 4 if data_digest else 0
    if digests:
        room_end = stat_sn_end = stat_sn + (OUTPUT_BUFFERS - first) // 4
    size = out.size  # and the data that is read
    append = out.buffers.append
    viewed = out.live  # the output has views of live memory
    current = b""  # the lun that the names below are about
    lu: LogicalUnit
    first_stat_sn, first_size = stat_sn, size  # for `_count`, as are writes and written
    writes = written = 0
    start, start_length = b"", -1  # of a Data-In header, for this length and lun

    last = end - header_length
    while pos <= last:
        flags, lengths, lun, itt, expected, cmd_sn, cdb, lba, blocks = _COMMAND(buffer, pos)
        if cmd_sn != exp_cmd_sn or stat_sn >= stat_sn_end:
            break
        if digests and not _intact(view, pos, 48, header_length - 48):
            break
        if lun != current:
            path = connection.paths.get(int.from_bytes(lun, "big"))
            if path is None or not path.ready or not connection.enter(path.lu.gate):
                break
            if current:
                _count(connection, lu, stat_sn - first_stat_sn, size - first_size, writes, written)  # noqa: F821
                first_stat_sn, first_size, writes, written = stat_sn, size, 0, 0
            current = lun
            lu = path.lu
            gate = lu.gate
            unit = gate.unit
            read, write = unit.read, unit.write
            block_length, block_count = lu.block_length, lu.block_count
            read_limit, write_limit = _limits(connection, lu)
            live = unit.live_reads
            copied = live and (lu.shared or not gate.all_inline or data_digest)
            start_length = -1

        if flags == _READ_COMMAND:
            if cdb == _READ_10:
                if blocks & _NOT_BLOCKS:
                    break
                blocks >>= 8
            elif cdb == _READ_16:
                lba, blocks, flags = _CDB_16(buffer, pos + 34)
                if flags:
                    break
            else:
                break
            length = blocks * block_length
            if length != expected or lengths or lba + blocks > block_count:
                break
            if length != start_length:
                if not 0 < length <= read_limit:
                    break
                start = _DATA_IN_START(_DATA_IN_GOOD, length, lun)
                start_length = length
                # where the batch ends if all that follows is like this
                stat_sn_end = min(room_end, stat_sn + (OUTPUT_BYTES - size) // length + 1)
            pos += header_length
            exp_cmd_sn += 1
            try:
                data: Buffer = read(lba, blocks, False)  # type: ignore[assignment]
                if type(data) is memoryview:
                    if data.nbytes != length or digests:  # whose place is told by len()
                        data = gate.checked_read(data, length)
                    if live:
                        if copied:
                            data = bytes(data)
                        viewed = True
                elif type(data) is not bytes or len(data) != length:
                    data = gate.checked_read(data, length)
                    if live:  # not a view, so that nobody would copy it later
                        data = bytes(data)
            except BaseException as error:
                kind, failure = Kind.READ, error
            else:
                append(_RESPONSE(start, itt, _NO_TTT, stat_sn, exp_cmd_sn, exp_cmd_sn + window))
                append(data)
                stat_sn += 1
                size += length
                continue

        elif flags == _WRITE_COMMAND:
            if cdb == _WRITE_10:
                if blocks & _NOT_BLOCKS:
                    break
                blocks >>= 8
            elif cdb == _WRITE_16:
                lba, blocks, flags = _CDB_16(buffer, pos + 34)
                if flags:
                    break
            else:
                break
            length = blocks * block_length
            data_start = pos + header_length
            data_end = data_start + length
            if (
                length != expected
                or length != lengths  # all of it immediate (a multiple of 512: no padding)
                or not 0 < length <= write_limit
                or lba + blocks > block_count
                or data_end + data_trailer > end
            ):
                break
            if data_digest and not _intact(view, data_start, length, data_trailer):
                break
            if viewed:
                out.settle()
                viewed = False
                append = out.buffers.append
            exp_cmd_sn += 1
            pos = data_end + data_trailer
            try:
                write(lba, view[data_start:data_end], False)
            except BaseException as error:
                kind, failure = Kind.WRITE, error
            else:
                append(
                    _RESPONSE(
                        _RESPONSE_GOOD, itt, _NO_SNACK, stat_sn, exp_cmd_sn, exp_cmd_sn + window
                    )
                )
                stat_sn += 1
                writes += 1
                written += length
                continue
        else:
            break

        # the unit raised: the general path builds the answer, and goes on after this command
        _count(connection, lu, stat_sn - first_stat_sn, size - first_size, writes, written)
        out.exp_cmd_sn, out.stat_sn = exp_cmd_sn, stat_sn
        if digests:
            out.add_digests(first)
        address = int.from_bytes(lun, "big"), itt, expected
        connection.tasks.answer_failure(lu, kind, failure, address, (lba, blocks))
        append, first = out.buffers.append, len(out.buffers)
        first_stat_sn = stat_sn = out.stat_sn
        first_size = size = out.size
        writes = written = 0

    if current:
        _count(connection, lu, stat_sn - first_stat_sn, size - first_size, writes, written)
    out.exp_cmd_sn, out.stat_sn = exp_cmd_sn, stat_sn
    out.live = viewed
    if digests:
        out.add_digests(first)
    incoming.start = pos


def _intact(view: memoryview, start: int, length: int, trailer: int) -> bool:
    """Whether the digest after these bytes is theirs; yes, if there is none."""
    end = start + length
    return not trailer or digest(view[start:end]) == view[end : end + trailer]


def _count(
    connection: Connection, lu: LogicalUnit, commands: int, read: int, writes: int, written: int
) -> None:
    """Count `commands` that went well: `writes` of them wrote; bytes read and written."""
    connection.out.size += read + 48 * commands
    counters = connection.counters[lu]
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
