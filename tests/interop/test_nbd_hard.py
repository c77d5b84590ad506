"""NBD clients that are odd, malicious or killed: theirs ends, the others go on."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.kit.nbd_server import nbd_server
from tests.kit.requires import requires
from tests.kit.sockets import eventually
from tests.kit.units import AsyncRamUnit, InlineRamUnit, RamUnit

SIZE = 8 << 20
REQUEST = struct.Struct(">IHHQQI")
READ, WRITE = 0, 1
EINVAL = 22


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        assert more, "the connection has ended"
        data += more
    return data


def old_client(path: Path) -> socket.socket:
    """A client that knows EXPORT_NAME only, and wants the zeroes."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(path))
    assert exactly(sock, 18)[:16] == b"NBDMAGICIHAVEOPT"
    sock.sendall(struct.pack(">I8sII4s", 1, b"IHAVEOPT", 1, 4, b"disk"))
    assert struct.unpack(">QH124s", exactly(sock, 134))[::2] == (SIZE, bytes(124))
    return sock


def ask(sock: socket.socket, command: int, offset: int, length: int, data: bytes = b"") -> int:
    sock.sendall(REQUEST.pack(0x25609513, 0, command, 7, offset, length) + data)
    magic, error, cookie = struct.unpack(">IIQ", exactly(sock, 16))
    assert (magic, cookie) == (0x67446698, 7)
    return int(error)


def disk(kind: type[RamUnit] = InlineRamUnit) -> RamUnit:
    return kind(block_count=SIZE // 512)


@pytest.mark.parametrize("kind", [RamUnit, InlineRamUnit, AsyncRamUnit])
def test_a_client_that_knows_only_export_name(tmp_path: Path, kind: type[RamUnit]) -> None:
    with nbd_server(tmp_path / "s", disk=disk(kind)), old_client(tmp_path / "s") as sock:
        assert ask(sock, WRITE, 512, 512, b"a" * 512) == 0
        assert ask(sock, READ, 512, 512) == 0
        assert exactly(sock, 512) == b"a" * 512
        assert ask(sock, 99, 0, 0) == EINVAL
        assert ask(sock, READ, 512, 512) == 0
        assert exactly(sock, 512) == b"a" * 512


@pytest.mark.parametrize(
    "sent",
    [
        REQUEST.pack(0x25609513, 0, WRITE, 1, 0, 1 << 20) + bytes(1000),
        REQUEST.pack(0x25609513, 0, READ, 1, 0, 1 << 20)[:9],
        REQUEST.pack(0x25609513, 0, READ, 1, 0, 1 << 20) * 8,
    ],
    ids=["within a write", "half a request", "with answers unread"],
)
def test_clients_that_are_gone(tmp_path: Path, sent: bytes) -> None:
    """Others go on meanwhile; no thread and no descriptor is left."""
    with nbd_server(tmp_path / "s", disk=disk(RamUnit)), old_client(tmp_path / "s") as other:
        assert ask(other, WRITE, 0, 512, b"a" * 512) == 0

        def open_files() -> int:
            return len(os.listdir("/proc/self/fd"))

        threads, files = threading.active_count(), open_files()
        for _ in range(5):
            with old_client(tmp_path / "s") as sock:
                sock.sendall(sent)
            assert ask(other, READ, 0, 512) == 0
            assert exactly(other, 512) == b"a" * 512
        eventually(lambda: threading.active_count() <= threads and open_files() <= files)


@pytest.mark.parametrize(
    "sent",
    [
        REQUEST.pack(0xDEADBEEF, 0, READ, 1, 0, 512),
        REQUEST.pack(0x25609513, 0, WRITE, 1, 0, 0xFFFFFFFF),
    ],
    ids=["wrong magic", "4 GiB of payload"],
)
def test_what_ends_a_connection(tmp_path: Path, sent: bytes) -> None:
    with nbd_server(tmp_path / "s", disk=disk()), old_client(tmp_path / "s") as other:
        with old_client(tmp_path / "s") as sock:
            sock.sendall(sent)
            while sock.recv(4096):
                pass
        assert ask(other, READ, 0, 512) == 0
        assert exactly(other, 512) == bytes(512)


@requires("qemu-io")
def test_a_client_killed_in_writes(tmp_path: Path) -> None:
    with (
        nbd_server(tmp_path / "s", disk=disk(RamUnit)) as uri,
        old_client(tmp_path / "s") as other,
    ):
        commands = ["-c", "aio_write -q 0 1M"] * 2000
        process = subprocess.Popen(["qemu-io", "-f", "raw", *commands, uri])
        time.sleep(0.2)
        process.kill()
        process.wait()
        assert ask(other, READ, SIZE - 512, 512) == 0
        assert exactly(other, 512) == bytes(512)
