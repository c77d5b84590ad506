"""Several portal groups over real sockets: login, discovery, sessions, resets, access states."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kit.link import INITIATOR, TARGET
from tests.kit.sockets import connect, eventually, serving
from tests.kit.units import InlineRamUnit, RamUnit
from tests.test_portal import Slow
from userdisk import portal as portal_module
from userdisk.errors import UsageError
from userdisk.initiator_client import Initiator, discover, sense_codes
from userdisk.iscsi.initiator_login import Settings
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.scsi import inquiry
from userdisk.scsi.port_groups import AccessState
from userdisk.server import Server
from userdisk.target.target import Target
from userdisk.unit import StorageUnit

Address = tuple[str, int]
STANDBY, ACTIVE = AccessState.STANDBY, AccessState.ACTIVE_OPTIMIZED


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_module, "TICK", 0.02)
    monkeypatch.setattr(portal_module, "_LINGER", 0.2)


@contextmanager
def groups(unit: StorageUnit, *tags: int) -> Iterator[tuple[Server, list[Address]]]:
    with serving(unit, listen=[("127.0.0.1", 0, tag) for tag in tags]) as (server, _):
        yield server, server._bound


def run(initiator: Initiator, cdb: bytes, data: bytes = b"", length: int = 0) -> tuple[int, ...]:
    """Status, or key, code and qualifier of the sense data."""
    task = initiator.finish(initiator.session.command(cdb, data_out=data, read_length=length))
    return sense_codes(task.sense) if task.status == 2 else (task.status,)


READY = bytes(6)


def test_login_names_the_group_that_was_reached() -> None:
    with groups(InlineRamUnit(), 1, 7, 65535, 7) as (_, addresses):
        for address, tag in zip(addresses, (1, 7, 65535, 7), strict=True):
            with connect(address) as initiator:
                answers = initiator.session.parameters.answers
                assert answers["TargetPortalGroupTag"] == str(tag)
                page = initiator.execute(bytes.fromhex("12 01 83 04 00 00"), read_length=1024)
                names = inquiry.Designator.decode_all(page[4:])
                ports = {name.value for name in names if (name.association, name.kind) == (1, 4)}
                assert ports == {struct.pack(">xxH", tag)}


def test_discovery_shows_every_portal_with_its_tag() -> None:
    with groups(InlineRamUnit(), 1, 2, 2) as (_, addresses):
        wanted = [
            f"127.0.0.1:{port},{tag}" for (_, port), tag in zip(addresses, (1, 2, 2), strict=True)
        ]
        for number, address in enumerate(addresses):
            found = discover(address, Settings(INITIATOR))
            assert list(found) == [TARGET]
            assert found[TARGET][0] == wanted[number], "the one that was reached comes first"
            assert sorted(found[TARGET]) == sorted(wanted)


def test_the_same_isid_in_two_groups_is_two_sessions() -> None:
    with groups(InlineRamUnit(), 1, 2) as (_, (one, two)), connect(one) as first:
        with connect(two) as second:
            first.write(0, b"1" * 512)
            assert second.read(0, 1) == b"1" * 512
            assert first.session.tsih != second.session.tsih
        assert first.read(0, 1) == b"1" * 512


def test_the_same_isid_at_two_portals_of_a_group_replaces_the_session() -> None:
    with groups(InlineRamUnit(), 3, 3, 4) as (_, (one, two, elsewhere)):
        first, other = connect(one), connect(elsewhere)
        with connect(two) as second:
            with pytest.raises(InitiatorError):
                first.read(0, 1)
            assert second.read(0, 1) == other.read(0, 1)
        first.socket.close()
        other.close()


def test_reinstatement_waits_for_the_commands_of_its_own_group_only() -> None:
    slow = Slow()
    with groups(slow, 1, 2) as (_, (one, two)):
        first = connect(one)
        first.session.command(bytes.fromhex("35 00 00000000 00 0000 00"))
        first.send()
        assert slow.entered.acquire(timeout=10)
        waiting = threading.Thread(target=lambda: connect(one).close())
        waiting.start()
        with Initiator(two, Settings(INITIATOR, TARGET), timeout=10):
            pass  # its login does not wait
        assert waiting.is_alive()
        slow.go.set()
        waiting.join(10)
        assert not waiting.is_alive()
        first.socket.close()


@pytest.mark.parametrize("function", [6, 7])
def test_target_resets_reach_every_group(function: int) -> None:
    """A warm reset is told to all sessions; a cold one ends them, whatever group they are in."""
    unit = InlineRamUnit()
    with groups(unit, 1, 2) as (_, (one, two)):
        here, there = connect(one), connect(two)
        task = here.finish(here.session.task_management(function))
        assert task.response == 0
        if function == 6:
            for initiator in (here, there):
                assert run(initiator, READY) == (6, 0x29, 0x02)
                assert run(initiator, READY) == (0,)
        else:
            for initiator in (here, there):
                with pytest.raises(InitiatorError):
                    initiator.read(0, 1)
        for initiator in (here, there):
            initiator.socket.close()


@pytest.mark.parametrize("unit", [InlineRamUnit, RamUnit])
def test_an_access_state_that_the_server_sets(unit: type[RamUnit]) -> None:
    """Only that group is restrained, nothing else is told a second time, and it can come back."""
    with (
        groups(unit(), 1, 2) as (server, (one, two)),
        connect(one) as first,
        connect(two) as second,
    ):
        for initiator in (first, second):
            initiator.write(0, b"a" * 512)
        server.set_access_state(2, STANDBY)
        for initiator in (first, second):
            assert run(initiator, READY) == (6, 0x2A, 0x06)
        assert run(second, READY) == (2, 0x04, 0x0B)
        assert run(second, bytes.fromhex("2a 00 00000000 00 0001 00"), bytes(512)) == (2, 4, 0x0B)
        assert run(second, bytes.fromhex("28 00 00000000 00 0001 00"), length=512) == (2, 4, 0x0B)
        assert first.read(0, 1) == b"a" * 512
        server.set_access_state(2, ACTIVE)
        assert run(second, READY) == (6, 0x2A, 0x06)
        assert second.read(0, 1) == b"a" * 512


def test_set_target_port_groups_over_the_wire() -> None:
    with (
        groups(InlineRamUnit(), 1, 2) as (_, (one, two)),
        connect(one) as first,
        connect(two) as second,
    ):
        wanted = bytes(4) + struct.pack(">BxHBxH", 3, 1, 1, 2)
        first.execute(struct.pack(">BB4xI2x", 0xA4, 0x0A, 12), data_out=wanted)
        assert run(first, READY) == (2, 0x04, 0x0C)
        assert run(second, READY) == (6, 0x2A, 0x06)
        report = second.execute(struct.pack(">BB4xI2x", 0xA3, 0x0A, 64), read_length=64)
        assert report == bytes.fromhex(
            "00000018 03 8f 0001 00 01 00 01 0000 0001 01 8f 0002 00 01 00 01 0000 0002"
        )


def test_no_write_of_a_port_in_standby_begins_after_the_answer() -> None:
    """Many writers on the fast path; the state changes while they write."""
    unit = InlineRamUnit()
    with groups(unit, 1, 2) as (server, (one, _)):
        stop = threading.Event()
        refused = threading.Semaphore(0)
        connected = threading.Barrier(4, timeout=10)  # in standby they could not

        def write(isid: int) -> None:
            with connect(one, isid=isid) as initiator:
                connected.wait()
                while not stop.is_set():
                    tasks = [
                        initiator.session.command(
                            bytes.fromhex("2a 00 00000000 00 0001 00"), data_out=bytes(512)
                        )
                        for _ in range(16)
                    ]
                    for task in tasks:
                        initiator.finish(task)
                    if any(sense_codes(task.sense)[:2] == (2, 4) for task in tasks):
                        refused.release()

        threads = [threading.Thread(target=write, args=(isid,)) for isid in (1, 2, 3)]
        for thread in threads:
            thread.start()
        try:
            connected.wait()
            for _ in range(10):
                seen = unit.calls["write"]
                eventually(lambda seen=seen: unit.calls["write"] > seen)  # type: ignore[misc]
                server.set_access_state(1, STANDBY)
                written = unit.calls["write"]
                assert refused.acquire(timeout=10)
                assert unit.calls["write"] == written
                server.set_access_state(1, ACTIVE)
                while refused.acquire(blocking=False):
                    pass
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("tag", [0, -1, 65536])
def test_a_tag_that_is_none(tag: int) -> None:
    with pytest.raises(UsageError, match=f"portal group tag {tag}: must be from 1 to 65535"):
        Server([Target("iqn.x:a", [])], listen=[("127.0.0.1", 0, tag)])


def test_an_access_state_of_no_group() -> None:
    with (
        groups(InlineRamUnit(), 1, 2) as (server, _),
        pytest.raises(UsageError, match="no portal group 3"),
    ):
        server.set_access_state(3, STANDBY)
