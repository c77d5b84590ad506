"""The watch over thin units: a threshold is crossed, and initiators of a real server hear of it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.kit import log_page
from tests.kit.sockets import connect, eventually, serving
from tests.kit.units import InlineRamUnit, RamUnit
from userdisk import usage_watch
from userdisk.initiator_client import Initiator
from userdisk.scsi import log, sense
from userdisk.unit import Usage

READY = bytes(6)
PROVISIONING = bytes.fromhex("4d004c0000 0000 00ff 00")


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_watch, "INTERVAL", 0.01)


class Pool:
    """How much storage there is, and who asked."""

    def __init__(self) -> None:
        self.available = 2048
        self.asked = 0
        self.failure: Exception | None = None
        self.hold = threading.Event()
        self.hold.set()

    def look(self) -> Usage:
        self.asked += 1
        assert self.hold.wait(10)
        if self.failure is not None:
            raise self.failure
        return Usage(2048 - min(self.available, 2048), self.available)


class Thin(InlineRamUnit):
    soft_threshold = 80

    def __init__(self, pool: Pool, **parameters: Any) -> None:
        self.pool = pool
        super().__init__(**parameters)

    def usage(self) -> Usage:
        return self.pool.look()


class AsyncThin(InlineRamUnit):
    """Everything else is plain."""

    soft_threshold = 80

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        super().__init__()

    async def usage(self) -> Usage:  # type: ignore[override]
        return self.pool.look()


def _watches() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "usage watch"]


def heard(initiator: Initiator) -> bool:
    """Whether TEST UNIT READY tells of the threshold."""
    task = initiator.finish(initiator.session.command(READY, lun=initiator.lun))
    if task.status == 0:
        return False
    found = sense.decode(task.sense)
    assert (found.key, found.code, found.information) == (6, 0x3807, 16)
    return True


def rounds(pool: Pool, number: int = 3) -> None:
    """Wait until the watch has asked some more times."""
    until = pool.asked + number
    eventually(lambda: pool.asked >= until)


@pytest.mark.parametrize("kind", [Thin, AsyncThin])
def test_initiators_are_told_once_for_each_crossing(kind: Any) -> None:
    pool = Pool()
    with (
        serving(kind(pool)) as (_, address),
        connect(address) as one,
        connect(address, isid=2) as other,
    ):
        rounds(pool)
        assert not heard(one) and not heard(other)
        for _ in range(2):
            pool.available = 100
            eventually(lambda: heard(one))
            assert heard(other)
            rounds(pool)
            assert not heard(one) and not heard(other)
            parameters = {each.code: each.value for each in _pages(one)}
            exponent = 3
            assert int.from_bytes(parameters[log.AVAILABLE][:4], "big") == 100 >> exponent
            assert int.from_bytes(parameters[log.USED][:4], "big") == -(-(2048 - 100) >> exponent)
            pool.available = 2048
            rounds(pool)
            assert not heard(one)


def _pages(initiator: Initiator) -> list[log.Parameter]:
    return log_page.decode(initiator.execute(PROVISIONING, read_length=255))


def test_reads_go_on_while_the_unit_thinks_about_its_usage() -> None:
    pool = Pool()
    pool.hold.clear()

    class Concurrent(Thin):
        concurrent = True
        workers = 2

    with serving(Concurrent(pool)) as (_, address), connect(address) as initiator:
        eventually(lambda: pool.asked == 1)
        for lba in range(100):
            initiator.read(lba, 1)
        assert pool.asked == 1, "asked again before it was answered"
        pool.hold.set()
        rounds(pool)


def test_sessions_are_answered_while_a_serial_unit_thinks_about_its_usage() -> None:
    """Its reads and writes are inline: no owner waits for the unit, but for its answer."""
    pool = Pool()
    pool.hold.clear()
    with serving(Thin(pool)) as (_, address), connect(address) as initiator:
        eventually(lambda: pool.asked == 1)
        read = initiator.session.command(bytes.fromhex("28000000000000000100"), read_length=512)
        try:
            initiator.finish(initiator.session.ping(b"there?"))
            assert not read.done
        finally:
            pool.hold.set()
        assert initiator.finish(read).status == 0


def test_units_without_a_threshold_are_not_asked() -> None:
    pool = Pool()
    before = threading.active_count()
    with serving(Thin(pool, soft_threshold=0), RamUnit()):
        assert not _watches()
    assert not pool.asked
    assert threading.active_count() <= before


def test_a_unit_that_cannot_tell_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool()
    pool.failure = OSError(5, "Input/output error")
    with serving(Thin(pool)) as (_, address):
        rounds(pool)
        with connect(address) as initiator:
            assert not heard(initiator)
            pool.failure, pool.available = None, 0
            eventually(lambda: heard(initiator))
        pool.failure = OSError(5, "Input/output error")
        rounds(pool)
    assert caplog.text.count("its usage is not known") == 2


def test_a_server_that_stops_does_not_wait_for_the_next_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage_watch, "INTERVAL", 3600.0)
    pool = Pool()
    with serving(Thin(pool)):
        eventually(lambda: pool.asked == 1)
        assert _watches()
    assert not _watches()


def test_log_pages_count_what_all_connections_processed() -> None:
    with serving(RamUnit()) as (_, address):
        for number in range(2):
            with connect(address, isid=number + 1) as initiator:
                initiator.write(0, bytes(4096))
                initiator.read(0, 3)
                for page, processed in ((2, 4096), (3, 3 * 512)):
                    cdb = bytes([0x4D, 0, 0x40 | page, 0, 0, 0, 0, 0, 255, 0])
                    parameters = log_page.decode(initiator.execute(cdb, read_length=255))
                    found = {each.code: each.value for each in parameters}
                    count = int.from_bytes(found[log.BYTES_PROCESSED], "big")
                    assert count == processed * (number + 1)
