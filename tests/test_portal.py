"""The I/O edge over real sockets: limits, time-outs, slow peers, slow units, addresses."""

from __future__ import annotations

import errno
import logging
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.link import TARGET
from tests.kit.sockets import connect, eventually, server_of, serving
from tests.kit.units import InlineRamUnit, LiveRamUnit, RamUnit
from userdisk import portal as portal_module
from userdisk.backend import open_unit
from userdisk.errors import UsageError
from userdisk.initiator_client import discover
from userdisk.iscsi import connection as connection_module
from userdisk.iscsi import full_feature
from userdisk.iscsi.initiator_login import Settings
from userdisk.iscsi.initiator_task import ABORTED
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.iscsi.pdu import TargetOpcode
from userdisk.server import Server
from userdisk.target.task_management import Function, Response

READ_64K = bytes.fromhex("28000000000000008000")
FLUSH = bytes.fromhex("35000000000000000000")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_module, "TICK", 0.02)
    monkeypatch.setattr(portal_module, "_LINGER", 0.2)


class Slow(RamUnit):
    """A flush takes until the test lets it go."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.left = 0
        self.slow = "flush"
        self.fault = self._wait

    def _wait(self, name: str, lba: int, blocks: int) -> None:
        if name == self.slow:
            self.entered.release()
            assert self.go.wait(20)
            self.left += 1


@pytest.fixture
def served() -> Iterator[tuple[Server, tuple[str, int]]]:
    with serving(InlineRamUnit()) as made:
        yield made


def _ended(sock: socket.socket) -> bool:
    sock.settimeout(10)
    try:
        return sock.recv(1000) == b""
    except ConnectionResetError:
        return True


# -- limits --------------------------------------------------------------------------------------


def test_a_limit_on_connections(served: tuple[Server, tuple[str, int]]) -> None:
    server, address = served
    server._portals._max_connections = 2
    one, two = connect(address), connect(address, isid=2)
    with socket.create_connection(address) as third:
        assert _ended(third)
    assert server._portals.refused == 1
    two.close()
    eventually(lambda: len(server._portals._owners) == 1)
    connect(address, isid=3).close()
    assert one.read(0, 1) == bytes(512)
    one.close()


def test_those_that_never_log_in_keep_nobody_out(served: tuple[Server, tuple[str, int]]) -> None:
    server, address = served
    server._portals._max_openings = 4
    logged_in = connect(address)
    silent = [socket.create_connection(address) for _ in range(10)]
    eventually(lambda: server.connections == 11)
    with connect(address, isid=2) as initiator:
        assert initiator.read(0, 1) == bytes(512)
    assert _ended(silent[0])
    assert logged_in.read(0, 1) == bytes(512)
    logged_in.close()
    for sock in silent:
        sock.close()


@pytest.mark.parametrize("drip", [False, True])
def test_a_login_that_is_not_finished_in_time(
    served: tuple[Server, tuple[str, int]], drip: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a byte comes every now and then."""
    server, address = served
    monkeypatch.setattr(connection_module, "LOGIN_LIMIT", 0.2)
    with socket.create_connection(address) as sock:
        begin = time.monotonic()
        sock.settimeout(0.02)
        while time.monotonic() - begin < 5:
            if drip:
                try:
                    sock.send(b"\x43")
                except OSError:
                    break
            try:
                if sock.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert 0.15 < time.monotonic() - begin < 3
    eventually(lambda: not server._portals._owners)


