"""The console before a real launcher: what is passed on, streams, and a launcher that goes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.console.serving import PROGRAM, Browser, Console, console_in, token_of, until
from tests.launcher.system.service import Service, service_in
from userdisk.launcher.client import Client


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with service_in(tmp_path, monkeypatch) as found:
        found.write("ram", 'unit = "ram:%1"\ndescription = "Memory"')
        found.start()
        yield found


@pytest.fixture
def console(service: Service) -> Iterator[Console]:
    with console_in(service.stable.folder) as found:
        yield found


def _start(browser: Browser, name: str) -> dict[str, Any]:
    got = browser.ask(
        "POST", "/api/v1/instances", {"class": "ram", "name": name, "arguments": ["1M"]}
    )
    assert got.status == 201, got.body
    answer: dict[str, Any] = got.json
    return answer


def test_the_life_of_a_disk(service: Service, console: Console) -> None:
    browser, client = console.browser(), Client()
    assert browser.ask("GET", "/api/v1/service").json == client.get("/v1/service")
    assert browser.ask("GET", "/api/v1/classes").json == client.get("/v1/classes")
    name = "a/b c%2F?x=1#é"
    id_ = _start(browser, name)["id"]
    (listed,) = browser.ask("GET", "/api/v1/instances").json["instances"]
    assert (listed["id"], listed["name"], listed["state"]) == (id_, name, "running")
    path = f"/api/v1/instances/{id_}"
    assert browser.ask("GET", path).json["arguments"] == ["1M"]
    assert browser.ask("GET", "/api/v1/instances?name=other").json == {"instances": []}
    log = browser.ask("GET", f"{path}/log?lines=1000")
    assert log.status == 200 and log.headers["Content-Type"].startswith("text/plain")
    units = browser.ask("GET", f"{path}/stats").json["units"]
    together = browser.ask("GET", "/api/stats").json
    assert list(together["instances"]) == [id_]
    assert together["instances"][id_].keys() == units.keys() and len(units) == 1
    assert browser.ask("GET", "/api/metrics").body.startswith(b"#")
    mounted = browser.ask("POST", f"{path}/mount", {"folder": ""})
    assert mounted.status in (409, 422, 500) and mounted.json["error"], "it has no device"
    assert browser.ask("DELETE", f"{path}?timeout=5&force=true").json == {"remarks": []}
    assert browser.ask("GET", "/api/stats").json == {"instances": {}}


def test_problems_are_the_launchers(service: Service, console: Console) -> None:
    browser = console.browser()
    _start(browser, "one")
    cases = [
        ("GET", "/api/v1/instances/nope", None, 404),
        ("GET", "/api/v1/instances/..%2F..%2Fservice", None, 404),
        ("GET", "/api/v1/instances?pid=x", None, 422),
        ("POST", "/api/v1/instances", b"{", 400),
        ("POST", "/api/v1/instances", {"class": "ram"}, 422),
        ("POST", "/api/v1/instances", {"class": "ram", "name": "one", "arguments": ["1M"]}, 409),
        ("DELETE", "/api/v1/instances/nope", None, 404),
        ("DELETE", "/api/v1/instances/ram.one?timeout=nan", None, 422),
    ]
    for method, path, body, status in cases:
        got = browser.ask(method, path, body)
        assert (got.status, got.headers["Content-Type"]) == (status, "application/json"), path
        assert got.json["error"]
    assert browser.ask("GET", "/api/v1/instances/ram.one").json["state"] == "running"
    assert browser.ask("DELETE", "/api/v1/instances/ram.one").status == 200


class Events:
    """The event stream of a browser."""

    def __init__(self, browser: Browser) -> None:
        self._connection = browser.send("GET", "/api/v1/events")
        self._response = self._connection.getresponse()
        self.status = self._response.status

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *error: object) -> None:
        self._response.close()
        self._connection.close()

    def line(self) -> str:
        """The next; empty at the end."""
        with contextlib.suppress(http.client.IncompleteRead, ConnectionResetError):
            while line := self._response.readline().decode():
                if line.strip():
                    return line
        return ""


def test_events_until_the_launcher_ends_and_again(service: Service, console: Console) -> None:
    browser = console.browser()
    with Events(browser) as events:
        assert events.line().startswith(": ")
        service.cli("start", "ram", "one", "1M")
        data = json.loads(events.line().partition("data: ")[2])
        assert data["instance"]["name"] == "one"
        assert service.stop(signal.SIGKILL) != 0
        while events.line():
            pass
    with Events(browser) as events:
        assert events.status == 502
    assert "no launcher at" in browser.ask("GET", "/api/v1/instances").json["error"]
    assert browser.ask("GET", "/").status == 200
    service.start()
    with Events(browser) as events:
        assert events.line().startswith(": ")
        assert [each["name"] for each in browser.ask("GET", "/api/v1/instances").json["instances"]]
        browser.ask("DELETE", "/api/v1/instances/ram.one")
        assert events.line().startswith("data: ")
        assert console.stop() == 0, "a stream does not keep it"


def test_streams_are_bounded_and_end_with_their_session(service: Service, console: Console) -> None:
    browser, other = console.browser(), console.browser()
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Events(browser)) for _ in range(15)]
        kept = stack.enter_context(Events(other))
        assert {each.status for each in [*streams, kept]} == {200}
        got = other.ask("GET", "/api/v1/events")
        assert got.status == 503 and "16 listen" in got.json["error"]
        assert other.ask("GET", "/api/v1/service").status == 200
        assert browser.ask("POST", "/logout").status == 204
        for each in streams:
            while each.line():
                pass
        assert kept.line().startswith(": ")
        until(lambda: _listens(other))
    until(lambda: _listens(other))


def _listens(browser: Browser) -> bool:
    with Events(browser) as events:
        return events.status == 200


def test_who_leaves_makes_room(service: Service, console: Console) -> None:
    browser = console.browser()
    for _ in range(40):
        until(lambda: _listens(browser))


def test_a_log_is_followed(service: Service, console: Console) -> None:
    browser = console.browser()
    _start(browser, "one")
    connection = browser.send("GET", "/api/v1/instances/ram.one/log?follow=true&lines=0")
    response = connection.getresponse()
    assert response.status == 200
    browser.ask("DELETE", "/api/v1/instances/ram.one")
    response.read()
    connection.close()


def test_statistics_of_those_that_answer(service: Service, console: Console) -> None:
    browser = console.browser()
    ids = [_start(browser, f"disk{number}")["id"] for number in range(3)]
    stopped = browser.ask("GET", f"/api/v1/instances/{ids[1]}").json["unit_pid"]
    os.kill(stopped, signal.SIGSTOP)
    try:
        found = browser.ask("GET", "/api/stats").json["instances"]
        assert sorted(found) == [ids[0], ids[2]]
    finally:
        os.kill(stopped, signal.SIGCONT)
    for id_ in ids:
        assert browser.ask("DELETE", f"/api/v1/instances/{id_}").status == 200


def test_a_launcher_that_hangs_keeps_nobody(service: Service, console: Console) -> None:
    browser = console.browser()
    assert service.process is not None
    os.kill(service.process.pid, signal.SIGSTOP)
    try:
        hanging = [
            browser.send("GET", "/api/v1/instances"),
            browser.send("DELETE", "/api/v1/instances/ram.one?timeout=86400"),
            browser.send("POST", "/api/v1/instances", {"class": "ram", "name": "x"}),
            browser.send("GET", "/api/v1/events"),
        ]
        assert browser.ask("GET", "/session").status == 200
        assert browser.ask("GET", "/").status == 200
        assert console.stop() == 0
        for each in hanging:
            each.close()
    finally:
        os.kill(service.process.pid, signal.SIGCONT)
    assert console.log.read_text() == ""


# -- as a child of the service -------------------------------------------------------------------


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with service_in(tmp_path, monkeypatch) as found:
        yield found


def _at(client: Client) -> str:
    return str(client.get("/v1/service")["console"])


def _link() -> str:
    done = subprocess.run([*PROGRAM, "--json"], capture_output=True, check=True, timeout=60)
    return str(json.loads(done.stdout)["url"])


def _consoles(service: Service) -> list[int]:
    return [
        pid
        for pid, words in service.stable.processes().items()
        if " console " in words and sys.executable in words
    ]


def test_the_service_has_one_beside_it(stopped: Service) -> None:
    client = stopped.start("--console")
    stopped.stable.until(lambda: _at(client))
    assert _at(client).startswith("http://127.0.0.1:") and "#" not in _at(client)
    url = _link()
    assert url.startswith(_at(client))
    browser = Browser(int(url.split(":")[2].partition("/")[0]))
    assert browser.login(token_of(url)).status == 204
    assert browser.ask("GET", "/api/v1/service").json["console"] == _at(client)
    (pid,) = _consoles(stopped)
    os.kill(pid, signal.SIGKILL)
    stopped.stable.until(lambda: len(_consoles(stopped)) == 1 and _consoles(stopped) != [pid])
    stopped.stable.until(lambda: _at(client))
    assert stopped.stop() == 0
    stopped.stable.until(lambda: not _consoles(stopped))
    log = stopped.log.read_text()
    assert "login of" in log and "login=" not in log and token_of(url) not in log


def test_it_ends_with_a_service_that_is_killed(stopped: Service) -> None:
    client = stopped.start("--console", "127.0.0.1")
    stopped.stable.until(lambda: _at(client))
    stopped.stop(signal.SIGKILL)
    stopped.stable.until(lambda: not _consoles(stopped))
    client = stopped.start("--console=127.0.0.1:0")
    stopped.stable.until(lambda: _at(client))
    assert stopped.stop() == 0


def test_none_without_the_option_and_none_for_others(stopped: Service) -> None:
    client = stopped.start()
    assert _at(client) == "" and not _consoles(stopped)
    assert stopped.stop() == 0
    said = stopped.cli("launcher", "run", "--console", "0.0.0.0", status=2)
    assert "--console 0.0.0.0: must be an address of this machine" in said


def test_systemd_starts_it_with_one(stopped: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(stopped.stable.folder))
    unit = stopped.stable.folder / "systemd/user/userdisk-launcher.service"
    for words, option in (((), ""), (("--console", "127.0.0.1:8123"), " --console=127.0.0.1:8123")):
        stopped.cli("launcher", "install", "--user", *words)
        (line,) = re.findall("ExecStart=.*", unit.read_text())
        assert line.endswith(f"launcher run{option}")
    said = stopped.cli("launcher", "install", "--user", "--console", "192.0.2.1:1", status=2)
    assert "must be an address of this machine alone" in said
