"""Data of commands, initiator's side: Data-In, R2T and Data-Out (RFC 7143 11.7, 11.8).

Both directions are in order (DataPDUInOrder, DataSequenceInOrder): every piece begins where the
last one ended. So a target can have nothing sent twice and nothing stored but what was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.iscsi import pdu
from userdisk.iscsi.initiator_fast_path import lun_field
from userdisk.iscsi.initiator_task import Task
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.iscsi.pdu import InitiatorOpcode

if TYPE_CHECKING:
    from userdisk.iscsi.initiator import InitiatorSession


def send(session: InitiatorSession, task: Task, ttt: int, offset: int, length: int) -> None:
    """Queue a sequence of Data-Out PDUs; unsolicited if `ttt` is reserved."""
    data_sn, end = 0, offset + length
    data = memoryview(task.data_out)
    lun = lun_field(task.lun) if ttt != pdu.RESERVED_TAG else 0
    while offset < end:
        size = min(session.parameters.max_send_segment, end - offset)
        flags = pdu.FINAL if offset + size == end else 0
        ids = (lun, task.itt, ttt, session.exp_stat_sn, data_sn, offset)
        header = pdu.DATA_OUT.pack(InitiatorOpcode.DATA_OUT, flags, size, *ids)
        session.stream.emit(header, data[offset : offset + size])
        offset, data_sn = offset + size, data_sn + 1


def on_r2t(session: InitiatorSession, header: bytes, segment: bytes) -> None:
    """The target asks for the next part of a command's data."""
    fields = pdu.R2T.unpack(header)
    itt, ttt, r2t_sn, offset, length = fields[3], fields[4], *fields[8:11]
    task = session.tasks.get(itt)
    if task is None or r2t_sn != task.r2ts or ttt == pdu.RESERVED_TAG:
        raise InitiatorError(f"iscsi: R2T {r2t_sn} for task 0x{itt:x} is out of order")
    if not length or length > session.parameters.max_burst_length:
        raise InitiatorError(f"iscsi: R2T for {length} bytes")
    if offset + length > len(task.data_out):
        raise InitiatorError("iscsi: R2T past the end of the data")
    if offset != task.offered:
        raise InitiatorError(f"iscsi: R2T at {offset}, and {task.offered} bytes were sent")
    task.r2ts += 1
    task.offered += length
    send(session, task, ttt, offset, length)


def place(session: InitiatorSession, header: bytes, length: int) -> memoryview:
    """Where the data of a Data-In goes. Raises `InitiatorError` if there is no such place."""
    task, offset = _check(session, header, length)
    return _memory(task)[offset : offset + length]


def on_data_in(session: InitiatorSession, header: bytes, segment: bytes) -> None:
    """Data is here, in its place already if `segment` is empty; perhaps also the status."""
    length = int.from_bytes(header[5:8])
    task, offset = _check(session, header, length)
    if segment:
        _memory(task)[offset : offset + length] = segment
    task.arrived += length
    task.data_pdus += 1
    if header[1] & pdu.DATA_IN_STATUS:
        session.end(header, InitiatorOpcode.SCSI_COMMAND)
        task.response, task.status = 0, header[3]
        end(task, header[1], int.from_bytes(header[44:48]))


def end(task: Task, flags: int, residual: int) -> None:
    """No more data comes: keep what has come, and say what was left over."""
    if isinstance(task.data, bytearray):
        del task.data[task.arrived :]  # nothing, mostly
        task.arrived = 0
    if flags & pdu.RESIDUAL_UNDERFLOW:
        task.residual = residual
    elif flags & pdu.RESIDUAL_OVERFLOW:
        task.residual = -residual


def _check(session: InitiatorSession, header: bytes, length: int) -> tuple[Task, int]:
    task = session.tasks.get(int.from_bytes(header[16:20]))
    if task is None or task.opcode != InitiatorOpcode.SCSI_COMMAND:
        raise InitiatorError("iscsi: Data-In for a task that does not exist")
    data_sn, offset = int.from_bytes(header[36:40]), int.from_bytes(header[40:44])
    if offset != task.arrived or data_sn != task.data_pdus:
        raise InitiatorError(f"iscsi: Data-In {data_sn} at {offset} is out of order")
    if offset + length > task.read_length:
        raise InitiatorError(f"iscsi: Data-In past the {task.read_length} bytes asked for")
    return task, offset


def _memory(task: Task) -> memoryview:
    """Where data-in goes: as much as was asked for, whatever comes."""
    if not isinstance(task.data, bytearray):
        task.data = bytearray(task.read_length)
    return memoryview(task.data)
