"""Fuzz alone reaches most of the protocol: what it does not reach, it does not test."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("part", "minimum"),  # percent, with few inputs; `make fuzz` has more of both
    [("iscsi", 75), ("target", 85)],
)
def test_fuzz_reaches_the_protocol(part: str, minimum: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz_coverage", part, str(minimum)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FUZZ_EXAMPLES": "30", "FUZZ_COMMANDS": "20000"},
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"line coverage of userdisk.{part} by fuzz alone" in done.stdout
