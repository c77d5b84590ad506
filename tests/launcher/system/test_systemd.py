"""The unit files, as systemd itself reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.kit.requires import requires
from userdisk.launcher import systemd

COMMAND = [sys.executable, "-P", "-m", "userdisk", "launcher", "run"]


@requires("systemd-analyze")
def test_systemd_understands_them(tmp_path: Path) -> None:
    for path, text in systemd.files(COMMAND, user=False).items():
        lines = text.splitlines(keepends=True)  # systemd before 254 complains, and goes on
        known = [line for line in lines if not line.startswith("DelegateSubgroup=")]
        (tmp_path / path.name).write_text("".join(known))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
         str(tmp_path / "userdisk-launcher.service")],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if "userdisk" in line]
    assert done.returncode == 0 and complaints == [], done.stderr
