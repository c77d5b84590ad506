"""A unit that sleeps a minute in flush: its session, pings and ABORT TASK go on meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.initiator import LinuxInitiator
from tests.guest.server import ServeProcess
from tests.guest.session import HOST
from tests.kit.requires import requires

pytestmark = [pytest.mark.timeout(180), requires("iscsid", "iscsiadm", "ss")]

NAME = "iqn.2026-11.test:slow-flush"
SLEEP = 60  # seconds in flush
# Seconds of a command. A flush gets twice as long, and the same time again once or more, because
# the kernel first looks whether the target answers pings: ABORT TASK comes after 28, 42 or 56 s.
TIMEOUT = 7
ABORT_LIMIT = 90  # seconds that the kernel waits for the answer to it
PING = 5  # seconds between NOP-Outs of an idle connection, and to wait for the answer


@pytest.fixture
def seconds_file(tmp_path: Path) -> Path:
    return tmp_path / "seconds"


@pytest.fixture
def portal(initiator: LinuxInitiator, seconds_file: Path, tmp_path: Path) -> Iterator[str]:
    unit = f"{Path(__file__).with_name('units.py')}:SlowFlush"
    with ServeProcess(
        [unit, "ram:16M", "--name", NAME],
        tmp_path / "serve.log",
        advertise=HOST,
        environment={"SLOW_FLUSH_FILE": str(seconds_file)},
    ) as server:
        portal = f"{HOST}:{server.port}"
        yield portal
        initiator.drop(NAME, portal)


def test_session_survives_a_slow_flush(
    initiator: LinuxInitiator, portal: str, seconds_file: Path
) -> None:
    guest = initiator.guest
    guest.check("dmesg --clear")
    timers = dict.fromkeys(
        ("node.conn[0].timeo.noop_out_interval", "node.conn[0].timeo.noop_out_timeout"), str(PING)
    )
    timers["node.session.err_timeo.abort_timeout"] = str(ABORT_LIMIT)
    initiator.add(NAME, portal, timers)
    slow, other = initiator.login(NAME, portal, units=2)
    guest.check(f"echo {TIMEOUT} > /sys/block/{slow.removeprefix('/dev/')}/device/timeout")
    connections = f"ss -tinH state established dst {HOST} dport = :{portal.rpartition(':')[2]}"

    def received() -> int:
        output = guest.check(f"{connections} | grep -o 'bytes_received:[0-9]*'")
        return int(output.partition(":")[2])

    seconds_file.write_text(str(SLEEP))
    started = time.monotonic()
    guest.start(
        f"dd if=/dev/zero of={slow} bs=4k count=1 oflag=direct conv=fsync status=none",
        "/run/flush",
        "/run/flush.pid",
    )
    while seconds_file.exists():
        assert time.monotonic() < started + 20, "the flush did not reach the unit"
        time.sleep(0.1)
    guest.check(f"dd if={other} of=/dev/null bs=4k count=4 iflag=direct status=none", 2 * PING)
    while time.monotonic() < started + SLEEP - 4 * PING:
        before = received()
        time.sleep(2.2 * PING)  # idle: only pings, and the abort
        assert received() - before >= 48, "no ping was answered while the unit slept"
        assert initiator.state(NAME) == "LOGGED_IN"
    assert "exit" not in guest.check("cat /run/flush")
    guest.wait_until("grep -q '^exit' /run/flush", 60)

    assert guest.check("cat /run/flush") == "exit 0"
    assert seconds_file.with_suffix(".slept").exists()
    assert initiator.state(NAME) == "LOGGED_IN"
    counters = initiator.counters(NAME)
    assert counters["tmfcmd_pdus"] == counters["tmfrsp_pdus"] == counters["eh_abort_cnt"] == 1
    log = guest.check("dmesg")
    for trouble in ("conn error", "ping timeout", "session recovery", "I/O error", "reset"):
        assert trouble not in log.replace("Power-on or device reset occurred", ""), log
    initiator.logout(NAME, portal)
