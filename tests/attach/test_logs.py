"""`-v` and `--log-format json` reach the processes of an attached disk."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.attach.conftest import Desk


@pytest.mark.parametrize("form", ["json", "text"])
def test_both_processes_log_as_it_was_asked(desk: Desk, form: str) -> None:
    done = desk.run("-vv", "--log-format", form, "attach", *desk.probe)
    assert done.returncode == 0, done.stderr
    device = done.stdout.strip()
    desk.order("read bug")
    failed = subprocess.run(
        ["dd", f"if={device}", "of=/dev/null", "bs=4096", "count=1", "skip=77", "iflag=direct"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert failed.returncode != 0
    log = (desk.state / desk.listed()[0]["name"] / "log").read_text()
    desk.order("")
    desk.userdisk("eject", device)
    if form == "text":
        assert "ERROR" in log and "\nTraceback" in log and "ordered" in log
        return
    lines = [json.loads(line) for line in log.splitlines()]
    assert any("ZeroDivisionError: ordered" in line.get("exception", "") for line in lines)
    for line in done.stderr.splitlines():
        assert set(json.loads(line)) >= {"time", "level", "logger", "message"}
    assert "userdisk eject" in done.stderr
