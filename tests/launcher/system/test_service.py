"""The launcher's service, real: the commands, its death, rights, and requests that are wrong."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("uvicorn")

from tests.launcher.kit import needs_devices
from tests.launcher.system.service import Service, service_in
from userdisk import control
from userdisk.initiator_client import discover
from userdisk.iscsi.initiator_login import Settings
from userdisk.launcher import places, shims
from userdisk.launcher.client import Client, Failed, instance_path

PROGRAM = """
import json, os, sys, time
json.dump(sys.argv[1:], open(os.environ["OUT"], "w"))
import userdisk.cli.main
sys.exit(userdisk.cli.main.main(
    ["serve", "ram:1M", "--no-iscsi", "--pipe", os.environ["USERDISK_SOCKET"]]))
"""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with service_in(tmp_path, monkeypatch) as found:
        found.write("ram", 'unit = "ram:%1"\ndescription = "Memory"')
        found.write("img", 'unit = "%1"\nopens = [".img"]')
        yield found


def test_the_life_of_a_disk_by_the_commands(service: Service) -> None:
    client = service.start()
    assert service.cli("start", "ram", "one", "1M").startswith("ram one: running\n  iscsi://127.")
    info = service.cli("info", "ram", "one")
    assert "1 MiB, 512-byte blocks" in info and "running for" in info
    (one,) = client.get("/v1/instances")["instances"]
    assert (one["id"], one["state"], one["arguments"]) == ("ram.one", "running", ["1M"])
    assert service.cli("launchctl", "list") == "OK\nram one\n"
    assert service.cli("launchctl", "info", ".pid.", hex(one["unit_pid"])).startswith("OK\nram one")
    assert "there already" in service.cli("start", "ram", "one", "1M", status=1)
    assert service.cli("launchctl", "start", "ram", "one", "1M", status=1).startswith(
        "KO launcher: error 183\n"
    )
    assert json.loads(service.cli("start", "--json", "ram", "two", "2M"))["size"] == 2 << 20
    assert service.cli("stop", "ram", "one") == "ram one is stopped\n"
    assert service.cli("launchctl", "stopForced", "ram", "two") == "OK\n"
    assert "no such disk" in service.cli("stop", "ram", "one", status=2)
    assert "error 2\n" in service.cli("launchctl", "stop", "ram", "one", status=2)
    assert client.get("/v1/instances")["instances"] == []
    assert service.stop() == 0
    assert "no launcher answers" in service.cli("info", "ram", "one", status=1)


def test_a_disk_that_cannot_be_started_leaves_nothing(service: Service) -> None:
    client = service.start()
    said = service.cli("start", "img", "x", "/nowhere/disk.img", status=2)
    assert "/nowhere/disk.img" in said and said.count("\n") == 1
    assert "argument 1 is missing" in service.cli("start", "img", "x", status=2)
    assert "there is no" in service.cli("start", "nope", "x", status=2)
    service.write("bad", "unit = [")
    assert "bad.toml" in service.cli("start", "bad", "x", status=1)
    service.cli("start", "ram", "still", "1M")
    assert [each["name"] for each in client.get("/v1/instances")["instances"]] == ["still"]


def test_kill_the_service_and_its_disks_go_on(service: Service) -> None:
    service.start()
    service.cli("start", "ram", "one", "1M")
    before = shims.running()
    assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    ((spec, status),) = shims.running()
    with socket.create_connection((spec.host, spec.port), 10):
        pass
    client = service.start()
    (one,) = client.get("/v1/instances")["instances"]
    assert (one["name"], one["state"]) == ("one", "running")
    assert one["pid"] == status.pid == before[0][1].pid and one["unit_pid"] == status.unit_pid
    service.cli("stop", "ram", "one")


def test_persistent_disks_come_back_on_their_port(service: Service) -> None:
    service.write("img", 'unit = "%1"\npersistent = true')
    image = service.stable.image(1 << 20)
    client = service.start()
    service.cli("start", "img", "kept", str(image))
    service.cli("start", "ram", "lost", "1M")
    portal = client.get(instance_path("img.kept"))["portal"]
    switch_off(service)
    assert places.instance_folder("img.kept").exists()
    client = service.start()
    service.stable.until(
        lambda: [each["state"] for each in client.get("/v1/instances")["instances"]] == ["running"]
    )
    again = client.get(instance_path("img.kept"))
    assert again["portal"] == portal and again["name"] == "kept"
    service.cli("stop", "img", "kept")
    assert list((service.stable.folder / "state" / "instances").iterdir()) == []


def switch_off(service: Service) -> None:
    """Kill everything, as when the machine is switched off."""
    service.stop(signal.SIGKILL)
    for _, status in shims.running():
        for pid in (status.pid, status.unit_pid):
            os.kill(pid, signal.SIGKILL)
        service.stable.until(lambda pid=status.pid: not Path(f"/proc/{pid}").exists())  # type: ignore[misc]


@pytest.mark.parametrize("options", ["", '[options]\nsize = "2M"'])
def test_a_persistent_disk_that_was_resized_comes_back_as_large(
    service: Service, options: str
) -> None:
    service.write("new", f'unit = "%1"\npersistent = true\n{options}')
    client = service.start()
    service.cli("start", "new", "kept", str(service.stable.image(2 << 20)))
    service.cli("resize", "kept", "3M")
    service.stable.until(lambda: client.get(instance_path("new.kept"))["size"] == 3 << 20)
    switch_off(service)
    client = service.start()
    again = [("new.kept", "running", 3 << 20)]
    service.stable.until(
        lambda: (
            [
                (each["id"], each["state"], each["size"])
                for each in client.get("/v1/instances")["instances"]
            ]
            == again
        )
    )
    service.cli("stop", "new", "kept")


def test_a_second_service_says_so(service: Service) -> None:
    service.start()
    said = service.cli("launcher", "run", status=1)
    assert "a launcher runs already" in said
    service.cli("launchctl", "list")


def test_a_socket_of_a_killed_service_is_taken_over(service: Service) -> None:
    service.start()
    service.stop(signal.SIGKILL)
    assert (service.stable.folder / "run/launcher/api").exists()
    service.start()
    service.cli("launchctl", "list")


def test_argv(service: Service) -> None:
    out = service.stable.folder / "out"
    script = service.stable.folder / "program.py"
    script.write_text(PROGRAM)
    service.write(
        "program",
        f'program = ["{sys.executable}", "-P", "{script}", "%@"]\n'
        f'environment = {{ OUT = "{out}" }}',
    )
    service.start()
    arguments = [
        '"quoted"',
        "back\\slash",
        "new\nline",
        "--dash",
        "-",
        "",
        "%1",
        "$HOME `id`",
        "é\u2028",
    ]
    service.cli("start", "program", "-name with 'quotes'", *arguments)
    assert json.loads(out.read_text()) == arguments
    service.cli("stop", "program", "--", "-name with 'quotes'")


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(arguments=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=9))
def test_any_arguments_reach_the_spec(
    tmp_path_factory: pytest.TempPathFactory, arguments: list[str]
) -> None:
    """Through the API: JSON, the class and spec.json."""
    pytest.importorskip("msgspec")
    import msgspec

    from userdisk.launcher import spec
    from userdisk.launcher.classes import DiskClass
    from userdisk.launcher.rights import Caller
    from userdisk.launcher.types import Start

    body = json.dumps({"class": "x", "name": "y", "arguments": arguments}).encode()
    asked = msgspec.json.decode(body, type=Start)
    if any("\0" in each for each in arguments):
        return
    found = DiskClass(program=["prog", "%@"]).spec("x", "y", asked.arguments, Caller(0, 0))
    folder = tmp_path_factory.mktemp("spec")
    spec.write(folder, spec.SPEC, found)
    assert spec.read_spec(folder).program == ("prog", *arguments)


def ask_for_much() -> list[str]:
    """What user nobody is told."""
    client, said = Client(), []

    def call(method: str, path: str, **how: Any) -> None:
        try:
            said.append(str(client.call(method, path, **how)))
        except Failed as error:
            said.append(f"{error.status} {error}")

    call("GET", "/v1/instances")
    call("POST", "/v1/instances", body={"class": "ram", "name": "x", "arguments": ["1M"]})
    call("DELETE", instance_path("ram.roots"))
    call("GET", instance_path("ram.roots"))
    call("POST", "/v1/instances", body={"class": "open", "name": "mine"})
    said.append(str([each["name"] for each in client.get("/v1/instances")["instances"]]))
    call("DELETE", instance_path("open.mine"))
    return said


def as_nobody(work: Callable[[], list[str]]) -> list[str]:
    """Run `work` in a process of user nobody; the lines that it returns."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            user = pwd.getpwnam("nobody")
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            os.write(write, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as answer:
        text = answer.read()
    os.waitpid(child, 0)
    found: list[str] = json.loads(text)
    return found


def test_who_may_not_is_refused_and_it_is_logged(service: Service) -> None:
    if os.getuid() != 0:
        pytest.skip("another user's request needs root")
    service.write("open", 'unit = "ram:1M"\nmay-start = ["nobody"]')
    service.start()
    service.cli("start", "ram", "roots", "1M")
    for path in (service.stable.folder, *service.stable.folder.parents):
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    lines = as_nobody(ask_for_much)
    assert lines[0] == "{'instances': []}"
    assert lines[1] == "403 user nobody may not start disks of class ram"
    assert lines[2] == "403 user nobody may not stop ram.roots"
    assert lines[3] == "403 user nobody may not see ram.roots"
    assert "'running'" in lines[4] and lines[5] == "['mine']" and "remarks" in lines[6]
    log = service.log.read_text()
    assert "refused: user nobody" in log and "may not stop ram.roots" in log


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 50_000, 422),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"class": 1, "name": "x"}', 422),
        (b'{"class": "ram", "name": ""}', 422),
        (b'{"class": "ram", "name": "x", "colour": 1}', 422),
        (b'{"class": "../etc", "name": "x"}', 422),
        (b'{"class": "ram", "name": "a\\u0000b"}', 422),
        (b'{"class": "ram", "name": "x", "arguments": ["1"' + b', "1"' * 9 + b"]}", 422),
        (b'{"class": "ram", "name": "' + b"x" * 70_000 + b'"}', 413),
    ],
)  # fmt: skip
def test_a_body_that_is_wrong(service: Service, body: bytes, status: int) -> None:
    service.start()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(60)
        with control.short(service.stable.folder / "run/launcher/api") as name:
            peer.connect(name)
        head = f"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.sendall(head.encode() + body)
        response = http.client.HTTPResponse(peer)
        response.begin()
        assert response.status == status
        assert json.loads(response.read())["error"]


