"""A gate without threads: what is submitted to it runs when the test says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from userdisk.gate import Gate
from userdisk.operation import Operation
from userdisk.unit import StorageUnit


class SteppedGate(Gate):
    """`step` runs the oldest operation that was submitted, on the caller's thread."""

    def __init__(self, unit: StorageUnit) -> None:
        super().__init__(unit)
        self.submitted: deque[Operation] = deque()

    def submit(self, operation: Operation, done: Callable[[Operation], None]) -> None:
        operation.done = done
        self.submitted.append(operation)

    def step(self) -> None:
        """Run the oldest operation."""
        operation = self.submitted.popleft()
        self.perform(operation)
        assert operation.done is not None
        operation.done(operation)

    def run_all(self) -> int:
        """Run operations until there are no more; returns how many there were."""
        count = 0
        while self.submitted:
            self.step()
            count += 1
        return count
