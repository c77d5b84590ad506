"""A unit in another process as a block device: NBD over a Unix socket, and its loss survived.

Theory of operation. Operations become NBD requests of one connection; a journal keeps the changes
that no flush has covered. When the connection is lost, operations wait and one thread recovers: it
has the unit's process started again, connects, repeats what was answered but not flushed, then
sends what was not answered, and everything goes on; nobody sees an error. If that does not succeed
in time, or cannot (the unit's data went with its process), the disk is lost: all operations fail,
those that wait and those that come later.

Each request knows the connection it was sent on. What a lost connection says of it is ignored: it
is under way again on the newer one. A server tells the size once for each connection; so a disk
that has grown is asked on a new one, and the earlier one stays until what was sent on it has ended.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from userdisk.attach.device import Done
from userdisk.attach.disk import Disk, Gone
from userdisk.attach.nbd_requests import (
    CHANGING,
    COMMANDS,
    extents_of,
    ranges_of,
    request_of,
)
from userdisk.errors import Aborted, HardwareError, StorageError, UserdiskError
from userdisk.nbd.replay import Change, Journal, State
from userdisk.nbd.uri import Uri
from userdisk.nbd.wire import Command
from userdisk.nbd_client import Client, ConnectionLost, Request
from userdisk.operation import Kind, Operation

log = logging.getLogger("userdisk")

KEPT: Final = 64 << 20  #: bytes of changes that are kept until a flush
WAIT: Final = 30.0  #: seconds until the unit's process must have come back

_GROUP: Final = 64  # changes repeated at a time,
_GROUP_BYTES: Final = 4 << 20


class _Task:
    """One operation on its way: its ranges in order, one request at a time."""

    __slots__ = ("change", "connection", "done", "operation", "ranges", "sent")

    def __init__(self, operation: Operation | None, done: Done, ranges: list[tuple[int, int]]):
        self.operation = operation  # None: a flush of our own
        self.done = done
        self.ranges = ranges  # (offset, length) of this request and those that follow
        self.change: Change[_Repeat] | None = None
        self.connection = -1  # that the request goes on; -1: not yet
        self.sent = False


@dataclass(slots=True)
class _Repeat:
    """A change as the journal keeps it."""

    command: Command
    offset: int
    length: int
    data: memoryview | bytes | None
    task: _Task | None


class NbdDevice:
    """A `BlockDevice` whose unit is in another process. All methods from any thread.

    Args:
        disk: what is served.
        uri: where; its export is `disk.export`.
        revive: called while the connection is lost, again and again, with the seconds that are
            left: has the unit's process listen again, or raises `UserdiskError`: why not now.
        why_lost: called after a loss: one line on what became of the process, which has ended when
            this returns, so that no old request is done after a new one.
        trouble: called with one line when the state of the disk changes: why it waits, why it is
            lost, empty when it goes on.
        wait: seconds from a loss until the disk is given up.
        kept: bytes of changes that are kept at most.

    Connects at once. Raises `UserdiskError`.
    """

    def __init__(
        self,
        disk: Disk,
        uri: Uri,
        *,
        revive: Callable[[float], None],
        why_lost: Callable[[], str],
        trouble: Callable[[str], None] = lambda line: None,
        wait: float = WAIT,
        kept: int = KEPT,
    ) -> None:
        self.size = disk.size
        self.block_length = disk.block_length
        self.read_only = disk.read_only
        self.unmaps = disk.unmaps
        self._disk = disk
        self._uri = uri
        self._revive = revive
        self._why_lost = why_lost
        self._trouble = trouble
        self._wait = wait
        self._lock = threading.Lock()
        self._tasks: dict[Operation | _Task, _Task] = {}
        self._journal: Journal[_Repeat] = Journal(kept)
        self._flushing: _Task | None = None  # our own flush
        self._flush_error: StorageError | None = None  # of our own flush: for the next one asked
        self._lost: StorageError | None = None
        self._closing = False
        self._connection = 0
        self._connected = True
        self._later: queue.SimpleQueue[list[_Task] | None] = queue.SimpleQueue()
        self._earlier: dict[int, Client] = {}  # from before the disk grew, with requests under way
        self._client = self._connect()
        self.max_transfer_length = self._client.maximum // self.block_length * self.block_length
        threading.Thread(target=self._send_later, name="send", daemon=True).start()

    # -- what the kernel's side asks -----------------------------------------------------------

    def submit(self, operation: Operation, done: Done) -> bool:
        """See `BlockDevice.submit`."""
        task = _Task(operation, done, ranges_of(operation, self.block_length))
        with self._lock:
            if self._lost is not None:
                operation.error = self._lost
                return True
            if operation.kind is Kind.FLUSH and self._flush_error is not None:
                operation.error, self._flush_error = self._flush_error, None
                return True
            self._tasks[operation] = task
            sending = [task] if self._begin(task) else []
            sending += self._own_flush()
        self._send(sending)
        return False

    def cancel(self, operation: Operation) -> None:
        """See `BlockDevice.cancel`."""
        with self._lock:
            task = self._tasks.get(operation)
            if task is None or task.connection >= 0:
                return
            sending = []
            if task.change is not None:
                if task.change.state is not State.HELD:
                    return
                sending = self._tasks_of(self._journal.dropped(task.change))
            del self._tasks[operation]
        operation.error = Aborted("taken back")
        task.done(operation)
        self._send(sending)

    def close(self) -> None:
        """See `BlockDevice.close`. Nothing else may be under way."""
        flush = Operation(Kind.FLUSH)
        ended = threading.Event()
        if not self.read_only and not self.submit(flush, lambda _: ended.set()):
            ended.wait()
        with self._lock:
            self._closing = True
            clients = [self._client, *self._earlier.values()]
        for client in clients:
            client.close()
        self._later.put(None)
        if flush.error is not None:
            raise flush.error

    def check_ready(self) -> None:
        """Raise `UserdiskError` if the unit cannot be asked: why."""
        with self._lock:
            self._check_ready()

    def _check_ready(self) -> None:
        if self._lost is not None:
            raise UserdiskError(f"the disk is lost: {self._lost}")
        if self._closing or not self._connected:
            raise UserdiskError("the disk waits for its unit's process; try again")

    def grow(self, size: int) -> None:
        """The unit has so many bytes now, or more: ask it on a connection that knows. Blocks.

        Requests go on meanwhile. One caller at a time. Raises `UserdiskError`; the disk has the
        size that it had then.
        """
        with self._lock:
            self._check_ready()
            connection = self._connection
            if self._earlier:
                raise UserdiskError("requests from before it last grew are still under way")
        client = self._connect()
        unused: Client | None = client
        try:
            if client.size < size:
                raise UserdiskError(f"its unit has {client.size} bytes, not {size}")
            with self._lock:
                self._check_ready()
                if self._connection != connection:
                    raise UserdiskError("the unit's process was started again meanwhile; try again")
                self._earlier[connection] = self._client
                self._connection += 1
                self._client = client
                self.size = size
                unused = self._unused()
        finally:
            if unused is not None:
                unused.close()

    # -- sending; with the lock, but for `_send` -----------------------------------------------

    def _begin(self, task: _Task) -> bool:
        """The task's next request begins; whether it is to be sent now."""
        operation = task.operation
        task.change = None
        task.connection = -1
        task.sent = False
        if self._disk.persistent and operation is not None and operation.kind in CHANGING:
            offset, length = task.ranges[0]
            repeat = _Repeat(COMMANDS[operation.kind], offset, length, operation.data, task)
            kept = length if operation.kind is Kind.WRITE else 0
            task.change = self._journal.begin(repeat, offset, length, kept)
            if task.change.state is State.HELD:
                return False
        return self._goes(task)

    def _goes(self, task: _Task) -> bool:
        if not self._connected:
            return False
        task.connection = self._connection
        task.sent = False
        return True

    def _live(self, connection: int) -> Client | None:
        if not self._connected:
            return None
        return self._client if connection == self._connection else self._earlier.get(connection)

    def _unused(self) -> Client | None:
        """An earlier connection that no request needs any more, for whoever closes it."""
        for connection in self._earlier:
            if all(task.connection != connection for task in self._tasks.values()):
                return self._earlier.pop(connection)
        return None

    def _tasks_of(self, released: list[Change[_Repeat]]) -> list[_Task]:
        tasks = [change.request.task for change in released]
        return [task for task in tasks if task is not None and self._goes(task)]

    def _own_flush(self) -> list[_Task]:
        """Flush, if so much is kept that it is time to."""
        if self._flushing is not None or not self._journal.wants_flush or not self._connected:
            return []
        self._flushing = task = _Task(None, lambda _: None, [(0, 0)])
        self._tasks[task] = task
        return [task] if self._goes(task) else []

    def _send_later(self) -> None:
        """Send what an answer made ready: whoever receives answers must not wait for the socket."""
        while (tasks := self._later.get()) is not None:
            self._send(tasks)

    def _send(self, tasks: list[_Task]) -> None:
        """Send the requests of tasks that `_goes` let go; without the lock."""
        for task in tasks:
            operation = task.operation
            kind = Kind.FLUSH if operation is None else operation.kind
            data = operation.data if operation is not None and kind is Kind.WRITE else None
            with self._lock:
                connection = task.connection
                client = self._live(connection)
                if client is None or task.sent:
                    continue  # lost meanwhile; the recovery sends it, or has done so
                task.sent = True
                offset, length = task.ranges[0]
                mark = self._journal.flush_begun() if kind is Kind.FLUSH else 0

            def ended(
                request: Request, task: _Task = task, on: int = connection, mark: int = mark
            ) -> None:
                self._ended(task, on, request, mark)

            client.submit(request_of(COMMANDS[kind], offset, length, data), ended)

    # -- answers -------------------------------------------------------------------------------

    def _ended(self, task: _Task, connection: int, request: Request, mark: int) -> None:
        """A request has ended; on the thread that receives, or the one that sent."""
        if isinstance(request.error, ConnectionLost):
            self._lose(connection)
            return
        operation = task.operation
        with self._lock:
            if task.connection != connection or self._live(connection) is None:
                return  # it is, or will be, under way again
            sending: list[_Task] = []
            if task.change is not None:
                self._keep(task.change)
                sending = self._tasks_of(
                    self._journal.answered(task.change, made=request.error is None)
                )
            elif operation is None or operation.kind is Kind.FLUSH:
                sending = self._flushed(task, request.error, mark)
            more = request.error is None and len(task.ranges) > 1
            if more:
                del task.ranges[0]
                sending += [task] if self._begin(task) else []
            else:
                self._tasks.pop(task if operation is None else operation, None)
            sending += self._own_flush()
            unused = self._unused() if self._earlier else None
        if operation is not None and not more:
            operation.error = request.error
            if request.error is None:
                operation.result = request.result
                if operation.kind is Kind.EXTENTS:
                    operation.result = extents_of(operation, request, self.block_length)
            task.done(operation)
        if sending:
            self._later.put(sending)
        if unused is not None:  # closing awaits the thread that this may be
            threading.Thread(target=unused.close, name="close", daemon=True).start()

    def _keep(self, change: Change[_Repeat]) -> None:
        """The change is answered: what its data was lent from may be used again."""
        repeat = change.request
        repeat.task = None
        if isinstance(repeat.data, memoryview) and not isinstance(repeat.data.obj, bytes):
            repeat.data = bytes(repeat.data)

    def _flushed(self, task: _Task, error: StorageError | None, mark: int) -> list[_Task]:
        if task is self._flushing:
            self._flushing = None
            if error is not None:
                # There must be room again, and who flushes next must hear of it.
                self._flush_error = error
                log.error("a flush failed: %s", error)
        elif error is not None:
            return []
        return self._tasks_of(self._journal.flush_answered(mark))

    # -- losing the connection -----------------------------------------------------------------

    def process_ended(self) -> None:
        """The unit's process has ended: no need to wait for the connection to show it."""
        self._lose(self._connection)

    def _lose(self, connection: int) -> None:
        with self._lock:
            if self._live(connection) is None or self._closing:
                return
            self._connected = False
        threading.Thread(target=self._recover, name="recover", daemon=True).start()

    def _recover(self) -> None:
        """Connect again and go on, or give up; the only thread that does."""
        why = self._why_lost()
        if not self._disk.persistent:
            self._give_up(f"{why}, and what it held is lost with it")
            return
        log.error("%s; requests wait up to %g s for it", why, self._wait)
        self._trouble(f"{why}; waiting for it")
        deadline = time.monotonic() + self._wait
        pause = 0.1
        while (left := deadline - time.monotonic()) > 0:
            try:
                client = self._connect_again(left)
            except Gone as error:
                self._give_up(f"{why}; {error}")
                return
            except UserdiskError as error:
                log.error("it is not back: %s", error)
                time.sleep(min(pause, max(deadline - time.monotonic(), 0)))
                pause = min(pause * 2, 2.0)
                continue
            if self._repeat(client):
                self._resume(client)
                return
            if self._lost is not None:
                return
            self._why_lost()
        self._give_up(f"{why}, and did not come back within {self._wait:g} s")

    def _connect_again(self, left: float) -> Client:
        try:
            self._revive(left)
        except Gone:
            raise
        except UserdiskError:
            with contextlib.suppress(UserdiskError):  # somebody else may have started one
                return self._connect()
            raise
        return self._connect()

    def _connect(self) -> Client:
        client = Client(self._uri, send_timeout=0)  # a slow unit is only slow
        disk, size = self._disk, self.size
        # More than the device shows does no harm: it may have been about to grow.
        if client.size < size or client.read_only != disk.read_only:
            client.close()
            raise UserdiskError(
                f"the disk has changed: {client.size} bytes, not {size}"
                if client.size < size
                else "the disk has changed: one is read-only, the other is not"
            )
        if disk.block_length % client.minimum:
            client.close()
            raise UserdiskError(f"the disk has changed: its blocks have {client.minimum} bytes")
        return client

    def _repeat(self, client: Client) -> bool:
        """Repeat what was answered but not flushed; False: this connection is lost, too."""
        repeated = 0
        answers: queue.SimpleQueue[Request] = queue.SimpleQueue()
        for group in self._journal.to_repeat(_GROUP, _GROUP_BYTES):
            for change in group:
                kept = change.request
                request = request_of(kept.command, kept.offset, kept.length, kept.data)
                client.submit(request, answers.put)
            errors = [error for _ in group if (error := answers.get().error) is not None]
            if not errors:
                repeated += len(group)
                continue
            client.close()
            refused = [error for error in errors if not isinstance(error, ConnectionLost)]
            if refused:
                self._give_up(f"a write that was answered cannot be repeated: {refused[0]}")
            return False
        log.info("connected again; %d writes were repeated", repeated)
        return True

    def _resume(self, client: Client) -> None:
        """Everything that waits goes on, on the new connection."""
        with self._lock:
            old = [self._client, *self._earlier.values()]
            self._earlier.clear()
            self._client = client
            self._connection += 1
            self._connected = True
            sending = []
            for task in self._tasks.values():
                if task.change is None or task.change.state is State.UNDER_WAY:
                    sending += [task] if self._goes(task) else []
            sending += self._own_flush()
        for each in old:
            each.close()
        self._trouble("")
        self._send(sending)

    def _give_up(self, why: str) -> None:
        error = HardwareError(why)
        with self._lock:
            self._lost = error
            tasks = [task for task in self._tasks.values() if task.operation is not None]
            self._tasks.clear()
            self._journal = Journal(0)
        log.error("the disk is lost: %s; every request fails now", why)
        self._trouble(f"lost: {why}")
        for task in tasks:
            assert task.operation is not None
            task.operation.error = error
            task.done(task.operation)
