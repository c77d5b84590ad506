"""Our NBD client and our NBD server: every kind of reply over TCP, Unix sockets and TLS."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.certificates import make_certificates
from tests.kit.requires import requires
from tests.kit.units import KINDS, RamUnit
from userdisk import errors
from userdisk.backend.nbd import NbdUnit
from userdisk.backend.ram import RamUnit as SparseRam
from userdisk.errors import UserdiskError
from userdisk.gate import Gate
from userdisk.nbd.client_negotiation import Wishes
from userdisk.nbd.export import Export
from userdisk.nbd.uri import parse_uri
from userdisk.nbd.wire import Command, CommandFlag
from userdisk.nbd_client import Client, Request, list_exports
from userdisk.server import Server
from userdisk.tls import ServerTls
from userdisk.unit import StorageUnit

pytestmark = requires("openssl")

LINKS = ["tcp", "unix", "tls"]
FORMS = {
    "simple": Wishes(structured=False, extended=False),
    "structured": Wishes(extended=False),
    "extended": Wishes(),
    "old": Wishes(structured=False, extended=False, go=False),
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def served(
    unit: StorageUnit, link: str, folder: Path, certificates: Path, *, verify: bool = False
) -> Iterator[str]:
    """The unit as an export; its URI."""
    tls = ServerTls(certificates, verify_peer=verify, required=True) if link == "tls" else None
    address = folder / "socket" if link == "unix" else ("127.0.0.1", 0)
    export = Export("disk", Gate(unit), "a disk")
    server = Server([], listen=(), exports=[export], nbd=[address], tls=tls)
    server.start()
    (bound,) = server.nbd_addresses
    try:
        if isinstance(bound, tuple):
            scheme = "nbds" if link == "tls" else "nbd"
            extra = f"?tls-certificates={certificates}&tls-hostname=localhost" if tls else ""
            yield f"{scheme}://{bound[0]}:{bound[1]}/disk{extra}"
        else:
            yield f"nbd+unix:///disk?socket={bound}"
    finally:
        server.stop()


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("form", FORMS)
def test_every_command(form: str, link: str, tmp_path: Path, certificates: Path) -> None:
    unit = SparseRam(size=8 << 20)
    data = random.Random(3).randbytes(3 << 20)
    with (
        served(unit, link, tmp_path, certificates) as uri,
        Client(parse_uri(uri), wishes=FORMS[form]) as client,
    ):
        assert (client.size, client.minimum) == (8 << 20, 512 if form != "old" else 1)
        assert client.found.style.name.lower() == form.replace("old", "simple")
        client.call(Request(Command.WRITE, 1 << 20, data=data, flags=CommandFlag.FUA))
        client.call(Request(Command.FLUSH))
        assert client.call(Request(Command.READ, 1 << 20, len(data))) == data
        whole = bytes(1 << 20) + data + bytes(4 << 20)
        assert client.call(Request(Command.READ, 0, 8 << 20)) == whole
        client.call(Request(Command.WRITE_ZEROES, 1 << 20, 1 << 20))
        client.call(Request(Command.TRIM, 2 << 20, 1 << 20))
        client.call(Request(Command.CACHE, 2 << 20, 1 << 20))
        whole = bytes(3 << 20) + data[2 << 20 :] + bytes(4 << 20)
        assert client.call(Request(Command.READ, 0, 8 << 20)) == whole
        if client.found.context is not None:
            found = client.call(Request(Command.BLOCK_STATUS, 0, 8 << 20))
            assert found == [(3 << 20, 3), (1 << 20, 0), (4 << 20, 3)]
        else:
            assert form in ("simple", "old")
        with pytest.raises(errors.OutOfRange):
            client.call(Request(Command.READ, 8 << 20, 512))
        assert client.call(Request(Command.READ, 0, 512)) == bytes(512)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("kind", KINDS)
def test_many_threads(kind: str, link: str, tmp_path: Path, certificates: Path) -> None:
    unit = KINDS[kind](block_count=8192)
    failures: list[BaseException] = []

    def work(client: Client, number: int) -> None:
        chosen = random.Random(number)
        base = number * (256 << 10)
        model = bytearray(256 << 10)
        try:
            for _ in range(40):
                length = chosen.choice((512, 4096, 65536))
                at = chosen.randrange((len(model) - length) // 512 + 1) * 512
                if chosen.random() < 0.5:
                    model[at : at + length] = data = chosen.randbytes(length)
                    client.call(Request(Command.WRITE, base + at, data=data))
                else:
                    found = client.call(Request(Command.READ, base + at, length))
                    assert found == model[at : at + length]
            assert unit.memory[base : base + len(model)] == model
        except BaseException as error:
            failures.append(error)

    with (
        served(unit, link, tmp_path, certificates) as uri,
        Client(parse_uri(uri)) as one,
        Client(parse_uri(uri)) as two,
    ):
        threads = [
            threading.Thread(target=work, args=((one, two)[number % 2], number))
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failures


@pytest.mark.parametrize("link", LINKS)
def test_what_a_unit_raises_comes_back(link: str, tmp_path: Path, certificates: Path) -> None:
    unit = RamUnit()
    with (
        served(unit, link, tmp_path, certificates) as uri,
        Client(parse_uri(uri)) as client,
    ):
        for raised, found in (
            (errors.OutOfSpace(), errors.OutOfSpace),
            (errors.WriteProtected(), errors.WriteProtected),
            (errors.OutOfMemory(), errors.OutOfMemory),
            (OSError(5, "broken"), errors.StorageError),
        ):

            def fault(name: str, lba: int, blocks: int, raised: Exception = raised) -> None:
                raise raised

            unit.fault = fault
            with pytest.raises(found):
                client.call(Request(Command.WRITE, 0, data=bytes(512)))
        unit.fault = None
        client.call(Request(Command.WRITE, 0, data=bytes(512)))


@pytest.mark.parametrize("link", LINKS)
def test_an_export_is_a_unit_again(link: str, tmp_path: Path, certificates: Path) -> None:
    unit = SparseRam(size=4 << 20)
    with served(unit, link, tmp_path, certificates) as uri:
        assert [(each.name, each.description) for each in list_exports(parse_uri(uri))] == [
            ("disk", "a disk")
        ]
        again = NbdUnit(uri)
        again.write(8, memoryview(b"q" * 8192), True)
        again.flush()
        assert again.read(8, 16, False) == b"q" * 8192
        assert [(each.mapped, each.zero) for each in again.extents(0, 8192)] == [
            (False, True),
            (True, False),
            (False, True),
        ]
        again.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("&tls-hostname=elsewhere", "elsewhere"),
        ("&tls-certificates=OTHER", "certificate"),
        ("plain", "TLS"),
        ("bare", "certificate"),
    ],
)
def test_tls_that_cannot_be(change: str, said: str, tmp_path: Path, certificates: Path) -> None:
    unit = RamUnit()
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "ca-cert.pem").write_bytes((certificates / "ca-cert.pem").read_bytes())
    with served(unit, "tls", tmp_path, certificates, verify=True) as uri:
        Client(parse_uri(uri)).close()
        if change == "plain":
            wrong = uri.replace("nbds://", "nbd://").partition("?")[0]
        elif change == "bare":
            wrong = uri.replace(str(certificates), str(bare))
        elif "OTHER" in change:
            wrong = uri.replace(str(certificates), str(other))
        else:
            wrong = uri.replace("tls-hostname=localhost", "tls-hostname=elsewhere")
        with pytest.raises(UserdiskError) as told:
            Client(parse_uri(wrong)).close()
        assert said in str(told.value)
        assert "\n" not in str(told.value)
    with (
        served(unit, "tcp", tmp_path, certificates) as uri,
        pytest.raises(UserdiskError, match="TLS"),
    ):
        Client(parse_uri(uri.replace("nbd://", "nbds://"))).close()