def test_a_silent_session_is_asked_and_given_up(
    served: tuple[Server, tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, address = served
    monkeypatch.setattr(connection_module, "PING_AFTER", 0.1)
    monkeypatch.setattr(connection_module, "PING_LIMIT", 0.1)
    initiator = connect(address)
    eventually(lambda: not server._portals._owners)
    asked = initiator.socket.recv(48, socket.MSG_WAITALL)
    assert asked[0] == TargetOpcode.NOP_IN and asked[20:24] != b"\xff" * 4, "it wants an answer"
    assert initiator.socket.recv(1) == b""
    initiator.socket.close()


def test_no_descriptor_or_thread_for_a_connection(
    served: tuple[Server, tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is closed, and the next that comes is served again."""
    server, address = served

    def none() -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as context:
        context.setattr(portal_module, "Waker", none)
        with socket.create_connection(address) as sock:
            assert _ended(sock)

    def no_thread(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", no_thread)
        with socket.create_connection(address) as sock:
            assert _ended(sock)

    def no_memory(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as context:
        context.setattr(portal_module, "PlainStream", no_memory)
        with socket.create_connection(address) as sock:
            assert _ended(sock)
    assert "Too many open files" in caplog.text
    assert "new thread" in caplog.text
    assert server._portals.refused == 3
    connect(address).close()


# -- peers ---------------------------------------------------------------------------------------


def test_a_peer_that_does_not_read_stalls_nobody_else(
    served: tuple[Server, tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, address = served
    monkeypatch.setattr(portal_module, "STALL_LIMIT", 0.5)
    deaf = connect(address, isid=2)
    for _ in range(120):
        deaf.session.command(READ_64K, read_length=65536)
    deaf.send()
    with connect(address) as other:
        for lba in range(50):
            other.write(lba, bytes([lba]) * 512)
            assert other.read(lba, 1) == bytes([lba]) * 512
    eventually(lambda: not server._portals._owners)  # given up after the limit
    deaf.socket.close()


def test_the_same_initiator_comes_back_while_its_old_connection_does_not_read(
    served: tuple[Server, tuple[str, int]],
) -> None:
    """The new login does not wait for what the old one leaves unread."""
    _, address = served
    deaf = connect(address)
    for _ in range(120):
        deaf.session.command(READ_64K, read_length=65536)
    deaf.send()
    time.sleep(0.1)
    begin = time.monotonic()
    with connect(address) as again:
        assert again.read(0, 1) == bytes(512)
    assert time.monotonic() - begin < 3
    deaf.socket.close()


@pytest.mark.parametrize("make", [LiveRamUnit, lambda: open_unit("ram:1M")])
def test_what_a_slow_reader_gets_is_what_was_there(make: Any) -> None:
    """Reads that wait to be sent do not show a write that came after them."""
    with serving(make()) as (_, address), connect(address) as initiator:
        session = initiator.session
        for lba in range(0, 2048, 128):
            initiator.write(lba, b"a" * 65536)
        reads = [session.command(READ_64K, read_length=65536) for _ in range(100)]
        session.command(bytes.fromhex("2a000000000000008000"), data_out=b"b" * 65536)
        after = session.command(READ_64K, read_length=65536)
        initiator.send()
        time.sleep(0.1)
        initiator.finish(after)
        assert after.data == b"b" * 65536
        assert all(read.data == b"a" * 65536 for read in reads)


def test_what_waits_for_a_slow_reader_is_not_changed_by_another_session() -> None:
    """Each read is of one time: of before the other session's write, or of after it."""
    with serving(LiveRamUnit()) as (_, address):
        slow = connect(address)
        for lba in range(0, 2048, 128):
            slow.write(lba, b"a" * 65536)
        reads = [slow.session.command(READ_64K, read_length=65536) for _ in range(120)]
        slow.send()
        time.sleep(0.05)
        with connect(address, isid=2) as other:
            other.write(0, b"b" * 65536)
        slow.finish(reads[-1])
        seen = [bytes(read.data) for read in reads]
        assert set(seen) <= {b"a" * 65536, b"b" * 65536}
        assert seen == sorted(seen)
        assert seen[-1] == b"b" * 65536, "all was sent before the write: the test shows nothing"
        slow.close()


@pytest.mark.parametrize("how", ["close", "reset", "garbage", "half a PDU"])
def test_connections_that_end_badly_leave_nothing(
    served: tuple[Server, tuple[str, int]], how: str
) -> None:
    server, address = served
    initiator = connect(address)
    for _ in range(50):
        initiator.session.command(READ_64K, read_length=65536)
    initiator.session.command(struct.pack(">BBQIxx", 0x8A, 0, 0, 2048), data_out=bytes(1 << 20))
    initiator.send()
    if how == "garbage":
        initiator.socket.sendall(b"\xff" * 100_000)
    elif how == "half a PDU":
        initiator.socket.sendall(b"\x05\x80" + bytes(20))
    elif how == "reset":
        initiator.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    initiator.socket.close()
    eventually(lambda: not server._portals._owners)
    (target,) = server._targets.values()
    assert not target.nexuses
    assert not len(target.units[0].task_set)
    connect(address).close()


# -- slow units ----------------------------------------------------------------------------------


def test_a_flush_that_takes_long() -> None:
    """Its session and others live; ABORT TASK is answered when the flush has left the unit."""
    slow = Slow()
    with serving(slow, InlineRamUnit()) as (_, address):
        one, other = connect(address), connect(address, isid=2, lun=1)
        flush = one.session.command(FLUSH)
        one.send()
        assert slow.entered.acquire(timeout=10)
        assert one.finish(one.session.ping(b"there?")).data == b"there?"
        other.write(0, b"x" * 512)
        assert other.read(0, 1) == b"x" * 512
        abort = one.session.task_management(Function.ABORT_TASK, about=flush)
        assert one.finish(one.session.ping()).done
        assert not abort.done
        slow.go.set()
        assert one.finish(abort).response == Response.COMPLETE
        assert slow.left == 1
        assert flush.response == ABORTED
        assert one.read(0, 1) == bytes(512)
        for initiator in (one, other):
            initiator.close()


def test_a_new_session_waits_for_the_running_write_of_the_old_one() -> None:
    slow = Slow()
    slow.slow = "write"
    with serving(slow) as (_, address):
        old = connect(address)
        old.session.command(bytes.fromhex("2a000000000000000100"), data_out=b"o" * 512)
        old.send()
        assert slow.entered.acquire(timeout=10)
        found: list[bytes] = []

        def again() -> None:
            with connect(address) as new:
                slow.slow = ""
                found.append(new.read(0, 1))

        thread = threading.Thread(target=again)
        thread.start()
        time.sleep(0.2)
        assert not found, "logged in while a write of the old session was running"
        slow.go.set()
        thread.join(10)
        assert found == [b"o" * 512]
        assert _ended(old.socket)
        old.socket.close()


def test_resets_that_nobody_waits_for_any_more() -> None:
    """Functions of sessions that are gone are answered to nobody, and to no other descriptor."""
    slow = Slow()
    with serving(slow) as (server, address):
        holder = connect(address, isid=1)
        holder.session.command(FLUSH)
        holder.send()
        assert slow.entered.acquire(timeout=10)
        for number in range(5):
            asker = connect(address, isid=10 + number)
            asker.session.task_management(Function.ABORT_TASK_SET)
            asker.session.task_management(Function.LOGICAL_UNIT_RESET)
            asker.send()
            asker.finish(asker.session.ping())
            asker.socket.close()
        eventually(lambda: len(server._portals._owners) == 1)
        others = [connect(address, isid=20 + number) for number in range(5)]
        slow.go.set()
        holder.finish(holder.session.ping())
        eventually(lambda: not any(len(lu.task_set) for lu in holder_units(server)))
        for initiator in [*others, holder]:
            assert initiator.execute(bytes(6)) == b""
            initiator.close()


def holder_units(server: Server) -> Any:
    return next(iter(server._targets.values())).units


# -- addresses -----------------------------------------------------------------------------------


def test_a_port_that_is_in_use(served: tuple[Server, tuple[str, int]]) -> None:
    _, address = served
    unit = RamUnit()
    other = server_of(unit, listen=[("127.0.0.1", 0), address])
    with pytest.raises(UsageError, match=rf"{address[0]}:{address[1]}.*another server"):
        other.start()
    assert unit.calls["flush"] == 1, "opened, so flushed and closed"


@pytest.mark.parametrize("host", ["nowhere.invalid", "256.1.1.1", "192.0.2.1"])
def test_an_address_that_cannot_be_had(host: str) -> None:
    server = server_of(RamUnit(), listen=[(host, 0)])
    with pytest.raises(UsageError, match=f"cannot listen on {host}:0: "):
        server.start()


def _ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _ipv6(), reason="no IPv6 on this machine")
def test_ipv6() -> None:
    with serving(InlineRamUnit(), listen=[("::1", 0)]) as (_, address):
        assert address[0] == "::1"
        with connect(address) as initiator:
            initiator.write(0, b"6" * 512)
            assert initiator.read(0, 1) == b"6" * 512
        found = discover(address, Settings(initiator="iqn.2026-11.io.userdisk:me"))
        assert found == {TARGET: [f"[::1]:{address[1]},1"]}


@pytest.mark.skipif(not _ipv6(), reason="no IPv6 on this machine")
def test_the_ipv6_wildcard_takes_ipv4_too() -> None:
    with serving(InlineRamUnit(), listen=[("::", 0)]) as (_, (_, port)):
        for host, shown in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
            with connect((host, port)) as initiator:
                assert initiator.read(0, 1) == bytes(512)
            found = discover((host, port), Settings(initiator="iqn.2026-11.io.userdisk:me"))
            assert found == {TARGET: [f"{shown}:{port},1"]}


def test_several_portals() -> None:
    with serving(InlineRamUnit(), listen=[("127.0.0.1", 0), ("127.0.0.1", 0)]) as (server, first):
        assert len({port for _, port in server._bound}) == 2
        for number, address in enumerate(server._bound):
            with connect(address, isid=number) as initiator:
                assert initiator.read(0, 1) == bytes(512)
        found = discover(first, Settings(initiator="iqn.2026-11.io.userdisk:me"))
        assert found == {TARGET: [f"127.0.0.1:{port},1" for _, port in server._bound]}


# -- many at once --------------------------------------------------------------------------------


def test_many_sessions_and_one_disk(caplog: pytest.LogCaptureFixture) -> None:
    """Each has a range of its own; nothing gets lost or mixed up."""
    caplog.set_level(logging.WARNING)
    unit = RamUnit()
    with serving(unit) as (_, address):
        failures: list[BaseException] = []

        def use(number: int) -> None:
            rng = random.Random(number)
            try:
                with connect(address, isid=number) as initiator:
                    expected = {}
                    for _ in range(30):
                        lba = number * 128 + rng.randrange(64)
                        data = rng.randbytes(512 * rng.randrange(1, 64))
                        initiator.write(lba, data)
                        for block in range(len(data) // 512):
                            expected[lba + block] = data[block * 512 : block * 512 + 512]
                    for lba, data in expected.items():
                        assert initiator.read(lba, 1) == data
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
    assert not caplog.records


def test_a_connection_that_fails_in_userdisk_itself(
    served: tuple[Server, tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It ends with a traceback in the log; others live, and the server can stop."""
    server, address = served
    with connect(address, isid=2) as other:
        initiator = connect(address)

        def bug(connection: Any, request: Any) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as context:
            context.setitem(full_feature.HANDLERS, 0, bug)
            with pytest.raises(InitiatorError):
                initiator.finish(initiator.session.ping())
        initiator.socket.close()
        eventually(lambda: len(server._portals._owners) == 1)
        assert "ZeroDivisionError" in caplog.text
        assert other.read(0, 1) == bytes(512)
