"""launcher/standing.py: what is said of an instance while it runs, loses its device, and stops."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from userdisk.launcher import spec, standing
from userdisk.launcher.spec import State
from userdisk.launcher.standing import Standing

SERVING = (State.RUNNING, State.DEGRADED)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def one(tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch) -> Standing:
    monkeypatch.setattr(standing, "time", Clock())
    return Standing(tmp_path, notes.append)


def test_each_change_is_in_the_file(one: Standing, tmp_path: Path, notes: list[str]) -> None:
    assert (one.status.state, one.status.pid) == (State.STARTING, os.getpid())
    one.update(state=State.RUNNING, restarts=2)
    one.update(last_error="a line")
    found = spec.read_status(tmp_path)
    assert found == one.status
    assert (found.state, found.restarts, found.last_error) == (State.RUNNING, 2, "a line")
    assert one.as_json()["last_error"] == "a line" and notes == []


def test_since_is_the_last_change_of_state(one: Standing) -> None:
    began = one.status.since
    one.update(restarts=1)
    assert one.status.since == began
    one.update(state=State.RUNNING)
    running = one.status.since
    assert running > began
    one.update(state=State.RUNNING, restarts=2)
    assert (one.status.since, one.status.restarts) == (running, 2)


@pytest.mark.parametrize("state", State)
def test_a_stop_hides_what_comes_and_goes(one: Standing, state: State) -> None:
    one.update(state=State.STOPPING)
    stopping = one.status.since
    one.stopping = True
    one.update(state=state, restarts=7)
    hidden = state in (*SERVING, State.RESTARTING)
    assert one.status.state is (State.STOPPING if hidden else state)
    assert (one.status.since == stopping) is (hidden or state is State.STOPPING)
    assert one.status.restarts == 7


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("state", State)
def test_a_device_that_is_missing_degrades_what_serves(
    one: Standing, state: State, missing: bool
) -> None:
    one.update(state=state)
    one.update_device(missing=missing, device="/dev/loop7")
    now = State.DEGRADED if missing else State.RUNNING
    assert one.status.state is (now if state in SERVING else state)
    assert one.status.device == "/dev/loop7"


def test_a_stop_that_was_refused(one: Standing) -> None:
    one.update(state=State.DEGRADED)
    one.stopping = True
    one.update(state=State.STOPPING)
    one.back_to(State.DEGRADED)
    assert one.status.state is State.DEGRADED and not one.stopping
    one.update(state=State.RUNNING)
    assert one.status.state is State.RUNNING


def test_what_cannot_be_written_is_noted_and_known_all_the_same(
    one: Standing, tmp_path: Path, notes: list[str]
) -> None:
    tmp_path.rmdir()
    one.update(state=State.RUNNING)
    assert one.status.state is State.RUNNING
    assert notes == ["status.json: No such file or directory"]


def test_who_waits_for_a_change_is_woken(one: Standing) -> None:
    woken = threading.Event()

    def wait() -> None:
        with one.changed:
            ready.set()
            if one.changed.wait_for(lambda: one.status.state is State.RUNNING, 60):
                woken.set()

    ready = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    assert ready.wait(30)
    one.update(state=State.RUNNING)
    assert woken.wait(30)
    thread.join(30)
