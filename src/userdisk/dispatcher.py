"""Threads and event loops of units whose operations are not inline.

Plain methods are run by worker threads (one, or the unit's `workers` if it is concurrent),
`async def` methods by an event loop on a thread of its own. Both start with the first operation
that needs them, hold the gate's lock around each operation of a serial unit, and call
`operation.done` when it has ended. Operations of one unit start in the order of `submit`.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from userdisk.errors import Aborted
from userdisk.operation import Operation
from userdisk.unit import StorageUnit, overrides

if TYPE_CHECKING:
    import asyncio  # takes as long to import as everything else; only async units need it

_BATCH = 64  # operations handed to one call of StorageUnit.batch


class Dispatcher:
    """Runs the operations of one unit. All methods may be called from any thread.

    Args:
        unit: whose methods are called.
        lock: held while one of them runs; None for a concurrent unit.
    """

    def __init__(self, unit: StorageUnit, lock: threading.Lock | None) -> None:
        self._unit = unit
        self._lock = lock
        self._workers = unit.workers if lock is None else 1
        self._asynchronous = any(
            inspect.iscoroutinefunction(getattr(unit, name))
            for name in ("read", "write", "flush", "unmap", "zero", "batch", "open", "close")
        )
        self._batching = overrides(unit, "batch")
        self._queue: deque[Operation] = deque()
        self._changed = threading.Condition()
        self._running = 0
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None

    def submit(self, operation: Operation) -> None:
        """Queue an operation whose `done` is set."""
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
        """Call a method of the unit (open, close, flush) and wait; raises what it raises."""
        if not inspect.iscoroutinefunction(method):
            with self._lock or nullcontext():
                method()
            return
        with self._changed:
            if not self._threads:
                self._start()

        import asyncio

        assert self._loop is not None
        coroutine = method()
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

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
            self._threads.append(
                threading.Thread(
                    target=self._run_loop, args=(started,), name=f"{name}-loop", daemon=True
                )
            )
            self._threads[0].start()
            started.wait()
            return
        for number in range(self._workers):
            self._threads.append(
                threading.Thread(target=self._work, name=f"{name}-worker-{number}", daemon=True)
            )
            self._threads[-1].start()

    def _take(self) -> list[Operation]:
        """The operations to run next; the caller holds the condition."""
        count = min(len(self._queue), _BATCH if self._batching else 1)
        taken = [self._queue.popleft() for _ in range(count)]
        for operation in taken:
            operation.queued = False
        self._running += count
        return taken

    def _ended(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            _finish(operation)
        with self._changed:
            self._running -= len(operations)
            self._changed.notify_all()

    # -- plain methods -------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._stopping:
                    self._changed.wait()
                if not self._queue:
                    return
                taken = self._take()
            if self._lock is None:
                self._perform(taken)
            else:
                with self._lock:
                    self._perform(taken)
            self._ended(taken)

    def _perform(self, operations: Sequence[Operation]) -> None:
        if not self._batching:
            operations[0].perform(self._unit)
            return
        try:
            self._unit.batch(operations)
        except BaseException as error:
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
            elif self._lock is None:  # operations overlap
                task = self._loop.create_task(self._perform_async(taken))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(0)
            else:
                with self._lock:  # owners hold it for a batch at most
                    await self._perform_async(taken)
        if tasks:
            await asyncio.wait(tasks)

    async def _perform_async(self, operations: Sequence[Operation]) -> None:
        if self._batching:
            try:
                result = self._unit.batch(operations)
                if inspect.isawaitable(result):
                    await result
            except BaseException as error:
                _fail(operations, error)
            _fail(operations, RuntimeError("batch() left the operation out"))
        else:
            await operations[0].perform_async(self._unit)
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


def _fail(operations: Sequence[Operation], error: BaseException) -> None:
    """A batch has ended: whatever it did not perform has failed, and must not pass for done."""
    for operation in operations:
        if not operation.performed:
            operation.fail(error)
