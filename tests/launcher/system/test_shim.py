"""launcher/shim.py: one instance from its start to its end, and what is said of it."""

from __future__ import annotations

import os

from tests.launcher.kit import Stable, attached, needs_devices
from userdisk.launcher.spec import State


def test_an_image_from_start_to_stop(stable: Stable) -> None:
    image = stable.image(8 << 20)
    status = stable.start(stable.spec(str(image)))
    assert status.state is State.RUNNING and status.size == 8 << 20 and status.block_length == 512
    assert stable.status() == status
    assert len({status.pid, status.unit_pid, os.getpid()}) == 3
    answer = stable.stop()
    assert answer["failed"] == "" and answer["remarks"] == []


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
