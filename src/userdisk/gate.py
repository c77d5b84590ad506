"""The gate: the one way into a unit, for every port.

Theory of operation. A unit is serial unless its class says `concurrent`: one operation at a time,
over all connections and ports. Whoever runs an operation holds the gate. The owner of a connection
takes it once for a batch (`enter`, `leave`) and runs inline operations itself; everything else is
an `Operation` that `submit` hands to the unit's dispatcher, whose threads take the gate in turn.

An `Exclusive` operation is alone in the unit, even if that is concurrent. What it changes of the
state that commands look at is changed for all of them at once: a batch that runs has ended before.

An owner never waits for a slow operation: where the dispatcher may hold the gate for long, `enter`
gives up at once, and the owner's operations go to the dispatcher's queue as well.
"""

from __future__ import annotations

import inspect
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from userdisk import errors
from userdisk.dispatcher import Dispatcher
from userdisk.operation import LOOKING, WRITING, Era, Exclusive, Kind, Operation, Sequel
from userdisk.turns import Turns
from userdisk.unit import Buffer, Extent, Inline, Parameters, StorageUnit, Usage, overrides

log = logging.getLogger("userdisk")

_BUGS = 100  # different ones that are told apart
_LAST_ERRORS = 16  # that are kept for people
_UNCORRECTED = frozenset({0x3, 0x4})  # sense keys: medium error, hardware error


#: What the unit must declare inline for the operation to be, without and with FUA.
_INLINE: dict[Kind, tuple[Inline, Inline]] = {
    Kind.READ: (Inline.READ, Inline.FLUSH),
    Kind.WRITE: (Inline.WRITE, Inline.FLUSH),
    Kind.FLUSH: (Inline.FLUSH, Inline.FLUSH),
    Kind.UNMAP: (Inline.UNMAP, Inline.UNMAP),
    Kind.ZERO: (Inline.WRITE, Inline.FLUSH),
    Kind.EXTENTS: (Inline.UNMAP, Inline.UNMAP),
}
#: Long, or not bounded at all: always on a thread of the unit.
_OFFLOADED = frozenset({Kind.ERASE, Kind.CRYPTO_ERASE, Kind.USAGE, Kind.EXCLUSIVE})


