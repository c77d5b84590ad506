"""Fuzz alone reaches most of the protocol: what it does not reach, it does not test."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

_MINIMUM = 75  #: percent, with few inputs; `make fuzz` has more of both


@pytest.mark.timeout(600)
def test_fuzz_reaches_the_protocol() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.iscsi.fuzz_coverage", str(_MINIMUM)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FUZZ_EXAMPLES": "30"},
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "line coverage of userdisk.iscsi by fuzz alone" in done.stdout
