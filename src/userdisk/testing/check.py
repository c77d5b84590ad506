"""The rules of a storage unit, each checked on a unit of any kind through its gate."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from userdisk.gate import Gate
from userdisk.operation import Kind, Operation
from userdisk.testing.driver import Driver, Stuck
from userdisk.testing.model import Window, windows
from userdisk.unit import StorageUnit, overrides

_QUEUE = 32  # operations that wait together
_THREADS = 2


def check_storage_unit(
    unit: StorageUnit,
    *,
    seed: int = 0,
    operations: int = 1000,
    window: int = 1 << 20,
    patience: float = 60.0,
) -> None:
    """Check that a unit keeps the contract of `StorageUnit`. Destroys what is on the disk.

    The unit is opened, filled and exercised against a byte array: reads and writes of every size
    up to max_transfer_length (also with FUA), at the disk's start, end and where 32-bit
    arithmetic breaks; flush, unmap, zero and extents; operations queued together; two connections
    at once. What it is given is overwritten after each write, as a receive buffer is, and
    what it returned is looked at again after later writes. Then it is flushed and closed. All of
    it goes through `userdisk.gate.Gate`, so inline, serial, concurrent and async units all run as
    they would be served.

    A write-protected unit is only read.

    Args:
        unit: not opened yet.
        seed: of everything random; a failure names it.
        operations: how many random operations.
        window: bytes of each of the (up to six) parts of the disk that are used.
        patience: seconds that one operation may take.

    Blocks until done. Raises AssertionError, which says which rule was broken where, and
    `UsageError` for parameters that are wrong.
    """
    gate = Gate(unit)
    gate.open()
    try:
        _Check(gate, seed, window, patience).everything(operations)
    except Stuck:  # closing would wait for the operation
        raise
    except BaseException:
        with suppress(Exception):  # the first failure is the one to tell
            gate.close()
        raise
    try:
        gate.close()
    except Exception as error:  # whatever the unit raises
        raise AssertionError(f"the last flush or close failed: {error!r}") from error


class _Check:
    def __init__(self, gate: Gate, seed: int, window: int, patience: float) -> None:
        self.gate = gate
        self.unit = gate.unit
        self.parameters = gate.parameters
        self.seed = seed
        self.patience = patience
        self.random = random.Random(seed)
        self.driver = Driver(gate, seed, patience)
        self.windows = windows(self.parameters, window)
        self.most = self.parameters.max_transfer_length // self.parameters.block_length

    def everything(self, operations: int) -> None:
        if self.parameters.write_protected:
            self.read_only()
            return
        self.fill()
        self.edges()
        self.mixture(operations)
        self.together()
        self.two_connections()
        self.compare_all("after everything")
        self.driver.flush()

    # -- the rules -----------------------------------------------------------------------------

    def read_only(self) -> None:
        """A disk that is not written reads the same each time."""
        for window in self.windows:
            for lba, blocks in self.pieces(window):
                window.put(lba, self.driver.read(lba, blocks))
                self.compare(window, lba, blocks, "a disk that nothing wrote to has changed")
                self.look_at_extents(window, lba, blocks)

    def fill(self) -> None:
        for window in self.windows:
            for lba, blocks in self.pieces(window):
                self.write(window, lba, blocks)
        self.driver.flush()
        self.compare_all("after the disk was written from start to end")

    def edges(self) -> None:
        """One block and the longest transfer, at both ends of the disk."""
        for window in (self.windows[0], self.windows[-1]):
            for blocks in sorted({min(n, window.blocks) for n in (1, 2, 3, self.most)}):
                for lba in (window.lba, window.end - blocks):
                    if lba >= window.lba:
                        self.checked_write(window, lba, blocks, fua=blocks == 1)

    def mixture(self, operations: int) -> None:
        """Random operations, each looked at with its neighbours."""
        actions: list[tuple[int, Callable[[Window, int, int], None]]] = [
            (40, self.checked_read),
            (30, lambda window, lba, blocks: self.checked_write(window, lba, blocks)),
            (4, lambda window, lba, blocks: self.checked_write(window, lba, blocks, fua=True)),
            (4, self.checked_zero),
            (2, lambda window, lba, blocks: self.driver.flush()),
            (6, self.look_at_extents),
        ]
        if self.parameters.unmap_supported:
            actions.append((10, self.checked_unmap))
        weights = [weight for weight, _ in actions]
        for number in range(operations):
            window = self.random.choice(self.windows)
            lba, blocks = self.place(window)
            self.random.choices(actions, weights)[0][1](window, lba, blocks)
            if number % 256 == 255:
                self.compare_all("after other blocks were written")

    def together(self) -> None:
        """Operations that wait together, as `batch` and concurrent units get them."""
        window = self.windows[0]
        for _ in range(4):
            places: list[tuple[int, int]] = []  # side by side: no two share a block
            lba = window.lba
            while lba < window.end and len(places) < _QUEUE:
                blocks = min(self.random.randint(1, 7), self.most, window.end - lba)
                places.append((lba, blocks))
                lba += blocks
            writes = []
            for lba, blocks in self.random.sample(places, len(places)):
                data = self.random.randbytes(blocks * self.parameters.block_length)
                window.put(lba, data)
                view = memoryview(bytearray(data)).toreadonly()
                writes.append(Operation(Kind.WRITE, lba, blocks, data=view))
            self.driver.run(writes)
            reads = [Operation(Kind.READ, lba, blocks) for lba, blocks in places]
            self.driver.run(reads)
            for read in reads:
                name = "batch" if overrides(self.unit, "batch") else "operations queued together"
                self.judge(window, read.lba, self.driver.answer(read), f"{name}: wrong data")
        self.compare_all("after operations that were queued together")

    def two_connections(self) -> None:
        """Two connections that each write their own blocks, which alternate on the disk."""
        window = self.windows[0]
        if window.blocks < 2 * _THREADS:
            return
        failures: list[BaseException] = []

        def connection(number: int) -> None:
            try:
                self.own_blocks(window, number)
            except BaseException as error:  # raised by who joins the thread
                failures.append(error)

        with _short_turns():
            threads = [
                threading.Thread(target=connection, args=(number,), name=f"connection-{number}")
                for number in range(_THREADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        self.compare_all("after two connections wrote blocks of their own at once")

    def own_blocks(self, window: Window, number: int) -> None:
        own = random.Random(self.seed * _THREADS + number)
        driver = Driver(self.gate, self.seed, self.patience)
        used = min(window.blocks, 64)
        mine = range(number, used, _THREADS)
        for _ in range(200):
            lba = window.lba + own.choice(mine)
            data = own.randbytes(self.parameters.block_length)
            driver.write(lba, data, fua=own.random() < 0.05)
            if driver.read(lba, 1) != data:
                driver.fail(
                    f"two connections at once: block {lba} does not hold what was just written;"
                    " the other connection only wrote blocks beside it"
                )
            window.put(lba, data)

    # -- one operation each --------------------------------------------------------------------

    def checked_read(self, window: Window, lba: int, blocks: int) -> None:
        self.compare(window, lba, blocks, "read: wrong data", fua=self.random.random() < 0.1)

    def checked_write(self, window: Window, lba: int, blocks: int, fua: bool = False) -> None:
        self.write(window, lba, blocks, fua)
        self.look_around(window, lba, blocks, "write")

    def write(self, window: Window, lba: int, blocks: int, fua: bool = False) -> None:
        data = self.random.randbytes(blocks * self.parameters.block_length)
        self.driver.write(lba, data, fua)
        window.put(lba, data)

    def checked_zero(self, window: Window, lba: int, blocks: int) -> None:
        self.driver.zero(lba, blocks, fua=self.random.random() < 0.1)
        window.put(lba, bytes(blocks * self.parameters.block_length))
        self.look_around(window, lba, blocks, "zero")

    def checked_unmap(self, window: Window, lba: int, blocks: int) -> None:
        pairs = [(lba, blocks)]
        while self.random.random() < 0.5:  # several, which may overlap
            pairs.append(self.place(window))
        self.driver.unmap(pairs)
        for lba, blocks in pairs:
            if self.unit.unmap_zeroes:
                window.put(lba, bytes(blocks * self.parameters.block_length))
            else:
                window.forget(lba, blocks)
        for lba, blocks in pairs:
            self.look_around(window, lba, blocks, "unmap")

    def look_at_extents(self, window: Window, lba: int, blocks: int) -> None:
        for extent in self.driver.extents(lba, blocks):
            if extent.mapped and not extent.zero:
                continue
            if not extent.zero and not self.unit.unmap_zeroes:
                continue
            first = (extent.lba - window.lba) * self.parameters.block_length
            length = extent.blocks * self.parameters.block_length
            known = window.known[extent.lba - window.lba :][: extent.blocks]
            if all(known) and any(window.data[first : first + length]):
                self.driver.fail(f"extents: {extent} is said to be empty, but holds data")

    # -- comparing -----------------------------------------------------------------------------

    def look_around(self, window: Window, lba: int, blocks: int, name: str) -> None:
        """Read what an operation changed, and the blocks on either side."""
        self.compare(window, lba, blocks, f"{name}: the blocks do not hold what they should")
        for neighbour in (lba - 1, lba + blocks):
            if window.lba <= neighbour < window.end:
                self.compare(window, neighbour, 1, f"{name}: changed a block outside its range")

    def compare(self, window: Window, lba: int, blocks: int, rule: str, fua: bool = False) -> None:
        while blocks:
            count = min(blocks, self.most)
            self.judge(window, lba, self.driver.read(lba, count, fua), rule)
            lba, blocks = lba + count, blocks - count

    def judge(self, window: Window, lba: int, data: bytes, rule: str) -> None:
        bad = window.difference(lba, data)
        if bad is not None:
            length = self.parameters.block_length
            found = data[(bad - lba) * length :][:length]
            self.driver.fail(f"{rule}: block {bad}: {window.describe(bad, found)}")

    def compare_all(self, when: str) -> None:
        for window in self.windows:
            for lba, blocks in self.pieces(window):
                self.compare(window, lba, blocks, f"wrong data {when}")

    # -- choosing ------------------------------------------------------------------------------

    def pieces(self, window: Window) -> Iterator[tuple[int, int]]:
        for lba in range(window.lba, window.end, self.most):
            yield lba, min(self.most, window.end - lba)

    def place(self, window: Window) -> tuple[int, int]:
        """A range in the window: mostly short, often at an end."""
        most = min(self.most, window.blocks)
        kind = self.random.random()
        blocks = 1 if kind < 0.2 else min(8, most) if kind < 0.5 else self.random.randint(1, 64)
        if kind > 0.97:
            blocks = self.random.randint(1, most)
        blocks = min(blocks, most)
        start = self.random.choice(
            (
                window.lba,
                window.end - blocks,
                *[self.random.randint(window.lba, window.end - blocks)] * 4,
            )
        )
        return start, blocks


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let threads take turns often, so that what is not safe shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
