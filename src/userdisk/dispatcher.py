"""Threads and event loops of units whose operations are not inline.

Plain methods are run by worker threads (one, or the unit's `workers` if it is concurrent),
`async def` methods by an event loop on a thread of its own. Both start with the first operation
that needs them, take the gate's turns around each operation, and call `operation.done` when it
has ended. Operations of one unit start in the order of `submit`.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from userdisk.errors import Aborted
from userdisk.operation import KEEPING, WRITING, Exclusive, Kind, Operation
from userdisk.turns import Turns
from userdisk.unit import StorageUnit, overrides

if TYPE_CHECKING:
    import asyncio  # takes as long to import as everything else; only async units need it

_BATCH = 64  # operations handed to one call of StorageUnit.batch
#: A unit that has any of these as `async def` gets an event loop.
_METHODS = ("read", "write", "flush", "unmap", "zero", "erase", "crypto_erase", "usage", "batch",
            "open", "close")  # fmt: skip


class Dispatcher:
    """Runs the operations of one unit. All methods may be called from any thread.

    Args:
        unit: whose methods are called.
        turns: taken around each of them.
    """

    def __init__(self, unit: StorageUnit, turns: Turns) -> None:
        self._unit = unit
        self._turns = turns
        self._workers = 1 if turns.serial else unit.workers
        self._asynchronous = any(
            inspect.iscoroutinefunction(getattr(unit, name)) for name in _METHODS
        )
        self._batching = overrides(unit, "batch")
        self._queue: deque[Operation] = deque()
        self._changed = threading.Condition()
        self._running = 0
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        #: Errors of operations that may not run now; replaced, never changed. See `Gate.bar`.
        self.bars: dict[object, Callable[[], Exception]] = {}
        #: See `Gate.watch`.
        self.watch: Callable[[Operation], None] | None = None
        #: See `Gate.write_through`.
        self.write_through: set[object] = set()

    def submit(self, operation: Operation) -> None:
        """Queue an operation whose `done` is set."""
        operation.asked = time.monotonic()
        with self._changed:
            operation.queued = True
            self._queue.append(operation)
            if not self._threads:
                self._start()
            if self._loop is None:
                self._changed.notify()
                return
        self._poke()

    def cancel(self, operation: Operation) -> None:
        """End a queued operation with `Aborted`; one that runs already goes on."""
        with self._changed:
            if not operation.queued:
                return
            operation.queued = False
            self._queue.remove(operation)
            self._changed.notify_all()
        operation.error = Aborted("cancelled before it began")
        _finish(operation)

    def call(self, method: Callable[[], Any]) -> None:
        """Call a method of the unit (open, close, flush) and wait; raises what it raises.

        Of sys.exit() it makes an error: it would end the thread, and with it the stop of others.
        """
        if not inspect.iscoroutinefunction(method):
            self._turns.enter()
            try:
                method()
            except SystemExit as left:
                raise _left(left) from None
            finally:
                self._turns.leave()
            return
        with self._changed:
            if not self._threads:
                self._start()

        import asyncio

        async def run() -> None:
            try:
                await method()
            except SystemExit as left:
                raise _left(left) from None

        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def refuse(self, operations: Sequence[Operation]) -> bool:
        """Fail the operations, which are about to run, if something bars the unit now.

        Else they get FUA if the cache is off, and the watch sees them. The caller is in the unit;
        operations taken together are all of a kind in this.
        """
        first = operations[0]
        for owner, error in self.bars.items():
            if isinstance(first, Exclusive) and (not first.blocks or first.despite is owner):
                continue
            for operation in operations:
                operation.fail(error())
            return True
        if self.write_through:
            for operation in operations:
                if operation.kind in WRITING:
                    operation.fua = True
        watch = self.watch
        if watch is not None:
            for operation in operations:
                if operation.kind not in KEEPING:
                    watch(operation)
        return False

    def runs_here(self) -> bool:
        """Whether this thread is one of the unit's own."""
        return threading.current_thread() in self._threads

    def drain(self) -> None:
        """Wait until every queued operation has ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue and not self._running)

    def stop(self) -> None:
        """End the threads, after `drain`. Blocks until they have ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._loop is not None:
            self._poke()
        for thread in self._threads:
            thread.join()

    # -- both kinds ----------------------------------------------------------------------------

    def _start(self) -> None:
        name = type(self._unit).__name__
        if self._asynchronous:
            started = threading.Event()
            thread = threading.Thread(
                target=self._run_loop, args=(started,), name=f"{name}-loop", daemon=True
            )
            thread.start()  # first: one that cannot be started is none
            self._threads.append(thread)
            started.wait()
            return
        for number in range(self._workers):
            thread = threading.Thread(
                target=self._work, name=f"{name}-worker-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def _take(self) -> list[Operation]:
        """The operations to run next; the caller holds the condition."""
        taken = [self._queue.popleft()]
        while (
            self._batching
            and self._queue
            and len(taken) < _BATCH
            and Kind.EXCLUSIVE not in (taken[0].kind, self._queue[0].kind)
        ):
            taken.append(self._queue.popleft())
        for operation in taken:
            operation.queued = False
        self._running += len(taken)
        return taken

    def _ended(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            _finish(operation)
        with self._changed:
            self._running -= len(operations)
            self._changed.notify_all()

    def _inside(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """Those that may still run: see `Operation.check`; the others have failed."""
        inside = []
        for operation in operations:
            try:
                operation.check(self._unit)
            except Exception as error:  # out of range, or what its era ended with
                operation.fail(error)
            else:
                inside.append(operation)
        return inside

    # -- plain methods -------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._stopping:
                    self._changed.wait()
                if not self._queue:
                    return
                taken = self._take()
            turns = self._turns
            if taken[0].kind is Kind.EXCLUSIVE:
                turns.enter_alone()
                try:
                    if not self.refuse(taken):
                        taken[0].perform(self._unit)
                finally:
                    turns.leave_alone()
            else:
                turns.enter()
                began = time.monotonic()
                try:
                    self._perform(taken)
                finally:
                    turns.leave()
                _stamp(taken, began)
            self._ended(taken)

    def _perform(self, operations: Sequence[Operation]) -> None:
        if self.refuse(operations):
            return
        if not self._batching:
            operations[0].perform(self._unit)
            return
        operations = self._inside(operations)
        try:
            if operations:
                self._unit.batch(operations)
        except BaseException as error:  # whatever a unit raises, as in `perform`
            _fail(operations, error)
        _fail(operations, RuntimeError("batch() left the operation out"))

    # -- async methods -------------------------------------------------------------------------

    def _run_loop(self, started: threading.Event) -> None:
        import asyncio

        asyncio.run(self._serve_loop(started))

    async def _serve_loop(self, started: threading.Event) -> None:
        import asyncio

        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        started.set()
        tasks: set[asyncio.Task[None]] = set()
        while True:
            with self._changed:
                taken = self._take() if self._queue else []
                if not taken and self._stopping:
                    break
            if not taken:
                await self._wake.wait()
                self._wake.clear()
            elif self._turns.serial or taken[0].kind is Kind.EXCLUSIVE:
                if tasks:
                    await asyncio.wait(tasks)
                self._turns.enter_alone()  # owners are in for a batch at most
                try:
                    await self._perform_async(taken)
                finally:
                    self._turns.leave_alone()
            else:  # operations overlap; one that is exclusive waits for them above
                task = self._loop.create_task(self._perform_async(taken))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(0)
        if tasks:
            await asyncio.wait(tasks)

    async def _perform_async(self, operations: Sequence[Operation]) -> None:
        began = time.monotonic()
        if self.refuse(operations):
            pass
        elif self._batching and operations[0].kind is not Kind.EXCLUSIVE:
            batched = self._inside(operations)
            try:
                result = self._unit.batch(batched) if batched else None
                if inspect.isawaitable(result):
                    await result
            except BaseException as error:  # as in `perform_async`
                _fail(operations, error)
            _fail(operations, RuntimeError("batch() left the operation out"))
        else:
            await operations[0].perform_async(self._unit)
        _stamp(operations, began)
        self._ended(operations)

    def _poke(self) -> None:
        assert self._loop is not None and self._wake is not None
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:  # the loop has ended since: nothing can be queued any more
            if not self._stopping:
                raise


def _finish(operation: Operation) -> None:
    assert operation.done is not None
    operation.done(operation)


def _stamp(operations: Sequence[Operation], began: float) -> None:
    """Those that a batch ran together took the same time."""
    ended = time.monotonic()
    for operation in operations:
        operation.began, operation.ended = began, ended


def _fail(operations: Sequence[Operation], error: BaseException) -> None:
    """A batch has ended: whatever it did not perform has failed, and must not pass for done."""
    for operation in operations:
        if not operation.performed:
            operation.fail(error)


def _left(left: SystemExit) -> RuntimeError:
    error = RuntimeError(f"sys.exit({left.code!r}) was called")
    return error.with_traceback(left.__traceback__)
