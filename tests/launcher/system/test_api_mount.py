"""Mounting and unmounting over the API: by whom, and where."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from tests.kit.requires import requires
from tests.launcher.kit import needs_devices
from tests.launcher.system.service import Service, service_in
from tests.launcher.system.test_service import as_nobody
from userdisk.launcher.client import Client, Failed, instance_path

pytestmark = requires("mkfs.ext4")
MOUNT, UNMOUNT = (instance_path("dev.one", word) for word in ("/mount", "/unmount"))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    needs_devices()
    with service_in(tmp_path, monkeypatch) as found:
        found.write(
            "dev",
            'unit = "ram:64M"\nmay-stop = ["nobody"]\n'
            f'[attach]\nmount = "{tmp_path}/mnt/%n"\nformat = "ext4"',
        )
        found.start()
        found.cli("start", "dev", "one")
        yield found


def asked(path: str, **body: object) -> tuple[int, str]:
    """Status of a refusal and what it says; else 200 and where it is mounted."""
    try:
        return 200, " ".join(Client().call("POST", path, body=body)["mountpoints"])
    except Failed as error:
        return error.status, f"{error}{' (busy)' if error.busy else ''}"


def test_mount_and_unmount(service: Service) -> None:
    place = service.stable.folder / "mnt/one"
    assert place.is_mount()
    assert asked(MOUNT) == (409, f"dev.one: it is mounted already, on {place}")
    holder = subprocess.Popen(["sleep", "600"], cwd=place)
    try:
        status, said = asked(UNMOUNT)
        assert status == 409 and said.endswith("(busy)") and str(holder.pid) in said
        assert place.is_mount()
    finally:
        holder.kill()
        holder.wait()
    assert asked(UNMOUNT) == (200, "")
    assert not place.exists() and Client().get(instance_path("dev.one"))["device"]
    elsewhere = service.stable.folder / "elsewhere"
    assert asked(MOUNT, folder=str(elsewhere)) == (200, str(elsewhere))
    assert asked(UNMOUNT, force=True) == (200, "")
    assert asked(MOUNT, folder="elsewhere")[0] == asked(MOUNT, colour=1)[0] == 422
    assert asked(MOUNT) == (200, str(place)) and place.is_mount()
    service.cli("stop", "dev", "one")
    assert asked(MOUNT)[0] == asked(UNMOUNT)[0] == 404


def test_who_may_stop_it_mounts_it_where_the_class_says(service: Service) -> None:
    if os.getuid() != 0:
        pytest.skip("another user's request needs root")
    for path in (service.stable.folder, *service.stable.folder.parents):
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    place = service.stable.folder / "mnt/one"

    def ask() -> list[str]:
        return [
            str(asked(path, **body))
            for path, body in (
                (UNMOUNT, {}),
                (MOUNT, {"folder": "/etc"}),
                (MOUNT, {"folder": "/tmp"}),
                (MOUNT, {}),
                (UNMOUNT, {}),
            )
        ]

    unmounted, etc, tmp, mounted, again = as_nobody(ask)
    assert unmounted == again == "(200, '')" and mounted == f"(200, '{place}')"
    assert "403" in etc and f"may not mount dev.one on '/etc', only on {place}" in etc
    assert "403" in tmp and not Path("/etc").is_mount()
    assert "refused: user nobody may not mount dev.one on '/etc'" in service.log.read_text()
    service.write("dev", f'unit = "ram:64M"\n[attach]\nmount = "{service.stable.folder}/mnt/%n"')
    assert as_nobody(lambda: [str(asked(MOUNT)[0])]) == ["403"]
