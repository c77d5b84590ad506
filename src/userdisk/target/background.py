"""Steps of a logical unit that belong to no command and no port: they outlive both.

Theory of operation. Each step is submitted to the unit's gate; what is called when it has ended
submits the next, on whatever thread that is. So nothing waits, and nothing recurs. Between two
steps the work can be interrupted: its generator is closed, and whoever started it has saved what it
takes to start it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from userdisk.errors import StorageError
from userdisk.operation import Kind, Operation, Sequel
from userdisk.target.command import CheckCondition
from userdisk.target.task import outcome

if TYPE_CHECKING:
    from userdisk.gate import Gate


class Background:
    """Runs one sequence of steps at a time. All methods may be called from any thread.

    Args:
        gate: of the unit that the steps are for.
        lock: guards the state; nothing else is called under it.
    """

    def __init__(self, gate: Gate, lock: AbstractContextManager[object]) -> None:
        self._gate = gate
        self._lock = lock
        self._steps: Sequel | None = None
        self._next: deque[Sequel] = deque()
        self._stopping = False
        self._waiting: list[Callable[[], None]] = []

    def start(self, steps: Sequel) -> None:
        """Begin, after what was started before; never, when it was stopped. Does not block.

        What the steps raise ends them; it is logged, for they should have caught it.
        """
        with self._lock:
            if self._steps is not None:
                self._next.append(steps)
                return
            self._steps = steps
        self._advance(None, None)

    def when_idle(self, done: Callable[[], None]) -> None:
        """Call `done` when nothing is under way, perhaps at once."""
        with self._lock:
            idle = self._steps is None
            if not idle:
                self._waiting.append(done)
        if idle:
            done()

    def stop(self, done: Callable[[], None]) -> None:
        """Interrupt what is under way before its next step, and begin nothing any more.

        `done` is called when the step that runs has ended.
        """
        self._stopping = True
        self.when_idle(done)

    def _advance(self, value: Any, error: StorageError | CheckCondition | None) -> None:
        steps = self._steps
        assert steps is not None
        try:
            if self._stopping:
                steps.close()
            else:
                step = steps.send(value) if error is None else steps.throw(error)
                self._gate.submit(step, self._ended)
                return
        except StopIteration:
            pass
        except Exception as bug:  # it ends this work, not what comes next
            self._gate.failed(bug, Kind.EXCLUSIVE)
        with self._lock:
            self._steps = self._next.popleft() if self._next else None
            waiting: list[Callable[[], None]] = []
            if self._steps is None:
                waiting, self._waiting = self._waiting, []
        if self._steps is not None:
            self._advance(None, None)
        for done in waiting:
            done()

    def _ended(self, operation: Operation) -> None:
        try:
            value = outcome(self._gate, operation)
        except (StorageError, CheckCondition) as error:
            self._advance(None, error)
        else:
            self._advance(value, None)
