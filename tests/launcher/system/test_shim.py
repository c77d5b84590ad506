"""launcher/shim.py: one instance from its start to its end, and what is said of it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from tests.kit.requires import requires
from tests.launcher.kit import Stable, attached, needs_devices
from userdisk import control
from userdisk.attach import state
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import places, shims, spec
from userdisk.launcher.spec import State


def test_an_image_from_start_to_stop(stable: Stable) -> None:
    image = stable.image(8 << 20)
    status = stable.start(stable.spec(str(image)))
    assert status.state is State.RUNNING and status.size == 8 << 20 and status.block_length == 512
    assert stable.status() == status
    folder = places.instance_folder("test.disk")
    assert spec.read_status(folder) == status and folder.stat().st_mode & 0o777 == 0o700
    assert len({status.pid, status.unit_pid, os.getpid()}) == 3
    assert os.getsid(status.pid) != os.getsid(0)
    assert [known.id for known, _ in shims.running()] == ["test.disk"]
    answer = stable.stop()
    assert answer["failed"] == "" and answer["remarks"] == []
    assert shims.running() == [] and shims.orphans() == []


def test_the_port_stays(stable: Stable) -> None:
    given = stable.spec(str(stable.image(1 << 20)))
    status = stable.start(given)
    known = spec.read_spec(places.instance_folder("test.disk"))
    assert known.port != 0 and status.portal == f"127.0.0.1:{known.port}"
    stable.stop()
    assert stable.start(known).portal == status.portal
    stable.stop()


def test_without_iscsi(stable: Stable) -> None:
    status = stable.start(stable.spec(str(stable.image(1 << 20)), iscsi=False))
    assert (status.portal, status.target) == ("", "") and status.nbd_uri.startswith("nbd+unix://")
    stable.stop()


def test_a_name_that_is_a_path(stable: Stable) -> None:
    image = str(stable.image(1 << 20, "ein Bild ä.img"))
    given = stable.spec(image, name=image)
    status = stable.start(given)
    assert status.target.startswith("iqn.") and " " not in status.target
    stable.stop(given.id)


def test_attached(stable: Stable) -> None:
    needs_devices()
    image = stable.image(8 << 20)
    status = stable.start(stable.spec(str(image), attach=attached()))
    assert status.state is State.RUNNING and status.device
    with open(status.device, "r+b", buffering=0) as device:
        device.write(b"x" * 4096)
        os.fsync(device.fileno())
    assert image.read_bytes()[:4096] == b"x" * 4096
    stable.stop()
    assert not Path(status.device).exists() or not loop_has_disk(status.device)


def loop_has_disk(device: str) -> bool:
    return int(Path("/sys/block", Path(device).name, "size").read_text()) > 0


@requires("mkfs.ext4")
def test_what_is_in_use_is_not_stopped_but_by_force(stable: Stable) -> None:
    needs_devices()
    place = stable.folder / "mnt"
    image = stable.image(64 << 20)
    given = stable.spec(str(image), attach=attached(mount=str(place), format="ext4"))
    before = stable.start(given)
    (place / "kept").write_text("x" * 1000)
    holder = subprocess.Popen(["sleep", "600"], cwd=place)
    try:
        with pytest.raises(UserdiskError, match=rf"is busy: used by sleep \(pid {holder.pid}\)"):
            stable.stop()
        assert stable.status().state is State.RUNNING and place.is_mount()
        assert stable.status().unit_pid == before.unit_pid
        answer = stable.stop(force=True)
        assert f"(pid {holder.pid})" in " ".join(answer["remarks"])
    finally:
        holder.kill()
        holder.wait()
    assert b"x" * 1000 in image.read_bytes()
    assert not place.exists()


@requires("mkfs.ext4")
def test_what_cannot_be_mounted_is_degraded(stable: Stable) -> None:
    needs_devices()
    image, place = stable.image(8 << 20), stable.folder / "mnt"
    status = stable.start(stable.spec(str(image), attach=attached(mount=str(place))))
    assert status.state is State.DEGRADED and "the disk is blank" in status.last_error
    assert status.device and status.mountpoints == () and status.portal
    stable.stop()


def test_a_lost_attaching_process_is_degraded(stable: Stable) -> None:
    needs_devices()
    status = stable.start(stable.spec(str(stable.image(8 << 20)), attach=attached()))
    os.kill(status.attach_pid, 9)
    degraded = stable.wait(lambda now: now.state is State.DEGRADED)
    assert degraded.device == "" and "attaching process has ended" in degraded.last_error
    assert degraded.unit_pid == status.unit_pid
    stable.stop(force=True)


def test_a_stop_while_it_waits_to_start_again(stable: Stable) -> None:
    policy = spec.Policy(first_delay=600.0, longest_delay=600.0)
    stable.start(stable.spec(str(stable.image(1 << 20)), policy=policy))
    stable.kill_unit()
    stable.wait(lambda now: now.state is State.RESTARTING)
    stable.stop()


def test_two_stops_at_once(stable: Stable) -> None:
    stable.start(stable.spec(str(stable.image(1 << 20))))
    folder = places.instance_folder("test.disk")
    said: list[str] = []

    def stop() -> None:
        try:
            shims.ask(folder, "stop", 60)
        except (UserdiskError, OSError) as error:
            said.append(str(error))

    threads = [threading.Thread(target=stop) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stable.wait_gone()
    assert len(said) == 2


def test_silent_clients_hold_nobody_up(stable: Stable) -> None:
    stable.start(stable.spec(str(stable.image(1 << 20))))
    folder = places.instance_folder("test.disk")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            silent = stack.enter_context(socket.socket(socket.AF_UNIX))
            with control.short(folder / "shim") as path:
                silent.connect(path)
        assert stable.status().state is State.RUNNING
        stable.stop()


def test_what_cannot_be_asked(stable: Stable) -> None:
    stable.start(stable.spec(str(stable.image(1 << 20))))
    folder = places.instance_folder("test.disk")
    with pytest.raises(UsageError, match="a request is one of status, stop"):
        shims.ask(folder, "none", 30)
    assert shims.ask(folder, "log", 30, lines="many")["lines"] == []
    assert shims.ask(folder, "log", 30, lines=-1)["lines"] == []
    stable.stop()
    with pytest.raises(OSError):
        shims.ask(folder, "status", 30)


def test_who_has_the_attachment_is_listed(stable: Stable) -> None:
    needs_devices()
    status = stable.start(stable.spec(str(stable.image(1 << 20)), attach=attached()))
    (folder,) = state.folders()
    record = folder.read()
    assert record is not None and record.pid == status.attach_pid
    assert str(record.device) == status.device
    stable.stop()
