"""A port for tests of the engine: no socket, no thread; steps at once, or when the test says."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from userdisk.gate import Gate
from userdisk.operation import Operation
from userdisk.scsi import sense
from userdisk.scsi.sense import Sense
from userdisk.target.command import Attribute, Completion, Receive
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.nexus import Nexus
from userdisk.target.target import Target
from userdisk.target.task import PENDING, Task, outcome
from userdisk.unit import StorageUnit

IQN = "iqn.2024-01.org.example:disk"
INITIATOR = "iqn.2024-01.org.example:initiator"


class Result(NamedTuple):
    """A completion, flattened."""

    status: int
    data: bytes
    sense: Sense | None
    wanted: int | None


class EngineTask(Task):
    """A task with what its port keeps for it."""

    __slots__ = ("completions", "data_out", "operation")

    def __init__(
        self, port: EnginePort, nexus: Nexus, data_out: bytes, attribute: int = Attribute.SIMPLE
    ) -> None:
        super().__init__(port, nexus, attribute)
        self.data_out = memoryview(data_out).toreadonly()
        self.operation: Operation | None = None
        self.completions: list[Completion | None] = []


class EnginePort:
    """Runs commands; `deferred` leaves every operation PENDING until `step`.

    Args:
        piece: data-out arrives in pieces of at most so many bytes (kept to the granule).
    """

    def __init__(self, *, piece: int = 1 << 30, deferred: bool = False) -> None:
        self.piece = piece
        self.deferred = deferred
        self.waiting: deque[EngineTask] = deque()
        self.asleep: set[EngineTask] = set()
        self.reports: list[Exception] = []

    def start(
        self,
        nexus: Nexus,
        cdb: bytes,
        data_out: bytes = b"",
        lun: int = 0,
        expect: int = 1 << 30,
        attribute: int = Attribute.SIMPLE,
    ) -> EngineTask:
        """Start a command; it may be PENDING."""
        task = EngineTask(self, nexus, data_out, attribute)
        task.start(lun, cdb.ljust(16, b"\0"), len(data_out), expect)
        return task

    def execute(self, nexus: Nexus, cdb: bytes, data_out: bytes = b"", lun: int = 0) -> Result:
        """Run a command to its end."""
        task = self.start(nexus, cdb, data_out, lun)
        while self.waiting:
            self.step()
        (completion,) = task.completions
        assert completion is not None
        assert not self.reports, self.reports
        return flatten(completion)

    def step(self) -> None:
        """Run the oldest PENDING operation."""
        task = self.waiting.popleft()
        operation, task.operation = task.operation, None
        assert operation is not None and task.path is not None
        (operation.gate or task.path.lu.gate).perform(operation)
        task.finished(operation)

    # -- what a task asks ----------------------------------------------------------------------

    def operate(self, task: EngineTask, operation: Operation) -> Any:
        assert task.path is not None
        if self.deferred:
            task.operation = operation
            self.waiting.append(task)
            return PENDING
        gate = operation.gate or task.path.lu.gate
        gate.perform(operation)
        return outcome(gate, operation)

    def receive(self, task: EngineTask, request: Receive) -> Any:
        length = min(request.length, max(self.piece // request.granule, 1) * request.granule)
        data, task.data_out = task.data_out[:length], task.data_out[length:]
        return data

    def complete(self, task: EngineTask, completion: Completion | None) -> None:
        task.completions.append(completion)

    def report(self, error: Exception) -> None:
        self.reports.append(error)

    def aborted(self, task: EngineTask) -> None:
        task.give_up()

    def sleep(self, task: EngineTask) -> None:
        self.asleep.add(task)

    def awake(self, task: EngineTask) -> None:
        if task in self.asleep:
            self.asleep.discard(task)
            task.resume()


def flatten(completion: Completion) -> Result:
    """A completion with its buffers joined and its sense decoded."""
    return Result(
        completion.status,
        b"".join(bytes(piece) for piece in completion.data),
        sense.decode(completion.sense) if completion.sense else None,
        completion.wanted,
    )


def target_of(*units: StorageUnit) -> Target:
    """A target with these units."""
    return Target(IQN, [LogicalUnit(Gate(unit)) for unit in units])


def ready_nexus(target: Target, initiator: str = INITIATOR) -> Nexus:
    """A nexus that has been told what it had to be told."""
    nexus = target.attach(initiator)
    for path in nexus.paths.values():
        while path.attentions:
            path.lu.take_attention(path)
    return nexus
