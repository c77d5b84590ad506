"""TLS with libnbd as the client: the three modes, and whose certificate is good."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.kit.nbd_server import nbd_server
from tests.kit.requires import requires
from tests.kit.units import InlineRamUnit
from userdisk.tls import ServerTls

pytestmark = requires("openssl", "nbdinfo")


def authority(folder: Path) -> Path:
    """A folder with a CA, and certificates of a server and a client that it has signed."""
    folder.mkdir()
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def make(whose: str, *arguments: str) -> None:
        files = ("-keyout", f"{whose}-key.pem", "-out", f"{whose}-cert.pem", "-days", "2")
        command = ("openssl", *new, *files, "-subj", f"/CN={whose}", *arguments)
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        (folder / f"{whose}-key.pem").chmod(0o600)

    make("ca")
    for whose in ("server", "client"):
        make(
            whose, "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem",
            "-addext", "subjectAltName=DNS:localhost",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority(tmp_path_factory.mktemp("tls") / "good")


def size(uri: str, certificates: Path | None = None) -> str:
    """What nbdinfo says of the size; empty if it was refused."""
    if certificates is not None:
        uri = f"nbds{uri.removeprefix('nbd')}&tls-certificates={certificates}"
    done = subprocess.run(
        ["nbdinfo", "--size", uri], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode == 0) == bool(done.stdout), done
    return done.stdout.strip()


def test_modes(tmp_path: Path, good: Path) -> None:
    disk = InlineRamUnit
    with nbd_server(tmp_path / "a", disk=disk(block_count=16)) as uri:
        assert (size(uri), size(uri, good)) == ("8192", "")
    with nbd_server(tmp_path / "b", tls=ServerTls(good), disk=disk(block_count=16)) as uri:
        assert (size(uri), size(uri, good)) == ("8192", "8192")
    required = ServerTls(good, required=True)
    with nbd_server(tmp_path / "c", tls=required, disk=disk(block_count=16)) as uri:
        assert (size(uri), size(uri, good)) == ("", "8192")


def test_certificates_of_clients(tmp_path: Path, good: Path) -> None:
    bare, wrong = tmp_path / "bare", authority(tmp_path / "wrong")
    bare.mkdir()
    for folder in (bare, wrong):  # both trust the server
        (folder / "ca-cert.pem").write_bytes((good / "ca-cert.pem").read_bytes())
    tls = ServerTls(good, verify_peer=True, required=True)
    with nbd_server(tmp_path / "s", tls=tls, disk=InlineRamUnit(block_count=16)) as uri:
        assert [size(uri, folder) for folder in (bare, wrong, good)] == ["", "", "8192"]
    asks_nobody = ServerTls(good, required=True)
    with nbd_server(tmp_path / "n", tls=asks_nobody, disk=InlineRamUnit(block_count=16)) as uri:
        assert [size(uri, folder) for folder in (bare, wrong)] == ["8192", "8192"]