def test_what_is_asked_wrongly_has_a_reason(service: Service) -> None:
    client = service.start()
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/instances", 405),
        ("GET", "/v1/instances/ram.none", 404),
        ("DELETE", "/v1/instances/ram.none?force=maybe", 422),
        ("DELETE", "/v1/instances/ram.none?timeout=nan", 422),
        ("GET", "/v1/instances/ram.none/log?lines=1e9", 422),
        ("GET", "/v1/instances?pid=0", 422),
    ):
        with pytest.raises(Failed) as caught:
            client.call(method, path)
        assert caught.value.status == status, path


def test_silent_and_slow_peers_delay_nobody(service: Service) -> None:
    client = service.start()
    peers = []
    try:
        for number in range(200):
            peer = socket.socket(socket.AF_UNIX)
            with control.short(service.stable.folder / "run/launcher/api") as name:
                peer.connect(name)
            if number % 2:
                peer.sendall(
                    b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
                )
            peers.append(peer)
        assert client.get("/v1/instances")["instances"] == []
        peers[0].settimeout(60)
        assert peers[0].recv(1) == b"", "a silent peer is closed"
    finally:
        for peer in peers:
            peer.close()


def test_events_tell_what_happens(service: Service) -> None:
    client = service.start()
    events = client.lines("/v1/events", timeout=60)
    assert next(events).startswith(":")
    service.cli("start", "ram", "one", "1M")
    service.cli("stop", "ram", "one")
    seen = []
    for line in events:
        if line.startswith("data: "):
            event = json.loads(line[6:])
            seen.append((event["event"], event["instance"]["state"]))
            if event["event"] == "gone":
                break
    assert ("state", "running") in seen and seen[-1][0] == "gone"


