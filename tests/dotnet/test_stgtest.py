"""stgtest on rawdisk in C#, behind its pipe: WinSpd's scenarios, also with many under way."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dotnet.test_end_to_end import KINDS
from tests.dotnet.test_rawdisk import rawdisk
from tests.kit.requires import requires

pytestmark = requires("mcs", "mono", "make")

_MIX = {"cc": "WRUR", "nc": "WRUR", "nu": "WR"}


@pytest.mark.parametrize("depth", [1, 32])
@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_operations(built: Path, tmp_path: Path, kind: str, depth: int) -> None:
    with rawdisk(built, tmp_path, *KINDS[kind], blocks=65536) as disk:
        command = [sys.executable, "-m", "userdisk", "stgtest", "-s", "20", "--depth", str(depth)]
        command += [f"spd:{disk.path}", "10000", _MIX[kind], "*", "*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "OK"
        assert disk.stop(signal.SIGTERM) == (0, "", "")
