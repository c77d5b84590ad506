"""The dispatcher and the gate: what overlaps and what does not, order, cancelling, ending."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from userdisk import errors
from userdisk.dispatcher import Dispatcher
from userdisk.gate import Gate
from userdisk.operation import Era, Exclusive, Kind, Operation, Sequel
from userdisk.turns import Turns
from userdisk.unit import Buffer, Inline, StorageUnit

BLOCKS = 64


class Watched(StorageUnit):
    """Notes how many of its operations run at once, and in which order they begin."""

    block_count = BLOCKS

    def __init__(self) -> None:
        super().__init__()
        self.running = self.most = 0
        self.order: list[int] = []
        self.memory = bytearray(BLOCKS * 512)
        self._guard = threading.Lock()

    def enter(self, lba: int) -> None:
        with self._guard:
            self.order.append(lba)
            self.running += 1
            self.most = max(self.most, self.running)

    def leave(self) -> None:
        with self._guard:
            self.running -= 1

    def read(self, lba: int, blocks: int, fua: bool) -> Any:
        self.enter(lba)
        try:
            time.sleep(0.0005)
            return bytes(self.memory[lba * 512 : (lba + blocks) * 512])
        finally:
            self.leave()

    def write(self, lba: int, data: memoryview, fua: bool) -> Any:
        self.enter(lba)
        try:
            time.sleep(0.0005)
            self.memory[lba * 512 : lba * 512 + len(data)] = data
        finally:
            self.leave()

    def flush(self) -> Any:
        self.enter(-1)
        time.sleep(0.0005)
        self.leave()


class WatchedConcurrent(Watched):
    concurrent = True
    workers = 4


class WatchedAsync(Watched):
    async def read(self, lba: int, blocks: int, fua: bool) -> Any:
        self.enter(lba)
        try:
            await asyncio.sleep(0.0005)
            return bytes(self.memory[lba * 512 : (lba + blocks) * 512])
        finally:
            self.leave()

    async def write(self, lba: int, data: memoryview, fua: bool) -> Any:
        self.enter(lba)
        try:
            await asyncio.sleep(0.0005)
            self.memory[lba * 512 : lba * 512 + len(data)] = data
        finally:
            self.leave()


class WatchedConcurrentAsync(WatchedAsync):
    concurrent = True


class WatchedBatch(Watched):
    """Gets what waits together."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def batch(self, operations: Sequence[object]) -> None:
        self.batches.append(len(operations))
        self.enter(-2)
        for operation in operations:
            assert isinstance(operation, Operation)
            self.leave()  # each counts itself
            operation.perform(self)
            self.enter(-2)
        self.leave()


class WatchedAsyncBatch(WatchedAsync):
    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    async def batch(self, operations: Sequence[Any]) -> None:
        self.batches.append(len(operations))
        for operation in operations:
            await operation.perform_async(self)


SERIAL: list[type[Watched]] = [Watched, WatchedAsync, WatchedBatch, WatchedAsyncBatch]
CONCURRENT: list[type[Watched]] = [WatchedConcurrent, WatchedConcurrentAsync]
ALL = SERIAL + CONCURRENT


class Waiting:
    """Collects operations that have ended."""

    def __init__(self) -> None:
        self.ended: list[Operation] = []
        self._changed = threading.Condition()

    def done(self, operation: Operation) -> None:
        with self._changed:
            self.ended.append(operation)
            self._changed.notify_all()

    def until(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.ended) >= count, 10)


@pytest.fixture
def gates() -> Iterator[Callable[[StorageUnit], Gate]]:
    made: list[Gate] = []

    def make(unit: StorageUnit) -> Gate:
        gate = Gate(unit)
        gate.open()
        made.append(gate)
        return gate

    yield make
    for gate in made:
        gate.close()
        assert not [each for each in threading.enumerate() if each in gate._dispatcher._threads]


def _read(lba: int) -> Operation:
    return Operation(Kind.READ, lba, 1)


