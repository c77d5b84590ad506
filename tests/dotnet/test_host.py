"""Parameters, status values, partition tables and the life of a host, asked from C#."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.kit.requires import requires

pytestmark = requires("mcs", "mono", "make")


def test_what_needs_no_client(built: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["mono", str(built / "HostChecks.exe"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures" in done.stdout
    assert int(done.stdout.split()[0]) > 70


def test_an_init_that_makes_a_host_impossible_leaves_no_process(
    built: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        ["mono", str(built / "TestDisk.exe"), "memory", str(tmp_path / "s"), "blocks=0"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode != 0
    assert "BlockCount is 0" in done.stderr
    assert not list(tmp_path.iterdir())
