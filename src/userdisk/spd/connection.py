"""The device's side of a connection of the pipe protocol: messages in, operations, responses out.

Theory of operation. Sans-I/O, as `userdisk.protocol.Connection` asks for. The parameters are queued
at once. Each complete message becomes a task: inline operations run here, others are handed over,
and their end is posted. Responses go out in the order in which requests end; each belongs to the
connection that asked. What cannot be answered without doubt ends the connection: a message of a
wrong length, and a hint that is still in use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from userdisk.budget import Share
from userdisk.counters import Tally
from userdisk.errors import StorageError
from userdisk.gate import Gate
from userdisk.operation import Era, Operation
from userdisk.operation import Kind as Does
from userdisk.spd import wire
from userdisk.spd.pipe import Pipe
from userdisk.spd.requests import Device, Refused, Request, Steps, decode, status_of
from userdisk.spd.wire import CHECK_CONDITION, GOOD, Response, Status
from userdisk.timing import Sampler
from userdisk.unit import Buffer

_MOST = 64  # requests under way
_ROOM = 64 << 10  # bytes that the receive buffer has beyond the longest message
_OUTPUT_BYTES = 1 << 20  # a batch of output ends here: send, then go on
_OUTPUT_BUFFERS = 512
MESSAGE_LIMIT = 60.0  #: seconds without a byte in the middle of a message
_UNSEEN = 5.0  # seconds between ticks, after which nobody knows what the client did

_PENDING: Final = object()
_BUG = Status(CHECK_CONDITION, *StorageError.sense)


class _Output:
    """See `userdisk.protocol.Output`."""

    __slots__ = ("buffers", "live", "size")

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.size = 0
        self.live = False


class _Task:
    """A request under way."""

    __slots__ = ("cost", "era", "operation", "request", "steps")

    def __init__(self, request: Request, steps: Steps, era: Era, cost: int) -> None:
        self.request = request
        self.steps = steps
        self.era = era
        self.cost = cost  # bytes of memory
        self.operation: Operation | None = None  # that was handed over


class Connection:
    """One client, as its owner sees it; see `userdisk.protocol.Connection`.

    Args:
        pipe: the unit, which must be open.
        post: brings a callable to the owner's thread; may be called from any thread.
        now: seconds, from the clock that `tick` will be called with.
    """

    quiet = False
    secures = False

    def __init__(self, pipe: Pipe, post: Callable[[Callable[[], None]], None], now: float) -> None:
        self.reason = ""
        self.out = _Output()
        self.counters = Tally(pipe.clock)
        self.more = False
        self.opening = True
        self.closing = self.closed = False
        self._pipe = pipe
        self._gate: Gate = pipe.gate
        self._post = post
        announced = pipe.parameters
        self._device = Device(pipe.gate, announced)
        self._longest = wire.HEADER + announced.max_transfer_length
        self._buffer = bytearray(wire.LENGTH.size + self._longest + _ROOM)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # what was received and not handled
        self._tasks: dict[int, _Task] = {}  # by hint
        self._operating = 0
        self._share = Share(pipe.budget, wire.MAX_TRANSFER)
        self._starved = False
        self._leaving = False
        self._entered = False
        self._joined = True
        self._received = self._received_seen = 0
        self._heard = self._looked = now
        self._gate.join()
        self._queue([announced.encode()])

    # -- the owner's side ----------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """See `protocol.Connection.pending`, as for all that follow."""
        return self._operating > 0 or self._starved

    @property
    def paused(self) -> bool:
        """Enough is under way, or nothing more is wanted."""
        return self.pending and (self._leaving or self._full or self._starved)

    @property
    def _full(self) -> bool:
        return len(self._tasks) >= _MOST or self._share.full

    def secured(self) -> None:
        """There is no TLS on a pipe."""
        raise AssertionError("a pipe is not encrypted")

    def buffer(self) -> memoryview:
        """Where the next bytes from the client go; never empty."""
        self._share.sent()
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._start < wire.LENGTH.size + self._longest:
            rest = self._end - self._start
            self._view[:rest] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, rest
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """`count` bytes are in `buffer()`: handle what is complete."""
        self._end += count
        self._received += 1
        if self._received >= self.counters.sampler.next:
            self.counters.sampler.begin(self._received)
        self.resume()

    def resume(self) -> None:
        """Go on with what is already received."""
        self.more = False
        self._share.sent()  # the owner has nothing left to send, or it would not call this
        try:
            self._process()
        finally:
            self._leave_gate()

    def handle(self, action: Callable[[], None]) -> None:
        """Run what was posted, and go on with what waited for it."""
        try:
            action()
            self._process()
            self._left()
        finally:
            self._leave_gate()

    def take_output(self) -> list[Buffer]:
        """What is to be sent now, in order."""
        out = self.out
        buffers, out.buffers, out.size = out.buffers, [], 0
        self._share.taken()
        return buffers

    def tick(self, now: float) -> None:
        """Check time limits; call it about once a second. `now` in seconds."""
        self.counters.sampler.next = 0
        if self._received != self._received_seen or self.pending or now - self._looked > _UNSEEN:
            self._received_seen = self._received
            self._heard = now  # or it is not the client who keeps the other waiting
        self._looked = now
        if self._start != self._end and now - self._heard > MESSAGE_LIMIT:
            self.fail(f"no more bytes of a message for {MESSAGE_LIMIT:g} s")
        elif self._starved:  # there may be memory again
            self.resume()

    def request_end(self, seconds: int) -> None:
        """The server stops: answer what is under way, then end."""
        self._leaving = True
        self.reason = self.reason or "the server stops"
        self._left()

    def fail(self, reason: str) -> None:
        """End the connection after what is already queued; `reason` is for the log."""
        self.closing = True
        self.reason = self.reason or reason
        self.more = False

    def lost(self, reason: str) -> None:
        """The client is gone: give up what it asked for; `finished` says when all has ended."""
        self.closed = True
        self.reason = self.reason or reason
        for task in list(self._tasks.values()):
            if task.operation is not None:
                self._gate.cancel(task.operation)
            else:
                self._end_task(task, GOOD, b"")
        self.take_output()
        self._share.abandon()

    @property
    def finished(self) -> bool:
        """After `lost`: nothing of the connection is left in the unit."""
        return not self._operating

    def end(self) -> None:
        """After `finished`: the last call."""
        if self._joined:
            self._joined = False
            self._gate.part()

    @property
    def gate(self) -> Gate:
        """Of the unit."""
        return self._gate

    @property
    def held(self) -> memoryview:
        """What was received and not handled; it begins with a message."""
        return self._view[self._start : self._end]

    # -- messages ------------------------------------------------------------------------------

    def _process(self) -> None:
        while not (self._leaving or self.closing or self.closed):
            if self._full:
                return
            if self.out.size >= _OUTPUT_BYTES or len(self.out.buffers) >= _OUTPUT_BUFFERS:
                self.more = True
                return
            if not self._next():
                return

    def _next(self) -> bool:
        """Start the next request, if it is here and memory allows."""
        here = self._end - self._start
        if here < wire.LENGTH.size:
            return False
        (length,) = wire.LENGTH.unpack_from(self._buffer, self._start)
        if not wire.HEADER <= length <= self._longest:
            self.fail(f"a message of {length} bytes")
            return False
        if here < wire.LENGTH.size + length:
            return False
        start = self._start + wire.LENGTH.size
        request = decode(self._view[start : start + length].toreadonly())
        if request.hint in self._tasks:
            self.fail(f"the hint {request.hint:#x} is still in use")
            return False
        cost = self._device.cost(request)
        self._starved = not self._share.take(cost)
        if self._starved:
            self.more = self._share.owes  # its own responses are in the way
            return False
        self.opening = False
        self._start = start + length
        self._begin(request, cost)
        return True

    def _begin(self, request: Request, cost: int) -> None:
        counters = self.counters[self._gate]
        counters.commands += 1
        era = self._gate.era  # before anything is asked: whatever ends it later ends the request
        try:
            steps = self._device.start(request)
        except Refused as refusal:
            self._share.release(cost)
            counters.failures += 1
            self._answer(request, refusal.status, b"")
            return
        task = self._tasks[request.hint] = _Task(request, steps, era, cost)
        self._run(task, None, None)

    # -- tasks ---------------------------------------------------------------------------------

    def _run(self, task: _Task, value: Any, error: StorageError | None) -> None:
        """Go on with a task, as far as it goes."""
        while True:
            try:
                step = task.steps.send(value) if error is None else task.steps.throw(error)
            except StopIteration as stop:
                self._end_task(task, GOOD, stop.value)
                return
            except StorageError as failure:
                self._end_task(task, status_of(failure), b"")
                return
            except Exception as bug:  # it ends this request only
                self._pipe.report(bug)
                self._end_task(task, _BUG, b"")
                return
            value, error = None, None
            try:
                value = self._operate(task, step)
            except StorageError as failure:
                error = failure
            if value is _PENDING:
                return

    def _operate(self, task: _Task, operation: Operation) -> Any:
        """Run an operation here if it is inline and the gate is free; else hand it over."""
        gate = self._gate
        restraint = gate.restraint
        refusal = None if restraint is None else restraint(operation.kind)
        if refusal is not None:
            raise refusal
        operation.era = task.era
        if gate.runs_inline(operation) and self._enter_gate():
            self.counters.sampler.run(gate.run, operation)
            return self._outcome(operation, self.counters.sampler)
        if operation.data is not None:
            operation.data = memoryview(bytes(operation.data))  # the receive buffer is used again
        self._operating += 1
        task.operation = operation
        gate.submit(operation, lambda ended: self._post(lambda: self._ended(task, ended)))
        return _PENDING

    def _ended(self, task: _Task, operation: Operation) -> None:
        """An operation that was handed over has ended; on the owner's thread."""
        self._operating -= 1
        task.operation = None
        value, error = None, None
        try:
            value = self._outcome(operation)
        except StorageError as failure:
            error = failure
        if self.closed:
            self._end_task(task, GOOD, b"")
        else:
            self._run(task, value, error)

    def _outcome(self, operation: Operation, sampler: Sampler | None = None) -> Any:
        """The checked result of an operation; raises its `StorageError`."""
        gate, kind = self._gate, operation.kind
        counters = self.counters[gate]
        if operation.error is not None:
            counters.failed(kind, operation.error)
            raise gate.failed(operation.error, kind) from operation.error
        size = operation.blocks * self._device.announced.block_length
        counters.done(operation, size, sampler)
        if kind is Does.READ:
            data = gate.checked_read(operation.result, size)
            return bytes(data) if gate.unit.live_reads else data
        return operation.result

    def _end_task(self, task: _Task, status: Status, payload: Buffer) -> None:
        del self._tasks[task.request.hint]
        self._share.release(task.cost, queued=bool(payload))
        task.steps.close()
        if status is not GOOD:
            self.counters[self._gate].failures += 1
        if not self.closed:
            self._answer(task.request, status, payload)

    def _answer(self, request: Request, status: Status, payload: Buffer) -> None:
        head = Response(request.hint, request.kind, status).encode()
        size = len(payload)
        self._queue([head, payload] if size else [head])

    def _queue(self, message: list[Buffer]) -> None:
        size = sum(map(len, message))
        self.out.buffers += [wire.LENGTH.pack(size), *message]
        self.out.size += wire.LENGTH.size + size

    # -- the gate, and the end -----------------------------------------------------------------

    def _enter_gate(self) -> bool:
        """Hold the gate until the end of the batch, if that needs no long waiting."""
        if not self._entered:
            self._entered = self._gate.enter()
        return self._entered

    def _leave_gate(self) -> None:
        if self._entered:
            self._entered = False
            self._gate.leave()

    def _left(self) -> None:
        """Leaving ends when everything is answered."""
        if self._leaving and not self._tasks:
            self.closing = True
