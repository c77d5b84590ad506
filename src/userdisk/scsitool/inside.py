"""A unit as a device: it is opened in this process, and its commands are run by the engine."""

from __future__ import annotations

import os
import queue
import threading
import time
from typing import Any

from userdisk.backend import open_unit
from userdisk.errors import UsageError, UserdiskError, in_words
from userdisk.gate import Gate, close_unit
from userdisk.identity import identity_of
from userdisk.operation import Operation
from userdisk.scsitool.device import DeviceError, Make, Result
from userdisk.target.command import Completion, Receive
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.nexus import Nexus
from userdisk.target.target import Target
from userdisk.target.task import Task, outcome

_TARGET = "iqn.2026-11.io.userdisk:scsitool"
_INITIATOR = "iqn.2026-11.io.userdisk:initiator"


class _Command(Task):
    """A task with the data-out that its initiator has for it."""

    __slots__ = ("data_out",)

    def __init__(self, port: InsideDevice, nexus: Nexus, data_out: bytes) -> None:
        super().__init__(port, nexus)
        self.data_out = memoryview(data_out).toreadonly()


class InsideDevice:
    """A unit, its logical unit and the only nexus to it. It is the task's port as well.

    Args:
        spec: as `open_unit` takes it.
        make: makes the unit; `open_unit` by default.
        timeout: seconds for each operation of the unit.

    The constructor blocks while the unit is opened. Raises `UserdiskError`.
    """

    def __init__(self, spec: str, timeout: float, make: Make | None = None) -> None:
        self.name = spec
        self._timeout = timeout
        if spec.isprintable() and spec and ":" not in spec and not os.path.exists(spec):
            raise UsageError(f"{spec}: there is no such image or device")
        unit = open_unit(spec, timeout=timeout) if make is None else make(spec)
        self._gate = Gate(unit, spec)
        self._lu = LogicalUnit(self._gate, saved=identity_of(unit))
        self._nexus = Target(_TARGET, [self._lu]).attach(_INITIATOR)
        self._ended: list[Completion | None] = []
        self._woken: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._bugs: list[Exception] = []
        self._stuck = False
        try:
            self._gate.open()
        except Exception as error:  # whatever the unit's open() raises
            raise UserdiskError(f"{spec}: cannot be opened: {in_words(error)}") from error
        self._lu.sanitize.resume()

    def execute(self, cdb: bytes, read_length: int = 0, data_out: bytes = b"") -> Result:
        """See `Device.execute`."""
        self._ended.clear()
        deadline = time.monotonic() + self._timeout
        task = _Command(self, self._nexus, data_out)
        task.start(0, cdb.ljust(16, b"\0"), len(data_out), read_length)
        while not self._ended:
            try:
                self._woken.get(timeout=max(0.0, deadline - time.monotonic())).resume()
            except queue.Empty:
                raise self._late() from None
        if self._bugs:
            raise self._bugs[0]
        completion = self._ended[0]
        if completion is None:
            raise DeviceError(f"{self.name}: the command was aborted")
        data = b"".join(bytes(piece) for piece in completion.data)
        return Result(completion.status, completion.sense, data[:read_length])

    def close(self) -> None:
        """Flush and close the unit; one that does not answer is left as it is.

        Raises `UserdiskError` when that fails.
        """
        idle = threading.Event()
        self._lu.background.stop(idle.set)
        if not self._stuck and idle.wait(self._timeout):
            close_unit(self._gate)

    def _late(self) -> DeviceError:
        self._stuck = True
        return DeviceError(f"{self.name}: no answer in {self._timeout:g} seconds")

    # -- what a task asks of its port ----------------------------------------------------------

    def operate(self, task: _Command, operation: Operation) -> Any:
        """Run the operation on a thread of the unit, and wait for it."""
        assert task.path is not None
        gate = operation.gate or task.path.lu.gate
        ended = threading.Event()
        gate.submit(operation, lambda _: ended.set())
        if not ended.wait(self._timeout):
            raise self._late()
        return outcome(gate, operation)

    def receive(self, task: _Command, request: Receive) -> memoryview:
        """The next bytes of data-out."""
        data, task.data_out = task.data_out[: request.length], task.data_out[request.length :]
        return data

    def complete(self, task: _Command, completion: Completion | None) -> None:
        """The task has ended."""
        self._ended.append(completion)

    def report(self, error: Exception) -> None:
        """A bug; `DeviceError` of a late operation is none."""
        if isinstance(error, DeviceError):
            raise error
        self._bugs.append(error)

    def aborted(self, task: _Command) -> None:
        """Nobody aborts tasks of the only nexus but its unit when it goes."""
        task.give_up()

    def sleep(self, task: _Command) -> None:
        """`execute` waits for `awake`."""

    def awake(self, task: _Command) -> None:
        """From any thread."""
        self._woken.put(task)
