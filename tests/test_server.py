"""The server's life: units opened, served, flushed and closed in order, whatever fails."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from tests.kit.link import TARGET
from tests.kit.sockets import connect, eventually, server_of, serving
from tests.kit.units import AsyncRamUnit, InlineRamUnit, RamUnit
from tests.test_portal import FLUSH, Slow
from userdisk import portal as portal_module
from userdisk.errors import UsageError, UserdiskError
from userdisk.gate import Gate
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_module, "TICK", 0.02)
    monkeypatch.setattr(portal_module, "_LINGER", 0.2)


class Noted(InlineRamUnit):
    """Writes down what happens to it."""

    error: BaseException = OSError(28, "No space left on device")

    def __init__(self, name: str, events: list[str], fails: str = "") -> None:
        super().__init__()
        self._name, self.events, self.fails = name, events, fails

    def _note(self, what: str) -> None:
        self.events.append(f"{self._name} {what}")
        if what == self.fails:
            raise self.error

    def open(self) -> None:
        self._note("open")

    def flush(self) -> None:
        self._note("flush")

    def close(self) -> None:
        self._note("close")


class AsyncNoted(Noted):
    async def flush(self) -> None:  # type: ignore[override]
        self._note("flush")

    async def close(self) -> None:  # type: ignore[override]
        self._note("close")


def test_a_life() -> None:
    events: list[str] = []
    with serving(Noted("a", events), Noted("b", events)) as (_, address):
        assert events == ["a open", "b open"]
        with connect(address, lun=1) as initiator:
            initiator.flush()
    assert events == ["a open", "b open", "b flush", "b flush", "b close", "a flush", "a close"]


@pytest.mark.parametrize("fails", ["flush", "close"])
def test_a_flush_or_close_that_fails_is_reported_at_the_end(
    fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[str] = []
    server = server_of(Noted("a", events, fails), Noted("b", events, fails), Noted("c", events))
    server.start()
    with pytest.raises(OSError, match="No space"):
        server.stop()
    assert events[3:] == [f"{name} {what}" for name in "cba" for what in ("flush", "close")]
    assert caplog.text.count("cannot be flushed and closed") == 2
    server.stop()  # nothing is left to do


@pytest.mark.parametrize("kind", [Noted, AsyncNoted])
@pytest.mark.parametrize("fails", ["flush", "close"])
def test_a_unit_that_wants_to_end_the_process_keeps_no_other_open(
    kind: type[Noted], fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[str] = []
    first, last = Noted("a", events), kind("b", events, fails)
    last.error = SystemExit(0)
    server = server_of(first, last)
    server.start()
    with pytest.raises(RuntimeError, match=r"sys.exit\(0\) was called"):
        server.stop()
    assert events[2:] == ["b flush", "b close", "a flush", "a close"]
    assert "Traceback" in caplog.text and "in _note" in caplog.text


def test_why_it_does_not_start_is_told_before_why_it_cannot_stop() -> None:
    events: list[str] = []
    first, second = Noted("a", events, "close"), Noted("b", events, "open")
    second.error = OSError(5, "no such luck")
    with pytest.raises(UserdiskError, match=r"cannot be opened: .* no such luck"):
        server_of(first, second).start()
    assert events[-1] == "a close"


def test_a_unit_that_cannot_be_opened() -> None:
    events: list[str] = []
    server = server_of(Noted("a", events), Noted("b", events, "open"), Noted("c", events))
    with pytest.raises((UserdiskError, OSError), match="No space"):
        server.start()
    assert events == ["a open", "b open", "a flush", "a close"]


def test_the_same_unit_in_two_targets_is_opened_once() -> None:
    events: list[str] = []
    gate = Gate(Noted("a", events))
    targets = [Target(f"{TARGET}{number}", [LogicalUnit(gate)]) for number in range(2)]
    with Server(targets, listen=[("127.0.0.1", 0)]) as server:
        (address,) = server._bound
        with (
            connect(address, target=TARGET + "0") as one,
            connect(address, target=TARGET + "1") as other,
        ):
            one.write(0, b"x" * 512)
            assert other.read(0, 1) == b"x" * 512
    assert events == ["a open", "a flush", "a close"]


def test_two_targets_of_one_name() -> None:
    with pytest.raises(UsageError, match="same name"):
        Server([Target("iqn.x:a", []), Target("iqn.x:A", [])])


def test_stop_asks_for_a_logout_and_takes_what_still_comes() -> None:
    unit = InlineRamUnit()
    server = server_of(unit)
    (address,) = server.start()
    initiator = connect(address)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    initiator.run(lambda: bool(initiator.session.events))
    ((event, _, _, seconds),) = initiator.session.events
    assert (event, seconds) == (1, 2)
    initiator.write(0, b"late" * 128)  # it has time for that
    begin = time.monotonic()
    initiator.close()
    stopping.join(10)
    assert time.monotonic() - begin < 1.5, "waited though everybody had logged out"
    assert unit.memory[:512] == b"late" * 128
    assert unit.calls["flush"] == 1


def test_stop_ends_sessions_that_do_not_log_out() -> None:
    """One that is idle, one that does not read, one that has not logged in."""
    server = server_of(InlineRamUnit())
    (address,) = server.start()
    idle, deaf = connect(address), connect(address, isid=2)
    for _ in range(120):
        deaf.session.command(bytes.fromhex("28000000000000008000"), read_length=65536)
    deaf.send()
    with socket.create_connection(address) as silent:
        eventually(lambda: server.connections == 3)
        begin = time.monotonic()
        server.stop()
        assert 1.5 < time.monotonic() - begin < 4
        assert silent.recv(1) == b""
    assert idle.socket.recv(100), "it was not asked"
    for initiator in (idle, deaf):
        initiator.socket.close()


def test_stop_waits_for_the_operation_that_runs() -> None:
    """The unit is closed when it has left, and not before."""
    slow = Slow()
    server = server_of(slow)
    (address,) = server.start()
    initiator = connect(address)
    initiator.session.command(FLUSH)
    initiator.send()
    assert slow.entered.acquire(timeout=10)
    closed: list[int] = []
    slow.close = lambda: closed.append(slow.left)  # type: ignore[method-assign]
    initiator.socket.close()
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    time.sleep(0.1)
    assert stopping.is_alive()
    assert server.waits_for == "clients to leave"
    slow.go.set()
    stopping.join(10)
    assert not stopping.is_alive()
    assert closed == [2]  # its own flush, and the last one


def test_nobody_is_let_in_while_stopping() -> None:
    server = server_of(InlineRamUnit())
    (address,) = server.start()
    initiator = connect(address)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    initiator.run(lambda: bool(initiator.session.events))
    with pytest.raises(InitiatorError):
        connect(address, isid=2)
    initiator.close()
    stopping.join(10)


@pytest.mark.parametrize("kind", [RamUnit, AsyncRamUnit, InlineRamUnit])
def test_counters_outlive_connections(kind: Any) -> None:
    with serving(kind()) as (server, address):
        for number in range(3):
            with connect(address) as initiator:
                initiator.write(0, bytes(4096))
                initiator.read(0, 4)
                initiator.flush()
            eventually(lambda: not server._portals._owners)
            ((_, counters),) = [
                (lu, each) for lu, each in server.counters().items() if lu is not None
            ]
            assert (counters.writes, counters.written_bytes) == (number + 1, (number + 1) * 4096)
            assert (counters.reads, counters.read_bytes) == (number + 1, (number + 1) * 2048)
            assert counters.flushes == number + 1
            assert counters.failures == 0
