"""One call of a storage unit's method, as a value: what is asked, then its result or error."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from typing import Any

from userdisk.unit import Extents, StorageUnit


class Kind(enum.IntEnum):
    """What an operation does; the value indexes the tables below."""

    READ = 0
    WRITE = 1
    FLUSH = 2
    UNMAP = 3
    ZERO = 4
    EXTENTS = 5


class Operation:
    """One call of a unit's method: what is asked, and then its result or error.

    `done(operation)` is called once, on whatever thread the operation ends; `result` or `error`
    is set by then. Belongs to one port at a time; not thread-safe.
    """

    __slots__ = ("blocks", "data", "done", "error", "extents", "fua", "kind", "lba", "performed",
                 "queued", "result")  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        lba: int = 0,
        blocks: int = 0,
        *,
        data: memoryview | None = None,
        extents: Extents = (),
        fua: bool = False,
    ) -> None:
        self.kind = kind
        self.lba = lba
        self.blocks = blocks
        self.data = data
        self.extents = extents
        self.fua = fua
        self.result: Any = None
        self.error: BaseException | None = None
        self.done: Callable[[Operation], None] | None = None
        self.performed = False  #: `result` or `error` holds
        self.queued = False  # waiting in a dispatcher: may still be cancelled

    def call(self, unit: StorageUnit) -> Any:
        """Call the unit's method; returns what it returns (a coroutine if it is `async def`)."""
        return _CALLS[self.kind](unit, self)

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
            self._keep(unit, await result if inspect.isawaitable(result) else result)
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


def _write(unit: StorageUnit, operation: Operation) -> Any:
    assert operation.data is not None
    return unit.write(operation.lba, operation.data, operation.fua)


_CALLS: dict[Kind, Callable[[StorageUnit, Operation], Any]] = {
    Kind.READ: lambda unit, op: unit.read(op.lba, op.blocks, op.fua),
    Kind.WRITE: _write,
    Kind.FLUSH: lambda unit, op: unit.flush(),
    Kind.UNMAP: lambda unit, op: unit.unmap(op.extents),
    Kind.ZERO: lambda unit, op: unit.zero(op.lba, op.blocks, op.fua),
    Kind.EXTENTS: lambda unit, op: list(unit.extents(op.lba, op.blocks)),
}
