"""The control socket: verbs, who may ask, bounds, silent clients, sockets of the dead."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from userdisk import control
from userdisk.errors import UsageError, UserdiskError

pytestmark = pytest.mark.skipif(not control.available(), reason="needs SO_PEERCRED (Linux)")


def echo(request: Mapping[str, object]) -> control.Answer:
    return {"got": request.get("text")}


def refuse(request: Mapping[str, object]) -> control.Answer:
    raise UserdiskError("not today")


def misuse(request: Mapping[str, object]) -> control.Answer:
    raise UsageError("not so")


def fail(request: Mapping[str, object]) -> control.Answer:
    raise KeyError("a bug")


def count(request: Mapping[str, object]) -> Iterator[control.Answer]:
    """Many answers, of which the third cannot be had."""
    yield {"number": 1}
    yield {"number": 2}
    raise {"os": OSError(5, "Input/output error"), "bug": KeyError("a bug")}[str(request["of"])]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path / ("long" * 30)))
    server = control.Control(
        {"echo": echo, "refuse": refuse, "misuse": misuse, "fail": fail, "count": count}
    )
    try:
        (found,) = control.processes()
        yield found
    finally:
        server.close()
    assert control.processes() == []


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptor = os.open(path.parent, os.O_PATH)
    try:
        connection.connect(f"/proc/self/fd/{descriptor}/{path.name}")
    finally:
        os.close(descriptor)
    connection.settimeout(10)
    return connection


def test_verbs_and_errors(path: Path) -> None:
    assert control.ask(path, {"verb": "echo", "text": "hi"}, 10) == {"got": "hi"}
    with pytest.raises(UserdiskError, match="not today"):
        control.ask(path, {"verb": "refuse"}, 10)
    with pytest.raises(UsageError, match="not so"):
        control.ask(path, {"verb": "misuse"}, 10)
    with pytest.raises(UsageError, match="one of echo, refuse, misuse, fail, count"):
        control.ask(path, {"verb": "reboot"}, 10)


def test_a_bug_in_a_verb_is_told_and_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserdiskError, match="KeyError: 'a bug'"):
        control.ask(path, {"verb": "fail"}, 10)
    assert "control: fail failed" in caplog.text and "Traceback" in caplog.text


@pytest.mark.parametrize(
    ("of", "said", "logged"), [("os", "Input/output error", ""), ("bug", "KeyError", "Traceback")]
)
def test_a_stream_that_fails_says_why(
    path: Path, of: str, said: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    got = []
    with pytest.raises(UserdiskError, match=said):
        for answer in control.follow(path, {"verb": "count", "of": of}, 10):
            got.append(answer["number"])
    assert got == [1, 2]
    assert logged in caplog.text and bool(caplog.text) is bool(logged)


def test_only_its_user_may_ask(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    monkeypatch.setattr(control, "trusted", lambda peer: False)
    with pytest.raises((UserdiskError, OSError)):
        control.ask(path, {"verb": "echo"}, 10)


@pytest.mark.parametrize(
    ("uid", "allowed"), [(0, True), (1000, True), (1001, False), (4294967294, False)]
)
def test_who_is_allowed(uid: int, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Peer:
        def getsockopt(self, *_: int) -> bytes:
            return control._CREDENTIALS.pack(1, uid, 0)

    monkeypatch.setattr(control.os, "getuid", lambda: 1000)
    assert control.trusted(Peer()) is allowed  # type: ignore[arg-type]


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b"{\n", b"[" * 60000 + b"\n", b"\xff\n"])
def test_what_is_no_request_is_answered(path: Path, line: bytes) -> None:
    with connect(path) as peer:
        peer.sendall(line)
        assert b"one line with a JSON object" in peer.recv(4096)


def test_a_line_has_a_bound(path: Path) -> None:
    with connect(path) as peer:
        peer.sendall(b" " * control._MAX_LINE)
        assert b"one line" in peer.recv(4096)


def test_silent_clients_delay_nobody_and_are_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = [connect(path) for _ in range(control._MAX_PEERS - 1)]
    try:
        assert control.ask(path, {"verb": "echo", "text": 1}, 10) == {"got": 1}
    finally:
        for peer in silent:
            peer.close()
    monkeypatch.setattr(control, "_SECONDS", 0.05)
    with connect(path) as peer:
        assert peer.recv(1) == b""


def test_sockets_of_dead_processes_are_removed(path: Path) -> None:
    dead = path.parent / "999999999"
    descriptor = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"/proc/self/fd/{descriptor}/{dead.name}")
    os.close(descriptor)
    assert control.processes() == [path]
    assert not dead.exists()


@pytest.mark.parametrize("name", ["run", "run/control"])
@pytest.mark.parametrize("whose", ["others may write", "another's", "a link"])
def test_a_folder_of_others_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, whose: str
) -> None:
    """Who comes first to /tmp/userdisk-UID makes it."""
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path / "run"))
    (tmp_path / "run/control").mkdir(parents=True)
    if whose == "others may write":
        (tmp_path / name).chmod(0o777)
    elif whose == "a link":
        (tmp_path / name).rename(tmp_path / "elsewhere")
        (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    elif os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    else:
        os.chown(tmp_path / name, 65534, 65534)
    with pytest.raises(UserdiskError, match="nobody else may write"):
        control.processes()
    with pytest.raises(UserdiskError, match="nobody else may write"):
        control.Control({})
    with pytest.raises(UserdiskError, match="nobody else may write"):
        control.own_folder(tmp_path / "run/control", 0o755)
