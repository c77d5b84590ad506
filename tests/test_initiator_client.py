"""The clients over sockets: many callers, batches, targets that hang, lie, trickle and go away."""

from __future__ import annotations

import queue
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.iscsi.test_initiator import Script
from tests.kit.link import INITIATOR, TARGET
from tests.kit.sockets import connect, eventually, server_of, serving
from tests.kit.units import ConcurrentRamUnit, InlineRamUnit, RamUnit
from userdisk.errors import UserdiskError
from userdisk.initiator_client import (
    Client,
    Initiator,
    InitiatorError,
    SessionLost,
    Settings,
    Task,
    discover,
)
from userdisk.iscsi import pdu
from userdisk.iscsi.initiator_task import ABORTED, LOST

ABORT_TASK, LUN_RESET = 1, 5
Act = Callable[[socket.socket], None]


def settings(**more: Any) -> Settings:
    return Settings(INITIATOR, TARGET, **more)


def read(lba: int, blocks: int = 1) -> Task:
    return Task(struct.pack(">BxQIxx", 0x88, lba, blocks), blocks * 512)


def write(lba: int, data: bytes) -> Task:
    return Task(struct.pack(">BxQIxx", 0x8A, lba, len(data) // 512), 0, data)


def ready(client: Client) -> Client:
    while client.execute(bytes(6)).status:
        pass
    return client


# -- with our own target ---------------------------------------------------------------------------


def test_many_callers_at_once() -> None:
    unit = ConcurrentRamUnit(block_count=65536)
    wrong: list[int] = []

    def work(client: Client, first: int) -> None:
        chance = random.Random(first)
        held = {}
        for _ in range(60):
            lba = first + chance.randrange(0, 4000)
            blocks = chance.choice((1, 8, 200))
            if chance.random() < 0.5:
                data = chance.randbytes(blocks * 512)
                task = write(lba, data)
                assert client.execute(task.cdb, data_out=data).status == 0
                for number in range(blocks):
                    held[lba + number] = data[number * 512 : (number + 1) * 512]
            else:
                data = bytes(client.execute(read(lba, blocks).cdb, read_length=blocks * 512).data)
                for number in range(blocks):
                    if data[number * 512 : (number + 1) * 512] != held.get(
                        lba + number, bytes(512)
                    ):
                        wrong.append(lba + number)

    with serving(unit) as (_, address), Client(address, settings()) as client:
        ready(client)
        threads = [threading.Thread(target=work, args=(client, n * 8192)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_batches_that_are_submitted_by_their_callback() -> None:
    ended: list[Task] = []
    finished = threading.Event()
    with serving(InlineRamUnit()) as (_, address), Client(address, settings()) as client:
        ready(client)
        left = iter([read(n % 2048) for n in range(3000)])

        def done(batch: list[Task]) -> None:
            ended.extend(batch)
            following = [task for _, task in zip(batch, left, strict=False)]
            if following:
                client.submit(following, done)
            if len(ended) == 3000:
                finished.set()

        first = [next(left) for _ in range(32)]
        client.submit(first, done)
        assert finished.wait(30)
    assert len({id(task) for task in ended}) == 3000
    assert all((task.response, task.status, len(task.data)) == (0, 0, 512) for task in ended)


def test_each_task_has_its_own_callback() -> None:
    found: queue.SimpleQueue[tuple[str, list[Task]]] = queue.SimpleQueue()
    with serving(InlineRamUnit()) as (_, address), Client(address, settings()) as client:
        ready(client)
        tasks = [read(n) for n in range(9)]
        for number, task in enumerate(tasks):
            name = "abc"[number // 3]
            task.callback = lambda batch, name=name: found.put((name, batch))  # type: ignore[misc]
        client.submit(tasks)
        seen: dict[str, list[Task]] = {}
        while sum(map(len, seen.values())) < 9:
            name, batch = found.get(timeout=10)
            seen.setdefault(name, []).extend(batch)
        assert [seen[name] for name in "abc"] == [tasks[:3], tasks[3:6], tasks[6:]]


def test_a_callback_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: list[Task]) -> None:
        raise ZeroDivisionError

    with serving(InlineRamUnit()) as (_, address), Client(address, settings()) as client:
        ready(client)
        tasks = [read(0), read(1), read(2)]
        found: queue.SimpleQueue[list[Task]] = queue.SimpleQueue()
        tasks[0].callback = tasks[1].callback = fail
        tasks[2].callback = found.put
        client.submit(tasks)
        assert found.get(timeout=10) == tasks[2:]
        assert client.execute(bytes(6)).status == 0
    assert "callback of iSCSI commands failed" in caplog.text


@pytest.mark.parametrize("kind", [InlineRamUnit, ConcurrentRamUnit])
def test_much_in_both_directions(kind: type[RamUnit]) -> None:
    """Neither side waits for the other to read first."""
    found: queue.SimpleQueue[list[Task]] = queue.SimpleQueue()
    data = random.Random(1).randbytes(1 << 20)
    unit = kind(block_count=131072)
    with serving(unit) as (_, address), Client(address, settings()) as client:
        ready(client)
        client._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        tasks = []
        for number in range(24):
            tasks += [write(number * 4096, data), read(number * 4096 + 2048, 2048)]
        client.submit(tasks, found.put)
        left = len(tasks)
        while left:
            left -= len(found.get(timeout=30))
        assert not any(task.response or task.status for task in tasks)
    with serving(unit) as (_, address), Initiator(address, settings()) as initiator:
        initiator.execute(bytes(6))
        initiator.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        tasks = []
        for number in range(24):
            tasks += [write(number * 4096, data), read(number * 4096, 2048)]
        initiator.submit(tasks)
        left = len(tasks)
        while left:
            left -= len(initiator.completed())
        assert unit.memory[: 1 << 20] == data


def test_the_rest_of_a_session() -> None:
    slow = RamUnit()
    entered, go = threading.Event(), threading.Event()

    def wait(name: str, lba: int, blocks: int) -> None:
        if lba == 7:
            entered.set()
            assert go.wait(10)

    slow.fault = wait
    found: queue.SimpleQueue[list[Task]] = queue.SimpleQueue()
    with serving(slow) as (_, address), Client(address, settings()) as client:
        ready(client)
        assert client.ping(b"hello") == b"hello"
        assert f"TargetName={TARGET}".encode() in client.text([("SendTargets", "All")])
        held, queued = read(7), read(8)
        client.submit([held, queued], found.put)
        assert entered.wait(10)
        assert client.task_management(ABORT_TASK, about=queued) == 0
        assert found.get(timeout=10) == [queued]
        assert queued.response == ABORTED
        assert queued.problem == "it was aborted"
        go.set()
        assert found.get(timeout=10) == [held]
        assert not held.response
        assert client.task_management(LUN_RESET) == 0
        missing = client.execute(bytes(6), lun=3)
        assert (missing.status, missing.sense[2] & 15, missing.sense[12]) == (2, 5, 0x25)
        client.close()
        client.close()
        for act in (client.ping, lambda: client.submit([read(0)])):
            with pytest.raises(SessionLost, match="logged out"):
                act()


def test_the_target_asks_to_log_out() -> None:
    server = server_of(InlineRamUnit())
    (address, *_) = server.start()
    told = threading.Event()
    client = ready(Client(address, settings()))
    client.on_event = told.set
    begin = time.monotonic()
    server.stop()
    assert told.wait(10)
    assert time.monotonic() - begin < 10
    eventually(lambda: client.lost is not None)
    with pytest.raises(SessionLost):
        client.execute(bytes(6))
    client.close()


def test_two_sessions_with_one_isid() -> None:
    """The second ends the first, whose tasks are told."""
    unit = RamUnit()
    go = threading.Event()
    unit.fault = lambda *_: go.wait(5) and None
    found: queue.SimpleQueue[list[Task]] = queue.SimpleQueue()
    with serving(unit) as (_, address), Client(address, settings()) as first:
        ready(first)
        tasks = [read(0), read(1)]
        first.submit(tasks, found.put)
        threading.Timer(0.2, go.set).start()
        with Client(address, settings()) as second:
            ready(second)
        ended = found.get(timeout=10)
        while len(ended) < 2:
            ended += found.get(timeout=10)
        assert {task.response for task in ended} <= {0, LOST}
        eventually(lambda: first.lost is not None)


# -- with targets that a test writes ---------------------------------------------------------------


@contextmanager
def target(act: Act) -> Iterator[tuple[str, int]]:
    """One connection is answered by `act`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(20)
                act(sock)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join()


class Peer(Script):
    """The target's side of `Script` on a socket, past the login."""

    def __init__(self, sock: socket.socket) -> None:
        self.stat_sn = 7
        self.sock = sock
        self.request()
        self.login(0x81, {"AuthMethod": "None"})
        self.request()
        self.login(0x87, {"MaxRecvDataSegmentLength": "4096", "InitialR2T": "No"})

    def say(self, header: bytes, data: bytes = b"") -> None:
        self.sock.sendall(header + data + bytes(-len(data) % 4))

    def request(self) -> bytes:
        """The next PDU; empty at the end."""
        header = take(self.sock, 48)
        if header:
            length = int.from_bytes(header[5:8])
            take(self.sock, length + -length % 4)
        return header


def take(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def until_the_end(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    for make in (Client, Initiator):
        with pytest.raises(InitiatorError, match="cannot connect: Connection refused"):
            make(address, settings())
    with pytest.raises(InitiatorError, match="cannot connect"):
        Client(("a" * 300, 1), settings())


@pytest.mark.parametrize("trickle", [False, True])
def test_a_login_that_hangs(trickle: bool) -> None:
    """Also if a byte comes now and then."""

    def act(sock: socket.socket) -> None:
        sock.settimeout(0.05)
        for _ in range(200):
            try:
                if not sock.recv(65536):
                    return
            except TimeoutError:
                if trickle:
                    sock.sendall(b"\x23")

    for make in (Client, Initiator):
        with target(act) as address:
            begin = time.monotonic()
            with pytest.raises(InitiatorError, match=r"no answer in 0\.5 seconds"):
                make(address, settings(), timeout=0.5)
            assert time.monotonic() - begin < 5


def test_a_login_that_is_cut_or_garbage() -> None:
    with target(lambda sock: None) as address, pytest.raises(UserdiskError) as raised:
        Client(address, settings())
    assert "\n" not in str(raised.value)
    for garbage in (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 10, bytes(4096), b"\xff" * 4096):

        def act(sock: socket.socket, garbage: bytes = garbage) -> None:
            sock.sendall(garbage)
            until_the_end(sock)

        with target(act) as address, pytest.raises(InitiatorError, match=r"^127|^iscsi"):
            Client(address, settings())


@pytest.mark.parametrize("how", ["silent", "pings", "trickle"])
def test_a_command_that_hangs(how: str) -> None:
    """The time for an answer ends, whatever else the target says."""

    def act(sock: socket.socket) -> None:
        peer = Peer(sock)
        sock.settimeout(0.01)
        data = pdu.DATA_IN.pack(0x25, 0, 0, 512, 0, 1, 0xFFFFFFFF, 0, 1, 9, 0, 0, 0)
        for number in range(400):
            time.sleep(0.02)
            try:
                if not sock.recv(65536):
                    return
            except TimeoutError:
                pass
            if how == "pings":
                numbers = (0, 0xFFFFFFFF, number, peer.stat_sn, 1, 9)
                sock.sendall(pdu.NOP_IN.pack(0x20, 0x80, 0, *numbers))
            elif how == "trickle":
                sock.sendall((data + bytes(512))[number : number + 1])

    with target(act) as address:
        client = Client(address, settings(), timeout=0.6)
        with pytest.raises(SessionLost, match="did not answer in time"):
            client.execute(read(0).cdb, read_length=512)
        client.close()
    with target(act) as address:
        initiator = Initiator(address, settings(), timeout=0.6)
        with pytest.raises(InitiatorError, match="does not answer"), initiator:
            initiator.read(0, 1)


def test_what_is_under_way_ends_with_the_connection() -> None:
    def act(sock: socket.socket) -> None:
        peer = Peer(sock)
        for _ in range(2):  # the window has two places
            peer.request()

    found: queue.SimpleQueue[list[Task]] = queue.SimpleQueue()
    with target(act) as address:
        client = Client(address, settings())
        tasks = [read(n) for n in range(5)]
        client.submit(tasks, found.put)
        ended = found.get(timeout=10)
        while len(ended) < 5:
            ended += found.get(timeout=10)
        assert ended == tasks
        assert {task.response for task in tasks} == {LOST}
        assert tasks[0].problem == "the session ended before the answer came"
        with pytest.raises(SessionLost, match="closed the connection"):
            client.execute(bytes(6))
        client.close()


def test_a_target_that_lies_loses_the_session() -> None:
    def act(sock: socket.socket) -> None:
        peer = Peer(sock)
        itt = int.from_bytes(peer.request()[16:20])
        peer.data_in(itt, bytes(4096), last=True)
        until_the_end(sock)

    with target(act) as address:
        client = Client(address, settings())
        with pytest.raises(SessionLost, match="past the 512 bytes"):
            client.execute(read(0).cdb, read_length=512)
        client.close()


def test_a_target_that_takes_nothing() -> None:
    """A caller that waits for it is told."""
    go = threading.Event()

    def act(sock: socket.socket) -> None:
        Peer(sock)
        assert go.wait(20)

    with target(act) as address:
        client = Client(address, settings(), timeout=1.0)
        client.session.max_cmd_sn = 1000
        found: queue.SimpleQueue[list[Task]] = queue.SimpleQueue()
        tasks = [write(0, bytes(4096)) for _ in range(900)]
        client._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        client.submit(tasks, found.put)
        ended = found.get(timeout=10)
        while len(ended) < len(tasks):
            ended += found.get(timeout=10)
        assert {task.response for task in ended} == {LOST}
        go.set()
        client.close()


def test_discovery_without_end() -> None:
    def act(sock: socket.socket) -> None:
        peer = Peer(sock)
        while header := peer.request():
            itt = int.from_bytes(header[16:20])
            numbers = (0, itt, 5, peer.stat_sn, 1, 9)
            peer.stat_sn += 1
            try:
                peer.say(pdu.TEXT_RESPONSE.pack(0x24, 0x40, 4, *numbers), b"Targ")
            except OSError:
                return

    with target(act) as address, pytest.raises(InitiatorError, match="does not come to an end"):
        discover(address, Settings(INITIATOR))


def test_one_thread_with_many_under_way() -> None:
    unit = InlineRamUnit()
    with serving(unit) as (_, address), connect(address) as initiator:
        tasks = [write(n, bytes([n % 251]) * 512) for n in range(1000)]
        initiator.submit(tasks)
        ended: list[Task] = []
        while len(ended) < 1000:
            ended += initiator.completed()
        assert ended == tasks
        assert unit.memory[: 1000 * 512 : 512] == bytes(n % 251 for n in range(1000))