@pytest.mark.parametrize("kind", ALL)
def test_operations_begin_in_order_and_all_end(
    kind: type[Watched], gates: Callable[[StorageUnit], Gate]
) -> None:
    unit = kind()
    gate, waiting = gates(unit), Waiting()
    operations = [_read(lba) for lba in range(60)]
    for operation in operations:
        gate.submit(operation, waiting.done)
    waiting.until(60)
    assert [lba for lba in unit.order if lba >= 0] == list(range(60)) or kind is WatchedConcurrent
    assert sorted(lba for lba in unit.order if lba >= 0) == list(range(60))
    assert all(operation.error is None and len(operation.result) == 512 for operation in operations)
    if kind in SERIAL:
        assert waiting.ended == operations


@pytest.mark.parametrize("kind", CONCURRENT)
def test_concurrent_operations_overlap(
    kind: type[Watched], gates: Callable[[StorageUnit], Gate]
) -> None:
    unit = kind()
    gate, waiting = gates(unit), Waiting()
    for lba in range(60):
        gate.submit(_read(lba), waiting.done)
    waiting.until(60)
    assert unit.most > 1
    if kind is WatchedConcurrent:
        assert unit.most <= unit.workers


@pytest.mark.parametrize("kind", SERIAL)
def test_a_serial_unit_never_does_two_things_at_once(
    kind: type[Watched], gates: Callable[[StorageUnit], Gate]
) -> None:
    """Over inline operations of several owners, workers or the event loop, and a flush."""
    unit = kind()
    unit.inline = Inline.READ | Inline.FLUSH  # what is plain of it
    gate, waiting = gates(unit), Waiting()
    submitted = [0] * 3

    def own(number: int) -> None:
        rng = random.Random(number)
        for _ in range(40):
            operation = _read(rng.randrange(BLOCKS))
            if rng.random() < 0.2:
                operation = Operation(Kind.FLUSH)
            if gate.runs_inline(operation) and gate.enter():
                for _ in range(rng.randrange(1, 4)):
                    gate.run(operation)
                    assert operation.error is None
                gate.leave()
            else:
                submitted[number] += 1
                gate.submit(operation, waiting.done)

    threads = [threading.Thread(target=own, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waiting.until(sum(submitted))
    assert sum(submitted) > 5
    assert unit.most == 1


def test_async_methods_are_never_inline() -> None:
    unit = WatchedAsync()
    unit.inline = Inline.ALL
    gate = Gate(unit)
    assert not gate.all_inline
    assert not gate.inline_read
    assert not gate.runs_inline(_read(0))
    assert gate.runs_inline(Operation(Kind.FLUSH))


# -- cancelling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_cancel_while_queued(kind: type[Watched], gates: Callable[[StorageUnit], Gate]) -> None:
    """What is cancelled in time is not done; whatever happens, it ends once."""
    for _ in range(50):  # the unit may be quicker than this thread
        unit = kind()
        gate, waiting = gates(unit), Waiting()
        operations = [_read(lba) for lba in range(50)]
        for operation in operations:
            gate.submit(operation, waiting.done)
        cancelled = operations[::2]
        for operation in reversed(cancelled):
            gate.cancel(operation)
            gate.cancel(operation)
        waiting.until(50)
        assert sorted(operation.lba for operation in waiting.ended) == list(range(50))
        given_up = {each.lba for each in operations if isinstance(each.error, errors.Aborted)}
        assert given_up <= {each.lba for each in cancelled}
        assert sorted(given_up | {lba for lba in unit.order if lba >= 0}) == list(range(50))
        assert not given_up & set(unit.order)
        if given_up:
            return
    pytest.fail("nothing was ever cancelled in time")


def test_a_running_operation_is_not_cancelled(gates: Callable[[StorageUnit], Gate]) -> None:
    entered, go = threading.Event(), threading.Event()

    class Blocking(Watched):
        def flush(self) -> None:
            entered.set()
            go.wait(10)

    gate, waiting = gates(Blocking()), Waiting()
    operation = Operation(Kind.FLUSH)
    gate.submit(operation, waiting.done)
    assert entered.wait(10)
    gate.cancel(operation)
    assert not waiting.ended
    go.set()
    waiting.until(1)
    assert operation.error is None


# -- batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [WatchedBatch, WatchedAsyncBatch])
def test_what_waits_together_is_a_batch(
    kind: type[WatchedBatch], gates: Callable[[StorageUnit], Gate]
) -> None:
    unit = kind()
    gate, waiting = gates(unit), Waiting()
    for lba in range(200):
        gate.submit(_read(lba % BLOCKS), waiting.done)
    waiting.until(200)
    assert sum(unit.batches) == 200
    assert 1 < max(unit.batches) <= 64


@pytest.mark.parametrize("kind", [ValueError, SystemExit, errors.NotReady])
def test_a_batch_that_raises(
    kind: type[BaseException], gates: Callable[[StorageUnit], Gate]
) -> None:
    class Raises(Watched):
        def batch(self, operations: Sequence[Any]) -> None:
            raise kind()

    gate, waiting = gates(Raises()), Waiting()
    for _ in range(3):
        gate.submit(_read(0), waiting.done)
    waiting.until(3)
    assert [type(each.error) for each in waiting.ended] == [kind] * 3


# -- units that fail -----------------------------------------------------------------------------

FAILURES = [ValueError, OSError, errors.MediumError, SystemExit, asyncio.CancelledError]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("base", ALL)
def test_whatever_is_raised_only_that_operation_fails(
    base: type[Watched], failure: type[BaseException], gates: Callable[[StorageUnit], Gate]
) -> None:
    """Threads and event loops go on after sys.exit and a cancelled coroutine, too."""

    class Raises(base):  # type: ignore[misc, valid-type]
        def enter(self, lba: int) -> None:
            if lba == 3:
                raise failure
            super().enter(lba)

        def leave(self) -> None:
            if self.running:
                super().leave()

    gate, waiting = gates(Raises()), Waiting()
    for lba in range(8):
        gate.submit(_read(lba), waiting.done)
    waiting.until(8)
    assert {each.lba: type(each.error) for each in waiting.ended if each.error} == {3: failure}
    failed = next(each for each in waiting.ended if each.error)
    assert failed.error is not None
    mapped = gate.failed(failed.error, Kind.READ)
    assert isinstance(mapped, errors.StorageError)
    if failure not in (OSError, errors.MediumError):
        assert isinstance(mapped, errors.HardwareError)


# -- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ALL)
def test_closing_finishes_what_is_queued_then_flushes(base: type[Watched]) -> None:
    class Closing(base):  # type: ignore[misc, valid-type]
        closed = 0

        def close(self) -> None:
            self.closed += 1
            self.order.append(-9)

    unit = Closing()
    gate, waiting = Gate(unit), Waiting()
    gate.open()
    for lba in range(20):
        gate.submit(Operation(Kind.WRITE, lba, 1, data=memoryview(b"w" * 512)), waiting.done)
    gate.close()
    assert len(waiting.ended) == 20
    assert unit.memory[: 20 * 512] == b"w" * 20 * 512
    assert unit.order[-2:] == [-1, -9]
    gate.close()
    assert unit.closed == 1
    assert not any(thread.is_alive() for thread in gate._dispatcher._threads)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("method", ["open", "flush", "close"])
def test_what_open_flush_and_close_raise(asynchronous: bool, method: str) -> None:
    calls: list[str] = []

    def failing(name: str) -> Any:
        def plain(self: Any) -> None:
            calls.append(name)
            if name == method:
                raise OSError(5, name)

        async def coroutine(self: Any) -> None:
            await asyncio.sleep(0)
            plain(self)

        return coroutine if asynchronous else plain

    body: dict[str, Any] = {name: failing(name) for name in ("open", "flush", "close")}
    unit = type("Failing", (Watched,), body)()
    gate = Gate(unit)
    if method == "open":
        with pytest.raises(OSError, match="open"):
            gate.open()
        gate.close()
        assert calls == ["open"]
    else:
        gate.open()
        with pytest.raises(OSError, match=method):
            gate.close()
        assert calls == ["open", "flush", "close"]
    assert not any(thread.is_alive() for thread in gate._dispatcher._threads)


def test_a_unit_that_is_write_protected_is_not_flushed() -> None:
    unit = Watched()
    unit.write_protected = True
    del unit._parameters
    gate = Gate(unit)
    gate.open()
    gate.close()
    assert unit.order == []


def test_threads_start_with_the_first_operation_that_needs_them() -> None:
    unit = WatchedConcurrent()
    gate = Gate(unit)
    gate.open()
    assert not gate._dispatcher._threads
    waiting = Waiting()
    gate.submit(_read(0), waiting.done)
    waiting.until(1)
    assert len(gate._dispatcher._threads) == 4
    gate.close()


def test_workers_of_a_serial_unit_are_one() -> None:
    unit = Watched()
    unit.workers = 8
    dispatcher = Dispatcher(unit, Turns(serial=True))
    waiting = Waiting()
    operation = _read(0)
    operation.done = waiting.done
    dispatcher.submit(operation)
    waiting.until(1)
    assert len(dispatcher._threads) == 1
    dispatcher.drain()
    dispatcher.stop()


# -- live reads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ALL)
def test_live_reads_are_copied_before_another_operation(
    base: type[Watched], gates: Callable[[StorageUnit], Gate]
) -> None:
    class Live(base):  # type: ignore[misc, valid-type]
        live_reads = True

        def _view(self, lba: int, blocks: int) -> Buffer:
            return memoryview(self.memory)[lba * 512 : (lba + blocks) * 512]

        if issubclass(base, WatchedAsync):

            async def read(self, lba: int, blocks: int, fua: bool) -> Any:
                return self._view(lba, blocks)

        else:

            def read(self, lba: int, blocks: int, fua: bool) -> Any:
                return self._view(lba, blocks)

    gate, waiting = gates(Live()), Waiting()
    first, second = _read(0), _read(0)
    write = Operation(Kind.WRITE, 0, 1, data=memoryview(b"n" * 512))
    for count, operation in enumerate((first, write, second), 1):
        gate.submit(operation, waiting.done)
        if base in CONCURRENT:
            waiting.until(count)
    waiting.until(3)
    assert first.result == bytes(512)
    assert second.result == b"n" * 512


@pytest.mark.parametrize("kind", ALL)
def test_what_is_left_of_an_era_that_is_over_fails(
    kind: type[Watched], gates: Callable[[StorageUnit], Gate]
) -> None:
    unit = kind()
    gate, waiting = gates(unit), Waiting()
    over, still = Era(), Era()

    def change() -> Sequel:
        over.over = errors.NoMedium
        yield from ()

    def steps() -> Sequel:
        yield _read(9)

    gate.submit(Exclusive(change), waiting.done)
    asked = [(_read(1), over), (_read(2), still), (_read(3), over)]
    asked += [(Exclusive(steps), over), (_read(4), still)]
    for operation, era in asked:
        operation.era = era
        gate.submit(operation, waiting.done)
    waiting.until(6)
    failed = [type(operation.error) for operation, _ in asked]
    assert failed == [errors.NoMedium, type(None), errors.NoMedium, errors.NoMedium, type(None)]
    assert sorted(lba for lba in unit.order if lba >= 0) == [2, 4]


@pytest.mark.parametrize("kind", ALL)
def test_an_exclusive_operation_is_alone(
    kind: type[Watched], gates: Callable[[StorageUnit], Gate]
) -> None:
    """Those that were asked for before and after it do not overlap it."""
    unit = kind()
    gate, waiting = gates(unit), Waiting()
    seen: list[int] = []

    def steps() -> Sequel:
        seen.append(unit.running)
        yield _read(63)
        time.sleep(0.002)
        seen.append(unit.running)

    for number in range(5):
        for lba in range(8):
            gate.submit(_read(8 * number + lba), waiting.done)
        gate.submit(Exclusive(steps), waiting.done)
    waiting.until(45)
    assert seen == [0] * 10


class Merging(Watched):
    """Ends the operations of a batch itself, without `perform`."""

    def batch(self, operations: Sequence[object]) -> None:
        for operation in operations:
            assert isinstance(operation, Operation)
            self.order.append(operation.lba)
            operation.finish(bytes(512))


def test_a_batch_gets_nothing_of_an_era_that_is_over(gates: Callable[[StorageUnit], Gate]) -> None:
    unit = Merging()
    gate, waiting = gates(unit), Waiting()
    operations = [_read(lba) for lba in range(4)]
    operations[1].era = Era()
    operations[1].era.over = errors.NoMedium
    for operation in operations:
        gate.submit(operation, waiting.done)
    waiting.until(4)
    assert isinstance(operations[1].error, errors.NoMedium)
    assert sorted(unit.order) == [0, 2, 3]
