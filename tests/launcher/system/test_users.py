"""An instance that runs as somebody else: the unit's code has none of root's rights."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import userdisk
from tests.launcher.kit import Stable, attached, needs_devices
from userdisk import control
from userdisk.launcher.confinement import Confinement
from userdisk.launcher.spec import Limits

PYTHON = "/usr/bin/python3"  # that of the tests may be where nobody else can read
SOURCES = Path(userdisk.__file__).parents[1]


def test_a_unit_of_another_user(stable: Stable, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getuid() != 0:
        pytest.skip("only root becomes somebody else")
    needs_devices()
    monkeypatch.setenv("PYTHONPATH", str(SOURCES))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.chdir("/")
    tries = Confinement(Limits(), "nobody", "x").command([PYTHON, "-P", "-c", "import userdisk"])
    if subprocess.run(tries, capture_output=True, check=False).returncode:
        pytest.skip(f"nobody but root can run {PYTHON} with userdisk on this machine")
    own = sys.executable  # it has the command line's package
    monkeypatch.setattr(sys, "executable", PYTHON)
    given = stable.spec("ram:8M", user="nobody", attach=attached(), limits=Limits(memory=1 << 30))
    status = stable.start(given)
    words = Path(f"/proc/{status.unit_pid}/status").read_text().split("\n")
    ids = {line.split()[0]: line.split()[1:] for line in words if line.startswith(("Uid", "CapE"))}
    nobody = Path(f"/proc/{status.unit_pid}").stat().st_uid
    assert nobody != 0 and ids["Uid:"] == [str(nobody)] * 4 and int(ids["CapEff:"][0], 16) == 0
    assert Path(f"/proc/{status.attach_pid}").stat().st_uid == 0
    with open(status.device, "r+b", buffering=0) as device:
        device.write(b"x" * 4096)
        os.fsync(device.fileno())
    # It answers on a control socket of its own user, where root may ask.
    assert str(nobody) in status.control or "/run/user" in status.control
    assert control.ask(Path(status.control), {"verb": "stats"}, 30)["units"]
    # Its device is resized all the same, by root.
    resize = [own, "-P", "-m", "userdisk", "resize", status.device, "16M"]
    done = subprocess.run(resize, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    stable.wait(lambda now: now.size == 16 << 20)
    sectors = Path("/sys/block", Path(status.device).name, "size")
    assert int(sectors.read_text()) == 32 << 10
    assert stable.stop()["failed"] == ""
    assert not Path(status.control).exists()
    for folder in list(Path(status.control).parents)[:2]:
        with contextlib.suppress(OSError):  # others use it, too
            folder.rmdir()
