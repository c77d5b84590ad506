"""One call of a storage unit's method, as a value: what is asked, then its result or error.

An `Exclusive` is several of them in a row with nobody else in the unit: what has to be atomic for
every connection and port (COMPARE AND WRITE), and changes of what commands may do (reservations).
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Generator
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from userdisk.errors import OutOfRange

if TYPE_CHECKING:
    from userdisk.unit import Extents, StorageUnit


class Kind(enum.IntEnum):
    """What an operation does; the value indexes the tables below."""

    READ = 0
    WRITE = 1
    FLUSH = 2
    UNMAP = 3
    ZERO = 4
    EXTENTS = 5
    ERASE = 6
    CRYPTO_ERASE = 7
    USAGE = 8
    EXCLUSIVE = 9


_MOST_EXTENTS = 1024  # taken of one call, however many the unit would yield

#: Those that leave the blocks as they are.
LOOKING = frozenset({Kind.READ, Kind.EXTENTS, Kind.USAGE})
KEEPING = LOOKING | {Kind.FLUSH}
#: Those that FUA tells to be on the medium before they end; an `Exclusive`: its writes.
WRITING = frozenset({Kind.WRITE, Kind.ZERO, Kind.EXCLUSIVE})


class Era:
    """A time in which commands began. When it is over, the operations that they have left fail."""

    __slots__ = ("over",)

    def __init__(self) -> None:
        #: Makes the error of those operations; set with nobody in the unit.
        self.over: Callable[[], Exception] | None = None


class Operation:
    """One call of a unit's method: what is asked, and then its result or error.

    `done(operation)` is called once, on whatever thread the operation ends; `result` or `error`
    is set by then. Belongs to one port at a time; not thread-safe.

    Args:
        gate: the `Gate` of the unit that is meant, if it is not that of the command's logical unit.
        offload: run it on a thread of the unit even if it is inline: part of a long command.

    Attributes:
        era: when its command began; None: no command's.
        asked, began, ended: seconds, if it was timed; `ended` is 0.0 if it was not.
    """

    __slots__ = ("asked", "began", "blocks", "data", "done", "ended", "era", "error", "extents",
                 "fua", "gate", "kind", "lba", "offload", "performed", "queued",
                 "result")  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        lba: int = 0,
        blocks: int = 0,
        *,
        data: memoryview | None = None,
        extents: Extents = (),
        fua: bool = False,
        gate: Any = None,
        offload: bool = False,
    ) -> None:
        self.kind = kind
        self.lba = lba
        self.blocks = blocks
        self.data = data
        self.extents = extents
        self.fua = fua
        self.gate = gate
        self.offload = offload
        self.era: Era | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.done: Callable[[Operation], None] | None = None
        self.performed = False  #: `result` or `error` holds
        self.queued = False  # waiting in a dispatcher: may still be cancelled
        self.asked = self.began = self.ended = 0.0

    def call(self, unit: StorageUnit) -> Any:
        """Call the unit's method; returns what it returns (a coroutine if it is `async def`)."""
        self.check(unit)
        return _CALLS[self.kind](unit, self)

    def check(self, unit: StorageUnit) -> None:
        """Raise an error if much has changed since this was asked; the caller is in the unit.

        `OutOfRange` for blocks that the unit had then and has no more; whatever the era ended with.
        """
        if self.era is not None and self.era.over is not None:
            raise self.era.over()
        end = unit.parameters.block_count
        for lba, blocks in self.extents or ((self.lba, self.blocks),):
            if lba + blocks > end:
                raise OutOfRange(f"the disk now ends at block {end}", lba=max(lba, end))

    def perform(self, unit: StorageUnit) -> None:
        """Run the operation and keep its result or exception; for plain (not async) units."""
        try:
            self._keep(unit, self.call(unit))
        except BaseException as error:  # whatever a unit raises does not end the thread of all
            self.fail(error)

    async def perform_async(self, unit: StorageUnit) -> None:
        """Like `perform`, for units with `async def` methods."""
        try:
            result = self.call(unit)
            self._keep(unit, await result if isinstance(result, Awaitable) else result)
        except BaseException as error:  # CancelledError, too
            self.fail(error)

    def finish(self, result: Any = None) -> None:
        """The operation was done in another way than by `perform`, by a `batch`; a read's data."""
        self.result = result
        self.performed = True

    def fail(self, error: BaseException) -> None:
        """The operation has failed."""
        self.error = error
        self.performed = True

    def _keep(self, unit: StorageUnit, result: Any) -> None:
        """What a live read shows may change before it is sent: copy it while the gate is held."""
        live = unit.live_reads and self.kind is Kind.READ
        self.finish(bytes(memoryview(result)) if live else result)


#: What an `Exclusive` runs: yields operations, is sent their results (what they raised is thrown
#: into it), returns its own. Its code runs on a thread of the unit and may block briefly.
Sequel: TypeAlias = "Generator[Operation, Any, Any]"


class Exclusive(Operation):
    """Operations in a row, with nobody else in the unit from the first to the end.

    Args:
        steps: makes the generator. Anything it raises is the error of the whole.
        lba, blocks: what it writes; no blocks: nothing.
        gate: as for `Operation`.
        despite: runs while this owner of a `Gate.bar` bars the unit to others.
    """

    __slots__ = ("despite", "steps")

    def __init__(
        self,
        steps: Callable[[], Sequel],
        lba: int = 0,
        blocks: int = 0,
        *,
        gate: Any = None,
        despite: object = None,
    ) -> None:
        super().__init__(Kind.EXCLUSIVE, lba, blocks, gate=gate, offload=True)
        self.steps = steps
        self.despite = despite

    def call(self, unit: StorageUnit) -> Any:
        """Run the steps of a plain unit; returns what they return."""
        self.check(unit)
        steps = self.steps()
        value, error = None, None
        try:
            while True:
                step = self._next(steps, value, error)
                step.perform(unit)
                value, error = step.result, step.error
        except StopIteration as stop:
            return stop.value

    async def perform_async(self, unit: StorageUnit) -> None:
        """See `Operation.perform_async`."""
        value, error = None, None
        try:
            self.check(unit)
            steps = self.steps()
            while True:
                step = self._next(steps, value, error)
                await step.perform_async(unit)
                value, error = step.result, step.error
        except StopIteration as stop:
            self.finish(stop.value)
        except BaseException as failure:  # as in `Operation`
            self.fail(failure)

    def _next(self, steps: Sequel, value: Any, error: BaseException | None) -> Operation:
        step = steps.send(value) if error is None else steps.throw(error)
        if self.fua and step.kind in WRITING:
            step.fua = True
        return step


def _write(unit: StorageUnit, operation: Operation) -> Any:
    assert operation.data is not None
    return unit.write(operation.lba, operation.data, operation.fua)


_CALLS: dict[Kind, Callable[[StorageUnit, Operation], Any]] = {
    Kind.READ: lambda unit, op: unit.read(op.lba, op.blocks, op.fua),
    Kind.WRITE: _write,
    Kind.FLUSH: lambda unit, op: unit.flush(),
    Kind.UNMAP: lambda unit, op: unit.unmap(op.extents),
    Kind.ZERO: lambda unit, op: unit.zero(op.lba, op.blocks, op.fua),
    Kind.EXTENTS: lambda unit, op: list(islice(unit.extents(op.lba, op.blocks), _MOST_EXTENTS)),
    Kind.ERASE: lambda unit, op: unit.erase(),
    Kind.CRYPTO_ERASE: lambda unit, op: unit.crypto_erase(),
    Kind.USAGE: lambda unit, op: unit.usage(),
}
