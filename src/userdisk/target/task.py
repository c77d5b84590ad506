"""A task: drives a command's steps for a port, to completion, failure or abort.

A task belongs to its port's owner thread; only `abort` is called from others. Theory of operation:

    start -> running: each step asks the port; a step that is not ready (PENDING) leaves it
    waiting: the owner calls `advance` (a result or data) or `fail` -> running
    start -> dormant, for an ORDERED task or behind one: `wake` -> running
    aborted: seen before the next step; the steps are closed, `complete(task, None)` is called

A task is in its unit's task set from before its start until it has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from userdisk.errors import StorageError
from userdisk.operation import Era, Kind, Operation
from userdisk.scsi import sense
from userdisk.target.command import (
    CHECK_CONDITION,
    Attribute,
    CheckCondition,
    Completion,
    Receive,
    Steps,
    Wait,
)
from userdisk.target.nexus import Nexus, Path

if TYPE_CHECKING:
    from userdisk.gate import Gate


class _Pending:
    """The type of PENDING."""

    def __repr__(self) -> str:
        return "PENDING"


#: A step is not ready: `Task.advance` or `Task.fail` is called later.
PENDING: Final = _Pending()


class Port(Protocol):
    """What a task needs of its port. Called on the owner's thread, `aborted` excepted."""

    def operate(self, task: Any, operation: Operation, /) -> Any:
        """Run the operation and return its result, raise its `StorageError`, or PENDING."""

    def receive(self, task: Any, request: Receive, /) -> Any:
        """Data-out as `Receive` says, or PENDING."""

    def complete(self, task: Any, completion: Completion | None, /) -> None:
        """The task has ended; None: it was aborted, no response is due."""

    def report(self, error: Exception, /) -> None:
        """A handler failed with what is a bug in userdisk: log it with its traceback."""

    def aborted(self, task: Any, /) -> None:
        """From any thread: have the owner call `task.give_up()`."""

    def sleep(self, task: Any, /) -> None:
        """The task waits for what happens elsewhere; `awake` is called then."""

    def awake(self, task: Any, /) -> None:
        """From any thread: have the owner call `task.resume()`."""


def outcome(gate: Gate, operation: Operation) -> Any:
    """The result of an operation that has ended; raises its error from the error table.

    `gate` is that of the command's unit; the operation may be for another.
    """
    gate = operation.gate or gate
    if isinstance(operation.error, CheckCondition):  # of an `Exclusive`
        raise operation.error
    if operation.error is not None:
        raise gate.failed(operation.error, operation.kind) from operation.error
    return operation.result


