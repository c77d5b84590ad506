"""Targets that cannot be had, and numbers that cannot be: one line, exit status 2, in time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit.units import InlineRamUnit
from userdisk.backend.remote import RemoteUnit
from userdisk.cli.main import main
from userdisk.gate import Gate
from userdisk.iscsi.chap import Account, Credentials
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target

NAME = "iqn.2026-11.io.userdisk:bad"
SECONDS = 0.5  # for connecting; a busy machine may take much longer for everything around it


def silent(sock: socket.socket) -> None:
    """Says nothing, until the other end is gone."""
    with contextlib.suppress(OSError):
        while sock.recv(4096):
            pass


def closing(sock: socket.socket) -> None:
    """Is gone at once."""


def other(sock: socket.socket) -> None:
    """Another kind of server."""
    with contextlib.suppress(OSError):
        sock.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 100)
    silent(sock)


BEHAVIOURS = (silent, closing, other)


def listens(listener: socket.socket, behave: Callable[[socket.socket], None]) -> None:
    """Accept until the listener is shut down."""

    def serve(sock: socket.socket) -> None:
        with sock:
            behave(sock)

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                threading.Thread(target=serve, args=(sock,), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("bad")
    for name, secret in (("good", "correct-horse-12"), ("wrong", "another-horse-12")):
        (folder / name).write_text(f"user alice {secret}\n")
        (folder / name).chmod(0o600)
    (folder / "file").write_bytes(bytes(512))
    listeners = []
    found: dict[str, str] = {}
    for behave in BEHAVIOURS:
        tcp = socket.create_server(("127.0.0.1", 0))
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        local.bind(str(folder / behave.__name__))
        local.listen()
        for listener in (tcp, local):
            listeners.append(listener)
            listens(listener, behave)
        port = tcp.getsockname()[1]
        found[f"iscsi {behave.__name__}"] = f"iscsi://127.0.0.1:{port}/{NAME}/0"
        found[f"nbd {behave.__name__}"] = f"nbd://127.0.0.1:{port}/disk"
        found[f"spd {behave.__name__}"] = f"spd:{folder / behave.__name__}"
    with socket.socket() as unused:  # bound, and nobody listens
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        found["iscsi refused"] = f"iscsi://127.0.0.1:{port}/{NAME}/0"
        found["nbd refused"] = f"nbd://127.0.0.1:{port}/disk"
        found["spd nowhere"] = f"spd:{folder / 'nowhere'}"
        found["spd file"] = f"spd:{folder / 'file'}"
        credentials = Credentials((Account("alice", b"correct-horse-12"),), None)
        server = Server(
            [Target(NAME, [LogicalUnit(Gate(InlineRamUnit()))])],
            listen=[("127.0.0.1", 0)],
            credentials=credentials,
        )
        ((host, port),) = server.start()
        where, chap = f"alice@{host}:{port}", f"?chap-file={folder}"
        found["wrong secret"] = f"iscsi://{where}/{NAME}/0{chap}/wrong"
        found["no secret"] = f"iscsi://{host}:{port}/{NAME}/0"
        found["no target"] = f"iscsi://{where}/{NAME}x/0{chap}/good"
        found["good"] = f"iscsi://{where}/{NAME}/0{chap}/good"
        found["no host"] = f"iscsi://userdisk.invalid/{NAME}/0"
        found["not SCSI"] = "/dev/null"
        found["a folder"] = str(folder)
        found["no device"] = "/dev/sd-none"
        yield found
        server.stop()
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "scsitool": lambda at: ["scsitool", "inquiry", at, "--timeout", str(SECONDS)],
    "stgtest": lambda at: ["stgtest", at, "5", "R", "--timeout", str(SECONDS)],
    "serve": lambda at: ["serve", at, "--listen", "127.0.0.1:0"],
}
TARGETS = [
    *(f"{scheme} {each.__name__}" for scheme in ("iscsi", "nbd", "spd") for each in BEHAVIOURS),
    "iscsi refused", "nbd refused", "spd nowhere", "spd file", "wrong secret", "no secret",
    "no target", "no host", "not SCSI", "a folder", "no device",
]  # fmt: skip


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that is said."""
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("userdisk: ")
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_cannot_be_had(
    targets: dict[str, str],
    target: str,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RemoteUnit.__init__.__kwdefaults__, "timeout", SECONDS)
    began = time.monotonic()
    line = refused(COMMANDS[command](targets[target]), capsys)
    assert "Traceback" not in line
    assert "correct-horse" not in line
    assert "another-horse" not in line
    if target.endswith("silent"):
        assert f"no answer in {SECONDS:g} seconds" in line
        assert time.monotonic() - began >= SECONDS


