"""With CI set, skipping for a missing program fails the run; for the machine it does not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.skipif(True, reason="needs qemu-io")
def test_mark(): ...

def test_call():
    pytest.skip("needs tgtd")

@pytest.mark.skipif(True, reason="not root")
def test_machine(): ...
"""
MODULE = 'import pytest\npytest.skip("needs fio", allow_module_level=True)\n'


@pytest.mark.parametrize(
    ("environment", "status", "counts"),
    [
        ({}, 0, {"skipped": 4}),
        ({"CI": "true"}, 1, {"skipped": 1, "failed": 1, "errors": 2}),
    ],
)
def test_missing_programs_fail_in_ci(
    tmp_path: Path, environment: dict[str, str], status: int, counts: dict[str, int]
) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)
    inherited = {key: value for key, value in os.environ.items() if key != "CI"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors",
         "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
        env=inherited | environment, capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    last_line = done.stdout.strip().splitlines()[-1]
    found = {name: int(count) for count, name in re.findall(r"(\d+) (\w+)", last_line)}
    assert (done.returncode, found) == (status, counts), done.stdout
