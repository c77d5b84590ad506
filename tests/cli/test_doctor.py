"""userdisk doctor on real leftovers: what is removed, and what of the living stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from tests.attach.conftest import Desk, desk, wait_until
from userdisk.attach import loop, state

__all__ = ["desk"]


def left(desk: Desk) -> list[dict[str, str]]:
    every = json.loads(desk.run("doctor", "--json").stdout)["leftovers"]
    return [each for each in every if "another state folder" not in each["says"]]


def test_a_killed_attachment_is_cleaned_and_a_living_one_stays(desk: Desk) -> None:
    dead, living = desk.attach("ram:8M"), desk.attach("ram:8M")
    first = desk.listed()[0]
    os.kill(first["pid"], signal.SIGKILL)
    wait_until(lambda: desk.listed()[0]["status"] == "killed")
    wait_until(lambda: state.start_time(first["unit_pid"]) != first["unit_start_time"])
    assert [each["name"] for each in left(desk)] == ["ram"]
    result = desk.run("doctor", "--clean")
    assert "removing the attachment ram (" in result.stderr, result.stderr
    assert left(desk) == []
    assert loop.backing_file(dead) is None and loop.backing_file(living) is not None
    assert [entry["status"] for entry in desk.listed()] == ["attached"]
    desk.userdisk("eject", living)


def test_a_process_is_known_by_its_start_time(desk: Desk) -> None:
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = state.start_time(living.pid)
        assert started is not None
        for name, time in (("mine", started), ("reused", started - 1), (f".new-{living.pid}", 1)):
            folder = state.Folder(desk.state / name)
            folder.mount.mkdir(parents=True)
            folder.write(state.Record("ram:1M", living.pid, time, "fuse_loop"))
        (desk.state / ".new-4194999" / "fuse").mkdir(parents=True)
        (desk.state / "broken" / "fuse").mkdir(parents=True)
        (desk.state / f".new-0{living.pid}" / "fuse").mkdir(parents=True)
        desk.run("doctor", "--clean")
        kept = {path.name for path in desk.state.iterdir()}
        assert kept == {"mine", f".new-0{living.pid}"}
        assert living.poll() is None
    finally:
        living.communicate(b"\n")
        for name in ("mine", f".new-0{living.pid}"):
            state.Folder(desk.state / name).remove()


def test_it_loads_where_linux_is_not() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import userdisk.cli.doctor"
    subprocess.run([sys.executable, "-c", code], check=True)


def kill(desk: Desk) -> None:
    entry = desk.listed()[0]
    os.kill(entry["pid"], signal.SIGKILL)
    wait_until(lambda: desk.listed()[0]["status"] == "killed")
    wait_until(lambda: state.start_time(entry["unit_pid"]) != entry["unit_start_time"])


def test_a_dead_mount_without_a_record_is_cleaned(desk: Desk) -> None:
    device = desk.attach("ram:8M")
    kill(desk)
    (desk.state / "ram" / "state.json").unlink()
    assert [each["kind"] for each in left(desk)] == ["mount"]
    result = desk.run("doctor", "--clean")
    assert f"{device} is on it" in result.stderr, result.stderr
    assert desk.leftovers() == []


def test_what_a_living_process_has_open_stays(desk: Desk) -> None:
    device = desk.attach("ram:8M")
    with device.open("rb", buffering=0):
        kill(desk)
        result = desk.run("doctor", "--clean")
        assert result.returncode == 1
        assert f"{device} is in use" in result.stderr and f"(pid {os.getpid()})" in result.stderr
        assert loop.backing_file(device) is not None and (desk.state / "ram").exists()
    assert desk.run("doctor", "--clean").returncode == 0
    assert desk.leftovers() == []
