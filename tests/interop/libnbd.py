"""Scripts for libnbd: only the system's own Python has it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PYTHON = "/usr/bin/python3"

NEEDS_LIBNBD = pytest.mark.skipif(
    not Path(PYTHON).exists()
    or subprocess.run([PYTHON, "-c", "import nbd"], capture_output=True).returncode,
    reason="needs python3-libnbd",
)

# `fails` checks a call that must fail, and its errno; `each` are the URIs.
_START = """
import errno, nbd, sys
each = sys.argv[1:]
def fails(number, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except nbd.Error as error:
        got = error.errnum
        assert got == number, (call.__name__, arguments[-2:], options, error)
    else:
        raise AssertionError((call.__name__, arguments[-2:], options, "did not fail"))
"""


def libnbd(script: str, *arguments: str) -> str:
    """Run a script with its arguments (URIs); what it printed. Fails as the script does."""
    done = subprocess.run(
        [PYTHON, "-c", _START + script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
