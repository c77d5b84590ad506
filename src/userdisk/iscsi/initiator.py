"""The initiator's side of an iSCSI connection, with no I/O (RFC 7143 sections 4, 6, 7, 11).

Theory of operation. `start` queues the first Login Request. The owner receives into `buffer()` and
says so with `advance`, which changes the state of the tasks they are about, queues what has to
be answered (Data-Out for an R2T, NOP-Out for a ping, the next login round), and returns the tasks
that have ended; it sends what `take_output` returns. A `Task` is anything with an initiator task
tag: a SCSI command, a task management function, a text negotiation, a ping, a logout. Commands
beyond the target's window wait. One connection, one session, error recovery level 0: whatever the
target gets wrong ends it. Plain answers in runs are taken by `initiator_fast_path`.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence

from userdisk.iscsi import initiator_data, initiator_fast_path, pdu
from userdisk.iscsi.initiator_events import Events
from userdisk.iscsi.initiator_login import LoginExchange, Parameters, Settings, decode_keys
from userdisk.iscsi.initiator_task import ABORTED, LOST, REJECTED, BlockRead, Task
from userdisk.iscsi.initiator_wire import LANDING, InitiatorError, PduStream
from userdisk.iscsi.pdu import InitiatorOpcode, TargetOpcode
from userdisk.unit import Buffer

__all__ = ["InitiatorSession", "Task"]

_MASK = 0xFFFFFFFF
_MAX_TEXT = 1 << 20  # bytes of one text negotiation's answer
_MAX_ROUNDS = 1024  # PDUs of it
_MAX_PONGS = 1 << 20  # bytes of answers to pings that wait for being sent
_PONG = 256  # what one costs besides its data

#: task management functions (11.5.1): whose commands they end; None: the one that is named
_ENDS: dict[int, Callable[[Task, Task], bool] | None] = {
    1: None,
    2: lambda function, task: task.lun == function.lun,
    4: lambda function, task: task.lun == function.lun,
    5: lambda function, task: task.lun == function.lun,
    6: lambda function, task: True,
    7: lambda function, task: True,
}


class InitiatorSession:
    """One session over one connection. Not thread-safe; never blocks.

    Args:
        settings: names, secrets, what to offer.
        random: `random(n)` gives n unpredictable bytes (CHAP).

    `advance` and `received` raise `InitiatorError` when the target breaks the protocol or refuses
    the login; the session is of no use afterwards, and `lost` says what was under way.
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
        self.tasks: dict[int, Task] = {}  #: sent and not answered
        self.waiting: deque[Task] = deque()  #: commands beyond the target's window
        self.ended: list[Task] = []  #: since the last `advance`
        self.plain = True  #: the last `advance` had only commands that went well, entirely
        self.stream = PduStream(settings.max_recv_segment)
        self.itt = 0  #: the last task tag
        self.free_until = pdu.RESERVED_TAG  #: those from there to this one are free
        self._events = Events()
        self._login = LoginExchange(settings, random)
        self._header: bytes | None = None  # whose data is not all here
        self._landing: Task | None = None  # whose memory that data goes to
        self._pongs = 0
        self._renegotiation: Task | None = None

    # -- what the owner calls --------------------------------------------------------------------

    def start(self) -> None:
        """Queue the first Login Request."""
        self._send_login(*self._login.first())

    def take_output(self) -> list[Buffer]:
        """What to send now, in order; empty when there is nothing."""
        output, self.stream.output = self.stream.output, []
        self._pongs = 0
        return output

    def buffer(self) -> memoryview:
        """Where to receive next; never empty."""
        return self.stream.buffer()

    def advance(self, size: int) -> list[Task]:
        """So many bytes have come into `buffer()`; returns the tasks that have ended."""
        stream = self.stream
        stream.advance(size)
        self.plain = self.logged_in
        while True:
            if self._header is None:
                if self.logged_in:
                    initiator_fast_path.answers(self)
                self._header = stream.header()
                if self._header is None:
                    break
                self._begin(self._header)
            segment = stream.segment()
            if segment is None:
                break
            header, self._header = self._header, None
            self.plain = False
            self._dispatch(header, segment)
        stream.settle()
        if self.waiting:
            self._fill_window()
        ended, self.ended = self.ended, []
        return ended

    def received(self, data: Buffer) -> list[Task]:
        """The same for bytes from elsewhere, in pieces of any size."""
        view = memoryview(data).cast("B")
        ended: list[Task] = []
        while len(view):
            place = self.buffer()
            size = min(len(place), len(view))
            place[:size] = view[:size]
            view = view[size:]
            ended += self.advance(size)
        return ended

    def lost(self) -> list[Task]:
        """The connection is gone: every task ends now, with `LOST` if it had no answer."""
        self.closed = True
        ended, self.ended = self.ended, []
        for task in (*self.tasks.values(), *self.waiting):
            task.done, task.response = True, LOST
            ended.append(task)
        self.tasks.clear()
        self.waiting.clear()
        return ended

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return not self.tasks and not self.waiting

    @property
    def events(self) -> list[tuple[int, int, int, int]]:
        """The last asynchronous messages: (event, parameter 1, parameter 2, parameter 3)."""
        return self._events.messages

    @property
    def event_count(self) -> int:
        """How many asynchronous messages have come."""
        return self._events.count

    @property
    def event_sense(self) -> list[bytes]:
        """The sense data of the last asynchronous messages that had some."""
        return self._events.sense

    @property
    def rejects(self) -> list[tuple[int, bytes]]:
        """The last rejects: (reason, rejected header)."""
        return self._events.rejects

    @property
    def logout_wanted(self) -> bool:
        """The target has asked to log out: end what is under way, then `logout`."""
        return self._events.logout_wanted

    # -- requests --------------------------------------------------------------------------------

    def submit(self, tasks: Sequence[Task]) -> None:
        """Send commands, or queue them until the window opens."""
        self._check_open()
        if self.waiting:
            self.waiting.extend(tasks)
        else:
            initiator_fast_path.commands(self, tasks)

    def submit_reads(self, tasks: Sequence[BlockRead], lun: int, block_length: int) -> None:
        """The same for reads of which each is new, or has ended by a plain answer (see `plain`)."""
        self._check_open()
        initiator_fast_path.reads(self, tasks, lun, block_length)

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

        `expected` overrides the expected data transfer length, which is otherwise the length
        of `data_out` or `read_length`.
        """
        self._check_open()
        task = Task(cdb, read_length, data_out, lun)
        if (attribute, expected, immediate) == (1, None, False):
            self.submit([task])
            return task
        task.attribute, task.expected, task.immediate = attribute, expected, immediate
        task.special = True
        open_window = not pdu.serial_less(self.max_cmd_sn, self.cmd_sn)
        if immediate or (open_window and not self.waiting):
            self.send_command(task)
        else:
            self.waiting.append(task)
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
        """Send a task management function (RFC 7143 11.5.1); `task.response` is the answer.

        The commands of this session that it ended have then ended as well, with `ABORTED`.
        """
        task = self._task(InitiatorOpcode.TASK_MANAGEMENT)
        task.lun, task.function, task.about = lun, function, about
        if about is not None and about in self.waiting:
            self.waiting.remove(about)
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
        self.stream.emit(header, data)

    # -- sending ---------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.closed or not self.logged_in:
            raise InitiatorError("iscsi: the session is not logged in")

    def _task(self, opcode: int) -> Task:
        self._check_open()
        task = Task(read_length=-1)  # no data-in belongs to it
        task.opcode = opcode
        self._register(task)
        return task

    def _register(self, task: Task) -> None:
        while True:
            self.itt = self.itt % (pdu.RESERVED_TAG - 1) + 1
            if self.itt == 1:
                self.free_until = 0  # it has to be looked for again
            if self.itt not in self.tasks:
                break
        task.itt = self.itt
        self.tasks[self.itt] = task

    def _send_request(
        self, task: Task, flags: int, word20: int, tail: bytes, data: Buffer, *, immediate: bool
    ) -> None:
        if len(data) > self.parameters.max_send_segment:
            del self.tasks[task.itt]
            raise InitiatorError(f"iscsi: the target takes no {len(data)} bytes of data at once")
        task.cmd_sn = self.cmd_sn
        opcode = task.opcode | (pdu.IMMEDIATE if immediate else 0)
        numbers = (task.itt, word20, self.cmd_sn, self.exp_stat_sn)
        if not immediate:
            self.cmd_sn = (self.cmd_sn + 1) & _MASK
        lun = initiator_fast_path.lun_field(task.lun)
        self.stream.emit(pdu.GENERIC.pack(opcode, flags, len(data), lun, *numbers, tail), data)

    def _fill_window(self) -> None:
        """Send what waits, in order, as far as the target's window is open."""
        waiting, plain = self.waiting, list[Task]()
        while waiting and not pdu.serial_less(self.max_cmd_sn, (self.cmd_sn + len(plain)) & _MASK):
            task = waiting.popleft()
            if not task.special:
                plain.append(task)
                continue
            initiator_fast_path.commands(self, plain)
            plain = []
            self.send_command(task)
        initiator_fast_path.commands(self, plain)

    def send_command(self, task: Task) -> None:
        """Send a command of any kind now, with the data that needs no R2T."""
        self._register(task)
        negotiated, data = self.parameters, task.data_out
        flags = task.attribute
        flags |= pdu.COMMAND_WRITE if len(data) else pdu.COMMAND_READ if task.read_length else 0
        length = (len(data) or task.read_length) if task.expected is None else task.expected
        limit = min(negotiated.first_burst_length, len(data))
        first = min(limit, negotiated.max_send_segment) if negotiated.immediate_data else 0
        unsolicited = not negotiated.initial_r2t and first < limit
        flags |= 0 if unsolicited else pdu.FINAL
        task.offered = limit if unsolicited else first
        cdb = task.cdb.ljust(16, b"\0")
        self._send_request(task, flags, length, cdb, data[:first], immediate=task.immediate)
        if unsolicited:
            initiator_data.send(self, task, pdu.RESERVED_TAG, first, limit - first)

    def _send_data(self, task: Task, ttt: int, offset: int, length: int) -> None:
        initiator_data.send(self, task, ttt, offset, length)

    def _send_login(self, flags: int, data: bytes) -> None:
        opcode = InitiatorOpcode.LOGIN | pdu.IMMEDIATE
        isid_tsih = (self.settings.isid << 16) | self.tsih
        numbers = (0, 0, self.cmd_sn, self.exp_stat_sn)
        self.stream.emit(
            pdu.GENERIC.pack(opcode, flags, len(data), isid_tsih, *numbers, bytes(16)), data
        )

    # -- receiving -------------------------------------------------------------------------------

    def _begin(self, header: bytes) -> None:
        """A header is here; the data of a long Data-In goes to its task at once."""
        length = int.from_bytes(header[5:8])
        if header[0] & 0x3F == TargetOpcode.DATA_IN and self.logged_in and length > LANDING:
            self.stream.land(initiator_data.place(self, header, length))

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
        self.window(int.from_bytes(header[28:32]), int.from_bytes(header[32:36]))
        handler(self, header, segment)

    def window(self, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        """What the target says it has taken and will take (4.2.2.1)."""
        if pdu.serial_less(self.cmd_sn, exp_cmd_sn):
            raise InitiatorError("iscsi: the target says it took commands that were not sent")
        if pdu.serial_less(self.max_cmd_sn, max_cmd_sn):
            self.max_cmd_sn = max_cmd_sn

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
        self.stream.header_digest = self.parameters.header_digest
        self.stream.data_digest = self.parameters.data_digest
        self.stream.max_segment = self.settings.max_recv_segment

    def end(self, header: bytes, *opcodes: int) -> Task:
        """The task that this PDU answers, as ended; the answer must be one for its kind."""
        itt = int.from_bytes(header[16:20])
        task = self.tasks.get(itt)
        if task is None or task.opcode not in opcodes:
            raise InitiatorError(f"iscsi: an answer to a task that does not exist: 0x{itt:x}")
        del self.tasks[itt]
        task.done, task.response = True, header[2]
        self.ended.append(task)
        return task

    def _on_response(self, header: bytes, segment: bytes) -> None:
        task = self.end(header, InitiatorOpcode.SCSI_COMMAND)
        task.status = header[3]
        (residual,) = struct.unpack_from(">I", header, 44)
        initiator_data.end(task, header[1], residual)
        if len(segment) >= 2:
            task.sense = segment[2 : 2 + int.from_bytes(segment[:2])]

    def _on_nop_in(self, header: bytes, segment: bytes) -> None:
        itt, ttt = struct.unpack_from(">II", header, 16)
        if itt != pdu.RESERVED_TAG:
            self.end(header, InitiatorOpcode.NOP_OUT).data = segment
            return
        if ttt != pdu.RESERVED_TAG:
            self._pongs += _PONG + len(segment)
            if self._pongs > _MAX_PONGS:
                raise InitiatorError("iscsi: the target pings faster than it takes the answers")
            segment = segment[: self.parameters.max_send_segment]
            opcode = InitiatorOpcode.NOP_OUT | pdu.IMMEDIATE
            (lun,) = struct.unpack_from(">Q", header, 8)
            numbers = (lun, itt, ttt, self.cmd_sn, self.exp_stat_sn, bytes(16))
            self.stream.emit(pdu.GENERIC.pack(opcode, pdu.FINAL, len(segment), *numbers), segment)

    def _on_text(self, header: bytes, segment: bytes) -> None:
        itt, ttt = struct.unpack_from(">II", header, 16)
        task = self.tasks.get(itt)
        if task is None or task.opcode != InitiatorOpcode.TEXT:
            raise InitiatorError("iscsi: a Text Response that was not asked for")
        if not isinstance(task.data, bytearray):
            task.data = bytearray()
        task.data += segment
        task.rounds += 1
        if len(task.data) > _MAX_TEXT or task.rounds > _MAX_ROUNDS:
            raise InitiatorError("iscsi: the target's text does not come to an end")
        if header[1] & pdu.FINAL:
            self.end(header, InitiatorOpcode.TEXT).response = 0
            if task.renegotiates:
                self.parameters.renegotiate(decode_keys(bytes(task.data)))
            return
        if ttt == pdu.RESERVED_TAG:
            raise InitiatorError("iscsi: the target's text has more, and no tag to ask for it")
        tail = bytes(16)  # an empty request with the target's tag asks for more
        self._send_request(task, pdu.FINAL, ttt, tail, b"", immediate=True)

    def _on_logout(self, header: bytes, segment: bytes) -> None:
        self.closed |= self.end(header, InitiatorOpcode.LOGOUT).response == 0

    def _on_task_management(self, header: bytes, segment: bytes) -> None:
        before: list[Task] = []
        for task in self.tasks.values():
            if task.itt == int.from_bytes(header[16:20]):
                break
            before.append(task)
        function = self.end(header, InitiatorOpcode.TASK_MANAGEMENT)
        ends = _ENDS.get(function.function)
        if ends is None:
            about = function.about
            if about is not None and not about.done:
                sent = self.tasks.get(about.itt) is about
                if (sent and function.response == 0) or not about.itt:
                    self._abort(about)
        elif function.response == 0:
            for task in before:
                if task.opcode == InitiatorOpcode.SCSI_COMMAND and ends(function, task):
                    self._abort(task)

    def _abort(self, task: Task) -> None:
        self.tasks.pop(task.itt, None)
        task.done, task.response = True, ABORTED
        self.ended.append(task)

    def _on_async(self, header: bytes, segment: bytes) -> None:
        event, _, *parameters = struct.unpack_from(">BBHHH", header, 36)
        wanted = self._events.message(event, parameters, segment)
        if wanted and (self._renegotiation is None or self._renegotiation.done):
            self._renegotiation = self.text([])
            self._renegotiation.renegotiates = True

    def _on_reject(self, header: bytes, segment: bytes) -> None:
        self._events.reject(header[2], segment[: pdu.BHS_LENGTH])
        if len(segment) < pdu.BHS_LENGTH:
            return
        task = self.tasks.pop(int.from_bytes(segment[16:20]), None)
        if task is not None:
            task.done, task.response = True, REJECTED | header[2]
            self.ended.append(task)


_HANDLERS: dict[int, Callable[[InitiatorSession, bytes, bytes], None]] = {
    TargetOpcode.NOP_IN: InitiatorSession._on_nop_in,
    TargetOpcode.SCSI_RESPONSE: InitiatorSession._on_response,
    TargetOpcode.TASK_MANAGEMENT_RESPONSE: InitiatorSession._on_task_management,
    TargetOpcode.TEXT_RESPONSE: InitiatorSession._on_text,
    TargetOpcode.DATA_IN: initiator_data.on_data_in,
    TargetOpcode.LOGOUT_RESPONSE: InitiatorSession._on_logout,
    TargetOpcode.R2T: initiator_data.on_r2t,
    TargetOpcode.ASYNC_MESSAGE: InitiatorSession._on_async,
    TargetOpcode.REJECT: InitiatorSession._on_reject,
}
