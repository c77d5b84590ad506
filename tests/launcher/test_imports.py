"""The processes of a disk start soon: what takes long to load, and is not needed, stays out."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"asyncio", "click", "msgspec", "ssl", "tempfile", "unittest", "uvicorn", "http.client"}


@pytest.mark.parametrize(
    ("module", "more"),
    [
        # The shim starts the unit's process with no more than this.
        ("userdisk.launcher.shim", {"logging", "ctypes", "uuid", "userdisk.control"}),
        ("userdisk.launcher.attaching", {"uuid", "userdisk.unit", "userdisk.launcher.spec"}),
        ("userdisk.cli.instance", {"secrets", "userdisk.iscsi.connection", "userdisk.spd.pipe"}),
    ],
)
def test_what_stays_out(module: str, more: set[str]) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert module in loaded and loaded & (HEAVY | more) == set()


SERVES = """
import sys, time
from userdisk.server import Server
with Server([], listen=[("127.0.0.1", 0)]):
    late = "userdisk.iscsi.connection" not in sys.modules
    end = time.monotonic() + 50
    while "userdisk.iscsi.session" not in sys.modules and time.monotonic() < end:
        time.sleep(0.01)
    print(late, "userdisk.iscsi.session" in sys.modules)
"""


def test_what_comes_later_does_not_wait_for_a_client() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", SERVES], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["True", "True"] and done.stderr == ""