class Task:
    """One command under way; ports may subclass it to keep their own state with it."""

    __slots__ = ("_begun", "_happened", "_operation", "_port", "_start", "_steps", "aborted",
                 "attribute", "enabled", "era", "nexus", "path")  # fmt: skip

    def __init__(self, port: Port, nexus: Nexus, attribute: int = Attribute.SIMPLE) -> None:
        self.nexus = nexus
        self.path: Path | None = None
        self.era: Era | None = None  # the path's, when it was executed
        self.aborted = False
        self.attribute = attribute
        self.enabled = True  # the task set says so
        self._happened = False  # what a step waited for
        self._start: tuple[int, bytes, int, int] | None = None  # what it waits to start with
        self._port = port
        self._steps: Steps | None = None
        self._operation: Operation | None = None
        self._begun = False

    def wait(self, lun: int) -> None:
        """The port keeps the command for a while before `start`: task management sees it."""
        self.path = self.nexus.target.path(self.nexus, lun)
        if self.path is not None:
            self._begin(self.path)

    def start(
        self, lun: int, cdb: bytes, data_out_length: int = 0, data_in_length: int = 0
    ) -> None:
        """Start the command, and run it as far as it goes; arguments as `Target.execute`."""
        if self.aborted:
            self.give_up()
            return
        if not self._begun:
            self.path = self.nexus.target.path(self.nexus, lun)
            if self.path is not None:
                self._begin(self.path)
        self._start = lun, cdb, data_out_length, data_in_length
        self.resume()

    def wake(self) -> None:
        """The older tasks that it waited for have ended; from any thread."""
        self._port.awake(self)

    def resume(self) -> None:
        """What it slept for may have happened: start or go on, or sleep again."""
        if self._start is not None and self.enabled:
            start, self._start = self._start, None
            self._execute(*start)
        elif self._start is None and self._happened:
            self._happened = False
            self.advance(None)
        else:
            self._port.sleep(self)

    def _execute(self, lun: int, cdb: bytes, data_out_length: int, data_in_length: int) -> None:
        target = self.nexus.target
        if self.attribute > Attribute.HEAD_OF_QUEUE:  # there is no ACA to be in
            self._end(_check(self.path, sense.invalid_message()))
            return
        if self.path is not None:
            self.era = self.path.era
        try:
            execution = target.execute(self.nexus, lun, cdb, data_out_length, data_in_length, self)
        except Exception as error:  # a bug ends this command only
            self._port.report(error)
            self._end(_check(self.path, sense.INTERNAL_TARGET_FAILURE))
            return
        if isinstance(execution, Completion):
            self._end(execution)
            return
        self._steps = execution
        self.advance(None)

    def advance(self, value: Any) -> None:
        """The step that was PENDING is ready with this result or data."""
        self._run(value, None)

    def fail(self, error: StorageError) -> None:
        """The operation that was PENDING has failed."""
        self._run(None, error)

    def finished(self, operation: Operation) -> None:
        """The operation that was PENDING has ended, well or not."""
        assert self.path is not None
        try:
            value = outcome(self.path.lu.gate, operation)
        except (StorageError, CheckCondition) as error:
            self._run(None, error)
        else:
            self.advance(value)

    def abort(self) -> None:
        """Task management has marked the task; from any thread."""
        self._port.aborted(self)

    def give_up(self) -> None:
        """End an aborted task as soon as may be: at once, or when its operation has ended."""
        if self._steps is None:
            if self._begun:  # it waits for its start
                self._end(None)
        elif self._operation is None:
            self._close()
        else:
            assert self.path is not None
            gate = self._operation.gate or self.path.lu.gate
            gate.cancel(self._operation)

    # -- the steps -----------------------------------------------------------------------------

    def _run(self, value: Any, error: StorageError | CheckCondition | None) -> None:
        steps, port = self._steps, self._port
        if steps is None:
            return
        try:
            while True:
                if self.aborted:
                    self._close()
                    return
                step = steps.send(value) if error is None else steps.throw(error)
                value = error = self._operation = None
                if isinstance(step, Operation):
                    self._operation = step
                    if step.gate is None or (self.path and step.gate is self.path.lu.gate):
                        step.era = self.era
                    try:
                        value = port.operate(self, step)
                    except (StorageError, CheckCondition) as failure:
                        error = failure
                elif isinstance(step, Wait):
                    port.sleep(self)
                    step.begin(self._happen)
                    return
                else:
                    value = port.receive(self, step)
                if value is PENDING:
                    return
        except StopIteration as stop:
            completion: Completion = stop.value
        except StorageError as failure:
            completion = self._check(sense.from_error(failure, self._bad_block(failure)))
        except CheckCondition as refused:
            completion = self._check(refused.sense, refused.wanted)
        except Exception as bug:  # as in `_execute`
            port.report(bug)
            completion = self._check(sense.INTERNAL_TARGET_FAILURE)
        self._end(completion)

    def _happen(self) -> None:
        self._happened = True
        self._port.awake(self)

    def _begin(self, path: Path) -> None:
        """Enter the task set, before anything else, so that task management misses nothing."""
        self._begun = True
        path.lu.begin(self)

    def _close(self) -> None:
        assert self._steps is not None
        self._steps.close()
        self._end(None)

    def _end(self, completion: Completion | None) -> None:
        self._steps = self._operation = self._start = None
        if self._begun:
            assert self.path is not None
            self._begun = False
            if not self.path.lu.end(self):
                completion = None
        self._port.complete(self, completion)

    def _check(self, why: sense.Sense, wanted: int | None = None) -> Completion:
        return _check(self.path, why, wanted)

    def _bad_block(self, error: StorageError) -> int | None:
        """The first bad block: the error's, if the operation addressed it, else the operation's."""
        operation = self._operation
        if operation is None or not (operation.blocks or operation.extents):  # a flush: no block
            return error.lba
        extents = operation.extents if operation.kind is Kind.UNMAP else _range(operation)
        if error.lba is not None and any(
            lba <= error.lba < lba + blocks for lba, blocks in extents
        ):
            return error.lba
        return extents[0][0]


def _range(operation: Operation) -> list[tuple[int, int]]:
    return [(operation.lba, operation.blocks)]


def _check(path: Path | None, why: sense.Sense, wanted: int | None = None) -> Completion:
    if path is None:
        return Completion(CHECK_CONDITION, (), why.encode(), wanted)
    return path.lu.check_condition(why, wanted)