def test_logs_are_followed_to_the_end(service: Service) -> None:
    client = service.start()
    service.cli("start", "ram", "one", "1M")
    lines = client.lines(instance_path("ram.one", "/log"), {"follow": True}, timeout=60)
    status = client.get(instance_path("ram.one"))
    os.kill(status["unit_pid"], signal.SIGKILL)
    assert "killed (SIGKILL)" in next(lines)
    failed = client.get(instance_path("ram.one"))
    service.stable.until(lambda: client.get(instance_path("ram.one"))["state"] == "failed")
    assert failed["exit_status"] in (None, -9)
    assert "data went with it" in next(lines)
    assert "data went with it" in service.cli("info", "ram", "one")
    service.cli("start", "ram", "one", "1M")  # takes the place of one that failed
    service.cli("stop", "ram", "one")
    assert all(isinstance(line, str) for line in lines), "and the stream ends"


def test_the_document_describes_every_route(service: Service) -> None:
    document = service.start().get("/openapi.json")
    assert set(document["paths"]) == {
        "/v1/service", "/v1/classes", "/v1/instances", "/v1/instances/{id}",
        "/v1/instances/{id}/mount", "/v1/instances/{id}/unmount",
        "/v1/instances/{id}/log", "/v1/instances/{id}/stats", "/v1/instances/{id}/trace",
        "/v1/events", "/v1/stats", "/metrics",
    }  # fmt: skip
    text = json.dumps(document)
    for name in document["components"]["schemas"]:
        assert f"#/components/schemas/{name}" in text, name


