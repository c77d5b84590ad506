"""NBD over real sockets: who is let in, TLS, and what ends a connection."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.kit.certificates import make_certificates
from tests.kit.requires import requires
from tests.kit.sockets import eventually
from tests.kit.units import InlineRamUnit, RamUnit
from userdisk import portal as portal_module
from userdisk.errors import UsageError, UserdiskError
from userdisk.gate import Gate
from userdisk.nbd import connection as connection_module
from userdisk.nbd.export import Export
from userdisk.nbd.uri import parse_uri
from userdisk.nbd_client import Client
from userdisk.server import Server
from userdisk.tls import ServerTls, client_context
from userdisk.tls_stream import TlsStream
from userdisk.transport import prepare
from userdisk.unit import StorageUnit

OPTION = struct.Struct(">8sII")
GO, STARTTLS = 7, 5
GO_DISK = OPTION.pack(b"IHAVEOPT", GO, 10) + struct.pack(">I4sH", 4, b"disk", 0)
GREETING = 18
REPLY = 20
ACK = 1

needs_openssl = requires("openssl")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_module, "TICK", 0.02)
    monkeypatch.setattr(portal_module, "_LINGER", 0.2)


@contextmanager
def serving(
    tls: ServerTls | None = None, unit: StorageUnit | None = None
) -> Iterator[tuple[Server, tuple[str, int]]]:
    export = Export("disk", Gate(unit or InlineRamUnit()))
    server = Server([], listen=(), exports=[export], nbd=[("127.0.0.1", 0)], tls=tls)
    assert server.start() == []
    (address,) = server.nbd_addresses
    assert isinstance(address, tuple)
    try:
        yield server, address
    finally:
        server.stop()


def exactly(sock: Any, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        assert more, "the connection has ended"
        data += more
    return data


def greeted(address: tuple[str, int]) -> socket.socket:
    sock = socket.create_connection(address, timeout=10)
    exactly(sock, GREETING)
    sock.sendall(struct.pack(">I", 3))
    return sock


def ended(sock: Any) -> bool:
    try:
        while sock.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def goes(sock: Any) -> None:
    """Choose the export, and read a block of zeros."""
    sock.sendall(GO_DISK)
    while True:
        _, _, kind, length = struct.unpack(">QIII", exactly(sock, REPLY))
        exactly(sock, length)
        if kind == ACK:
            break
        assert not kind & 1 << 31
    sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 7, 0, 512))
    assert exactly(sock, 16) == struct.pack(">IIQ", 0x67446698, 0, 7)
    assert exactly(sock, 512) == bytes(512)


def request(command: int, cookie: int, offset: int, length: int, data: bytes = b"") -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, 0, command, cookie, offset, length) + data


def test_silent_connections_keep_nobody_out() -> None:
    with serving() as (server, address):
        silent = [socket.create_connection(address, timeout=10) for _ in range(300)]
        with greeted(address) as sock:
            goes(sock)
        assert ended(silent[0])
        for each in silent:
            each.close()
        assert len(server._portals._owners) <= 256


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def starttls(address: tuple[str, int]) -> socket.socket:
    sock = greeted(address)
    sock.sendall(OPTION.pack(b"IHAVEOPT", STARTTLS, 0))
    assert struct.unpack(">QIII", exactly(sock, REPLY))[2] == ACK
    return sock


@contextmanager
def encrypted(address: tuple[str, int], context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with starttls(address) as sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
        yield tls


@needs_openssl
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_with_a_certificate(certificates: Path, version: ssl.TLSVersion) -> None:
    context = client_context(certificates)
    context.maximum_version = version
    tls = ServerTls(certificates, verify_peer=True)
    with serving(tls) as (_, address), encrypted(address, context) as sock:
        goes(sock)


@needs_openssl
@pytest.mark.parametrize(
    ("version", "alert"),
    [
        (ssl.TLSVersion.TLSv1_2, "HANDSHAKE_FAILURE"),
        (ssl.TLSVersion.TLSv1_3, "CERTIFICATE_REQUIRED"),  # when the client thinks it is in
    ],
)
def test_a_client_without_a_certificate(
    certificates: Path, tmp_path: Path, version: ssl.TLSVersion, alert: str
) -> None:
    (tmp_path / "ca-cert.pem").write_bytes((certificates / "ca-cert.pem").read_bytes())
    context = client_context(tmp_path)
    context.maximum_version = version
    with serving(ServerTls(certificates, verify_peer=True)) as (server, address):
        with pytest.raises(ssl.SSLError, match=alert), encrypted(address, context) as sock:
            sock.recv(1)
        eventually(lambda: not server._portals._owners)
    with serving(ServerTls(certificates)) as (_, address), encrypted(address, context) as sock:
        goes(sock)


@needs_openssl
def test_a_server_behind_a_unix_socket_has_no_name_unless_one_is_given(
    certificates: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other")
    path = tmp_path / "s"
    export = Export("disk", Gate(InlineRamUnit()))
    server = Server([], listen=(), exports=[export], nbd=[path], tls=ServerTls(certificates))
    server.start()
    try:
        uri = f"nbds+unix:///disk?socket={path}&tls-certificates="
        for good in (f"{certificates}", f"{certificates}&tls-hostname=localhost"):
            Client(parse_uri(uri + good)).close()
        for wrong in (f"{certificates}&tls-hostname=elsewhere", f"{other}"):
            with pytest.raises(UserdiskError, match="TLS failed"):
                Client(parse_uri(uri + wrong)).close()
        Client(parse_uri(f"{uri}{other}&tls-verify-peer=0")).close()
    finally:
        server.stop()


@needs_openssl
def test_half_a_handshake(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after the connection's time limit, also if a byte comes now and then."""
    monkeypatch.setattr(connection_module, "NEGOTIATION_LIMIT", 0.3)
    with serving(ServerTls(certificates)) as (server, address):
        with starttls(address) as sock:
            began = time.monotonic()
            sock.sendall(b"\x16\x03\x01\x02\x00")
            sock.settimeout(0.01)
            while time.monotonic() - began < 10:
                try:
                    sock.send(b"\x01")
                    if not sock.recv(100):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            assert time.monotonic() - began < 9
        eventually(lambda: not server._portals._owners)


