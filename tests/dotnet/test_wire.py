"""The bytes of the pipe protocol, as WinSpd's clients and servers have them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dotnet.disk import GUID, Client, Disk, serve
from tests.kit.requires import requires

pytestmark = requires("mcs", "mono", "make")


@pytest.fixture(scope="module")
def disk(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    path = tmp_path_factory.mktemp("wire") / "s"
    with serve(built, path, blocks=1048576) as disk:
        yield disk


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text)


def test_the_greeting(disk: Disk) -> None:
    expected = _bytes(
        """
        a1 a9 12 41 79 f0 3d 4f ba 53 2d 5d f2 7d 28 b5
        00 00 10 00 00 00 00 00 00 02 00 00 52 61 77 44
        69 73 6b 00 00 00 00 00 00 00 00 00 31 2e 30 00
        00 00 00 00 06 00 00 00 00 00 01 00 00 00 00 00
        """
    )
    with Client(disk.path) as client:
        assert client.greeting() == expected.ljust(128, b"\0")


def test_flags_and_numbers_of_the_greeting(built: Path, tmp_path: Path) -> None:
    values = {"blocks": 3, "length": 4104, "transfer": 8208, "unmap": 0, "cache": 0}
    with (
        serve(built, tmp_path / "s", protected=1, noeject=1, **values) as disk,
        Client(disk.path) as client,
    ):
        parameters = client.greeting()
    assert parameters[:16] == GUID
    assert struct.unpack_from("<QI", parameters, 16) == (3, 4104)
    assert struct.unpack_from("<II", parameters, 52) == (0b1001, 8208)


READ = """
    01 00 00 00 44 33 22 11 01 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 05 00 00 00 00 00 00 00
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    """
WRITE = """
    02 00 00 00 44 33 22 11 02 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 01 00 00 00 01 00 00 00
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    """
UNMAP = """
    03 00 00 00 44 33 22 11 04 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 07 00 00 00 00 00 00 00 01 00 00 00 00 00 00 00
    """


def test_read_write_and_unmap(disk: Disk) -> None:
    block = bytes(range(256)) * 2
    with disk.client() as client:
        client.send(_bytes(WRITE) + block)
        assert client.message() == _bytes(WRITE)[:16] + bytes(32)
        client.send(_bytes(READ))
        assert client.message() == _bytes(READ)[:16] + bytes(32) + block + bytes(2048)
        client.send(_bytes(UNMAP))
        assert client.message() == _bytes(UNMAP)[:16] + bytes(32)
        client.send(_bytes(READ))
        assert client.message() == _bytes(READ)[:16] + bytes(32) + bytes(2560)
    assert disk.told("Unmap 7+1") == [
        "Write 7 1 True",
        "Read 7 5 False",
        "Unmap 7+1",
    ]


def test_sense_data_and_information(disk: Disk) -> None:
    """Unlike WinSpd's .NET layer, whose valid bit is another one: W's bit 8."""
    request = struct.pack("<QB7xQII16x", 0x1122334400000001, 1, 101, 1, 0)
    with disk.client() as client:
        client.send(request)
        assert client.message() == request[:16] + _bytes(
            "02 03 11 04 00 00 00 00 88 77 66 55 44 33 22 11"
            "00 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00"
        )


def test_reserved_bytes_are_not_looked_at(disk: Disk) -> None:
    """Clients leave in them what was in their memory."""
    request = struct.pack("<QB7sQII16s", 9, 1, b"\xff" * 7, 0, 1, 0xFFFFFFFE, b"\xff" * 16)
    unmap = struct.pack("<QB7sI28s", 10, 4, b"\xff" * 7, 1, b"\xff" * 28)
    flush = struct.pack("<QB7sQII16s", 11, 3, b"\xff" * 7, 0, 1, 0xFFFFFFFF, b"\xff" * 16)
    with disk.client() as client:
        for message in (request, unmap + struct.pack("<QII", 0, 1, 0xFFFFFFFF), flush):
            client.send(message)
            assert client.answer().status == 0
    disk.told("Read 0 1 False")
    disk.told("Unmap 0+1")
    disk.told("Flush 0 1")
