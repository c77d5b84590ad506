"""`--nbd`, `--export`, `--tls`: what is accepted, refused and printed."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.cli.serving import run, serving
from tests.kit.certificates import make_certificates
from tests.kit.requires import find_program, requires
from tests.kit.units import InlineRamUnit
from userdisk.cli.nbd_offer import NbdOffer, export_names, nbd_text, offers_of, parse_address
from userdisk.errors import UsageError
from userdisk.gate import Gate
from userdisk.nbd.export import Export
from userdisk.server import Server
from userdisk.tls import ServerTls

NAME = "a b,'c\""


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
    assert NbdOffer("a", Path("/run/\udce4")).uri == "nbd+unix:///a?socket=/run/%E4"
    assert "-N a " in nbd_text(NbdOffer("a", ("h", 1), tls=True))


def test_offers() -> None:
    address, folder = ("h", 1), Path("certificates")
    plain = NbdOffer("a", address)
    encrypted = NbdOffer("a", address, tls=True)
    assert offers_of("a", address, None) == [plain]
    assert offers_of("a", address, ServerTls(folder)) == [plain, encrypted]
    assert offers_of("a", address, ServerTls(folder, required=True)) == [encrypted]
    assert "client-cert.pem" not in nbd_text(encrypted)
    verified = ServerTls(folder, verify_peer=True, required=True)
    (offer,) = offers_of("a", address, verified)
    assert "-keyfile CERTS/client-key.pem" in nbd_text(offer)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@requires("openssl", "nbdinfo", "nbdcopy", "qemu-img", "nbd-client")
@pytest.mark.parametrize("mode", ["plain", "tls", "verified"])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_what_is_printed_can_be_typed(
    tmp_path: Path, certificates: Path, kind: str, mode: str
) -> None:
    """Each command with these very words; nbd-client up to its device, which is not there."""
    verified = mode == "verified"
    tls = None if mode == "plain" else ServerTls(certificates, verified, verified)
    unit = InlineRamUnit(block_count=2048)
    address = tmp_path / "a b" if kind == "unix" else ("127.0.0.1", 0)
    exports = [Export(NAME, Gate(unit))]
    server = Server([], listen=(), exports=exports, nbd=[address], tls=tls)
    assert server.start() == []
    try:
        bound = server.nbd_addresses[0]
        if isinstance(bound, tuple):
            bound = ("localhost", bound[1])  # the certificate is for that name
        offer = offers_of(NAME, bound, tls)[-1]
        assert offer.tls == (tls is not None)
        device = tmp_path / "device"
        text = nbd_text(offer).replace("CERTS", str(certificates))
        seen = []
        for line in text.replace("/dev/nbd0", str(device)).splitlines()[1:]:
            words = shlex.split(line, comments=True)
            if not words:
                continue
            seen.append(words[0])
            program = find_program(words[0])
            assert program is not None
            done = subprocess.run(
                [program, *words[1:]], cwd=tmp_path, capture_output=True, text=True, check=False,
                timeout=30,
            )  # fmt: skip
            said = done.stdout + done.stderr
            if words[0] == "nbd-client":
                assert re.search(r"size = 1MB\s+Error: (Invalid nbd device|Cannot open)", said), (
                    said
                )
            else:
                assert done.returncode == 0, said
        assert seen == ["nbdinfo", "nbdcopy", "qemu-img", "nbd-client"]
        assert (tmp_path / "copy.img").read_bytes() == unit.memory
    finally:
        server.stop()


@requires("openssl", "nbdinfo")
def test_both_uris_where_tls_is_offered(tmp_path: Path, certificates: Path) -> None:
    path = tmp_path / "s"
    options = ("--no-iscsi", f"--nbd=unix:{path}", "--export", "disk", "--tls", certificates)
    with serving("ram:64M", *options) as server:
        lines = server.text.splitlines()
        uri = f"nbd+unix:///disk?socket={path}"
        at = lines.index(uri)
        secure = uri.replace("nbd+", "nbds+")
        assert lines[at + 1] == secure and "64 MiB" in lines[at + 2]
        for each in (uri, f"{secure}&tls-certificates={certificates}"):
            done = subprocess.run(
                ["nbdinfo", "--size", each], capture_output=True, text=True, check=True, timeout=30
            )
            assert done.stdout == f"{64 << 20}\n"


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
