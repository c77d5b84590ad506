"""A logical unit: looks a command up in the operation table, and runs its handler (SAM-6 5).

Shared by all connections. Commands read only what never changes; what does (paths, unit
attentions, pending tasks) is guarded by `lock`, which is never held while a unit works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from userdisk.scsi import sense
from userdisk.scsi.sense import Sense
from userdisk.target import operations
from userdisk.target.command import CheckCondition, Command, Completion, Steps
from userdisk.target.nexus import Nexus, Path

if TYPE_CHECKING:
    from userdisk.gate import Gate

#: The largest READ or WRITE in bytes, for every unit; the engine splits it for the unit.
MAX_TRANSFER = 8 << 20

CHECK_CONDITION = 0x02


class Abortable(Protocol):
    """A pending command, as task management sees it."""

    aborted: bool

    @property
    def nexus(self) -> Nexus:
        """Where it came from."""

    def abort(self) -> None:
        """Have its owner give it up soon; called once, from any thread, `aborted` is set."""


class LogicalUnit:
    """Runs SCSI commands against one storage unit. All methods may be called from any thread.

    Args:
        gate: the way into the unit.
        lock: guards the shared state; the gate's `state_lock` by default.
    """

    def __init__(self, gate: Gate, *, lock: AbstractContextManager[object] | None = None) -> None:
        self.gate = gate
        self.parameters = gate.parameters
        self.block_length = gate.parameters.block_length
        self.block_count = gate.parameters.block_count
        #: The largest single operation of the unit, in blocks.
        self.step = min(gate.parameters.max_transfer_length, MAX_TRANSFER) // self.block_length
        self.max_blocks = MAX_TRANSFER // self.block_length
        self.lock = lock or gate.state_lock
        self.paths: set[Path] = set()
        #: Several nexuses have the unit open: read from any thread, like `Path.ready`.
        self.shared = False
        self.tasks: set[Abortable] = set()
        self._waits: list[tuple[set[Abortable], Callable[[], None]]] = []

    # -- commands ------------------------------------------------------------------------------

    def execute(self, command: Command) -> Completion | Steps:
        """Run a command, or start it: see `userdisk.target.command`. Does not block."""
        try:
            path = command.path
            row = operations.find(command.cdb)
            if not path.ready and not (row and row.flags & operations.Flags.DESPITE_ATTENTION):
                attention = self.take_attention(path)
                if attention is not None:
                    raise CheckCondition(sense.unit_attention(attention))
            if row is None or not row.offered(self):
                raise CheckCondition(operations.refusal(command.cdb))
            operations.check(row, command.cdb)
            return row.handler(self, command)
        except CheckCondition as error:
            return self.check_condition(error.sense, error.wanted)

    def check_condition(self, why: Sense, wanted: int | None = None) -> Completion:
        """CHECK CONDITION with sense data in the format that this unit uses."""
        return Completion(CHECK_CONDITION, (), why.encode(), wanted)

    # -- unit attentions -----------------------------------------------------------------------

    def connect(self, path: Path, attention: int) -> None:
        """Add a path, which is told `attention` first."""
        with self.lock:
            path.attentions.add(attention)
            path.ready = False
            self.paths.add(path)
            self.shared = len(self.paths) > 1

    def disconnect(self, path: Path) -> None:
        """Remove a path."""
        with self.lock:
            self.paths.discard(path)
            self.shared = len(self.paths) > 1

    def establish(self, attention: int, nexuses: Iterable[Nexus] | None = None) -> None:
        """Queue a unit attention at every path, or at those of the given nexuses."""
        chosen = None if nexuses is None else set(nexuses)
        with self.lock:
            for path in self.paths:
                if chosen is None or path.nexus in chosen:
                    path.ready = False
                    path.attentions.add(attention)

    def take_attention(self, path: Path) -> int | None:
        """The path's most urgent unit attention, which is told now."""
        with self.lock:
            attention = path.attentions.take()
            path.ready = not path.attentions
            return attention

    # -- pending tasks -------------------------------------------------------------------------

    def begin(self, task: Abortable) -> None:
        """Count a task that goes on after its port's batch as pending."""
        with self.lock:
            self.tasks.add(task)

    def end(self, task: Abortable) -> bool:
        """A task has left the unit. True: send its response; False: it was aborted, send none."""
        finished: list[Callable[[], None]] = []
        with self.lock:
            self.tasks.discard(task)
            alive = not task.aborted
            for pending, done in self._waits:
                pending.discard(task)
                if not pending:
                    finished.append(done)
            if finished:
                self._waits = [wait for wait in self._waits if wait[0]]
        for done in finished:
            done()
        return alive

    def mark(
        self, chosen: Callable[[Abortable], bool], done: Callable[[], None]
    ) -> list[Abortable]:
        """Mark the chosen pending tasks as aborted; `done` is called when the last has ended.

        Returns those that were not marked before: call `abort` on each.
        """
        with self.lock:
            marked = {task for task in self.tasks if chosen(task)}
            fresh = [task for task in marked if not task.aborted]
            for task in fresh:
                task.aborted = True
            if marked:
                self._waits.append((marked, done))
        if not marked:
            done()
        return fresh
