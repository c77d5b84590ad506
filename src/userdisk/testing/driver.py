"""Runs operations of a unit through its gate, and looks at each answer as a port would.

Each driver is one connection: it has one scratch buffer for what it writes, which is overwritten as
soon as the write has ended, and it holds on to the last buffers that were read.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from userdisk.errors import StorageError, is_bug
from userdisk.gate import Gate
from userdisk.operation import Kind, Operation
from userdisk.unit import Buffer, Extent

_KEPT = 8  # buffers of earlier reads that are looked at again


class Stuck(AssertionError):
    """An operation did not end; the unit cannot even be closed."""


class _Read(NamedTuple):
    lba: int
    view: memoryview
    copy: bytes


class Driver:
    """One connection to a unit; for one thread."""

    def __init__(self, gate: Gate, seed: int, patience: float) -> None:
        self._gate = gate
        self._length = gate.parameters.block_length
        self._seed = seed
        self._patience = patience
        self._scratch = bytearray(gate.parameters.max_transfer_length)
        self._noise = random.Random(~seed).randbytes(len(self._scratch))
        self._kept: deque[_Read] = deque()
        self.history: deque[str] = deque(maxlen=6)

    def fail(self, rule: str) -> NoReturn:
        """Raise AssertionError: the broken rule, the unit, the seed and what was done last."""
        last = "; ".join(self.history)
        raise AssertionError(f"{rule} [unit {self._gate.name}, seed {self._seed}, last: {last}]")

    def read(self, lba: int, blocks: int, fua: bool = False) -> bytes:
        """The bytes read, after every check that needs no model."""
        operation = Operation(Kind.READ, lba, blocks, fua=fua)
        self.run([operation])
        return self.answer(operation)

    def write(self, lba: int, data: bytes, fua: bool = False) -> None:
        """Write from the scratch buffer, which holds something else when this returns."""
        self._scratch[: len(data)] = data
        view = memoryview(self._scratch).toreadonly()[: len(data)]
        self.run([Operation(Kind.WRITE, lba, len(data) // self._length, data=view, fua=fua)])
        self._scratch[: len(data)] = self._noise[: len(data)]

    def flush(self) -> None:
        """Flush."""
        self.run([Operation(Kind.FLUSH)])

    def unmap(self, extents: Sequence[tuple[int, int]]) -> None:
        """Unmap all of the extents in one operation."""
        self.run([Operation(Kind.UNMAP, extents=list(extents))])

    def zero(self, lba: int, blocks: int, fua: bool = False) -> None:
        """Zero blocks."""
        self.run([Operation(Kind.ZERO, lba, blocks, fua=fua)])

    def extents(self, lba: int, blocks: int) -> list[Extent]:
        """The extents, checked for order, gaps and bounds."""
        operation = Operation(Kind.EXTENTS, lba, blocks)
        self.run([operation])
        where = f"extents({lba}, {blocks})"
        found = operation.result
        if not isinstance(found, list) or not all(isinstance(each, Extent) for each in found):
            self.fail(f"{where} must yield userdisk.Extent, not {found!r:.80}")
        if not found:
            self.fail(f"{where} must cover at least the block at {lba}")
        at = lba
        for extent in found:
            if extent.lba != at:
                self.fail(f"{where} must be sorted and without gaps: {extent} follows block {at}")
            if extent.blocks < 1:
                self.fail(f"{where} has an extent without blocks: {extent}")
            at += extent.blocks
        if at > lba + blocks:
            self.fail(f"{where} must end at block {lba + blocks}, not at {at}")
        return found

    def run(self, operations: Sequence[Operation]) -> None:
        """Run operations to their end: inline where the unit says so, else all of them queued."""
        ended = threading.Semaphore(0)
        for operation in operations:
            self.history.append(describe(operation))
            if self._gate.runs_inline(operation) and self._gate.enter():
                try:
                    self._gate.run(operation)
                finally:
                    self._gate.leave()
                ended.release()
            else:
                self._gate.submit(operation, lambda _: ended.release())
        for _ in operations:
            if not ended.acquire(timeout=self._patience):
                names = ", ".join(describe(operation) for operation in operations[:4])
                raise Stuck(
                    f"{names} did not end within {self._patience:g} s"
                    f" [unit {self._gate.name}, seed {self._seed}]"
                )
        for operation in operations:
            self._check_error(operation)
        if any(operation.kind in (Kind.WRITE, Kind.UNMAP, Kind.ZERO) for operation in operations):
            self.look_again()

    def answer(self, operation: Operation) -> bytes:
        """What a read that has ended returned, after every check that needs no model."""
        data: Buffer = operation.result
        what = describe(operation)
        if not isinstance(data, (bytes, bytearray, memoryview)):
            self.fail(
                f"{what} must return bytes, bytearray or memoryview, not {type(data).__name__}"
            )
        wanted = operation.blocks * self._length
        view = memoryview(data)
        if view.nbytes != wanted:
            few = "short" if view.nbytes < wanted else "long"
            self.fail(f"{what} must return {wanted} bytes: {view.nbytes} is a {few} answer")
        if not view.c_contiguous:
            self.fail(f"{what} must return contiguous bytes")
        copy = view.tobytes()
        if not self._gate.unit.live_reads:
            self._kept.append(_Read(operation.lba, view, copy))
            if len(self._kept) > _KEPT:
                self._kept.popleft()
        return copy

    def look_again(self) -> None:
        """What was read before must not have changed since."""
        for kept in self._kept:
            if kept.view.tobytes() != kept.copy:
                self.fail(
                    f"the buffer that read({kept.lba}, ...) returned has changed since: copy it,"
                    " or declare live_reads = True"
                )

    def _check_error(self, operation: Operation) -> None:
        error = operation.error
        what = describe(operation)
        if error is None:
            if operation.result is not None and operation.kind in (Kind.WRITE, Kind.FLUSH):
                self.fail(f"{what} must return nothing, not {operation.result!r:.80}")
            return
        if is_bug(error):
            rule = f"{what} raised what is neither a StorageError nor an OSError: {error!r}"
        else:
            lba = error.lba if isinstance(error, StorageError) else None
            where = "" if lba is None else f" at block {lba}"
            rule = f"{what} failed{where}: {error!r}"
        try:
            self.fail(rule)
        except AssertionError as failure:
            raise failure from error


def describe(operation: Operation) -> str:
    """The call as an author would write it."""
    name = operation.kind.name.lower()
    if operation.kind is Kind.FLUSH:
        return "flush()"
    if operation.kind is Kind.UNMAP:
        return f"unmap({operation.extents!r:.120})"
    if operation.kind is Kind.EXTENTS:
        return f"extents({operation.lba}, {operation.blocks})"
    if operation.kind is Kind.WRITE:
        return f"write({operation.lba}, <{operation.blocks} blocks>, fua={operation.fua})"
    return f"{name}({operation.lba}, {operation.blocks}, fua={operation.fua})"
