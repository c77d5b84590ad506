"""The initiator's fast path: runs of plain commands out, runs of plain answers in.

What nearly every command of a busy disk is costs one pack to send and one unpack to end: a read
whose data fits into one Data-In with status GOOD, a write whose data is all immediate, nothing out
of the ordinary. The rest goes through `InitiatorSession`, which both functions here leave in the
same state as if it had done the work. RFC 7143 11.3 (command), 11.4 (response), 11.7 (Data-In).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from userdisk.iscsi import pdu
from userdisk.iscsi.pdu import InitiatorOpcode

if TYPE_CHECKING:
    from userdisk.iscsi.initiator import InitiatorSession
    from userdisk.iscsi.initiator_task import BlockRead, Task

_SCSI_COMMAND = int(InitiatorOpcode.SCSI_COMMAND)
_HEADER = pdu.BHS_LENGTH
_MASK = 0xFFFFFFFF
_HALF = 0x80000000

#: opcode, flags, lengths and lun; itt, expected length, cmd_sn, exp_stat_sn, cdb
_COMMAND = struct.Struct(">16sIIII16s").pack
#: the same with READ(16), no flags, LBA and blocks
_READ_COMMAND = struct.Struct(">16sIIIIHQIxx").pack
_READ_16 = struct.Struct(">HQIxx").pack
_START = struct.Struct(">IIQ").pack
_READ = 0x01C10000  # SCSI Command; final, read, SIMPLE
_WRITE = 0x01A10000  # final, write, SIMPLE
_READ_BLOCKS = 0x8800  # READ(16), no flags
_NO_DATA = 0x01810000  # final, SIMPLE

#: opcode, flags and status; lengths; itt; stat_sn; data_sn and offset
_ANSWER = struct.Struct(">II8xI4xI8xQ4x").unpack_from
_NUMBERS = struct.Struct(">II").unpack_from  # exp_cmd_sn, max_cmd_sn
_DATA_IN_GOOD = 0x25810000  # Data-In, final, with status GOOD, no residual
_RESPONSE_GOOD = 0x21800000  # SCSI Response, GOOD, no residual


@lru_cache(maxsize=8)
def _zeros(size: int) -> bytes:
    """Data that nobody looks at."""
    return bytes(size)


def lun_field(lun: int) -> int:
    """A LUN as it stands in a header (SAM-6 4.7.7.2, 4.7.7.4)."""
    if not 0 <= lun < 0x4000:
        raise ValueError(f"LUN {lun} is not from 0 to 16383")
    return (lun if lun < 256 else 0x4000 | lun) << 48


def commands(session: InitiatorSession, batch: Sequence[Task]) -> None:
    """Send commands as far as the target's window is open; the rest waits. None is special."""
    room = _room(session)
    if len(batch) > room:
        session.waiting.extend(batch[room:])
        batch = batch[:room]
    if not _numbers_are_plain(session, len(batch)):
        for task in batch:
            session.send_command(task)
        return
    tasks, itt, cmd_sn = session.tasks, session.itt, session.cmd_sn
    immediate, negotiated = 0, session.parameters
    if negotiated.immediate_data:
        immediate = min(negotiated.first_burst_length, negotiated.max_send_segment)
    output = session.stream.output
    append, first, only_heads = output.append, len(output), True
    exp_stat_sn = session.exp_stat_sn
    size, lun, start, writing = -1, -1, b"", False  # of the last command
    for task in batch:
        data = task.data_out
        if data:
            length = len(data)
            if length > immediate:
                session.itt, session.cmd_sn = itt, cmd_sn
                session.send_command(task)
                itt, cmd_sn, only_heads = session.itt, session.cmd_sn, False
                continue
            if not writing or length != size or task.lun != lun:
                size, lun, writing = length, task.lun, True
                start = _START(_WRITE, size, lun_field(lun))
            task.offered = length
            itt += 1
            append(_COMMAND(start, itt, size, cmd_sn, exp_stat_sn, task.cdb))
            append(data)
            if length & 3:
                append(pdu.PADDING[length & 3])
            only_heads = False
        else:
            if writing or task.read_length != size or task.lun != lun:
                size, lun, writing = task.read_length, task.lun, False
                start = _START(_READ if size else _NO_DATA, 0, lun_field(lun))
            itt += 1
            append(_COMMAND(start, itt, size, cmd_sn, exp_stat_sn, task.cdb))
        task.itt = itt
        task.cmd_sn = cmd_sn
        tasks[itt] = task
        cmd_sn += 1
    session.itt, session.cmd_sn = itt, cmd_sn & _MASK
    if only_heads and len(output) > first + 1:
        output[first:] = [b"".join(output[first:])]  # cheaper to send


