"""The command as a whole: help, versions, and errors of one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def userdisk(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "userdisk", *arguments],
        env=os.environ | (environment or {}), capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip


def test_help_lists_every_command() -> None:
    done = userdisk("--help")
    assert done.returncode == 0 and done.stderr == ""
    for command in ("serve", "attach", "mount", "eject", "list"):
        assert f"\n  {command} " in done.stdout


def test_without_arguments_it_explains_itself() -> None:
    done = userdisk()
    assert done.returncode == 2 and "Usage: userdisk" in done.stderr


def test_version() -> None:
    done = userdisk("--version")
    assert done.returncode == 0 and done.stdout.split()[0] == "userdisk"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["xyzzy"], "no such command 'xyzzy' (see userdisk --help)"),
        (["--bogus"], "(see userdisk --help)"),
        (["serve"], "missing argument 'UNIT...' (see userdisk serve --help)"),
        (["serve", "ram:1M", "--sise", "1"], "--sise"),
        (["attach", "ram:1M", "--removable"], "--removable"),  # only an initiator can eject it
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], says: str) -> None:
    done = userdisk(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("userdisk: ") and done.stderr.count("\n") == 1
    assert says in done.stderr


def test_without_click_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'click'\", name='click')\n"
    )
    done = userdisk("--help", environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr == (
        "userdisk: the command line needs the package click: pip install 'userdisk[cli]'\n"
    )


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -m userdisk serve --help | true', sys.executable],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""


def test_ctrl_c_while_it_starts_is_one_line(tmp_path: Path) -> None:
    """Importing takes a while where the machine is slow; here it sends the signal itself."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = userdisk("serve", "ram:1M", environment={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "userdisk: interrupted\n")
