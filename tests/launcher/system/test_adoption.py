"""The service is killed while a start or a stop is half done; the next one ends what it began."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from tests.launcher.kit import UNITS
from tests.launcher.system.service import Service, service_in
from tests.launcher.system.test_service import switch_off
from userdisk.errors import UserdiskError
from userdisk.launcher import places, saved, shims
from userdisk.launcher.client import Client, Failed, instance_path

ONE = instance_path("obedient.one")


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with service_in(tmp_path, monkeypatch) as found:
        found.write(
            "obedient",
            f'unit = "{UNITS}:Obedient"\npersistent = true\n'
            f'[options]\noption = ["folder={tmp_path}"]',
        )
        yield found


def order(service: Service, text: str) -> None:
    (service.stable.folder / "orders").write_text(text)


def command(*words: str) -> subprocess.Popen[bytes]:
    """`userdisk`, which nobody waits for."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "userdisk", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def state(id_: str = "obedient.one") -> str:
    """What the API says; nothing: there is none."""
    try:
        return str(Client().get(instance_path(id_))["state"])
    except Failed as error:
        assert error.status == 404, error
        return ""


def remembered() -> list[str]:
    return [each.id for each in saved.load()[0]]


def test_killed_while_a_disk_starts(service: Service) -> None:
    service.start()
    order(service, "open 4")
    starter = command("start", "obedient", "one")
    service.stable.until(lambda: state() == "starting" and Client().get(ONE)["pid"])
    service.stop(signal.SIGKILL)
    assert starter.wait(60) == 1 and remembered() == []
    order(service, "")
    service.start()
    service.stable.until(lambda: state() == "running" and remembered() == ["obedient.one"])
    switch_off(service)
    service.start()
    service.stable.until(lambda: state() == "running")
    service.cli("stop", "obedient", "one")
    assert remembered() == []


def test_killed_while_a_disk_stops(service: Service) -> None:
    service.start()
    service.cli("start", "obedient", "one")
    assert remembered() == ["obedient.one"]
    order(service, "close 4")
    stopper = command("stop", "obedient", "one")
    service.stable.until(lambda: state() == "stopping")
    service.stop(signal.SIGKILL)
    assert stopper.wait(60) == 1
    service.start()
    service.stable.until(lambda: state() == "")
    assert remembered() == [] and shims.running() == []
    service.stop()
    service.start()
    assert state() == "" and remembered() == []


@pytest.mark.parametrize("lost", [("status.json",), ("status.json", "spec.json")])
def test_killed_before_the_shim_says_anything(service: Service, lost: tuple[str, ...]) -> None:
    """A folder that nobody has makes room."""
    service.start()
    service.cli("start", "obedient", "one")
    switch_off(service)
    for name in lost:
        (places.instance_folder("obedient.one") / name).unlink()
    service.start()
    service.stable.until(lambda: state() == "running", 90)
    service.cli("stop", "obedient", "one")


def test_a_disk_that_cannot_be_stopped_is_still_remembered(service: Service) -> None:
    client = service.start()
    service.cli("start", "obedient", "one")
    order(service, "flush hang")
    folder = places.instance_folder("obedient.one")
    (folder / "shim").rename(folder / "away")
    with pytest.raises(UserdiskError):
        client.call("DELETE", ONE)
    (folder / "away").rename(folder / "shim")
    assert remembered() == ["obedient.one"]
    order(service, "")
    service.cli("stop", "obedient", "one")


def test_who_starts_without_waiting_can_ask_and_stop_at_once(service: Service) -> None:
    client = service.start()
    order(service, "open 2")
    body = {"class": "obedient", "name": "one", "wait": False}
    assert client.call("POST", "/v1/instances", body=body)["state"] == "starting"
    assert client.get(ONE)["state"] == "starting"
    assert [each["id"] for each in client.get("/v1/instances")["instances"]] == ["obedient.one"]
    with pytest.raises(Failed, match="already") as caught:
        client.call("POST", "/v1/instances", body=body)
    assert caught.value.status == 409
    client.call("DELETE", ONE)
    service.stable.until(lambda: state() == "" and shims.running() == [])
    assert remembered() == []


def test_two_stops_and_a_start_of_one_that_stops(service: Service) -> None:
    client = service.start()
    service.cli("start", "obedient", "one")
    order(service, "close 4")
    stopper = command("stop", "obedient", "one")
    service.stable.until(lambda: state() == "stopping")
    for method, path, body in (
        ("DELETE", ONE, None),
        ("POST", "/v1/instances", {"class": "obedient", "name": "one"}),
    ):
        with pytest.raises(Failed) as caught:
            client.call(method, path, body=body)
        assert caught.value.status == 409, (method, str(caught.value))
    assert stopper.wait(60) == 0 and remembered() == []
    with pytest.raises(Failed, match="no such disk"):
        client.call("DELETE", ONE)
