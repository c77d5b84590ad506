"""launcher/verbs.py: mounting and unmounting a disk that stays attached."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.requires import requires
from tests.launcher.kit import Stable, attached, needs_devices
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import places, shims
from userdisk.launcher.spec import State

pytestmark = requires("mkfs.ext4")


def ask(verb: str, /, **fields: object) -> dict[str, Any]:
    return shims.ask(places.instance_folder("test.disk"), verb, 120, **fields)


def formatted(stable: Stable) -> Path:
    image = stable.image(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, timeout=120)
    return image


@contextmanager
def holding(place: Path) -> Iterator[int]:
    holder = subprocess.Popen(["sleep", "600"], cwd=place)
    try:
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


def test_mount_and_unmount(stable: Stable) -> None:
    needs_devices()
    place = stable.folder / "a place"
    status = stable.start(stable.spec(str(formatted(stable)), attach=attached()))
    assert status.state is State.RUNNING and status.mountpoints == ()
    assert ask("mount", folder=str(place)) == {"mountpoints": [str(place)]}
    assert place.is_mount() and stable.status().mountpoints == (str(place),)
    (place / "kept").write_text("x")
    with pytest.raises(UserdiskError, match=f"it is mounted already, on {place}"):
        ask("mount", folder=str(stable.folder / "elsewhere"))
    assert ask("unmount") == {"mountpoints": [], "remarks": []}
    now = stable.status()
    assert not place.exists() and now.mountpoints == () and now.state is State.RUNNING
    assert now.device == status.device and now.attach_pid == status.attach_pid
    with pytest.raises(UsageError, match="it is not mounted"):
        ask("unmount")
    ask("mount", folder=str(place))
    assert (place / "kept").read_text() == "x"
    stable.stop()
    assert not place.exists()


def test_what_is_in_use_is_not_unmounted_but_by_force(stable: Stable) -> None:
    needs_devices()
    place = stable.folder / "mnt"
    stable.start(stable.spec(str(formatted(stable)), attach=attached(mount=str(place))))
    with holding(place) as pid:
        with pytest.raises(UserdiskError, match=rf"is busy: used by sleep \(pid {pid}\)"):
            ask("unmount")
        assert place.is_mount() and stable.status().mountpoints == (str(place),)
        answer = ask("unmount", force=True)
        assert answer["mountpoints"] == [] and f"(pid {pid})" in answer["remarks"][0]
        assert stable.status().mountpoints == () and stable.status().device
    stable.stop()


def test_a_mount_that_works_mends_one_that_did_not(stable: Stable) -> None:
    needs_devices()
    place = stable.folder / "mnt"
    status = stable.start(
        stable.spec(str(stable.image(64 << 20)), attach=attached(mount=str(place)))
    )
    assert status.state is State.DEGRADED and not place.exists()
    with pytest.raises(UsageError, match="the disk is blank"):
        ask("mount", folder=str(place))
    assert stable.status() == status and not place.exists()
    subprocess.run(["mkfs.ext4", "-q", "-F", status.device], check=True, timeout=120)
    ask("mount", folder=str(place))
    mended = stable.status()
    assert mended.state is State.RUNNING and mended.last_error == "" and place.is_mount()
    stable.stop()


def test_what_somebody_else_has_unmounted_or_mounted(stable: Stable) -> None:
    needs_devices()
    place, other = stable.folder / "mnt", stable.folder / "other"
    other.mkdir()
    status = stable.start(stable.spec(str(formatted(stable)), attach=attached(mount=str(place))))
    subprocess.run(["umount", str(place)], check=True, timeout=60)
    assert stable.wait(lambda now: now.mountpoints == ()).state is State.RUNNING
    subprocess.run(["mount", status.device, str(other)], check=True, timeout=60)
    stable.wait(lambda now: now.mountpoints == (str(other),))
    with pytest.raises(UserdiskError, match=f"it is mounted already, on {other}"):
        ask("mount", folder=str(place))
    ask("unmount")
    assert not other.is_mount() and stable.status().mountpoints == ()
    stable.stop()


def test_without_a_device(stable: Stable) -> None:
    stable.start(stable.spec(str(stable.image(1 << 20))))
    for verb in ("mount", "unmount"):
        with pytest.raises(UsageError, match="it has no device now"):
            ask(verb, folder="/mnt/nowhere")
    for folder in (None, 7, "", "relative", "/with\0zero"):
        with pytest.raises(UsageError, match="folder: must be an absolute path"):
            ask("mount", folder=folder)
    stable.stop()
