"""Programs and units that misbehave: bounded, reported, cleaned up."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.kit import UNITS, Stable, attached, needs_devices, program
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import places, shims
from userdisk.launcher.spec import Limits, Spec, State

#: A program that serves a disk over WinSpd's pipe protocol, after it has done something else.
SERVES = """
import os, subprocess, sys, threading, time
{before}
from userdisk.cli.main import main
sys.exit(main(["serve", "--pipe", os.environ["USERDISK_SOCKET"], "ram:4M"]))
"""

RAISES = """
from userdisk import StorageUnit

class Raises(StorageUnit):
    block_count = 2048

    def open(self):
        raise RuntimeError("no storage today")

    def read(self, lba, blocks, fua): ...
    def write(self, lba, data, fua): ...

class Unmade(Raises):
    def __init__(self):
        raise RuntimeError("no storage today")
"""


def with_program(stable: Stable, before: str, **fields: Any) -> Spec:
    words = program(stable.folder / "program.py", SERVES.format(before=before))
    return stable.spec(program=words, **fields)


def obedient(stable: Stable, orders: str, **fields: Any) -> Spec:
    (stable.folder / "orders").write_text(orders)
    return stable.spec(
        f"{UNITS}:Obedient", options={"option": [f"folder={stable.folder}"]}, **fields
    )


def refused(stable: Stable, given: Spec) -> str:
    """Why it does not start; nothing is left of it."""
    with pytest.raises(UserdiskError) as caught:
        stable.start(given)
    assert not places.instance_folder(given.id).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- at the start ----------------------------------------------------------------------------------


def test_a_program_that_is_not_there(stable: Stable) -> None:
    given = stable.spec(program=("/no/such/program", "{socket}"))
    assert "/no/such/program: cannot be started: No such file" in refused(stable, given)


def test_a_program_that_ends_at_once(stable: Stable) -> None:
    given = with_program(stable, "print('no such volume', file=sys.stderr); sys.exit(7)")
    line = refused(stable, given)
    assert "ended with status 7 before it listened" in line
    assert line.endswith("; it said: no such volume")


def test_what_the_reason_says_is_not_said_again(stable: Stable) -> None:
    (stable.folder / "raising.py").write_text(RAISES)
    for name in ("Raises", "Unmade"):
        line = refused(stable, stable.spec(f"{stable.folder}/raising.py:{name}"))
        assert line.count("no storage today") == 1 and "it said" not in line, line


def test_a_program_that_never_listens(stable: Stable) -> None:
    given = with_program(stable, "time.sleep(600)", start_timeout=2.0)
    assert "does not listen on" in refused(stable, given)


def test_a_unit_that_ends_at_once(stable: Stable) -> None:
    assert "ended (status 3)" in refused(stable, obedient(stable, "open exit"))


def test_a_unit_that_never_opens(stable: Stable) -> None:
    given = obedient(stable, "open hang", start_timeout=3.0)
    assert "not ready after" in refused(stable, given)


def test_a_unit_that_never_opens_is_not_attached(stable: Stable) -> None:
    needs_devices()
    given = obedient(stable, "open hang", start_timeout=3.0, attach=attached())
    assert "not ready after" in refused(stable, given)


def test_what_cannot_be_meant(stable: Stable) -> None:
    image = str(stable.image(1 << 20))
    for fields, words in (
        ({"unit": str(stable.folder / "none.img")}, "none.img"),
        ({"directory": str(stable.folder / "none")}, "no such folder"),
        ({"user": "no-such-user"}, "there is no such user"),
        ({"limits": Limits(memory=4096)}, "memory limit"),
        ({"host": "203.0.113.1"}, "cannot listen on 203.0.113.1"),
        ({"chap_file": str(stable.folder / "none")}, "none"),
    ):
        given = stable.spec(**({"unit": image} | fields))
        with pytest.raises(UsageError, match=words):
            stable.start(given)
        assert not places.instance_folder(given.id).exists()


def test_the_same_twice(stable: Stable) -> None:
    given = stable.spec(str(stable.image(1 << 20)))
    before = stable.start(given)
    with pytest.raises(shims.Exists):
        stable.start(given)
    assert stable.status() == before
    stable.stop()


def test_a_stop_while_it_starts(stable: Stable) -> None:
    given = obedient(stable, "open hang")
    said: list[str] = []
    starting = threading.Thread(target=lambda: said.append(refused(stable, given)))
    starting.start()
    stable.until(lambda: (places.instance_folder(given.id) / "shim").exists())
    stable.wait(lambda now: now.state is State.STARTING)
    stable.stop()
    starting.join(60)
    assert said == ["it was stopped while it started"]


# -- at the end ------------------------------------------------------------------------------------


def test_a_unit_that_does_not_close_is_killed(stable: Stable) -> None:
    status = stable.start(obedient(stable, "close hang", stop_timeout=1.0))
    answer = stable.stop()
    assert "was killed" in answer["failed"]
    assert not Path(f"/proc/{status.unit_pid}").exists()


def test_a_slow_unit_is_waited_for(stable: Stable) -> None:
    stable.start(obedient(stable, "close 2", stop_timeout=60.0))
    assert stable.stop()["failed"] == ""


def test_a_slow_flush_is_waited_for(stable: Stable) -> None:
    """The time-out is for what comes after it."""
    stable.start(obedient(stable, "flush 4 once", stop_timeout=2.0))
    assert stable.stop()["failed"] == ""
    assert not (stable.folder / "orders").exists()


def test_a_flush_that_never_ends_is_given_up(stable: Stable) -> None:
    stable.start(obedient(stable, "flush hang", stop_timeout=1.0))
    folder = places.instance_folder("test.disk")
    answer = shims.ask(folder, "stop", 60, timeout=2.0)
    assert "was killed" in answer["failed"]
    stable.wait_gone()


def test_by_force_a_flush_has_only_the_time_out(stable: Stable) -> None:
    stable.start(obedient(stable, "flush hang", stop_timeout=1.0))
    assert "was killed" in stable.stop(force=True)["failed"]


def test_a_program_that_ignores_sigterm_is_killed(stable: Stable) -> None:
    before = "import signal; signal.signal = lambda *_: None; signal.pthread_sigmask(0, [15])"
    status = stable.start(with_program(stable, before, stop_timeout=1.0))
    assert status.state is State.RUNNING and status.size == 4 << 20 and status.program_pid
    assert stable.stop()["failed"] == ""
    assert not Path(f"/proc/{status.program_pid}").exists()


@pytest.mark.parametrize("how", ["", "setsid "])
def test_children_of_a_program_end_with_it(stable: Stable, how: str) -> None:
    place = stable.folder / "child"
    before = (
        f"subprocess.Popen(['sh', '-c', '{how}sh -c \"echo \\\\$\\\\$ > {place}; sleep 600\" &'])"
    )
    stable.start(with_program(stable, before))
    stable.until(lambda: place.exists() and place.read_text().strip())
    child = int(place.read_text())
    assert Path(f"/proc/{child}").exists()
    stable.stop()
    assert not Path(f"/proc/{child}").exists()


def test_a_program_that_dies_takes_its_unit_along(stable: Stable) -> None:
    before = stable.start(with_program(stable, ""))
    os.kill(before.program_pid, signal.SIGKILL)
    # What it held in memory is gone; but the unit cannot know, and says that it persists.
    after = stable.wait(lambda now: now.program_pid not in (0, before.program_pid))
    assert after.unit_pid != before.unit_pid and after.exit_status == -9
    assert f"{Path(sys.executable).name} was killed (SIGKILL)" in after.last_error
    stable.stop()


# -- meanwhile -------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_a_flood_of_log_lines_is_bounded(stable: Stable) -> None:
    flood = """
