"""An iSCSI client with a thread of its own: `Client` is one session, for any number of callers.

Theory of operation. Callers encode their commands under a lock and send them at once, many with one
call; what the socket does not take they wait for. One thread receives, ends tasks in batches and
answers pings; it never waits for the socket to take something, so that a target which takes nothing
until its own answers are read cannot hold it up. The protocol is `userdisk.iscsi.initiator`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Self

from userdisk import transport
from userdisk.errors import UsageError, UserdiskError
from userdisk.iscsi import digest
from userdisk.iscsi.initiator import InitiatorSession
from userdisk.iscsi.initiator_login import Settings
from userdisk.iscsi.initiator_task import LOST, Task
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.unit import Buffer

__all__ = ["Client", "SessionLost", "Task", "connect"]

_log = logging.getLogger(__name__)

_TICK = 0.5  # seconds between looks at the clock while nothing comes
_FINISHED = Callable[[list[Task]], object]


class SessionLost(InitiatorError):
    """The session ended before the answer came: what was asked for may be done or not."""


class Client:
    """A session, logged in on creation. Thread-safe.

    Args:
        address: host and port of the portal.
        settings: names, secrets, what to offer. Two sessions of one initiator name with one target
            need different `isid`s, or the second ends the first.
        lun: the logical unit that `execute` is about, unless it is told another.
        timeout: seconds for connecting and logging in, and for the answer to each task. A target
            that takes longer is given up: the session ends.

    Raises `UserdiskError` when there is no session. A context manager: leaving it closes.
    """

    def __init__(
        self, address: tuple[str, int], settings: Settings, *, lun: int = 0, timeout: float = 30.0
    ) -> None:
        self.lun = lun
        self.where = f"{address[0]}:{address[1]}"
        self.timeout = timeout
        #: Called on the receiving thread when an asynchronous message has come; must not block.
        self.on_event: Callable[[], object] | None = None
        self.session, self._socket, self._stream = connect(address, settings, timeout)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closing = False
        self._lost: SessionLost | None = None
        self._events = 0
        self._receiver = threading.Thread(target=self._receive, name="iscsi receiver", daemon=True)
        self._receiver.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def lost(self) -> SessionLost | None:
        """Why the session is gone; every request fails from then on."""
        return self._lost

    # -- requests --------------------------------------------------------------------------------

    def submit(
        self, tasks: Sequence[Task], done: _FINISHED | None = None, *, timeout: float | None = None
    ) -> None:
        """Send commands. `done` is called with those that have ended, some at a time.

        Without `done` each task's own `callback` is. It runs on the receiving thread, must not
        block, and may submit more. A task whose session was lost ends with `response` LOST.
        Blocks only while the target takes no data. Raises `SessionLost`: none was sent then.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        for task in tasks:
            task.deadline = deadline
            if done is not None:
                task.callback = done
        with self._lock:
            self._check()
            self.session.submit(tasks)
            self._push()
            stuck = self._stream.rest
        if stuck:
            self._wait_until_taken()

    def execute(
        self,
        cdb: bytes,
        *,
        data_out: Buffer = b"",
        read_length: int = 0,
        lun: int | None = None,
        timeout: float | None = None,
    ) -> Task:
        """Run one command and wait: `status`, `sense`, `data` and `residual` of the task.

        Raises `SessionLost`, and `InitiatorError` when the target did not run it at all.
        """
        ended = threading.Lock()
        ended.acquire()
        lun = self.lun if lun is None else lun
        task = Task(cdb, read_length, data_out, lun, lambda _: ended.release())
        self.submit([task], timeout=timeout)
        ended.acquire()
        self._raise_lost(task)
        if task.response:
            raise InitiatorError(f"{self.where}: command {cdb[0]:02x}: {task.problem}")
        return task

    def ping(self, data: bytes = b"") -> bytes:
        """Ask for a sign of life; returns what came back. Raises `SessionLost`."""
        return bytes(self._ask(lambda session: session.ping(data)).data)

    def text(self, keys: Sequence[tuple[str, str]]) -> bytes:
        """Negotiate; returns the whole answer. Raises `SessionLost`."""
        return bytes(self._ask(lambda session: session.text(keys)).data)

    def task_management(self, function: int, *, lun: int = 0, about: Task | None = None) -> int:
        """Run a task management function (RFC 7143 11.5.1); returns the response, 0 if it is done.

        The commands that it ended have ended with `ABORTED`. Raises `SessionLost`.
        """
        ask = self._ask
        return ask(lambda session: session.task_management(function, lun=lun, about=about)).response

    def _ask(self, send: Callable[[InitiatorSession], Task]) -> Task:
        ended = threading.Lock()
        ended.acquire()
        with self._lock:
            self._check()
            task = send(self.session)
            task.callback = lambda _: ended.release()
            task.deadline = time.monotonic() + self.timeout
            self._push()
            stuck = self._stream.rest
        if stuck:
            self._wait_until_taken()
        ended.acquire()
        self._raise_lost(task)
        return task

    def _raise_lost(self, task: Task) -> None:
        if self._lost is not None and task.response == LOST:
            raise SessionLost(str(self._lost))

    def _check(self) -> None:
        if self._lost is not None:
            raise SessionLost(str(self._lost))
        if self._closing:
            raise SessionLost(f"{self.where}: the session was closed")
        if self.session.logout_wanted:
            raise SessionLost(f"{self.where}: the target has asked to log out")

    def close(self) -> None:
        """Wait for the answers that are missing, log out. May be called again."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: self._lost or self.session.idle, self.timeout)
            if self._lost is None and self.session.idle:
                self._logout()
                self._changed.wait_for(lambda: self._lost, self.timeout)
            self._give_up("the session was closed")
        if threading.current_thread() is not self._receiver:
            self._receiver.join()
            self._socket.close()

    # -- sending; with the lock ------------------------------------------------------------------

    def _push(self) -> None:
        """Send what the socket takes now."""
        if self._stream.rest:
            return
        output = self.session.take_output()
        if output:
            try:
                self._stream.send(output)
            except OSError as error:
                self._give_up(_broken(error))

    def _wait_until_taken(self) -> None:
        """Wait until the target has taken what is queued. The receiving thread never does."""
        if threading.current_thread() is self._receiver:
            return
        while True:
            wait_for(self._socket, selectors.EVENT_WRITE, _TICK)
            with self._lock:
                if self._lost is not None or not self._stream.rest:
                    return
                self._flush()

    def _flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(_broken(error))
        self._push()

    def _logout(self) -> None:
        self.session.logout().deadline = time.monotonic() + self.timeout
        self._push()

    def _give_up(self, why: str) -> None:
        """The session is of no use any more; the receiving thread ends what is under way."""
        if self._lost is None:
            self._lost = SessionLost(f"{self.where}: {why.removeprefix('iscsi: ')}")
        self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    # -- the thread that receives ----------------------------------------------------------------

    def _receive(self) -> None:
        why = "the target closed the connection"
        next_look = time.monotonic() + _TICK
        try:
            while True:
                if self._stream.rest and not self._readable():
                    size = -1
                else:
                    size = self._stream.receive(self.session.buffer())
                if size == 0:
                    break
                ended: list[Task] = []
                if size > 0:
                    with self._lock:
                        ended = self.session.advance(size)
                        self._after()
                if ended:
                    tell(ended)
                if self._events != self.session.event_count:
                    self._events = self.session.event_count
                    if self.on_event is not None:
                        self.on_event()
                now = time.monotonic()
                if now >= next_look:
                    next_look = now + _TICK
                    self._look_at_the_clock(now)
        except UserdiskError as error:
            why = str(error)
        except OSError as error:
            why = _broken(error)
        except MemoryError:
            why = "no memory for an answer"
        finally:
            with self._lock:
                self._give_up(why)
                rest = self.session.lost()
            tell(rest)

    def _readable(self) -> bool:
        """Wait for the socket both ways; sends more if it can."""
        found = wait_for(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE, _TICK)
        if found & selectors.EVENT_WRITE:
            with self._lock:
                self._flush()
        return bool(found & selectors.EVENT_READ)

    def _after(self) -> None:
        """What follows from what has come; with the lock."""
        session = self.session
        if session.idle:
            if session.logout_wanted and not session.closed and not self._closing:
                self._closing = True
                self._logout()
            self._changed.notify_all()
        if session.closed:
            self._give_up("logged out")
        else:
            self._push()

    def _look_at_the_clock(self, now: float) -> None:
        with self._lock:
            session = self.session
            late = [task for task in (*session.tasks.values(), *session.waiting) if task.deadline]
            if any(task.deadline < now for task in late):
                self._give_up("the target did not answer in time")


def tell(ended: list[Task]) -> None:
    """Call the callbacks of tasks that have ended, once for each run with the same one.

    One that raises is a bug of its owner: it is logged, and the others are called.
    """
    first = 0
    callback = None
    for index, task in enumerate(ended):
        if task.callback is not callback:
            _call(callback, ended[first:index])
            first, callback = index, task.callback
    _call(callback, ended[first:] if first else ended)


def _call(callback: _FINISHED | None, ended: list[Task]) -> None:
    if callback is None:
        return
    try:
        callback(ended)
    except Exception:  # the thread that receives goes on
        _log.exception("a callback of iSCSI commands failed")


def connect(
    address: tuple[str, int], settings: Settings, timeout: float
) -> tuple[InitiatorSession, socket.socket, transport.PlainStream]:
    """A session that is logged in, its socket and stream. Blocks for `timeout` seconds at most.

    The socket's receive ends after a tick without data. Raises `UserdiskError`.
    """
    if (settings.header_digest or settings.data_digest) and not digest.available():
        raise UsageError("digests need the package crc32c: pip install 'userdisk[digest]'")
    session = InitiatorSession(settings, random=os.urandom)
    where = f"{address[0]}:{address[1]}"
    end = time.monotonic() + timeout
    try:
        sock = socket.create_connection(address, timeout)
    except TimeoutError:
        raise InitiatorError(f"{where}: no answer in {timeout:g} seconds") from None
    except (OSError, UnicodeError) as error:
        words = getattr(error, "strerror", None) or error
        raise InitiatorError(f"{where}: cannot connect: {words}") from None
    try:
        session.start()
        while not session.logged_in:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
            if output := session.take_output():
                sock.sendall(b"".join(output))
            size = sock.recv_into(session.buffer())
            if not size:
                raise InitiatorError(f"{where}: the target closed the connection during login")
            session.advance(size)
        transport.prepare(sock, min(_TICK, timeout), timeout)
    except TimeoutError:
        sock.close()
        raise InitiatorError(f"{where}: no answer in {timeout:g} seconds") from None
    except OSError as error:
        sock.close()
        raise InitiatorError(f"{where}: {_broken(error)}") from None
    except UserdiskError as error:
        sock.close()
        text = str(error)
        if text.startswith("iscsi: "):  # say which target it was
            error.args = (f"{where}: {text.removeprefix('iscsi: ')}",)
        raise
    except BaseException:
        sock.close()
        raise
    return session, sock, transport.PlainStream(sock)


def wait_for(sock: socket.socket, events: int, seconds: float) -> int:
    """Wait until the socket is ready for one of these events; returns which, 0 for none."""
    with selectors.DefaultSelector() as selector:
        try:
            selector.register(sock, events)
        except ValueError:  # it was closed
            return selectors.EVENT_READ
        return sum(found for _, found in selector.select(seconds))


def _broken(error: OSError) -> str:
    return f"the connection broke: {error.strerror or error}"
