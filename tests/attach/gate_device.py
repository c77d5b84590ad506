"""A unit of this process as a block device, for tests of the kernel's side."""

from __future__ import annotations

from userdisk.attach.device import Done
from userdisk.errors import StorageError
from userdisk.gate import Gate
from userdisk.operation import Kind, Operation


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
