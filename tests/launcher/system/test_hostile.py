"""The launcher's API and callers that mean no good: others are served meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from tests.launcher.system.service import Service, service_in
from tests.launcher.system.test_service import as_nobody
from userdisk import control
from userdisk.launcher.client import Client, instance_path
from userdisk.launcher.peer import MOST

MANY = 600


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with service_in(tmp_path, monkeypatch) as found:
        found.write("ram", 'unit = "ram:%1"')
        found.start()
        yield found


def connected(service: Service) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(60)
    with control.short(service.stable.folder / "run/launcher/api") as name:
        peer.connect(name)
    return peer


def answer(peer: socket.socket) -> bytes:
    """How an answer begins; nothing: there is none."""
    try:
        return peer.recv(12)
    except ConnectionResetError:
        return b""


@contextlib.contextmanager
def many(service: Service, begin: bytes) -> Iterator[list[socket.socket]]:
    """More connections than there may be, that say this."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < MANY + 200:
        pytest.skip(f"this user may not open {MANY} connections")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], MANY + 200), before[1]))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        peers = []
        for _ in range(MANY):
            peers.append(stack.enter_context(connected(service)))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                peers[-1].sendall(begin)
        yield peers


def test_silent_connections_make_room_for_those_that_ask(service: Service) -> None:
    with many(service, b"") as peers:
        for _ in range(3):
            assert Client().get("/v1/instances")["instances"] == []
        assert all(answer(peer) == b"" for peer in peers[: MANY - MOST]), "the oldest have gone"


def test_requests_that_never_end_delay_no_other_user(service: Service) -> None:
    if os.getuid() != 0:
        pytest.skip("another user's request needs root")
    for path in (service.stable.folder, *service.stable.folder.parents):
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    begin = b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
    with many(service, begin) as peers:
        assert as_nobody(lambda: [str(Client().get("/v1/instances"))]) == ["{'instances': []}"]
        answers = [answer(peer) for peer in peers]
    assert set(answers) <= {b"", b"HTTP/1.1 408"} and answers.count(b"HTTP/1.1 408") <= MOST
    assert Client().get("/v1/instances")["instances"] == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/service HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000, b"400"),
        (b"GET /" + b"x" * 70_000, b"400"),
        (b"\0\0\0\0\r\n\r\n", b"400"),
        (b"GET /v1/service HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /v1/instances/%00 HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"DELETE /v1/instances/ram.a%00 HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (
            b"POST /v1/instances HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"8000\r\n" + b" " * 0x8000 + b"\r\n") * 3,
            b"413",
        ),
    ],
    ids=["header", "path", "noise", "host", "NUL", "a NUL later", "chunks"],
)
def test_what_is_huge_or_malformed(service: Service, request_: bytes, status: bytes) -> None:
    with connected(service) as peer:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.sendall(request_)
        assert answer(peer) == b"HTTP/1.1 " + status
    assert Client().get("/v1/instances")["instances"] == []


NAMES = ("new\nline", "--", "a/../../etc/passwd", "'\"$(id)`", "..", "x" * 1024)


def test_any_name_is_a_name(service: Service) -> None:
    for name in NAMES:
        found = json.loads(service.cli("start", "--json", "ram", name, "1M"))
        assert found["name"] == name and found["state"] == "running"
        assert "/" not in found["id"] and found["id"].isprintable() and found["id"].isascii()
        assert Client().get("/v1/instances", {"name": name})["instances"][0]["id"] == found["id"]
        assert Client().get(instance_path(found["id"], "/stats"))["units"]
    assert len(service.cli("list").splitlines()) == 1 + len(NAMES), "a line each"
    for name in NAMES:
        service.cli("stop", "ram", "--", name)
    lines = service.log.read_text().splitlines()
    assert all(line.startswith(("userdisk:", "launcher at")) for line in lines), "none is forged"