@needs_openssl
def test_plaintext_where_tls_is_due(certificates: Path) -> None:
    with serving(ServerTls(certificates)) as (server, address):
        with starttls(address) as sock:
            sock.sendall(GO_DISK)
            assert ended(sock)
        eventually(lambda: not server._portals._owners)


@needs_openssl
def test_what_is_wrong_with_the_files(certificates: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"server-cert\.pem: No such file"):
        ServerTls(tmp_path).context()
    for name in ("ca-cert.pem", "server-cert.pem", "server-key.pem"):
        (tmp_path / name).write_bytes((certificates / name).read_bytes())
    (tmp_path / "server-key.pem").chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        ServerTls(tmp_path).context()
    (tmp_path / "server-key.pem").write_bytes((certificates / "client-key.pem").read_bytes())
    (tmp_path / "server-key.pem").chmod(0o600)
    with pytest.raises(UsageError, match="is not the key of"):
        ServerTls(tmp_path).context()
    (tmp_path / "server-cert.pem").write_text("nothing")
    with pytest.raises(UsageError, match="in PEM"):
        ServerTls(tmp_path).context()


@needs_openssl
def test_much_data_both_ways(certificates: Path) -> None:
    """More than the sockets hold, in small and large buffers, with views that change."""
    here, there = socket.socketpair()
    for each in (here, there):
        prepare(each, 0.02, 5)
    server = TlsStream(here, ServerTls(certificates).context())
    client = TlsStream(
        there, client_context(certificates), server_side=False, server_hostname="localhost"
    )
    room = memoryview(bytearray(100_000))
    while not (client.secured and server.secured):
        client.receive(room)
        server.receive(room)
    live = bytearray(os.urandom(4 << 20))
    expected = b"head" + bytes(live) + b"tail" * 1000
    server.send([b"head", memoryview(live), *[b"tail"] * 1000], live=True)
    live[:] = bytes(len(live))
    got = bytearray()
    while len(got) < len(expected):
        if server.rest:
            server.flush()
        count = client.receive(room)
        assert count
        if count > 0:
            got += room[:count]
    assert got == expected
    server.finish()
    while (count := client.receive(room)) < 0:
        pass
    assert count == 0
    here.close()
    there.close()


# -- slow peers, slow units ------------------------------------------------------------------------