def reads(
    session: InitiatorSession, batch: Sequence[BlockRead], lun: int, block_length: int
) -> None:
    """Send READ(16) commands without flags: as `commands` does, at two thirds of the cost.

    Each is new, or has ended by a plain answer, after which there is not much to renew.
    """
    plain = len(batch) <= _room(session) and _numbers_are_plain(session, len(batch))
    if session.waiting or not plain:
        for task in batch:
            task.renew()
            task.lun, task.read_length = lun, task.blocks * block_length
            task.cdb = _READ_16(_READ_BLOCKS, task.lba, task.blocks)
        session.submit(batch)
        return
    output: list[bytes] = []
    append, tasks = output.append, session.tasks
    itt, cmd_sn, exp_stat_sn = session.itt, session.cmd_sn, session.exp_stat_sn
    last, size, start = -1, 0, b""
    for task in batch:
        blocks = task.blocks
        if blocks != last:
            last, size = blocks, blocks * block_length
            start = _START(_READ if size else _NO_DATA, 0, lun_field(lun))
        itt += 1
        append(_READ_COMMAND(start, itt, size, cmd_sn, exp_stat_sn, _READ_BLOCKS, task.lba, blocks))
        task.itt, task.cmd_sn, task.lun, task.read_length = itt, cmd_sn, lun, size
        task.done, task.data, task.data_pdus = False, b"", 0
        tasks[itt] = task
        cmd_sn += 1
    session.itt, session.cmd_sn = itt, cmd_sn & _MASK
    if output:
        session.stream.output.append(b"".join(output))


def _numbers_are_plain(session: InitiatorSession, count: int) -> bool:
    """Whether so many commands have no digests, and neither CmdSN nor task tags wrap."""
    stream, itt = session.stream, session.itt
    if stream.header_digest or stream.data_digest or session.cmd_sn + count > _MASK:
        return False
    if itt + count < session.free_until:
        return True
    session.free_until = min((tag for tag in session.tasks if tag > itt), default=_MASK)
    return itt + count < session.free_until


def _room(session: InitiatorSession) -> int:
    """How many commands the target takes now."""
    room = (session.max_cmd_sn - session.cmd_sn + 1) & _MASK
    return 0 if room >= _HALF else room


def answers(session: InitiatorSession) -> None:
    """End the tasks of the plain answers at the start of what was received."""
    stream, tasks = session.stream, session.tasks
    if stream.header_digest or stream.data_digest:
        return
    staging, pos, first = stream.staging, stream.start, stream.start
    received = stream.end
    last = received - _HEADER
    stat_sn = session.exp_stat_sn
    append = session.ended.append
    find = tasks.get
    size, step, unread = -1, 0, b""  # of the last data that was plain
    while pos <= last:
        kind, length, itt, number, place = _ANSWER(staging, pos)
        if number != stat_sn:
            break
        task = find(itt)
        if task is None:
            break
        if kind == _DATA_IN_GOOD and length == task.read_length and not place:
            if length != size:
                if length & 3:  # padding
                    break
                size, step, unread = length, _HEADER + length, _zeros(length)
            end = pos + step
            if end > received or task.data_pdus:
                break
            task.data = unread if task.unread else staging[pos + _HEADER : end]
            task.data_pdus = 1
            begun, pos = pos, end
        elif kind == _RESPONSE_GOOD and task.opcode == _SCSI_COMMAND:
            if length or task.data_pdus:
                break
            begun = pos
            pos += _HEADER
        else:
            break
        del tasks[itt]
        task.done = True
        append(task)
        stat_sn += 1
    if pos != first:
        stream.start = pos
        session.exp_stat_sn = stat_sn & _MASK
        session.window(*_NUMBERS(staging, begun + 28))
