"""A unit as a port: run by its gate, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from userdisk.backend import open_unit
from userdisk.errors import StorageError, UserdiskError, in_words
from userdisk.gate import Gate, close_unit
from userdisk.operation import Kind, Operation
from userdisk.stgtest.port import MOST_BYTES, Geometry, Inbox, Op
from userdisk.unit import StorageUnit

_KINDS = {"R": Kind.READ, "W": Kind.WRITE, "F": Kind.FLUSH, "U": Kind.UNMAP}


class InsidePort:
    """A unit that nobody else has. The constructor blocks while it is opened.

    Args:
        timeout: seconds to wait for the next operation to end.

    Raises `UserdiskError`.
    """

    kind = Op
    plain = False

    def __init__(self, unit: StorageUnit, name: str, timeout: float) -> None:
        self._unit = unit
        self._through = not unit.parameters.cache_supported  # as WinSpd's stgtest does
        self._gate = Gate(unit, name)
        self._inbox = Inbox(name, timeout)
        self.collect = self._inbox.collect
        try:
            self._gate.open()
        except (Exception, SystemExit) as error:  # whatever the unit's open() raises
            raise UserdiskError(f"{name}: cannot be opened: {in_words(error)}") from error

    @property
    def geometry(self) -> Geometry:
        """Of the unit."""
        unit = self._unit.parameters
        return Geometry(
            unit.block_count,
            unit.block_length,
            min(unit.max_transfer_length, MOST_BYTES) // unit.block_length,
            cached=unit.cache_supported,
            fua=True,
            flushes=True,
            unmaps=unit.unmap_supported,
            zeroes=self._unit.unmap_zeroes,
            read_only=unit.write_protected,
        )

    def submit(self, operations: Sequence[Op]) -> None:
        """See `Port.submit`."""
        for op in operations:
            extents = [(op.lba, op.blocks)] if op.letter == "U" else ()
            operation = Operation(
                _KINDS[op.letter],
                op.lba if op.letter != "F" else 0,
                op.blocks if op.letter != "F" else 0,
                data=memoryview(op.data_out) if op.letter == "W" else None,
                extents=extents,
                fua=op.fua or (self._through and op.letter in "RW"),
            )
            self._gate.submit(operation, partial(self._end, op))

    def _end(self, op: Op, operation: Operation) -> None:
        try:
            if operation.error is not None:
                raise self._gate.failed(operation.error, operation.kind)
            if op.letter == "R":
                length = op.blocks * self._unit.block_length
                op.data = bytes(self._gate.checked_read(operation.result, length))
        except StorageError as error:
            op.error = str(error) or type(error).__name__
        self._inbox.put(op)

    def close(self, *, stuck: bool = False) -> None:
        """See `Port.close`."""
        if not stuck:
            close_unit(self._gate)


def open_inside(name: str, timeout: float) -> InsidePort:
    """The unit that `name` stands for, as `open_unit` takes it."""
    return InsidePort(open_unit(name, timeout=timeout), name, timeout)
