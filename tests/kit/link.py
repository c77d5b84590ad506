"""A fake link: the target's connection and an initiator's session joined with no socket or thread.

Deterministic: bytes go over in pieces of a chosen size, what the connection posts to its owner runs
when the link is pumped, and time stands still until a test moves it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from userdisk.budget import PROCESS_LIMIT, Budget, Buffers
from userdisk.gate import Gate
from userdisk.iscsi.chap import Credentials
from userdisk.iscsi.connection import COMMAND_WINDOW, Connection, Phase
from userdisk.iscsi.discovery import Record, target_address
from userdisk.iscsi.environment import Environment, Peer
from userdisk.iscsi.initiator import InitiatorSession, Task
from userdisk.iscsi.initiator_login import Settings as Offer
from userdisk.iscsi.keys import Settings
from userdisk.iscsi.login import Login
from userdisk.iscsi.login_contract import Found, LoginConfig, Negotiated, Opened
from userdisk.iscsi.session import Sessions
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target
from userdisk.unit import StorageUnit

INITIATOR = "iqn.2026-11.io.userdisk:tester"
TARGET = "iqn.2026-11.io.userdisk:tested"
PEER = Peer(local=("127.0.0.1", 3260), remote=("127.0.0.1", 50000))


def target_of(*units: StorageUnit, name: str = TARGET) -> Target:
    """A target with these units, opened; LUN numbers in the order given."""
    gates = [Gate(unit) for unit in units]
    for gate in gates:
        gate.open()
    return Target(name, [LogicalUnit(gate) for gate in gates])


def close(target: Target) -> None:
    """Close the units of `target_of`."""
    for lu in target.units:
        lu.gate.close()


def environment_of(
    *targets: Target,
    credentials: Credentials | None = None,
    report: Callable[[Exception], None] | None = None,
    portals: int = 1,
) -> Environment:
    """What connections to these targets share; a bug that is reported raises, by default."""
    named = {target.name: target for target in targets}

    def login(open_session: Callable[[Negotiated], Opened], tag: int) -> Login:
        def find(name: str) -> Found | None:
            return Found(name, portal_group_tag=tag) if name in named else None

        return Login(
            LoginConfig(
                find_target=find,
                open_session=open_session,
                random=_counting_down,
                credentials=credentials,
                settings=Settings(digests=("CRC32C", "None")),
                command_window=COMMAND_WINDOW,
                stat_sn=0x7FFFFFF0,  # the numbers pass 2^31 early
            )
        )

    return Environment(
        targets=named,
        sessions=Sessions(threading.Lock()),
        login=login,
        records=lambda reached: [
            Record(
                target.name,
                [
                    target_address(reached.host, reached.port + number, reached.tag)
                    for number in range(portals)
                ],
            )
            for target in named.values()
        ],
        max_segment=262144,
        budget=Budget(PROCESS_LIMIT, threading.Lock()),
        buffers=Buffers(threading.Lock()),
        report=report or _raise,
    )


class TargetEnd:
    """A connection and the part of its owner: an inbox, and sending what it has queued."""

    def __init__(self, environment: Environment, peer: Peer = PEER, now: float = 0.0) -> None:
        self.inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.connection = Connection(environment, peer, self.inbox.put, now)
        self.ended = False

    def feed(self, data: bytes, piece: int = 1 << 30) -> bytes:
        """Deliver bytes in pieces; returns what the connection sends meanwhile."""
        sent = [self.settle()]
        view = memoryview(data)
        while view and self.reading:
            place = self.connection.buffer()
            size = min(len(place), len(view), piece)
            assert size, "the connection has no room for the next byte"
            place[:size] = view[:size]
            view = view[size:]
            self.connection.received(size)
            sent.append(self.settle())
        return b"".join(sent)

    def settle(self) -> bytes:
        """Run what was posted and what was left over; returns what the connection sends."""
        sent = []
        while True:
            size = self.connection.out.size
            output = self.connection.take_output()
            sent += [bytes(buffer) for buffer in output]
            # the owner takes a batch of this size for sent when so many bytes were
            assert size == sum(memoryview(buffer).nbytes for buffer in output)
            if self.connection.more and self.reading:
                self.connection.resume()
            elif not self.inbox.empty():
                self.connection.handle(self.inbox.get())
            elif not output:
                return b"".join(sent)

    def wait(self, timeout: float = 10) -> None:
        """Wait until something is posted: a slow operation has ended."""
        self.connection.handle(self.inbox.get(timeout=timeout))

    @property
    def reading(self) -> bool:
        """Whether the connection still takes bytes."""
        return self.connection.phase in (Phase.LOGIN, Phase.FULL_FEATURE)

    def disconnect(self) -> None:
        """The peer is gone; everything the connection had is given back."""
        if not self.ended:
            self.ended = True
            self.settle()
            self.connection.lost("the test is over")
            self.settle()
            while not self.connection.finished:
                self.wait()
            self.connection.end()


class Link:
    """A session and its connection. `run(task)` gets a command answered."""

    def __init__(
        self, environment: Environment, *, piece: int = 1 << 30, now: float = 0.0, **settings: Any
    ) -> None:
        values: dict[str, Any] = {"initiator": INITIATOR, "target": TARGET, **settings}
        self.session = InitiatorSession(Offer(**values), random=_counting)
        self.end = TargetEnd(environment, now=now)
        self.piece = piece
        self.sent: list[bytes] = []  #: what the initiator sent, to send it again elsewhere
        self.session.start()

    def pump(self) -> None:
        """Carry bytes both ways until neither side has any."""
        while True:
            data = b"".join(self.session.take_output())
            self.sent.append(data)
            answer = self.end.feed(data, self.piece)
            for start in range(0, len(answer), self.piece):
                self.session.received(answer[start : start + self.piece])
            if not data and not answer:
                return

    def login(self) -> Link:
        """Log in; raises what the session raises."""
        self.pump()
        assert self.session.logged_in
        return self

    def run(self, task: Task) -> Task:
        """Pump until the task has ended; waits for slow operations."""
        self.pump()
        while not task.done:
            self.end.wait()
            self.pump()
        return task

    def command(self, cdb: bytes, **arguments: Any) -> Task:
        """Send a command and get it answered."""
        return self.run(self.session.command(cdb, **arguments))

    def ready(self, *, lun: int = 0) -> Task:
        """TEST UNIT READY until no unit attention is left."""
        for _ in range(16):
            task = self.command(bytes(6), lun=lun)
            if task.status == 0:
                break
        return task


def _raise(error: Exception) -> None:
    raise error


def _counting(size: int) -> bytes:
    return bytes(range(1, size + 1))


def _counting_down(size: int) -> bytes:
    """For the target: a challenge that is sent back is refused."""
    return bytes(range(size, 0, -1))
