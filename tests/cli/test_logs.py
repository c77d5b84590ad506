"""`-v` and `--log-format json`: on every command, before and after the word."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from datetime import datetime

import pytest

from tests.cli.serving import LIMIT, serving
from userdisk.cli.commands import _MODULES
from userdisk.initiator_client import Initiator
from userdisk.initiator_url import parse_url, settings_for
from userdisk.log_format import JsonLines


def userdisk(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "userdisk", *arguments],
        capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip


@pytest.mark.parametrize("command", list(_MODULES))
def test_every_command_has_both(command: str) -> None:
    done = userdisk(command, "--help")
    assert done.returncode == 0
    assert done.stdout.count("--verbose") == 1
    assert done.stdout.count("--log-format") == 1


def test_connections_are_objects() -> None:
    with serving("ram:1M", "-v", "--log-format", "json") as server:
        url = parse_url(server.urls[0])
        with Initiator(("127.0.0.1", server.port), settings_for(url)) as initiator:
            initiator.capacity()
        status, _, err = server.stop()
    assert status == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert any("127.0.0.1" in line["message"] for line in lines)
    for line in lines:
        assert set(line) == {"time", "level", "logger", "message"}
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None
        assert line["level"] == "info"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--log-format", "json", "resize", "no-such-disk", "1M"),
        ("resize", "--log-format", "json", "no-such-disk", "1M"),
    ],
)
def test_an_error_is_an_object_too(arguments: tuple[str, ...]) -> None:
    done = userdisk(*arguments)
    assert done.returncode == 1
    found = json.loads(done.stderr)
    assert (found["level"], found["logger"]) == ("error", "userdisk")
    assert found["message"].startswith("no-such-disk: no running")


@pytest.mark.parametrize("group", ["launchctl", "desktop", "scsitool"])
def test_a_missing_word_is_an_object_too(group: str) -> None:
    done = userdisk("--log-format", "json", group)
    assert done.returncode == 2
    assert f"userdisk {group} --help" in json.loads(done.stderr)["message"]


def test_warnings_and_remarks_are_objects_too() -> None:
    with serving(
        "ram:1M", "--log-format", "json", "--listen", "0.0.0.0:0", "--nbd", "0.0.0.0:0"
    ) as server:
        status, _, err = server.stop()
    assert status == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert ["anyone who reaches" in line["message"] for line in lines] == [True, True]


def test_an_exception_stays_on_its_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord(
            "userdisk", logging.ERROR, "", 1, "unit %s", ("disk",), sys.exc_info()
        )
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "unit disk"
    assert "ValueError: two\nlines" in json.loads(line)["exception"]


def test_an_unknown_form_is_a_usage_error() -> None:
    done = userdisk("--log-format", "xml", "list")
    assert done.returncode == 2
    assert "json" in done.stderr