def test_statistics_of_one_and_of_all(service: Service) -> None:
    client = service.start()
    for name in ("one", "two"):
        service.cli("start", "ram", name, "1M")
    uri = client.get(instance_path("ram.one"))["nbd_uri"]
    service.cli("stgtest", uri, "50", "R", "*", "8")
    (unit,) = client.get(instance_path("ram.one", "/stats"))["units"].values()
    assert unit["operations"]["read"]["count"] >= 50 and unit["size"] == 1 << 20
    together = client.get("/v1/stats")["instances"]
    assert sorted(together) == ["ram.one", "ram.two"]
    (again,) = together["ram.one"].values()
    assert again["operations"]["read"]["count"] >= 50 and again["size"] == 1 << 20
    page = "\n".join(client.lines("/metrics"))
    for name in ("one", "two"):
        assert f'class="ram",instance="{name}"' in page
    status = client.get(instance_path("ram.two"))
    os.kill(status["unit_pid"], signal.SIGKILL)
    service.stable.until(lambda: client.get(instance_path("ram.two"))["state"] == "failed")
    with pytest.raises(Failed, match="does not"):
        client.get(instance_path("ram.two", "/stats"))
    assert list(client.get("/v1/stats")["instances"]) == ["ram.one"]
    assert 'instance="two"' not in "\n".join(client.lines("/metrics"))
    for name in ("one", "two"):
        service.cli("stop", "ram", name)


