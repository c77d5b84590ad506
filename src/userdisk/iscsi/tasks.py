"""SCSI commands of a connection that are not plain reads and writes of an inline unit.

The port of the engine (target.task): it takes commands off the wire, brings operations to the
unit's gate and data-out to handlers, and sends what they answer. RFC 7143 11.3 (command), 11.4
(response), 11.5 (task management), 11.7 (Data-Out), 11.8 (R2T).

Everything here runs on the owner's thread; `aborted` and the ends of operations come from others
and are posted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from userdisk.budget import SESSION_LIMIT
from userdisk.iscsi import data_in, pdu
from userdisk.iscsi.bursts import Bursts
from userdisk.iscsi.data_out import DataOut, DataOutError, DigestError, UnexpectedDataError
from userdisk.iscsi.pdu import RejectReason, TargetOpcode
from userdisk.iscsi.scsi_task import ScsiTask
from userdisk.operation import LOOKING, Kind, Operation
from userdisk.scsi import sense
from userdisk.scsi.sense import SenseKey
from userdisk.target import task_management
from userdisk.target.command import Completion, Receive
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.task import PENDING, outcome
from userdisk.target.task_management import Function, Response

if TYPE_CHECKING:
    from userdisk.gate import Gate
    from userdisk.iscsi.connection import Connection
    from userdisk.iscsi.incoming import Pdu
    from userdisk.timing import Sampler

_DISCARD_LIMIT = 1024  # commands of which late Data-Outs are still expected
_FUNCTION_LIMIT = 32  # task management functions that are not answered yet
_NO_FAILURE = (
    SenseKey.NO_SENSE,
    SenseKey.RECOVERED_ERROR,
    SenseKey.ILLEGAL_REQUEST,
    SenseKey.UNIT_ATTENTION,
)


class Tasks:
    """The commands of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._by_itt: dict[int, ScsiTask] = {}
        self._queue: deque[tuple[ScsiTask, bytes, int]] = deque()  # for want of budget
        self._discard: dict[int, None] = {}  # late Data-Outs of these are swallowed
        self.operating = 0  #: operations and functions under way elsewhere
        self._asleep: set[ScsiTask] = set()  # what they wait for happens elsewhere
        self._functions = 0
        self._numbered = 0  # commands that use up the CmdSN window
        self._retrying = False
        self._bursts = Bursts(connection)

    @property
    def count(self) -> int:
        """Commands that are not answered."""
        return len(self._by_itt)

    @property
    def pending(self) -> bool:
        """Whether something goes on without the peer: elsewhere, or when there is budget again."""
        return bool(self.operating or self._asleep or self._bursts.waiting)

    # -- from the wire ---------------------------------------------------------------------------

    def command(self, request: Pdu) -> None:
        """A SCSI Command PDU."""
        connection = self._connection
        session, negotiated = connection.session, connection.negotiated
        if session is None:
            connection.out.reject(RejectReason.PROTOCOL_ERROR, request.header)
            return
        if not connection.sequence(request):
            return
        if request.itt in self._by_itt or request.itt == pdu.RESERVED_TAG:
            connection.out.reject(RejectReason.TASK_IN_PROGRESS, request.header)
            return
        connection.counters[self._gate(request.lun)].commands += 1
        expected, data = request.word20, request.data
        writing = bool(request.flags & pdu.COMMAND_WRITE)
        unsolicited = 0
        first = min(negotiated.first_burst_length, expected) if writing else 0
        if len(data) > (first if negotiated.immediate_data else 0):
            self._refuse(request, UnexpectedDataError())
            return
        if not request.flags & pdu.FINAL:
            unsolicited = first - len(data)
            if not writing or negotiated.initial_r2t:
                self._refuse(request, UnexpectedDataError())
                return
        data_out = None
        if writing and expected:
            data_out = DataOut(
                expected,
                data,
                unsolicited,
                negotiated.max_burst_length,
                connection.environment.buffers,
            )
        task = ScsiTask(self, session.nexus, request, data_out)
        self._by_itt[task.itt] = task
        self._discard.pop(task.itt, None)
        if not task.immediate:
            self._numbered += 1
            connection.out.set_outstanding(self._numbered)
        amount = min(expected, SESSION_LIMIT) if task.reading else 0
        if self._queue or not self._bursts.fits(amount):
            if data_out is not None:
                data_out.own()
            self._queue.append((task, request.cdb, amount))
            task.wait(task.lun)
        else:
            self._start(task, request.cdb, amount)

    def data_out(self, request: Pdu) -> None:
        """A Data-Out PDU."""
        connection = self._connection
        _, flags, _, _, itt, ttt, _, data_sn, offset = pdu.DATA_OUT.unpack_from(request.header)
        final = bool(flags & pdu.FINAL)
        if itt in self._discard:
            if final:
                del self._discard[itt]
            return
        task = self._by_itt.get(itt)
        data = task.data if task is not None else None
        if task is None or data is None:
            connection.out.reject(RejectReason.PROTOCOL_ERROR, request.header)
            return
        if ttt != (pdu.RESERVED_TAG if data.ttt is None else data.ttt):
            connection.out.reject(RejectReason.INVALID_PDU_FIELD, request.header)
            return
        try:
            if not data.receive(data_sn, offset, request.data, final, request.landed):
                return
        except DataOutError as error:
            if not final:
                self._swallow(itt)
            self._data_failed(task, error)
            return
        if task.wanted is not None:
            wanted, task.wanted = task.wanted, None
            view = self.receive(task, wanted)
            if view is not PENDING:
                task.advance(view)

    def data_out_failed(self, request: Pdu) -> None:
        """A Data-Out with a bad digest: its command fails (7.8)."""
        task = self._by_itt.get(request.itt)
        if task is not None and task.data is not None:
            if not request.flags & pdu.FINAL:
                self._swallow(request.itt)
            self._data_failed(task, DigestError())

    def destination(self, header: bytes, length: int) -> memoryview | None:
        """Where the payload of a Data-Out may land directly; None: anywhere."""
        opcode, _, _, _, itt, ttt, _, _, offset = pdu.DATA_OUT.unpack_from(header)
        task = self._by_itt.get(itt)
        if opcode != pdu.InitiatorOpcode.DATA_OUT or task is None or task.data is None:
            return None
        if ttt != (pdu.RESERVED_TAG if task.data.ttt is None else task.data.ttt):
            return None
        return task.data.destination(offset, length)

    # -- the engine's port -----------------------------------------------------------------------

    def operate(self, task: ScsiTask, operation: Operation) -> Any:
        """Run the operation here if it is inline and the gate is free, else hand it over."""
        connection = self._connection
        path = task.path
        assert path is not None
        gate = path.lu.gate
        if connection.out.live and operation.kind not in LOOKING:
            connection.out.settle()  # what earlier reads found, wherever this one runs
        if operation.gate is None and gate.runs_inline(operation) and connection.enter(gate):
            connection.sampler.run(gate.run, operation)
            self._count(operation, path.lu, connection.sampler)
            result = outcome(gate, operation)
            if operation.kind is Kind.READ and gate.unit.live_reads:
                result = gate.checked_read(result, operation.blocks * path.lu.block_length)
                if gate.shared or not gate.all_inline:
                    return bytes(result)
                connection.out.live = True
            return result
        if task.data is not None and task.data.borrowed:
            # the receive buffer is used again: what outlives the batch is copied
            if operation.data is not None:
                operation.data = memoryview(bytes(operation.data))
            task.data.own()
        self.operating += 1
        (operation.gate or gate).submit(
            operation, lambda ended: connection.post(lambda: self._ended(task, ended))
        )
        return PENDING

    def _ended(self, task: ScsiTask, operation: Operation) -> None:
        """An operation that was handed over has ended; on the owner's thread."""
        self.operating -= 1
        if task.path is not None:
            self._count(operation, task.path.lu)
        task.finished(operation)

    def receive(self, task: ScsiTask, request: Receive) -> Any:
        """The next data-out: what is here, or PENDING until it has come."""
        data = task.data
        if data is None:
            return memoryview(b"")
        self._bursts.release(task)
        view = data.take(request)
        if view is not None:
            return view
        task.wanted = request
        if not data.receiving:
            self._bursts.solicit(task)
            data.own()  # what is here waits beyond the batch
        return PENDING

    def complete(self, task: ScsiTask, completion: Completion | None) -> None:
        """The task has ended: send the response, unless it was aborted."""
        connection = self._connection
        del self._by_itt[task.itt]
        self._asleep.discard(task)
        if not task.immediate:
            self._numbered -= 1
            connection.out.set_outstanding(self._numbered)
        data = task.data
        if data is not None:
            if data.missing:
                self._swallow(task.itt)
            data.release()
        self._bursts.end(task)
        if completion is not None and connection.open:
            if _tells_of_failure(completion.sense):
                connection.counters[self._gate(task.lun)].failures += 1
            data_in.respond(
                connection,
                task.lun,
                task.itt,
                completion,
                task.expected,
                task.reading,
                completion.wanted,
            )
        elif connection.open and connection.out.closed:
            connection.tell_window()  # no response does
        self.retry()

    def report(self, error: Exception) -> None:
        """A handler's bug."""
        self._connection.environment.report(error)

    def aborted(self, task: ScsiTask) -> None:
        """Task management marked the task; from any thread."""
        self._connection.post(lambda: self._give_up(task))

    def sleep(self, task: ScsiTask) -> None:
        """The task waits for what happens elsewhere."""
        self._asleep.add(task)
        if task.data is not None:
            task.data.own()

    def awake(self, task: ScsiTask) -> None:
        """That has happened; from any thread."""
        self._connection.post(lambda: self._resume(task))

    def _resume(self, task: ScsiTask) -> None:
        if task in self._asleep:
            self._asleep.discard(task)
            task.resume()

    # -- task management -------------------------------------------------------------------------

    def manage(self, request: Pdu) -> None:
        """A task management request; answered when the last task that it marks has ended."""
        connection = self._connection
        session = connection.session
        if session is None:
            connection.out.reject(RejectReason.PROTOCOL_ERROR, request.header)
            return
        if not connection.sequence(request):
            return
        function = request.flags & 0x7F
        itt = request.itt
        task = self._by_itt.get(request.word20)
        if task is not None and task.lun != request.lun:
            task = None

        def respond(response: int) -> None:
            connection.post(lambda: self._managed(function, itt, response))

        self.operating += 1
        self._functions += 1
        if self._functions > _FUNCTION_LIMIT:
            self._managed(function, itt, Response.REJECTED)
        else:
            connection.leave()
            task_management.manage(function, session.nexus, request.lun, task, respond)

    def _managed(self, function: int, itt: int, response: int) -> None:
        connection = self._connection
        self.operating -= 1
        self._functions -= 1
        if connection.open:
            connection.out.send(
                pdu.TASK_MANAGEMENT_RESPONSE.pack(
                    TargetOpcode.TASK_MANAGEMENT_RESPONSE,
                    pdu.FINAL,
                    response,
                    itt,
                    *connection.out.numbers(),
                )
            )
        session = connection.session
        if function == Function.TARGET_COLD_RESET and response == Response.COMPLETE and session:
            connection.environment.sessions.end_all(session.target, but=session)
            connection.fail("target cold reset")

    def abandon(self) -> None:
        """The connection is gone: give up every task."""
        for task in list(self._by_itt.values()):
            task.aborted = True
            self._give_up(task)

    def _give_up(self, task: ScsiTask) -> None:
        if self._by_itt.get(task.itt) is not task:
            return
        length = len(self._queue)
        self._queue = deque(entry for entry in self._queue if entry[0] is not task)
        if task.path is None and len(self._queue) < length:  # no unit has it among its tasks
            self.complete(task, None)
        else:
            task.give_up()

    # -- budgets -----------------------------------------------------------------------------------

    def retry(self) -> None:
        """Start and solicit what had to wait for budget, or for output to be sent."""
        if self._retrying or not self._connection.open:  # a task that is started here may end here
            return
        self._retrying = True
        try:
            self._retry()
        finally:
            self._retrying = False

    def _retry(self) -> None:
        connection = self._connection
        while self._queue:
            if connection.out.full:
                connection.more = True
                break
            task, cdb, amount = self._queue[0]
            if not self._bursts.fits(amount):
                break
            self._queue.popleft()
            self._start(task, cdb, amount)
        self._bursts.retry()

    def _start(self, task: ScsiTask, cdb: bytes, amount: int) -> None:
        self._bursts.reserve(task, amount)
        expected = task.expected
        task.start(
            task.lun,
            cdb,
            expected if task.data is not None else 0,
            expected if task.reading else 0,
        )

    # -- failures ----------------------------------------------------------------------------------

    def answer_failure(
        self,
        lu: LogicalUnit,
        kind: Kind,
        error: BaseException,
        request: tuple[int, int, int],
        extent: tuple[int, int],
    ) -> None:
        """Answer a command of the fast path whose operation raised.

        `request`: lun, itt and expected length; `extent`: lba and blocks.
        """
        lun, itt, expected = request
        failure = lu.gate.failed(error, kind)
        lba = extent[0]
        if failure.lba is not None and 0 <= failure.lba - lba < extent[1]:
            lba = failure.lba
        completion = lu.check_condition(sense.from_error(failure, lba))
        counters = self._connection.counters[lu.gate]
        counters.failures += 1
        counters.failed(kind, error)
        data_in.respond(self._connection, lun, itt, completion, expected, kind is Kind.READ, None)

    def _refuse(self, request: Pdu, error: DataOutError) -> None:
        """Answer a command whose data breaks the rules; nothing of it was done."""
        if not request.flags & pdu.FINAL:
            self._swallow(request.itt)
        key, asc, ascq = error.sense
        why, lu = sense.Sense(key, asc << 8 | ascq), self._unit(request.lun)
        completion = Completion(2, (), why.encode()) if lu is None else lu.check_condition(why)
        self._connection.counters[self._gate(request.lun)].failures += 1
        data_in.respond(
            self._connection, request.lun, request.itt, completion, request.word20, False, None
        )

    def _data_failed(self, task: ScsiTask, error: DataOutError) -> None:
        if task.data is not None:
            task.data.stop(error)
        if task.wanted is not None:
            task.wanted = None
            task.fail(error)

    def _swallow(self, itt: int) -> None:
        if len(self._discard) >= _DISCARD_LIMIT:
            del self._discard[next(iter(self._discard))]
        self._discard[itt] = None

    def _unit(self, lun: int) -> LogicalUnit | None:
        path = self._connection.paths.get(lun)
        return None if path is None else path.lu

    def _gate(self, lun: int) -> Gate | None:
        lu = self._unit(lun)
        return None if lu is None else lu.gate

    def _count(self, operation: Operation, lu: LogicalUnit, sampler: Sampler | None = None) -> None:
        counters = self._connection.counters[lu.gate]
        if operation.error is None:
            counters.done(operation, operation.blocks * lu.block_length, sampler)
        else:
            counters.failed(operation.kind, operation.error)


def _tells_of_failure(data: bytes) -> bool:
    """Whether sense data is more than news (unit attention) or an initiator's illegal request."""
    return bool(data) and sense.key_of(data) not in _NO_FAILURE
