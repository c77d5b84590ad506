"""`--nbd`, `--export`, `--tls`: what is accepted, refused and printed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.serving import run, serving
from tests.kit.requires import requires
from userdisk.cli.nbd_offer import NbdOffer, export_names, nbd_text, parse_address
from userdisk.errors import UsageError


def test_addresses() -> None:
    assert parse_address("192.0.2.7") == ("192.0.2.7", 10809)
    assert parse_address("[::1]:3260") == ("::1", 3260)
    assert parse_address("127.0.0.1:0") == ("127.0.0.1", 0)
    assert parse_address("unix:/run/s") == Path("/run/s")
    for text in ("unix:", "host,2", "host:70000", "./disk.img", "ram:1G"):
        with pytest.raises(UsageError):
            parse_address(text)


def test_export_names() -> None:
    assert export_names(["ram:1G", "ram:2G"], []) == ["ram", "ram-2"]
    assert export_names(["ram:1G", "ram:2G"], ["b", "a"]) == ["b", "a"]
    for given in (["a"], ["a", "a"], ["a", "b" * 4097], ["a", "\udc80"]):
        with pytest.raises(UsageError, match="--export"):
            export_names(["ram:1G", "ram:2G"], given)


def test_uris() -> None:
    assert NbdOffer("a b/c", ("::1", 1)).uri == "nbd://[::1]:1/a%20b%2Fc"
    assert NbdOffer("a", Path("/run/a b"), tls=True).uri == "nbds+unix:///a?socket=/run/a%20b"
    assert "-N a " in nbd_text(NbdOffer("a", ("h", 1), tls=True))


@requires("nbdinfo")
def test_nbd_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serving("ram:64M", "--no-iscsi", f"--nbd=unix:{path}", "--export", "disk") as server:
        uri = f"nbd+unix:///disk?socket={path}"
        assert uri in server.text and "iscsi" not in server.text
        found = subprocess.run(
            ["nbdinfo", "--size", uri], capture_output=True, text=True, check=True, timeout=30
        )
        assert found.stdout == f"{64 << 20}\n"
        status, out, _ = server.stop()
    assert status == 0 and "ram:" in out and not path.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ram:1M", "--no-iscsi"], "add --nbd"),
        (["ram:1M", "--tls-require", "--nbd"], "add --tls"),
        (["ram:1M", "--export", "a"], "add --nbd"),
        (["ram:1M", "--nbd", "ram:1G"], "a unit goes before the option"),
        (["--nbd", "disk.img"], "put the unit before the option"),
        (["--nbd"], "missing argument"),
        (["ram:1M", "--nbd", "--tls", "none"], "none"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") < 4