def test_what_can_be_had_is(targets: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scsitool", "inquiry", targets["good"]]) == 0
    assert main(["stgtest", targets["good"], "5", "R"]) == 0
    assert capsys.readouterr().err == ""


def test_the_time_is_stated(capsys: pytest.CaptureFixture[str]) -> None:
    """Where no option says another one."""
    assert RemoteUnit.__init__.__kwdefaults__["timeout"] == 10
    for command in (["scsitool", "inquiry"], ["stgtest"]):
        assert main([*command, "--help"]) == 0
        assert "--timeout SECONDS" in capsys.readouterr().out


ABSURD = [
    ["scsitool", "inquiry", "ram:1M", "--timeout", "nan"],
    ["scsitool", "inquiry", "ram:1M", "--timeout", "inf"],
    ["scsitool", "inquiry", "ram:1M", "--timeout", "-1"],
    ["scsitool", "inquiry", "ram:99999999999999999999999"],
    ["scsitool", "inquiry", "ram:", "--size", "-1"],
    ["scsitool", "inquiry", "ram:1M", "--block-length", "513"],
    ["scsitool", "lba-status", "ram:1M", "--lba", "-1"],
    ["scsitool", "lba-status", "ram:1M", "--lba", "9" * 30],
    ["scsitool", "raw", "ram:1M", "--read", "99999999999", "00"],
    ["scsitool", "vpd", "ram:1M", "0x100"],
    ["scsitool", "vpd", "ram:1M", "-1"],
    ["scsitool", "inquiry", f"iscsi://127.0.0.1/{NAME}/" + "9" * 20],
    ["scsitool", "inquiry", f"iscsi://127.0.0.1:65536/{NAME}/0"],
    ["stgtest", "ram:1M", "-1"],
    ["stgtest", "ram:1M", "9" * 30],
    ["stgtest", "ram:1M", "x"],
    ["stgtest", "ram:1M", "1", "R", "-5"],
    ["stgtest", "ram:1M", "1", "R", "0", "9" * 12],
    ["stgtest", "ram:1M", "1", "--depth", "0"],
    ["stgtest", "ram:1M", "1", "--depth", "9" * 12],
    ["stgtest", "ram:1M", "1", "--connections", "65"],
    ["stgtest", "ram:1M", "1", "--timeout", "nan"],
    ["stgtest", "ram:1M", "1", "--duration", "nan"],
    ["stgtest", "ram:1M", "1", "--duration", "0"],
    ["stgtest", "-s", "-1", "ram:1M", "1"],
    ["stgtest", "ram:0", "1"],
    ["stgtest", "nbd://127.0.0.1:65536/disk", "1"],
    ["serve", "ram:" + "9" * 30],
    ["serve", "ram:", "--size", "1e9"],
    ["serve", "ram:1M", "--listen", "127.0.0.1:65536"],
    ["serve", "ram:1M", "--soft-threshold", "0"],
    ["serve", "nbd://127.0.0.1:65536/disk"],
    ["serve", f"iscsi://127.0.0.1:0/{NAME}/0"],
    ["serve", f"iscsi://127.0.0.1/{NAME}/-1"],
]


@pytest.mark.parametrize("arguments", ABSURD, ids=" ".join)
def test_numbers_that_cannot_be(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused(arguments, capsys)


def test_options_of_units(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What is run inside takes those of serve; what is not, does not."""
    options = ["--size", "4M", "--block-length", "4096", "--product-id", "a disk", "--read-only"]
    assert main(["scsitool", "-c", "capacity", "ram:", *options]) == 0
    assert "=1023 " in capsys.readouterr().out
    assert main(["scsitool", "-c", "inquiry", "ram:", *options]) == 0
    assert "a disk" in capsys.readouterr().out
    for device in (f"iscsi://127.0.0.1/{NAME}/0", "/dev/null"):
        assert "options of units" in refused(["scsitool", "inquiry", device, *options], capsys)
    image = tmp_path / "disk.img"
    refused(["scsitool", "inquiry", str(image), "--size", "1M"], capsys)
    assert not image.exists()