def test_many_disks_are_listed_at_once(service: Service) -> None:
    """And a crash of one is invisible to the others."""
    client = service.start()
    names = [f"disk{number}" for number in range(12)]
    starters = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "userdisk", "start", "ram", name, "1M"],
            stdout=subprocess.DEVNULL,
        )
        for name in names
    ]
    assert [starter.wait(120) for starter in starters] == [0] * len(names)
    found = client.get("/v1/instances")["instances"]
    assert {each["name"] for each in found} == set(names)
    os.kill(found[0]["unit_pid"], signal.SIGKILL)
    service.stable.until(lambda: client.get(instance_path(found[0]["id"]))["state"] == "failed")
    states = {each["name"]: each["state"] for each in client.get("/v1/instances")["instances"]}
    assert sorted(states.values()) == ["failed"] + ["running"] * (len(names) - 1)
    for name in names:
        service.cli("stop", "ram", name)


def test_one_address_lists_the_targets_of_all(service: Service) -> None:
    client = service.start("--discovery", "127.0.0.1:0")
    host, port = client.get("/v1/service")["discovery"].split(":")
    settings = Settings("iqn.2026-11.io.userdisk:test")
    assert discover((host, int(port)), settings) == {}
    for name in ("one", "two"):
        service.cli("start", "ram", name, "1M")
    found = discover((host, int(port)), settings)
    for each in client.get("/v1/instances")["instances"]:
        assert found.pop(each["target"]) == [f"{each['portal']},1"]
    assert found == {}
    service.cli("stop", "ram", "one")
    assert len(discover((host, int(port)), settings)) == 1
    service.cli("stop", "ram", "two")


def test_systemd_hands_the_socket_over_and_is_told(service: Service) -> None:
    path = service.stable.folder / "s"
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    told.bind(str(path))
    told.settimeout(60)
    folder = service.stable.folder / "run" / "launcher"
    folder.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        with control.short(folder / "api") as name:
            listener.bind(name)
        listener.listen()
        script = (
            "import os, sys; fd = int(sys.argv[1]); os.dup2(fd, 3); os.set_inheritable(3, True);"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
            "os.execv(sys.executable, [sys.executable, '-P', '-m', 'userdisk', 'launcher', 'run'])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env={**os.environ, "NOTIFY_SOCKET": str(path)},
        )
        service.process = process
        assert told.recv(100) == b"READY=1"
        service.cli("launchctl", "list")
        process.terminate()
        assert told.recv(100) == b"STOPPING=1"
        assert process.wait(60) == 0
        assert (folder / "api").exists(), "it belongs to systemd"
    told.close()


def test_no_wait_answers_at_once(service: Service) -> None:
    client = service.start()
    service.cli("start", "--no-wait", "ram", "one", "1M")
    deadline = time.monotonic() + 60
    while not (found := client.get("/v1/instances")["instances"]) or found[0]["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    service.cli("stop", "ram", "one")
    assert isinstance(Client().get("/v1/classes")["classes"], list)


def test_each_disk_is_listed_once(service: Service) -> None:
    needs_devices()
    service.write("dev", 'unit = "ram:%1"\n[attach]')
    client = service.start()
    service.cli("start", "ram", "one", "1M")
    service.cli("start", "dev", "two", "2M")
    found = {each["id"]: each for each in client.get("/v1/instances")["instances"]}
    records = {each["name"]: each for each in json.loads(service.cli("list", "--json"))}
    assert records.keys() == found.keys() == {"ram.one", "dev.two"}
    assert records["dev.two"]["devices"] == [found["dev.two"]["device"]] != []
    assert records["ram.one"]["urls"][1] == found["ram.one"]["nbd_uri"]
    assert records["ram.one"]["launcher"]["state"] == records["ram.one"]["status"] == "running"
    os.kill(found["ram.one"]["unit_pid"], signal.SIGKILL)
    service.stable.until(lambda: client.get(instance_path("ram.one"))["state"] == "failed")
    head, two, one = service.cli("list").splitlines()
    assert head.startswith("NAME ") and two.startswith(f"dev.two  {found['dev.two']['device']}")
    assert one.startswith("ram.one  -") and "failed: the unit's process was killed" in one
    service.cli("stop", "dev", "two")
    service.stop(signal.SIGKILL)
    assert "nothing is attached" in service.cli("list"), "a socket where nobody answers"
    service.start()
