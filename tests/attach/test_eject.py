"""Nothing is left: after eject, after signals, after SIGKILL, after errors."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.attach.conftest import Desk, wait_until
from tests.kit.requires import requires
from userdisk.attach import loop


def pid_of(desk: Desk) -> int:
    return int(desk.listed()[0]["pid"])


def write(device: Path, data: bytes) -> None:
    with device.open("r+b") as file:  # through the page cache
        file.write(data)


def test_attach_list_eject(desk: Desk) -> None:
    device = desk.attach("ram:8M")
    (entry,) = desk.listed()
    assert entry["devices"] == [str(device)] and entry["status"] == "attached"
    assert desk.userdisk("list").splitlines()[1].split() == [
        "ram", str(device), "8", "MiB", "ram:8M", "-", "attached",
    ]  # fmt: skip
    os.kill(entry["pid"], 0)
    assert os.getsid(entry["pid"]) == entry["pid"]
    second = desk.attach("ram:8M")
    assert [entry["name"] for entry in desk.listed()] == ["ram", "ram-2"]
    assert desk.userdisk("eject", "ram-2") == "ram:8M is ejected"
    assert desk.userdisk("eject", device) == "ram:8M is ejected"
    assert loop.backing_file(second) is None
    assert desk.leftovers() == []
    assert desk.listed() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ejects_in_order(desk: Desk, number: signal.Signals) -> None:
    device = desk.attach(*desk.probe)
    write(device, b"cached" * 1000)
    desk.forget()
    os.kill(pid_of(desk), number)
    wait_until(lambda: desk.leftovers() == [])
    assert desk.operations()[-2:] == ["flush", "close"]


@requires("mkfs.ext4")
def test_a_signal_unmounts_and_keeps_what_was_written(desk: Desk) -> None:
    image = desk.folder / "disk.img"
    desk.userdisk("mount", image, desk.mountpoint, "--size", "32M", "--format", "ext4")
    (desk.mountpoint / "file").write_text("still in memory")
    os.kill(pid_of(desk), signal.SIGTERM)
    wait_until(lambda: desk.leftovers() == [])
    desk.userdisk("mount", image, desk.mountpoint)
    assert (desk.mountpoint / "file").read_text() == "still in memory"
    desk.userdisk("eject", desk.mountpoint)


def test_foreground_until_ctrl_c(desk: Desk) -> None:
    with desk.start("attach", "--foreground", *desk.probe) as process:
        assert process.stdout is not None
        device = Path(process.stdout.readline().strip())
        assert loop.backing_file(device) is not None
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert said.splitlines()[-1].endswith("Ctrl-C takes it away")
    assert desk.leftovers() == []


@requires("mkfs.ext4")
@pytest.mark.parametrize("mounted", [False, True])
def test_eject_after_sigkill(desk: Desk, mounted: bool) -> None:
    if mounted:
        desk.userdisk("mount", "ram:32M", desk.mountpoint, "--format", "ext4")
        (desk.mountpoint / "file").write_text("lost")
    else:
        desk.attach("ram:32M")
    (entry,) = desk.listed()
    os.kill(entry["pid"], signal.SIGKILL)
    wait_until(lambda: desk.listed()[0]["status"] == "killed")
    assert f"left over: its process (pid {entry['pid']}) was killed" in desk.userdisk("list")
    result = desk.run("eject", desk.mountpoint if mounted else entry["device"])
    assert result.returncode == 0, result.stderr
    assert "was killed; data not flushed before is lost" in result.stderr
    assert desk.leftovers() == []


def test_what_is_open_is_not_ejected(desk: Desk) -> None:
    for kill in (False, True):
        device = desk.attach("ram:8M")
        (entry,) = desk.listed()
        with device.open("rb"):
            if kill:
                os.kill(entry["pid"], signal.SIGKILL)
                wait_until(lambda: desk.listed()[0]["status"] == "killed")
            status, line = desk.refused("eject", device)
            assert status == 1 and f"{device} is in use: used by" in line
            assert f"(pid {os.getpid()})" in line and "or use --force" in line
            assert desk.listed()[0]["devices"] == [str(device)]
            if kill:  # the other half: it is taken away all the same
                assert desk.run("eject", "--force", device).returncode == 0
            else:
                desk.userdisk("list")
        if not kill:
            desk.userdisk("eject", device)
    wait_until(lambda: desk.leftovers() == [])


def test_sigkill_while_it_is_being_made(desk: Desk) -> None:
    desk.order("open 30")
    with desk.start("attach", *desk.probe) as process:
        wait_until(lambda: "open" in desk.operations())
        (entry,) = desk.listed()
        assert (entry["status"], entry["devices"]) == ("starting", [])
        os.kill(entry["pid"], signal.SIGKILL)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said.count("\n")) == (1, 1)
    assert "the attaching process ended" in said
    assert desk.leftovers() == []


def test_ctrl_c_while_the_unit_is_being_opened(desk: Desk) -> None:
    desk.order("open 30")
    with desk.start("attach", *desk.probe) as process:
        wait_until(lambda: "open" in desk.operations())
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said.strip()) == (130, "userdisk: interrupted")
    assert desk.leftovers() == []


@requires("mkfs.ext4", "blkid")
def test_ctrl_c_while_it_is_being_formatted(desk: Desk) -> None:
    desk.order("write 2")
    with desk.start("mount", *desk.probe, desk.mountpoint, "--format", "ext4") as process:
        wait_until(lambda: any(line.startswith("write") for line in desk.operations()))
        desk.order()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said.strip()) == (130, "userdisk: interrupted")
    assert desk.leftovers() == []


def test_a_unit_that_takes_too_long_to_open(desk: Desk) -> None:
    desk.order("open 30")
    status, line = desk.refused("attach", "--timeout", "1", *desk.probe)
    assert status == 1 and line.endswith("Probe: not ready after 1 s; gave up")
    assert desk.leftovers() == []


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("open bug", "opening it failed: ZeroDivisionError: ordered"),
        ("open NotReady", "opening it failed: NotReady: ordered"),
    ],
)
def test_a_unit_that_cannot_be_opened(desk: Desk, order: str, expected: str) -> None:
    desk.order(order)
    status, line = desk.refused("attach", *desk.probe)
    assert status == 1 and line.endswith(expected)
    assert desk.leftovers() == []


@pytest.mark.parametrize("unit", ["ram:", "ram:1Q", "nothing.img", "nothing.py:Disk", "no:Disk"])
def test_a_wrong_unit_is_one_line(desk: Desk, unit: str) -> None:
    status, line = desk.refused("attach", unit)
    assert status == 2 and "Traceback" not in line
    assert desk.leftovers() == []


@requires("mkfs.ext4")
def test_a_busy_mount_is_not_ejected_without_force(desk: Desk) -> None:
    desk.userdisk("mount", "ram:32M", desk.mountpoint, "--format", "ext4")
    with subprocess.Popen(["sleep", "60"], cwd=desk.mountpoint) as user:
        try:
            status, line = desk.refused("eject", desk.mountpoint)
            assert status == 1
            assert f"{desk.mountpoint} is busy: used by sleep (pid {user.pid})" in line
            assert desk.listed()[0]["mountpoints"] == [str(desk.mountpoint)]
            (desk.mountpoint / "file").write_text("it still works")
            result = desk.run("eject", "--force", desk.mountpoint)
            assert f"used by sleep (pid {user.pid})" in result.stderr
            assert not os.path.ismount(desk.mountpoint)
        finally:
            user.kill()
    # The last user is gone, and with it the file system and the device.
    wait_until(lambda: desk.leftovers() == [])


@requires("mkfs.ext4")
def test_what_is_mounted_on_top_is_not_unmounted(desk: Desk) -> None:
    desk.userdisk("mount", "ram:32M", desk.mountpoint, "--format", "ext4")
    subprocess.run(["mount", "-t", "tmpfs", "other", desk.mountpoint], check=True)
    try:
        _, line = desk.refused("eject", desk.mountpoint)
        assert "other is mounted on top of it; unmount that first" in line
    finally:
        subprocess.run(["umount", desk.mountpoint], check=True)
    desk.userdisk("eject", desk.mountpoint)


def test_a_device_that_is_held_is_not_ejected(desk: Desk) -> None:
    device = desk.attach("ram:8M")
    holder = os.open(device, os.O_RDWR | os.O_EXCL)
    try:
        _, line = desk.refused("eject", device)
        assert f"{device} is in use: used by" in line and f"(pid {os.getpid()})" in line
    finally:
        os.close(holder)
    desk.userdisk("eject", device)


def test_the_last_flush_failing_is_told(desk: Desk) -> None:
    device = desk.attach(*desk.probe)
    desk.order("flush MediumError")
    status, line = desk.refused("eject", device)
    assert status == 1 and "is ejected, but" in line and "the last flush failed" in line
    assert desk.leftovers() == []


def test_a_flush_that_fails_after_a_signal_is_kept_for_list(desk: Desk) -> None:
    desk.attach(*desk.probe)
    pid = pid_of(desk)
    desk.order("flush MediumError")
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: desk.listed()[0]["status"] == "failed")
    wait_until(lambda: not desk.processes())
    assert desk.leftovers() == ["state Probe"]
    assert "the last flush failed" in desk.userdisk("list")
    desk.userdisk("eject", "Probe")
    assert desk.leftovers() == []


def test_a_unit_that_does_not_stop(desk: Desk) -> None:
    device = desk.attach(*desk.probe)
    desk.order("flush 60")
    _, line = desk.refused("eject", device, "--timeout", "1")
    assert "is still writing after 1 s" in line
    result = desk.run("eject", device, "--force", "--timeout", "1")
    assert "unwritten data is lost" in result.stderr
    assert desk.leftovers() == []


@requires("losetup")
def test_the_process_ends_when_somebody_else_detaches(desk: Desk) -> None:
    device = desk.attach("ram:8M")
    subprocess.run(["losetup", "-d", device], check=True)
    wait_until(lambda: desk.leftovers() == [])


def test_what_is_not_attached_cannot_be_ejected(desk: Desk) -> None:
    for target in ("/dev/null", "nothing", desk.folder):
        status, line = desk.refused("eject", target)
        assert status == 2 and f"{target}: no disk of userdisk is attached there" in line


def test_without_root_or_devices_it_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from userdisk import attach
    from userdisk.attach import fuse_loop
    from userdisk.errors import UserdiskError

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(fuse_loop, "_FUSE", tmp_path / "fuse")
    monkeypatch.setattr(loop, "CONTROL", tmp_path / "loop-control")
    with pytest.raises(UserdiskError) as caught:
        attach.choose()
    for lack in ("root (try sudo)", "modprobe fuse", "modprobe loop"):
        assert lack in str(caught.value)