class Gate:
    """The way into one unit. All methods may be called from any thread."""

    def __init__(self, unit: StorageUnit, name: str = "") -> None:
        self.unit = unit
        self.parameters: Parameters = unit.parameters
        self.name = name or type(unit).__name__
        #: Seconds, and bytes that nobody can predict, for layers that have none of their own.
        self.clock: Callable[[], float] = time.monotonic
        self.random: Callable[[int], bytes] = os.urandom
        #: Guards what ports share about the unit (unit attentions, pending tasks); held briefly.
        self.state_lock = threading.Lock()
        self.read_errors = 0  #: reads that failed for the medium's or the unit's own reason
        self.write_errors = 0  #: the same of writes, flushes and what else changes blocks
        #: The last failures: when (seconds since 1970), what in words, and as what it was answered.
        self.last_errors: deque[tuple[float, str, errors.StorageError]] = deque(maxlen=_LAST_ERRORS)
        self._bugs: dict[object, int] = {}  # how often each was seen
        self._inline = {
            (kind, fua): not inspect.iscoroutinefunction(getattr(unit, kind.name.lower()))
            and needed[fua] in unit.inline
            for kind, needed in _INLINE.items()
            for fua in (False, True)
        }
        #: Whether a plain (not FUA) read or write runs on the caller's thread.
        self.inline_read = self._inline[Kind.READ, False]
        self.inline_write = self._inline[Kind.WRITE, False]
        self.all_inline = all(self._inline.values())
        self._turns = Turns(serial=not unit.concurrent)
        #: Take the gate for inline operations, never for long; False: use `submit` instead.
        bounded = self.all_inline and not overrides(unit, "usage")  # which may take its time
        self.enter: Callable[[], bool] = (
            self._turns.enter if bounded and self._turns.serial else self._turns.try_enter
        )
        #: Give the gate back after `enter` returned True.
        self.leave: Callable[[], None] = self._turns.leave
        self._dispatcher = Dispatcher(unit, self._turns)
        #: Who has switched the unit's cache off: while there is anybody, every write has FUA.
        #: Changed in an `Exclusive`; ports that go past the gate must not write meanwhile.
        self.write_through = self._dispatcher.write_through
        self._life = threading.Lock()
        self._opened = False
        #: Why an operation of this kind must not begin for a port that asks for blocks (NBD, an
        #: attached disk); None while nothing restrains any. Changed in an `Exclusive`, so that it
        #: holds for a batch that has entered.
        self.restraint: Callable[[Kind], errors.StorageError | None] | None = None
        #: Of the operations that such ports begin now.
        self.era = Era()
        #: Several connections have the unit open; read from any thread.
        self.shared = False
        self._users = 0
        #: Called when the unit has changed its size, with nobody in it.
        self.resized: list[Callable[[], None]] = []
        unit._resize = self._resize

    # -- life ----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the unit. Blocks. Raises what the unit raises."""
        try:
            self._dispatcher.call(self.unit.open)
        except BaseException:
            self._dispatcher.stop()
            raise
        with self._life:
            self._opened = True

    def close(self) -> None:
        """Finish what is queued, flush, close the unit. Blocks.

        Raises what the last flush or close raised; the unit is closed all the same.
        """
        with self._life:
            opened, self._opened = self._opened, False
        if not opened:
            return
        self._dispatcher.drain()
        try:
            if not self.parameters.write_protected:
                self._dispatcher.call(self.unit.flush)
        finally:
            try:
                self._dispatcher.call(self.unit.close)
            finally:
                self._dispatcher.stop()

    def join(self) -> None:
        """One more connection has the unit open, until it calls `part`."""
        self._count_users(1)

    def part(self) -> None:
        """See `join`."""
        self._count_users(-1)

    def _count_users(self, more: int) -> None:
        with self._life:
            self._users += more
            self.shared = self._users > 1

    # -- inline operations ---------------------------------------------------------------------

    def runs_inline(self, operation: Operation) -> bool:
        """Whether the operation is bounded in time: run it with `run` between enter and leave."""
        fua = operation.fua or (bool(self.write_through) and operation.kind in WRITING)
        return (
            not operation.offload
            and operation.kind not in _OFFLOADED
            and self._inline[operation.kind, fua]
        )

    def run(self, operation: Operation) -> None:
        """Run an inline operation on this thread, which has entered; sets result or error.

        The result of a read may be a view of live memory (`StorageUnit.live_reads`).
        """
        dispatcher = self._dispatcher
        special = dispatcher.bars or dispatcher.watch or dispatcher.write_through
        if special and dispatcher.refuse([operation]):
            return
        try:
            operation.result = operation.call(self.unit)
        except BaseException as error:  # sys.exit() in a unit is a bug like any other
            if isinstance(error, KeyboardInterrupt) and _on_main_thread():
                raise  # somebody's Ctrl-C; no other thread gets one from the system
            operation.error = error

    # -- everything else -----------------------------------------------------------------------

    def submit(self, operation: Operation, done: Callable[[Operation], None]) -> None:
        """Queue an operation; `done` is called on a thread of the unit when it has ended."""
        operation.done = done
        self._dispatcher.submit(operation)

    def perform(self, operation: Operation) -> None:
        """Run an operation on this thread, whatever it is; for tests of the engine."""
        if not self._dispatcher.refuse([operation]):
            operation.perform(self.unit)

    def when_left(self, done: Callable[[], None]) -> None:
        """Call `done` when all who are in the unit now have left it: at once, or on a thread of it.

        A caller who has entered leaves first. While the unit is barred, nobody is in it but the
        owner of the bar, who may be long and is not waited for.
        """
        if self._dispatcher.bars or self._turns.vacant():
            done()
        else:
            self.submit(Exclusive(_nothing), lambda _: done())

    def call(self, operation: Operation, *, wait: bool = True) -> None:
        """Run an operation that is not part of a command. Blocks, if it is to `wait` for the end.

        Raises what it raised. Raises RuntimeError if a method of the unit waits, because it would
        wait for itself.
        """
        if wait and self._dispatcher.runs_here():
            raise RuntimeError("a method of the unit cannot wait for the unit")
        ended = threading.Event()
        with self._life:
            opened = self._opened
            if opened:
                self.submit(operation, lambda _: ended.set() if wait else self._unheard(operation))
        if not opened:
            operation.perform(self.unit)
        elif wait:
            ended.wait()
        else:
            return
        if operation.error is not None:
            raise operation.error

    def _unheard(self, operation: Operation) -> None:
        """Nobody waits for the operation: a failure of it goes to the log."""
        if operation.error is not None:
            log.error("unit %s: %s", self.name, operation.error)

    def _resize(self, parameters: Parameters, wait: bool) -> None:
        """What `StorageUnit.resized` does: nobody else is in the unit when its size changes."""

        def steps() -> Sequel:
            if parameters.block_count != self.parameters.block_count:
                self.unit.take_size(parameters)
                self.parameters = self.unit.parameters
                for told in self.resized:
                    told()
            yield from ()

        self.call(Exclusive(steps), wait=wait)

    @property
    def watch(self) -> Callable[[Operation], None] | None:
        """Called just before each operation that changes blocks, on the thread that runs it.

        Set in an `Exclusive`; ports that go past the gate (the fast path) must not meanwhile.
        """
        return self._dispatcher.watch

    @watch.setter
    def watch(self, watch: Callable[[Operation], None] | None) -> None:
        self._dispatcher.watch = watch

    def cancel(self, operation: Operation) -> None:
        """Take a queued operation out of the queue: `done` is called at once with `Aborted`.

        One that runs already goes on to its end.
        """
        self._dispatcher.cancel(operation)

    def bar(self, owner: object, error: Callable[[], errors.StorageError] | None) -> None:
        """Have every operation fail with `error()` until the same owner sets None.

        That goes for those that were asked for before, and for every port. Only an `Exclusive` that
        writes nothing, or does it `despite` the owner, still runs. Called in the steps of such a
        one: then nothing is under way when this returns, and nothing begins.
        """
        bars = {each: why for each, why in self._dispatcher.bars.items() if each is not owner}
        self._dispatcher.bars = bars if error is None else bars | {owner: error}

    # -- results -------------------------------------------------------------------------------

    def failed(self, error: BaseException, kind: Kind) -> errors.StorageError:
        """The table's entry for what the unit raised; logs the traceback of a bug."""
        if errors.is_bug(error):
            self._report(error, kind)
        failure = errors.from_exception(error, writing=kind not in LOOKING)
        self._count(failure, kind)
        return failure

    def _count(self, failure: errors.StorageError, kind: Kind) -> None:
        if not isinstance(failure, errors.Aborted):
            what = f"{kind.name.lower().replace('_', ' ')}: {failure}"
            self.last_errors.append((time.time(), what, failure))
        if failure.sense[0] not in _UNCORRECTED:
            return
        with self.state_lock:
            if kind is Kind.READ:
                self.read_errors += 1
            elif kind not in LOOKING:
                self.write_errors += 1

    def _report(self, error: BaseException, kind: Kind) -> None:
        """Log a bug with its traceback; the same one again only at the 10th, 100th, ... time."""
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        line = (type(error), kind, traceback and (traceback.tb_frame.f_code, traceback.tb_lineno))
        if len(self._bugs) >= _BUGS:
            self._bugs.clear()
        times = self._bugs[line] = self._bugs.get(line, 0) + 1
        what = f"unit {self.name}: {kind.name.lower()} failed"
        if times == 1:
            log.error(what, exc_info=error)
        elif str(times).strip("0") == "1":
            log.error("%s in the same way %d times: %r", what, times, error)

    def checked_read(self, data: Buffer, length: int) -> Buffer:
        """`data`, if it is what a read of `length` bytes must return; else raises HardwareError."""
        try:
            view = memoryview(data)
        except (TypeError, ValueError, BufferError):
            raise self._wrong_read(type(data).__name__, length) from None
        if view.nbytes != length:
            raise self._wrong_read(f"{view.nbytes} bytes", length)
        if view.contiguous and view.format == "B" and view.ndim == 1:
            return data if hasattr(data, "__len__") else view
        try:
            return view.cast("B")
        except TypeError:  # not contiguous, or of a format that cannot be cast
            return view.tobytes()

    def checked_usage(self, usage: object) -> Usage:
        """`usage`, if it is what the unit's `usage` must return; else raises HardwareError."""
        if isinstance(usage, Usage) and all(
            isinstance(blocks, int) and blocks >= 0 for blocks in (usage.used, usage.available)
        ):
            return usage
        message = f"unit {self.name}: usage returned {usage!r}, not a userdisk.Usage"
        log.error(message)
        raise errors.HardwareError(message)

    def checked_extents(self, found: Any, lba: int, blocks: int) -> list[Extent]:
        """`found`, if it is what `extents(lba, blocks)` must yield; else raises HardwareError."""
        at, wrong = lba, not found
        for extent in found:
            wrong = wrong or not isinstance(extent, Extent) or extent.lba != at or extent.blocks < 1
            if wrong:
                break
            at += extent.blocks
        if wrong or at > lba + blocks:
            bug = ValueError(f"extents({lba}, {blocks}) yielded {found!s:.200}")
            raise self.failed(bug, Kind.EXTENTS)
        return list(found)

    def _wrong_read(self, what: str, length: int) -> errors.HardwareError:
        message = f"unit {self.name}: read returned {what} instead of {length} bytes"
        log.error(message)  # a bug in the unit, though nothing was raised
        failure = errors.HardwareError(message)
        self._count(failure, Kind.READ)
        return failure


def close_unit(gate: Gate) -> None:
    """Close a unit that this process alone has had. Blocks; `UserdiskError` says what failed."""
    try:
        gate.close()
    except Exception as error:  # whatever the unit's flush() or close() raises
        words = errors.in_words(error)
        raise errors.UserdiskError(f"{gate.name}: cannot be flushed and closed: {words}") from error


def _nothing() -> Sequel:
    yield from ()


def _on_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