def test_who_reads_too_slowly_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A little of it, again and again, does not keep the memory of a long read for ever."""
    assert portal_module._due(1 << 20) - time.monotonic() == pytest.approx(60 + 32, abs=10)
    monkeypatch.setattr(portal_module, "_due", lambda size: time.monotonic() + 0.2)
    unit = InlineRamUnit(block_count=1 << 16)
    with serving(unit=unit) as (server, address), greeted(address) as sock:
        goes(sock)
        sock.sendall(request(0, 8, 0, 32 << 20))
        received = 0
        while more := sock.recv(32 << 10):
            received += len(more)
            time.sleep(0.01)  # 512 pieces of 64 KiB: ten times as long as it may take
        assert 0 < received < 32 << 20
        eventually(lambda: not server._portals._owners)


class Stepped(RamUnit):
    """Each operation waits until it may go."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = threading.Semaphore(1)  # for the first read of a test

    def _begin(self, name: str, lba: int = 0, blocks: int = 0, fua: bool = False) -> None:
        if name in ("read", "write"):
            assert self.turns.acquire(timeout=20)
        super()._begin(name, lba, blocks, fua)


@pytest.mark.parametrize("leaves", [False, True])
def test_who_is_gone_is_noticed_though_nothing_is_received(leaves: bool) -> None:
    """What is asked for stays undone: the answers cannot be sent any more."""
    unit = Stepped()
    with serving(unit=unit) as (server, address):
        with greeted(address) as sock:
            goes(sock)
            (owner,) = server._portals._owners
            count = 100 if leaves else 1000
            sock.sendall(b"".join(request(0, at, 0, 512) for at in range(count)))
            if leaves:
                sock.sendall(request(2, 0, 0, 0))
            eventually(lambda: owner.connection.paused)
        steps = 0
        while server._portals._owners:
            unit.turns.release()
            steps += 1
            assert steps < 100
            time.sleep(0.02)
        assert unit.calls["read"] < 60


@needs_openssl
def test_a_slow_unit_inside_tls(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits decrypted while the unit works is not forgotten, nor asked for in vain."""
    unit = RamUnit(block_count=1 << 15, max_transfer_length=256 << 10)
    unit.fault = lambda name, lba, blocks: time.sleep(0.001)
    requests, lengths = [], {}
    model = bytearray(16 << 20)
    for number in range(400):
        long = number % 40 == 0
        if number % 3 == 0:
            at, size = ((8 << 20) + number * 12800, 3 << 19) if long else (number * 20480, 512)
            data = os.urandom(size)
            model[at : at + size] = data
            requests.append(request(1, number, at, size, data))
            lengths[number] = 0
        else:
            lengths[number] = size = 1 << 19 if long else 512
            requests.append(request(0, number, 14 << 20, size))
    calls = 0
    receive = TlsStream.receive

    def counted(stream: TlsStream, buffer: memoryview) -> int:
        nonlocal calls
        calls += stream._tls.server_side
        return receive(stream, buffer)

    monkeypatch.setattr(TlsStream, "receive", counted)
    everything = b"".join(requests)
    with serving(ServerTls(certificates), unit) as (_, address):
        sock = starttls(address)
        client = TlsStream(
            sock, client_context(certificates), server_side=False, server_hostname="localhost"
        )
        prepare(sock, 0.02, 60)
        talk = Talk(client)
        talk.goes()
        client.send([everything])
        while lengths:
            magic, error, cookie = struct.unpack(">IIQ", talk.exactly(16))
            assert (magic, error) == (0x67446698, 0)
            talk.exactly(lengths.pop(cookie))
        sock.close()
    assert unit.memory == model
    assert calls < 20 * len(everything) // 4096


class Talk:
    """A client of one thread inside TLS: sends what it can whenever it waits."""

    def __init__(self, stream: TlsStream) -> None:
        self._stream = stream
        self._received = bytearray()
        self._room = memoryview(bytearray(65536))

    def exactly(self, count: int) -> bytes:
        while len(self._received) < count:
            if self._stream.rest:
                self._stream.flush()
            size = self._stream.receive(self._room)
            assert size, "the connection has ended"
            self._received += self._room[: max(size, 0)]
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def goes(self) -> None:
        self._stream.receive(self._room[:0])
        self._stream.send([GO_DISK])
        kind = 0
        while kind != ACK:
            _, _, kind, length = struct.unpack(">QIII", self.exactly(REPLY))
            self.exactly(length)
