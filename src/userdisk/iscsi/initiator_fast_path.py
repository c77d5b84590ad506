"""The initiator's fast path: runs of plain commands out, runs of plain answers in.

What nearly every command of a busy disk is costs one pack to send and one unpack to end: a read
whose data fits into one Data-In with status GOOD, a write whose data is all immediate, nothing out
of the ordinary. The rest goes through `InitiatorSession`, which both functions here leave in the
same state as if it had done the work. RFC 7143 11.3 (command), 11.4 (response), 11.7 (Data-In).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING

from userdisk.iscsi import pdu
from userdisk.iscsi.pdu import InitiatorOpcode

if TYPE_CHECKING:
    from userdisk.iscsi.initiator import InitiatorSession
    from userdisk.iscsi.initiator_task import Task

_SCSI_COMMAND = int(InitiatorOpcode.SCSI_COMMAND)
_MASK = 0xFFFFFFFF
_HEADER = pdu.BHS_LENGTH
_HALF = 0x80000000

#: opcode and flags, lengths, lun, itt, expected length, cmd_sn, exp_stat_sn, cdb
_COMMAND = struct.Struct(">IIQIIII16s").pack
_READ = 0x01C10000  # SCSI Command; final, read, SIMPLE
_WRITE = 0x01A10000  # final, write, SIMPLE
_NO_DATA = 0x01810000  # final, SIMPLE

#: opcode, flags and status; lengths; itt; stat_sn; exp_cmd_sn and max_cmd_sn; data_sn and offset
_ANSWER = struct.Struct(">II8xI4xIIIQ4x").unpack_from
_DATA_IN_GOOD = 0x25810000  # Data-In, final, with status GOOD, no residual
_RESPONSE_GOOD = 0x21800000  # SCSI Response, GOOD, no residual


def lun_field(lun: int) -> int:
    """A LUN as it stands in a header (SAM-6 4.7.7.2, 4.7.7.4)."""
    if not 0 <= lun < 0x4000:
        raise ValueError(f"LUN {lun} is not from 0 to 16383")
    return (lun if lun < 256 else 0x4000 | lun) << 48


def commands(session: InitiatorSession, batch: Iterable[Task]) -> None:
    """Send commands as far as the target's window is open; the rest waits."""
    stream, tasks = session.stream, session.tasks
    negotiated = session.parameters
    plain = not (stream.header_digest or stream.data_digest)
    immediate = 0
    if negotiated.immediate_data:
        immediate = min(negotiated.first_burst_length, negotiated.max_send_segment)
    append = stream.output.append
    exp_stat_sn, itt, cmd_sn = session.exp_stat_sn, session.itt, session.cmd_sn
    room = _room(session)
    lun, field = 0, 0
    for task in batch:
        if room <= 0 and not task.immediate:
            session.waiting.append(task)
            continue
        data = task.data_out
        length = len(data)
        itt += 1
        if plain and length <= immediate and not task.special and itt not in tasks and itt < _MASK:
            if task.lun != lun:
                lun, field = task.lun, lun_field(task.lun)
            task.itt, task.cmd_sn = itt, cmd_sn
            tasks[itt] = task
            if length:
                task.offered = length
                head = _COMMAND(_WRITE, length, field, itt, length, cmd_sn, exp_stat_sn, task.cdb)
                append(head)
                append(data)
                if length & 3:
                    append(pdu.PADDING[length & 3])
            else:
                size = task.read_length
                word = _READ if size else _NO_DATA
                append(_COMMAND(word, 0, field, itt, size, cmd_sn, exp_stat_sn, task.cdb))
            cmd_sn = (cmd_sn + 1) & _MASK
            room -= 1
            continue
        session.itt, session.cmd_sn = itt - 1, cmd_sn
        session.send_command(task)
        itt, cmd_sn = session.itt, session.cmd_sn
        room -= not task.immediate
    session.itt, session.cmd_sn = itt, cmd_sn


def _room(session: InitiatorSession) -> int:
    """How many commands the target takes now."""
    room = (session.max_cmd_sn - session.cmd_sn + 1) & _MASK
    return 0 if room >= _HALF else room


def answers(session: InitiatorSession) -> None:
    """End the tasks of the plain answers at the start of what was received."""
    stream, tasks = session.stream, session.tasks
    if stream.header_digest or stream.data_digest:
        return
    staging, pos = stream.staging, stream.start
    last = stream.end - pdu.BHS_LENGTH
    stat_sn = session.exp_stat_sn
    append = session.ended.append
    exp_cmd_sn = -1
    max_cmd_sn = 0
    while pos <= last:
        kind, length, itt, number, exp, window, place = _ANSWER(staging, pos)
        if number != stat_sn:
            break
        task = tasks.get(itt)
        if task is None or task.opcode != _SCSI_COMMAND:
            break
        if kind == _DATA_IN_GOOD:
            data = pos + _HEADER
            end = data + length
            if length != task.read_length or place or task.data_pdus or length & 3:
                break
            if end > stream.end:
                break
            task.data = staging[data:end]
            task.arrived = length
            task.data_pdus = 1
            pos = end
        elif kind == _RESPONSE_GOOD and not length and not task.arrived:
            pos += _HEADER
        else:
            break
        del tasks[itt]
        task.done = True
        append(task)
        stat_sn = (stat_sn + 1) & _MASK
        exp_cmd_sn, max_cmd_sn = exp, window
    if exp_cmd_sn >= 0:
        stream.start = pos
        session.exp_stat_sn = stat_sn
        session.window(exp_cmd_sn, max_cmd_sn)
