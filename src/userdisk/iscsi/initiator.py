"""The initiator's side of an iSCSI connection, with no I/O (RFC 7143 sections 4, 6, 7, 11).

Theory of operation. `start` queues the first Login Request; `received` takes bytes from the wire,
changes the state of the tasks they are about and queues what has to be answered (Data-Out for an
R2T, NOP-Out for a ping, the next login round); the owner sends what `take_output` returns. A
`Task` is anything with an initiator task tag: a SCSI command, a task management function, a text
negotiation, a ping, a logout. Commands beyond the target's window wait in `_waiting`.
One connection, one session, error recovery level 0: a protocol error ends it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from userdisk.iscsi import pdu
from userdisk.iscsi.initiator_login import LoginExchange, Parameters, Settings
from userdisk.iscsi.initiator_wire import InitiatorError, PduStream
from userdisk.iscsi.pdu import InitiatorOpcode, TargetOpcode
from userdisk.unit import Buffer

_MASK = 0xFFFFFFFF


@dataclass(eq=False, slots=True)
class Task:
    """Something with an initiator task tag, and how it ended.

    `response` is the iSCSI response code of the PDU that ended it, `status` the SCSI status;
    `residual` is negative for an overflow (the target had more), positive for an underflow.
    """

    itt: int
    opcode: int
    lun: int = 0
    cmd_sn: int = 0
    read_length: int = 0
    data_out: memoryview = field(default_factory=lambda: memoryview(b""))
    data: bytearray = field(default_factory=bytearray)
    done: bool = False
    response: int = 0
    status: int = 0
    sense: bytes = b""
    residual: int = 0
    #: Data-In and R2T PDUs seen, for tests that count them.
    data_pdus: int = 0
    r2ts: int = 0


class InitiatorSession:
    """One session over one connection. Not thread-safe; never blocks.

    Args:
        settings: names, secrets, what to offer.
        random: `random(n)` gives n unpredictable bytes (CHAP).

    `received` raises `InitiatorError` when the target breaks the protocol or refuses the login;
    the session is of no use afterwards.
    """

    def __init__(self, settings: Settings, *, random: Callable[[int], bytes]) -> None:
        self.settings = settings
        self.parameters = Parameters()
        self.logged_in = False
        self.closed = False
        self.cmd_sn = 1
        self.exp_stat_sn = 0
        self.max_cmd_sn = 1
        self.tsih = 0
        self.tasks: dict[int, Task] = {}
        #: Asynchronous messages received: (event, parameter 1, parameter 2, parameter 3).
        self.events: list[tuple[int, int, int, int]] = []
        #: Rejects received: (reason, rejected header).
        self.rejects: list[tuple[int, bytes]] = []
        self._stream = PduStream()
        self._login = LoginExchange(settings, random)
        self._itt = 0
        self._waiting: deque[tuple[Task, bytes]] = deque()

    # -- what the owner calls --------------------------------------------------------------------

    def start(self) -> None:
        """Queue the first Login Request."""
        self._send_login(*self._login.first())

    def take_output(self) -> list[Buffer]:
        """What to send now, in order; empty when there is nothing."""
        output, self._stream.output = self._stream.output, []
        return output

    def received(self, data: Buffer) -> None:
        """Handle bytes from the wire, in pieces of any size."""
        for header, segment in self._stream.received(data):
            self._dispatch(header, segment)

    def command(
        self,
        cdb: bytes,
        *,
        lun: int = 0,
        data_out: Buffer = b"",
        read_length: int = 0,
        attribute: int = 1,
        expected: int | None = None,
        immediate: bool = False,
    ) -> Task:
        """Send a SCSI command (or queue it until the window opens).

        `lun` is a small number (peripheral addressing). `expected` overrides the expected data
        transfer length, which is otherwise the length of `data_out` or `read_length`.
        """
        view = memoryview(data_out).toreadonly().cast("B")
        task = self._task(InitiatorOpcode.SCSI_COMMAND, lun << 48)
        task.read_length, task.data_out = read_length, view
        flags = attribute
        flags |= pdu.COMMAND_WRITE if len(view) else pdu.COMMAND_READ if read_length else 0
        length = (len(view) or read_length) if expected is None else expected
        fields = (flags, length, cdb.ljust(16, b"\0"))
        self._enqueue(task, struct.pack(">BI16s", *fields), immediate)
        return task

    def ping(self, data: bytes = b"") -> Task:
        """Send a NOP-Out that wants an answer; `task.data` is what came back."""
        task = self._task(InitiatorOpcode.NOP_OUT)
        self._send_request(task, pdu.FINAL, pdu.RESERVED_TAG, bytes(16), data, immediate=True)
        return task

    def text(self, keys: Sequence[tuple[str, str]]) -> Task:
        """Send a Text Request; `task.data` is the whole answer, over several PDUs if need be."""
        task = self._task(InitiatorOpcode.TEXT)
        data = b"".join(f"{key}={value}\0".encode() for key, value in keys)
        self._send_request(task, pdu.FINAL, pdu.RESERVED_TAG, bytes(16), data, immediate=True)
        return task

    def task_management(self, function: int, *, lun: int = 0, about: Task | None = None) -> Task:
        """Send a task management function (RFC 7143 11.5.1); `task.response` is the answer."""
        task = self._task(InitiatorOpcode.TASK_MANAGEMENT, lun << 48)
        tail = struct.pack(">II8x", about.cmd_sn if about else 0, 0)
        reference = about.itt if about else pdu.RESERVED_TAG
        self._send_request(task, pdu.FINAL | function, reference, tail, b"", immediate=True)
        return task

    def logout(self, reason: int = 0) -> Task:
        """Send a Logout Request; the target closes the connection after its answer."""
        task = self._task(InitiatorOpcode.LOGOUT)
        self._send_request(task, pdu.FINAL | reason, 0, bytes(16), b"", immediate=True)
        return task

    def raw(self, header: bytes, data: bytes = b"") -> None:
        """Queue a PDU as given, with digests and padding only: for tests of bad behaviour."""
        self._stream.emit(header, data)

    # -- sending -----------------------------------------------------------------------------

    def _task(self, opcode: int, lun: int = 0) -> Task:
        if self.closed or not self.logged_in:
            raise InitiatorError("iscsi: the session is not logged in")
        self._itt = self._itt % (pdu.RESERVED_TAG - 1) + 1
        task = self.tasks[self._itt] = Task(self._itt, opcode, lun)
        return task

    def _send_request(
        self, task: Task, flags: int, word20: int, tail: bytes, data: Buffer, *, immediate: bool
    ) -> None:
        task.cmd_sn = self.cmd_sn
        opcode = task.opcode | (pdu.IMMEDIATE if immediate else 0)
        numbers = (task.itt, word20, self.cmd_sn, self.exp_stat_sn)
        if not immediate:
            self.cmd_sn = (self.cmd_sn + 1) & _MASK
        self._stream.emit(
            pdu.GENERIC.pack(opcode, flags, len(data), task.lun, *numbers, tail), data
        )

    def _enqueue(self, task: Task, fields: bytes, immediate: bool) -> None:
        open_window = not pdu.serial_less(self.max_cmd_sn, self.cmd_sn)
        if immediate or (open_window and not self._waiting):
            self._send_command(task, fields, immediate)
        else:
            self._waiting.append((task, fields))

    def _send_command(self, task: Task, fields: bytes, immediate: bool) -> None:
        flags, length, cdb = struct.unpack(">BI16s", fields)
        negotiated, data = self.parameters, task.data_out
        limit = min(negotiated.first_burst_length, len(data))
        first = min(limit, negotiated.max_send_segment) if negotiated.immediate_data else 0
        unsolicited = not negotiated.initial_r2t and first < limit
        flags |= 0 if unsolicited else pdu.FINAL
        self._send_request(task, flags, length, cdb, data[:first], immediate=immediate)
        if unsolicited:
            self._send_data(task, pdu.RESERVED_TAG, first, limit - first)

    def _send_data(self, task: Task, ttt: int, offset: int, length: int) -> None:
        data_sn, end = 0, offset + length
        while offset < end:
            size = min(self.parameters.max_send_segment, end - offset)
            flags = pdu.FINAL if offset + size == end else 0
            lun = task.lun if ttt != pdu.RESERVED_TAG else 0
            ids = (lun, task.itt, ttt, self.exp_stat_sn, data_sn, offset)
            header = pdu.DATA_OUT.pack(InitiatorOpcode.DATA_OUT, flags, size, *ids)
            self._stream.emit(header, task.data_out[offset : offset + size])
            offset, data_sn = offset + size, data_sn + 1

    def _send_login(self, flags: int, data: bytes) -> None:
        opcode = InitiatorOpcode.LOGIN | pdu.IMMEDIATE
        isid_tsih = (self.settings.isid << 16) | self.tsih
        numbers = (0, 0, self.cmd_sn, self.exp_stat_sn)
        self._stream.emit(
            pdu.GENERIC.pack(opcode, flags, len(data), isid_tsih, *numbers, bytes(16)), data
        )

    # -- receiving ---------------------------------------------------------------------------

    def _dispatch(self, header: bytes, segment: bytes) -> None:
        opcode = header[0] & 0x3F
        if not self.logged_in:
            if opcode != TargetOpcode.LOGIN_RESPONSE:
                raise InitiatorError(f"iscsi: PDU 0x{opcode:02x} from the target during login")
            self._on_login(header, segment)
            return
        handler = _HANDLERS.get(opcode)
        if handler is None:
            raise InitiatorError(f"iscsi: PDU 0x{opcode:02x} from the target is not known")
        if opcode != TargetOpcode.R2T and (opcode != TargetOpcode.DATA_IN or header[1] & 1):
            self._status_number(int.from_bytes(header[24:28]), header, opcode)
        max_cmd_sn = int.from_bytes(header[32:36])
        if pdu.serial_less(self.max_cmd_sn, max_cmd_sn):
            self.max_cmd_sn = max_cmd_sn
        handler(self, header, segment)
        while self._waiting and not pdu.serial_less(self.max_cmd_sn, self.cmd_sn):
            task, fields = self._waiting.popleft()
            self._send_command(task, fields, immediate=False)

    def _status_number(self, stat_sn: int, header: bytes, opcode: int) -> None:
        if stat_sn != self.exp_stat_sn:
            raise InitiatorError(f"iscsi: StatSN {stat_sn} instead of {self.exp_stat_sn}")
        itt = int.from_bytes(header[16:20])
        if opcode != TargetOpcode.NOP_IN or itt != pdu.RESERVED_TAG:  # a ping does not use it up
            self.exp_stat_sn = (stat_sn + 1) & _MASK

    def _on_login(self, header: bytes, segment: bytes) -> None:
        self.exp_stat_sn = (int.from_bytes(header[24:28]) + 1) & _MASK
        self.max_cmd_sn = int.from_bytes(header[32:36])
        answer = self._login.response(header, segment)
        if answer is not None:
            self._send_login(*answer)
            return
        self.tsih = int.from_bytes(header[14:16])
        self.parameters = self._login.parameters
        self.logged_in = True
        self._stream.header_digest = self.parameters.header_digest
        self._stream.data_digest = self.parameters.data_digest
        self._stream.max_segment = self.settings.max_recv_segment

    def _end(self, header: bytes) -> Task:
        itt = int.from_bytes(header[16:20])
        task = self.tasks.pop(itt, None)
        if task is None:
            raise InitiatorError(f"iscsi: an answer to a task that does not exist: 0x{itt:x}")
        task.done, task.response = True, header[2]
        return task

    def _on_response(self, header: bytes, segment: bytes) -> None:
        task = self._end(header)
        task.status = header[3]
        (residual,) = struct.unpack_from(">I", header, 44)
        self._residual(task, header[1], residual)
        if len(segment) >= 2:
            task.sense = segment[2 : 2 + int.from_bytes(segment[:2])]

    def _residual(self, task: Task, flags: int, residual: int) -> None:
        if flags & pdu.RESIDUAL_UNDERFLOW:
            task.residual = residual
        elif flags & pdu.RESIDUAL_OVERFLOW:
            task.residual = -residual

    def _on_data_in(self, header: bytes, segment: bytes) -> None:
        task = self.tasks.get(int.from_bytes(header[16:20]))
        if task is None:
            raise InitiatorError("iscsi: Data-In for a task that does not exist")
        data_sn, offset, residual = struct.unpack_from(">III", header, 36)
        if offset != len(task.data) or data_sn != task.data_pdus:
            raise InitiatorError(f"iscsi: Data-In {data_sn} at {offset} is out of order")
        if offset + len(segment) > task.read_length:
            raise InitiatorError(f"iscsi: Data-In past the {task.read_length} bytes asked for")
        task.data += segment
        task.data_pdus += 1
        if header[1] & pdu.DATA_IN_STATUS:
            self._end(header)
            task.response, task.status = 0, header[3]
            self._residual(task, header[1], residual)

    def _on_r2t(self, header: bytes, segment: bytes) -> None:
        fields = pdu.R2T.unpack(header)
        itt, ttt, r2t_sn, offset, length = fields[3], fields[4], *fields[8:11]
        task = self.tasks.get(itt)
        if task is None or r2t_sn != task.r2ts:
            raise InitiatorError(f"iscsi: R2T {r2t_sn} for task 0x{itt:x} is out of order")
        if not length or length > self.parameters.max_burst_length:
            raise InitiatorError(f"iscsi: R2T for {length} bytes")
        if offset + length > len(task.data_out):
            raise InitiatorError("iscsi: R2T past the end of the data")
        task.r2ts += 1
        self._send_data(task, ttt, offset, length)

    def _on_nop_in(self, header: bytes, segment: bytes) -> None:
        itt, ttt = struct.unpack_from(">II", header, 16)
        if itt != pdu.RESERVED_TAG:
            self._end(header).data += segment
            return
        if ttt != pdu.RESERVED_TAG:
            opcode = InitiatorOpcode.NOP_OUT | pdu.IMMEDIATE
            (lun,) = struct.unpack_from(">Q", header, 8)
            numbers = (lun, itt, ttt, self.cmd_sn, self.exp_stat_sn, bytes(16))
            self._stream.emit(pdu.GENERIC.pack(opcode, pdu.FINAL, len(segment), *numbers), segment)

    def _on_text(self, header: bytes, segment: bytes) -> None:
        itt, ttt = struct.unpack_from(">II", header, 16)
        task = self.tasks.get(itt)
        if task is None or len(task.data) > 1 << 20:
            raise InitiatorError("iscsi: a Text Response that was not asked for, or too long")
        task.data += segment
        if header[1] & pdu.FINAL:
            self._end(header).response = 0
            return
        tail = bytes(16)  # an empty request with the target's tag asks for more
        self._send_request(task, pdu.FINAL, ttt, tail, b"", immediate=True)

    def _on_end(self, header: bytes, segment: bytes) -> None:
        task = self._end(header)
        if task.opcode == InitiatorOpcode.LOGOUT and task.response == 0:
            self.closed = True

    def _on_async(self, header: bytes, segment: bytes) -> None:
        event, _, *parameters = struct.unpack_from(">BBHHH", header, 36)
        self.events.append((event, parameters[0], parameters[1], parameters[2]))

    def _on_reject(self, header: bytes, segment: bytes) -> None:
        self.rejects.append((header[2], segment[:48]))
        task = self.tasks.pop(int.from_bytes(segment[16:20]), None) if len(segment) >= 48 else None
        if task is not None:
            task.done, task.response = True, 0x100 | header[2]


_HANDLERS: dict[int, Callable[[InitiatorSession, bytes, bytes], None]] = {
    TargetOpcode.NOP_IN: InitiatorSession._on_nop_in,
    TargetOpcode.SCSI_RESPONSE: InitiatorSession._on_response,
    TargetOpcode.TASK_MANAGEMENT_RESPONSE: InitiatorSession._on_end,
    TargetOpcode.TEXT_RESPONSE: InitiatorSession._on_text,
    TargetOpcode.DATA_IN: InitiatorSession._on_data_in,
    TargetOpcode.LOGOUT_RESPONSE: InitiatorSession._on_end,
    TargetOpcode.R2T: InitiatorSession._on_r2t,
    TargetOpcode.ASYNC_MESSAGE: InitiatorSession._on_async,
    TargetOpcode.REJECT: InitiatorSession._on_reject,
}