def flood():
    line = b"x" * 99 + b"\\n"
    while True:
        os.write(2, line * 600)
threading.Thread(target=flood, daemon=True).start()
"""
    status = stable.start(with_program(stable, flood, log_bytes=1 << 17))
    folder = places.instance_folder("test.disk")
    stable.until(lambda: "were dropped" in stable.log())
    used, began = cpu_seconds(status.pid), time.monotonic()
    for _ in range(20):
        assert sum(path.stat().st_size for path in folder.glob("log*")) <= 1 << 17
        time.sleep(0.1)
    # Of one CPU, also where others use it: what counts is that it does not spin.
    assert cpu_seconds(status.pid) - used < 0.3 * (time.monotonic() - began)
    assert stable.status().state is State.RUNNING
    stable.stop()


def test_a_full_disk_leaves_the_last_status(stable: Stable) -> None:
    status = stable.start(stable.spec(str(stable.image(1 << 20))))
    path = places.instance_folder("test.disk") / "status.json"
    said = path.read_bytes()
    # As a disk without room: no file of that process may grow.
    resource.prlimit(status.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    stable.again(stable.kill_unit())
    assert path.read_bytes() == said
    resource.prlimit(
        status.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )
    stable.again(stable.kill_unit())
    assert path.read_bytes() != said and stable.status().restarts == 2
    stable.stop()


def test_a_unit_that_wants_too_much_memory(stable: Stable) -> None:
    limits = Limits(memory=256 << 20)
    status = stable.start(stable.spec("ram:1G", limits=limits))
    nbd = f"nbd+unix:///disk?socket={places.instance_folder('test.disk')}/nbd"
    assert status.nbd_uri == nbd
    result = subprocess.run(
        [sys.executable, "-c", FILLS, nbd], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 1, result.stderr
    failed = stable.wait(lambda now: now.state is State.FAILED or "memory" in stable.log().lower())
    if failed.state is State.FAILED:  # killed by its control group
        assert "it wanted more memory than its limit, 268435456 bytes" in failed.last_error
    stable.stop(force=True)


FILLS = """
import sys
from userdisk.backend import open_unit
disk = open_unit(f"nbd:{sys.argv[1]}")
disk.open()
for lba in range(0, 1 << 21, 2048):
    disk.write(lba, memoryview(b"x" * (1 << 20)), False)
disk.flush()
"""


# -- the shim itself -------------------------------------------------------------------------------


def test_a_killed_shim_leaves_nothing_that_holds_the_image(stable: Stable) -> None:
    needs_devices()
    place = stable.folder / "mnt"
    image = stable.image(64 << 20)
    status = stable.start(stable.spec(str(image), attach=attached(mount=str(place), format="ext4")))
    (place / "kept").write_text("what was written")
    os.kill(status.pid, signal.SIGKILL)
    stable.until(lambda: not stable.processes(), 120)
    assert not place.is_mount()
    assert b"what was written" in image.read_bytes()
    ((known, last),) = shims.orphans()
    assert known.id == "test.disk" and last.unit_pid == status.unit_pid
    assert shims.running() == []
    shims.reap(known, last)


def test_a_killed_shim_takes_the_program_along(stable: Stable) -> None:
    status = stable.start(with_program(stable, ""))
    os.kill(status.pid, signal.SIGKILL)
    stable.until(lambda: not stable.processes(), 120)
    ((known, last),) = shims.orphans()
    shims.reap(known, last)


def test_sigterm_stops_a_shim_in_order(stable: Stable) -> None:
    status = stable.start(stable.spec(str(stable.image(1 << 20))))
    os.kill(status.pid, signal.SIGTERM)
    stable.wait_gone()
    stable.until(lambda: not stable.processes())
    assert shims.orphans() == [], "what is killed leaves its state behind"
