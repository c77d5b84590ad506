"""Requests under way: their operations, their payload, and what they may hold of memory.

Each is a task that drives a handler's generator. Operations run at once where they are inline;
else the unit's threads run them, and their end is posted to the owner. The payload of one task at a
time is being received; it is the `receiver` until it has all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from userdisk.budget import Share
from userdisk.errors import StorageError
from userdisk.nbd.export import MAX_PAYLOAD
from userdisk.nbd.incoming import Piece
from userdisk.nbd.replies import Request
from userdisk.nbd.requests import Receive, Refused, Steps
from userdisk.nbd.wire import Command, Error
from userdisk.operation import LOOKING, Era, Kind, Operation
from userdisk.unit import Buffer

if TYPE_CHECKING:
    from userdisk.nbd.connection import Connection

_MOST = 128  # tasks under way
_ALWAYS = 2 << 20  # bytes that a connection may have whatever others hold: so each one goes on

_PENDING: Final = object()


class Task:
    """One request under way."""

    __slots__ = ("cost", "era", "left", "operation", "piece", "request", "steps", "wanted")

    def __init__(self, request: Request, steps: Steps, era: Era, left: int, cost: int) -> None:
        self.request = request
        self.steps = steps
        self.era = era
        self.left = left  # bytes of payload that it has not got
        self.cost = cost  # bytes of memory
        self.wanted = 0  # bytes of payload that it waits for
        self.piece: Piece | None = None  # the payload that it has now
        self.operation: Operation | None = None  # that it waits for


class Tasks:
    """The tasks of one connection; belongs to its owner's thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._service = connection.service
        self._gate = connection.service.gate
        self.share = Share(connection.environment.budget, _ALWAYS)
        self._tasks: set[Task] = set()
        self.operating = 0  #: operations that were handed over
        self.receiver: Task | None = None  #: whose payload comes next
        self.starved = False  #: the next request waits for memory
        self._leaving = False

    @property
    def count(self) -> int:
        """Requests that are not answered."""
        return len(self._tasks)

    @property
    def full(self) -> bool:
        """Whether no request may be taken before another is answered."""
        return len(self._tasks) >= _MOST or self.share.full

    @property
    def receiver_works(self) -> bool:
        """Whether the receiver cannot take more payload before its operation has ended."""
        return self.receiver is not None and self.receiver.operation is not None

    # -- memory --------------------------------------------------------------------------------

    def admit(self, request: Request) -> bool:
        """Whether there is memory for a request; what it needs is taken then."""
        self.starved = not self.share.take(self._cost(request))
        return not self.starved

    def forgo(self, request: Request) -> None:
        """An admitted request ends without a task."""
        self.share.release(self._cost(request))

    def _cost(self, request: Request) -> int:
        if request.command == Command.WRITE:
            return min(request.length, self._service.piece)
        if request.command != Command.READ or request.length > MAX_PAYLOAD:  # to be refused
            return 0
        return request.length

    # -- life of a task ------------------------------------------------------------------------

    def start(self, request: Request, payload: int, era: Era | None = None) -> None:
        """Start an admitted request, with so many bytes of payload to come; `era`: if it began."""
        connection, gate = self._connection, self._gate
        connection.counters[gate].commands += 1
        era = era or gate.era  # before anything is asked: what ends it later ends the request
        cost = self._cost(request)
        try:
            steps = self._service.start(request)
        except Refused as refusal:
            self.share.release(cost)
            connection.skip(payload, self._refusal(request, refusal))
            return
        task = Task(request, steps, era, payload, cost)
        self._tasks.add(task)
        if payload:
            self.receiver = task
        self._run(task, None, None)

    def feed(self) -> bool:
        """More payload may be here for the receiver; False if it cannot go on."""
        task = self.receiver
        if task is None or not task.wanted:
            return False
        piece = self._take(task)
        if piece is None:
            return False
        self._run(task, piece.view, None)
        return True

    def drop_receiver(self) -> None:
        """No more payload will be read: the connection ends when the others are answered."""
        self._leaving = True
        task = self.receiver
        if task is not None and task.operation is None:
            self._connection.incoming.drop_landing()
            self._end(task, None)

    def abandon(self) -> None:
        """The peer is gone: end what can be ended at once; the rest when its operation has."""
        for task in list(self._tasks):
            if task.operation is not None:
                self._gate.cancel(task.operation)
            else:
                self._end(task, None)
        self.share.abandon()

    def _run(self, task: Task, value: Any, error: StorageError | None) -> None:
        """Go on with a task, as far as it goes."""
        while True:
            step = self._step(task, value, error)
            value, error = None, None
            if step is None:
                return
            if isinstance(step, Operation):
                try:
                    value = self._operate(task, step)
                except StorageError as failure:
                    error = failure
                if value is _PENDING:
                    return
                continue
            if self._leaving:
                self._end(task, None)
                return
            self._give_back(task)
            task.wanted = step.size
            piece = self._take(task)
            if piece is None:
                return
            value = piece.view

    def _step(
        self, task: Task, value: Any, error: StorageError | None
    ) -> Operation | Receive | None:
        """The next step of a task; None: it has ended."""
        try:
            return task.steps.send(value) if error is None else task.steps.throw(error)
        except StopIteration as stop:
            self._end(task, stop.value)
        except Refused as refusal:
            self._end(task, self._refusal(task.request, refusal))
        except StorageError as failure:
            self._end(task, self._failure(task.request, failure))
        except Exception as bug:  # it ends this request only
            self._connection.environment.report(bug)
            self._end(task, self._reply_error(task.request, Error.EIO))
        return None

    def _take(self, task: Task) -> Piece | None:
        """The payload that the task waits for, if it is here."""
        piece = self._connection.incoming.take(task.wanted)
        if piece is not None:
            task.piece = piece
            task.left -= task.wanted
            task.wanted = 0
            if not task.left:
                self.receiver = None
        return piece

    def _give_back(self, task: Task) -> None:
        piece, task.piece = task.piece, None
        if piece is not None and piece.buffer is not None:
            self._connection.environment.buffers.give(piece.buffer)

    def _end(self, task: Task, reply: list[Buffer] | None) -> None:
        """The task has ended; None: nobody waits for a reply."""
        connection = self._connection
        self._tasks.discard(task)
        task.steps.close()
        self._give_back(task)
        left = 0
        if self.receiver is task:  # it ended early
            self.receiver = None
            left = task.left
        if reply is None or not connection.open:
            reply = []
        queued = bool(reply) and task.request.command == Command.READ
        self.share.release(task.cost, queued=queued)
        connection.skip(left, reply)

    # -- operations ----------------------------------------------------------------------------

    def _operate(self, task: Task, operation: Operation) -> Any:
        """Run an operation here if it is inline and the gate is free; else hand it over."""
        connection, gate = self._connection, self._gate
        restraint = gate.restraint
        if restraint is not None:
            refusal = restraint(operation.kind)
            if refusal is not None:
                raise refusal
        operation.era = task.era
        if connection.out.live and operation.kind not in LOOKING:
            connection.out.settle()  # what earlier reads found, wherever this one runs
        if gate.runs_inline(operation) and connection.enter(gate):
            connection.sampler.run(gate.run, operation)
            return self._outcome(task, operation, here=True)
        if operation.data is not None and task.piece is not None and not task.piece.landed:
            operation.data = memoryview(bytes(operation.data))  # the receive buffer is used again
        self.operating += 1
        task.operation = operation
        gate.submit(operation, lambda ended: connection.post(lambda: self._ended(task, ended)))
        return _PENDING

    def _ended(self, task: Task, operation: Operation) -> None:
        """An operation that was handed over has ended; on the owner's thread."""
        self.operating -= 1
        task.operation = None
        if not self._connection.open:
            self._end(task, None)
            return
        value, error = None, None
        try:
            value = self._outcome(task, operation, here=False)
        except StorageError as failure:
            error = failure
        self._run(task, value, error)

    def _outcome(self, task: Task, operation: Operation, *, here: bool) -> Any:
        """The checked result of an operation; raises its `StorageError`."""
        gate = self._gate
        kind, size = operation.kind, operation.blocks << self._service.shift
        counters = self._connection.counters[gate]
        if operation.error is not None:
            counters.failed(kind, operation.error)
            raise gate.failed(operation.error, kind) from operation.error
        counters.done(operation, size, self._connection.sampler if here else None)
        if kind is Kind.READ:
            data = gate.checked_read(operation.result, size)
            if here and gate.unit.live_reads:
                alone = gate.all_inline and not gate.shared
                view = type(data) is memoryview  # else nobody would copy it later
                if not (alone and view and size == task.request.length):
                    return bytes(data)
                self._connection.out.live = True
            return data
        return operation.result

    # -- replies -------------------------------------------------------------------------------

    def fail(self, request: Request, kind: Kind, error: BaseException) -> None:
        """Answer a request whose operation, of this kind, was run on the fast path and failed."""
        counters = self._connection.counters[self._gate]
        counters.commands += 1
        counters.failed(kind, error)
        self._answer(self._failure(request, self._gate.failed(error, kind)))

    def _failure(self, request: Request, failure: StorageError) -> list[Buffer]:
        offset = None
        if failure.lba is not None:
            at = failure.lba << self._service.shift
            offset = at if request.offset <= at < request.offset + request.length else None
        return self._reply_error(request, Error(failure.nbd_error), offset=offset)

    def _refusal(self, request: Request, refusal: Refused) -> list[Buffer]:
        return self._reply_error(request, refusal.error, refusal.message)

    def _reply_error(
        self, request: Request, error: Error, message: str = "", offset: int | None = None
    ) -> list[Buffer]:
        self._connection.counters[self._gate].failures += 1
        return self._service.encoder.error(request, error, message, offset)

    def _answer(self, reply: list[Buffer]) -> None:
        self._connection.out.add(reply)
