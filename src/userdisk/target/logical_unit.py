"""A logical unit: looks a command up in the operation table, and runs its handler (SAM-6 5).

Shared by all connections. What commands look at is replaced, never changed in place; what several
threads write (paths, unit attentions, the task set) is guarded by `lock`, which is never held while
a unit works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from userdisk.errors import ReservationConflict, StorageError
from userdisk.operation import Era, Kind
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, Sense
from userdisk.target import block_ports, operations
from userdisk.target.aspect import Aspect
from userdisk.target.background import Background
from userdisk.target.command import (
    CHECK_CONDITION,
    Abortable,
    Attribute,
    CheckCondition,
    Command,
    Completion,
    Steps,
)
from userdisk.target.copies import Copies
from userdisk.target.log_pages import Processed
from userdisk.target.medium import Medium
from userdisk.target.mode_parameters import ModeParameters
from userdisk.target.nexus import Nexus, Path
from userdisk.target.port_groups import PortGroups
from userdisk.target.reservations import Reservations
from userdisk.target.rods import Rods
from userdisk.target.row import Flags, Row
from userdisk.target.sanitize import Sanitize
from userdisk.target.soft_threshold import SoftThreshold
from userdisk.target.task_set import TaskSet

if TYPE_CHECKING:
    from userdisk.gate import Gate

#: The largest READ or WRITE in bytes, for every unit; the engine splits it for the unit.
MAX_TRANSFER = 8 << 20

_RESETS = 0x29  # additional sense code of the unit attentions that come before everything


class Saved(Protocol):
    """What outlives the process: JSON values by name (`userdisk.identity.Identity` is one)."""

    @property
    def path(self) -> str | None:
        """The file, for messages; None where nothing outlives the process."""

    def get(self, name: str) -> Any:
        """What was saved under `name`, or None. Does not block."""

    def save(self, name: str, value: Any) -> bool:
        """Save a value durably; False where that cannot be. Blocks: only in `Exclusive` steps."""


class Unsaved:
    """Saved state that lasts as long as the process: for units without a place for more."""

    path: str | None = None

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """See `Saved.get`."""
        return self._values.get(name)

    def save(self, name: str, value: Any) -> bool:
        """See `Saved.save`."""
        self._values[name] = value
        return False


class LogicalUnit:
    """Runs SCSI commands against one storage unit. All methods may be called from any thread.

    Args:
        gate: the way into the unit.
        lock: guards the shared state; the gate's `state_lock` by default.
        saved: state from before, and the place for what has to outlive the process.
        clock, random: seconds, and bytes that nobody can predict; the gate's by default.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        lock: AbstractContextManager[object] | None = None,
        saved: Saved | None = None,
        clock: Callable[[], float] | None = None,
        random: Callable[[int], bytes] | None = None,
    ) -> None:
        self.gate = gate
        self.saved: Saved = saved or Unsaved()
        self.parameters = gate.parameters
        self.block_length = gate.parameters.block_length
        self.block_count = gate.parameters.block_count
        #: The largest single operation of the unit, in blocks.
        self.step = min(gate.parameters.max_transfer_length, MAX_TRANSFER) // self.block_length
        self.max_blocks = MAX_TRANSFER // self.block_length
        self.lock = lock or gate.state_lock
        self.clock = clock or gate.clock
        self.random = random or gate.random
        self.paths: set[Path] = set()
        self.task_set = TaskSet(self.lock)
        self.write_protected = gate.parameters.write_protected
        self.descriptor_sense = False
        #: What all initiators together have read and written: the server knows.
        self.processed: Callable[[], Processed] = Processed
        self.soft_threshold = SoftThreshold(self)
        self.port_groups = PortGroups(self)
        gate.resized.append(self._resized)
        self.background = Background(gate, self.lock)
        self.sanitize = Sanitize(self)
        self.medium = Medium(self)
        self.copies = Copies(self)
        self.rods = Rods(self)
        self.mode_parameters = ModeParameters(self)
        #: What may keep commands from running, in the order in which it is asked.
        self.reservations = Reservations(self.lock, self.saved)
        self.aspects: tuple[Aspect, ...] = (
            self.port_groups,
            self.soft_threshold,
            self.sanitize,
            self.medium,
            self.copies,
            self.rods,
            self.mode_parameters,
        )
        self._block_path = block_ports.path(self)
        self.refresh()  # what was saved may restrain ports for blocks from the start

    # -- commands ------------------------------------------------------------------------------

    def execute(self, command: Command) -> Completion | Steps:
        """Run a command, or start it: see `userdisk.target.command`. Does not block."""
        try:
            path = command.path
            row = operations.find(command.cdb)
            if not path.ready:
                conflict = self._before_all(row, command)
                if conflict is not None:
                    return conflict
            if row is None or not row.offered(self):
                raise CheckCondition(operations.refusal(command.cdb))
            operations.check(row, command.cdb)
            restraint = self._restraint(self.aspects, row, command)
            return row.handler(self, command) if restraint is None else restraint
        except CheckCondition as error:
            return self.check_condition(error.sense, error.wanted)

    def refusal(self, command: Command) -> Completion | None:
        """Why a command that the unit has would not run now; None: it would.

        Unit attentions are left to be told.
        """
        row = operations.find(command.cdb)
        assert row is not None
        try:
            return self._restraint((self.reservations, *self.aspects), row, command)
        except CheckCondition as error:
            return self.check_condition(error.sense)

    def _block_restraint(self, kind: Kind) -> StorageError | None:
        """See `Gate.restraint`."""
        cdb = block_ports.COMMANDS[kind]
        row = operations.find(cdb)
        assert row is not None
        aspects = (self.reservations, *self.aspects)
        try:
            conflict = self._restraint(aspects, row, Command(cdb, self._block_path))
        except CheckCondition as error:
            return block_ports.error(error.sense)
        return None if conflict is None else ReservationConflict()

    def _restraint(
        self, aspects: Iterable[Aspect], row: Row, command: Command
    ) -> Completion | None:
        if command.path.restricted:
            for aspect in aspects:
                answer = aspect.check(row, command)
                if answer is not None:
                    return answer
        if self.write_protected and Flags.WRITES in row.flags:
            raise CheckCondition(sense.write_protected())
        return None

    def _before_all(self, row: Row | None, command: Command) -> Completion | None:
        """What is answered even to a command that does not exist (SAM-6 5.3.3, 5.14).

        A reset is told first, then a reservation conflict, then other unit attentions.
        """
        path = command.path
        told = row is None or Flags.DESPITE_ATTENTION not in row.flags
        if told:
            self._tell(path, _RESETS)
        if path.restricted and row is not None:
            conflict = self.reservations.check(row, command)
            if conflict is not None:
                return conflict
        if told:
            self._tell(path)
        return None

    def check_condition(self, why: Sense, wanted: int | None = None) -> Completion:
        """CHECK CONDITION with sense data in the format that this unit uses."""
        data = why.encode(descriptor=self.descriptor_sense)
        return Completion(CHECK_CONDITION, (), data, wanted)

    # -- paths and what restrains them ---------------------------------------------------------

    def connect(self, path: Path, attention: int) -> None:
        """Add a path, which is told `attention` first."""
        self.gate.join()
        with self.lock:
            path.attentions.add(attention)
            self.paths.add(path)
            self._refresh()

    def disconnect(self, path: Path) -> None:
        """Remove a path: its nexus is lost."""
        with self.lock:
            connected = path in self.paths
            self.paths.discard(path)
        if connected:
            self.gate.part()
        for aspect in (self.reservations, *self.aspects):
            aspect.nexus_lost(path.nexus)
        self.refresh()

    def reset(self, attention: int) -> None:
        """Logical unit reset, without its effect on tasks: `attention` is told on every path."""
        for aspect in (self.reservations, *self.aspects):
            aspect.reset()
        with self.lock:
            for path in self.paths:
                path.attentions.add(attention)
            self._refresh()

    def end_era(self, over: Callable[[], Exception], port: int | None = None) -> None:
        """What commands have left to do in the unit fails with this; of all ports, or of one.

        In an `Exclusive`. What restrains a path keeps commands from beginning; this is for those
        that have begun, and have more operations or data to come.
        """
        with self.lock:
            for path in self.paths:
                if port in (None, path.nexus.port):
                    path.era.over = over
                    path.era = Era()
            if port is None:
                self.gate.era.over = over
                self.gate.era = Era()

    def when_left(self, done: Callable[[], None]) -> None:
        """Call `done` when the batches of other nexuses that run now have ended.

        Their fast paths have commands that the task set does not know.
        """
        if self.gate.shared:
            self.gate.when_left(done)
        else:
            done()

    def refresh(self) -> None:
        """What aspects say has changed, or the unit's size: see `userdisk.target.aspect`."""
        with self.lock:
            self._refresh()

    def _refresh(self) -> None:
        aspects = (self.reservations, *self.aspects)
        blocks = self._block_path
        blocks.restricted = any(aspect.restrains(blocks) for aspect in aspects)
        self.gate.restraint = self._block_restraint if blocks.restricted else None
        for path in self.paths:
            path.lane = None
            path.restricted = bool(self.task_set.ordered) or any(
                aspect.restrains(path) for aspect in aspects
            )
            path.ready = not (path.attentions or path.restricted)

    def _resized(self) -> None:
        """The unit has another size; with nobody in it, so that no batch knows the old one."""
        self.parameters = self.gate.parameters
        self.block_count = self.parameters.block_count
        self.rods.resized()
        self.refresh()
        self.establish(Asc.CAPACITY_CHANGED)
        self._announce(Asc.CAPACITY_CHANGED)

    def _announce(self, attention: int) -> None:
        """Tell of a unit attention at once, wherever that can be (RFC 7143 11.9.1)."""
        data = sense.unit_attention(attention).encode(descriptor=self.descriptor_sense)
        with self.lock:
            paths = list(self.paths)
        for path in paths:
            if path.nexus.tell is not None:
                path.nexus.tell(path.lun, data)

    # -- unit attentions -----------------------------------------------------------------------

    def establish(
        self,
        attention: int,
        nexuses: Iterable[Nexus] | None = None,
        *,
        but: Nexus | None = None,
    ) -> None:
        """Queue a unit attention at every path, or at the given nexuses', never at `but`'s."""
        chosen = None if nexuses is None else set(nexuses)
        with self.lock:
            for path in self.paths:
                if path.nexus is not but and (chosen is None or path.nexus in chosen):
                    path.ready = False
                    path.attentions.add(attention)

    def take_attention(self, path: Path, family: int | None = None) -> int | None:
        """The path's most urgent unit attention, which is told now; of this code, if given."""
        with self.lock:
            attention = path.attentions.take(family)
            path.ready = not (path.attentions or path.restricted)
            return attention

    def _tell(self, path: Path, family: int | None = None) -> None:
        attention = self.take_attention(path, family)
        if attention is not None:
            raise CheckCondition(sense.unit_attention(attention))

    # -- tasks ---------------------------------------------------------------------------------

    def begin(self, task: Abortable) -> None:
        """Add a task to the task set; see `TaskSet.add`."""
        self.task_set.add(task)
        if task.attribute == Attribute.ORDERED:
            self.refresh()

    def end(self, task: Abortable) -> bool:
        """A task has left the unit. True: send its response; False: it was aborted, send none."""
        alive = self.task_set.end(task)
        if task.attribute == Attribute.ORDERED:
            self.refresh()
        return alive
