"""What an attached disk asks of the unit behind it, and the gate in that role.

The seam of every way to attach: the kernel's side (FUSE now) knows only `BlockDevice`, so that the
unit may as well live in another process, behind an NBD client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from userdisk.errors import StorageError
from userdisk.gate import Gate
from userdisk.operation import Kind, Operation

Done = Callable[[Operation], None]


class BlockDevice(Protocol):
    """A disk that runs operations. All lengths are in bytes; any thread may call."""

    size: int
    block_length: int
    max_transfer_length: int
    read_only: bool
    #: There is an unmap, after which the blocks read as zeros.
    unmaps: bool

    def submit(self, operation: Operation, done: Done) -> bool:
        """Run an operation inside the disk; does not block on a slow unit.

        True: it has ended already. False: `done` is called when it has, on any thread. By then
        `operation.error` is None or a `StorageError`, and a read's result has the right length.
        """
        ...

    def cancel(self, operation: Operation) -> None:
        """End a submitted operation that has not begun; otherwise do nothing."""
        ...

    def close(self) -> None:
        """Flush and close. Blocks. Raises what the unit raises."""
        ...


class GateDevice:
    """A unit of this process as a `BlockDevice`. The gate is open, and belongs to the device."""

    def __init__(self, gate: Gate) -> None:
        parameters = gate.parameters
        self._gate = gate
        self.size = parameters.size
        self.block_length = parameters.block_length
        self.max_transfer_length = parameters.max_transfer_length
        self.read_only = parameters.write_protected
        self.unmaps = parameters.unmap_supported and gate.unit.unmap_zeroes

    def submit(self, operation: Operation, done: Done) -> bool:
        """See `BlockDevice.submit`."""
        gate = self._gate
        if gate.runs_inline(operation) and gate.enter():
            try:
                gate.run(operation)
            finally:
                gate.leave()
            self._judge(operation)
            return True

        def ended(operation: Operation) -> None:
            self._judge(operation)
            done(operation)

        gate.submit(operation, ended)
        return False

    def cancel(self, operation: Operation) -> None:
        """See `BlockDevice.cancel`."""
        self._gate.cancel(operation)

    def close(self) -> None:
        """See `BlockDevice.close`."""
        self._gate.close()

    def _judge(self, operation: Operation) -> None:
        try:
            if operation.error is not None:
                operation.error = self._gate.failed(operation.error, operation.kind)
            elif operation.kind is Kind.READ:
                operation.result = self._gate.checked_read(
                    operation.result, operation.blocks * self.block_length
                )
        except (StorageError, TypeError) as error:  # TypeError: read returned no buffer at all
            operation.error = self._gate.failed(error, operation.kind)
