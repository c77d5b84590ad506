"""`spd:PATH`: a device behind a pipe as a unit, and devices that fail."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.units import KINDS, ConcurrentRamUnit, InlineRamUnit, RamUnit
from tests.spd.test_client import response
from tests.spd.test_wire import PARAMETERS
from userdisk.backend import open_unit
from userdisk.backend.spd import SpdUnit
from userdisk.errors import (
    HardwareError,
    MediumError,
    NotReady,
    UsageError,
    UserdiskError,
    WriteError,
)
from userdisk.gate import Gate
from userdisk.server import Server
from userdisk.testing import check_storage_unit

DATA = bytes(range(256)) * 2


@contextmanager
def served(unit: RamUnit, path: Path) -> Iterator[Gate]:
    gate = Gate(unit)
    with Server([], listen=(), pipes={path: gate}):
        yield gate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.sock"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cached", [True, False])
def test_contract(kind: str, cached: bool, path: Path) -> None:
    with served(KINDS[kind](cache_supported=cached), path):
        check_storage_unit(SpdUnit(str(path)))


def test_what_it_is(path: Path) -> None:
    unit = InlineRamUnit(
        block_length=4096, product_id="my disk", product_revision="9.9", max_transfer_length=65536
    )
    with served(unit, path):
        found = open_unit(f"spd:{path}")
        assert found.parameters.guid == unit.parameters.guid
        assert found.parameters.size == unit.parameters.size
        assert found.parameters.block_length == 4096
        assert found.parameters.product_id == "my disk"
        assert found.parameters.product_revision == "9.9"
        assert found.parameters.max_transfer_length == 65536
        assert found.parameters.cache_supported
        found.close()


def test_without_a_cache_each_write_says_fua(path: Path) -> None:
    for cached, expected in ((False, True), (True, False)):
        unit = InlineRamUnit(cache_supported=cached)
        with served(unit, path):
            disk = SpdUnit(str(path))
            disk.write(0, memoryview(DATA), False)
            disk.flush()
            disk.close()
        assert unit.log[0] == ("write", 0, 1, expected)
        assert unit.calls["flush"] == (2 if cached else 1), "and the one at the server's end"


def test_many_threads(path: Path) -> None:
    with served(ConcurrentRamUnit(), path) as gate:
        disk = SpdUnit(str(path))

        def work(number: int) -> None:
            data = bytes([number]) * 512
            for at in range(50):
                disk.write(number * 50 + at, memoryview(data), False)
                assert disk.read(number * 50 + at, 1, False) == data

        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        disk.close()
        assert isinstance(gate.unit, RamUnit)
        assert gate.unit.memory[50 * 512 : 450 * 512] == b"".join(
            bytes([number]) * 512 * 50 for number in range(1, 9)
        )


def test_errors_come_as_they_are(path: Path) -> None:
    unit = InlineRamUnit()

    def fault(name: str, lba: int, blocks: int) -> None:
        raise MediumError("bad", lba=lba)

    unit.fault = fault
    with served(unit, path):
        disk = SpdUnit(str(path))
        with pytest.raises(MediumError) as caught:
            disk.read(7, 1, False)
        assert caught.value.lba == 7
        with pytest.raises(WriteError):
            disk.write(7, memoryview(DATA), False)
        unit.fault = None
        disk.close()


def test_a_lost_device_comes_back_and_one_flush_says_so(path: Path) -> None:
    unit = InlineRamUnit()
    with served(unit, path):
        disk = SpdUnit(str(path))
        disk.write(0, memoryview(DATA), False)
        disk.flush()
        disk.write(1, memoryview(DATA), False)
    with pytest.raises(NotReady):
        disk.read(0, 1, False)
    again = InlineRamUnit(guid=str(unit.parameters.guid))
    with served(again, path):
        disk.write(2, memoryview(DATA), False)
        with pytest.raises(WriteError, match="not flushed"):
            disk.flush()
        disk.flush()
        disk.close()


def test_another_device_in_its_place(path: Path) -> None:
    with served(InlineRamUnit(), path):
        disk = SpdUnit(str(path))
    with served(InlineRamUnit(), path):
        with pytest.raises((HardwareError, NotReady)):
            disk.read(0, 1, False)
        with pytest.raises(HardwareError, match="another device"):
            disk.read(0, 1, False)
        disk.close()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"size": 512}, "not 512"),
        ({"block_length": 4096}, "not 4096"),
        ({"guid": ""}, "'' is not a GUID"),
        ({"product_id": ""}, "must be 1 to 16 characters"),
        ({"product_revision": ""}, "must be 1 to 4 characters"),
    ],
)
def test_what_does_not_fit(options: dict[str, int | str], what: str, path: Path) -> None:
    with served(InlineRamUnit(), path), pytest.raises(UsageError, match=what):
        SpdUnit(str(path), **options)  # type: ignore[arg-type]


def test_no_device(path: Path) -> None:
    with pytest.raises(UserdiskError, match=r"disk\.sock: cannot connect: No such file"):
        open_unit(f"spd:{path}")
    with pytest.raises(UsageError, match="needs the path"):
        open_unit("spd:")


@contextmanager
def scripted(path: Path, script: Callable[[socket.socket], None]) -> Iterator[None]:
    """A device that does what the script says, for one client."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def run() -> None:
        sock, _ = listener.accept()
        with sock:
            script(sock)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        listener.close()


def _begin(parameters: bytes = PARAMETERS) -> bytes:
    return struct.pack("<I", len(parameters)) + parameters


@pytest.mark.parametrize(
    ("sent", "what"),
    [
        (b"", "closed the connection"),
        (_begin()[:50], "closed the connection"),
        (struct.pack("<I", 1 << 31), "2147483648 bytes"),
        (_begin(bytes(128)), "no blocks"),
        (b"NBDMAGIC" * 20, "message of"),
    ],
)
def test_a_device_that_is_none(sent: bytes, what: str, path: Path) -> None:
    with scripted(path, lambda sock: sock.sendall(sent)), pytest.raises(UserdiskError, match=what):
        SpdUnit(str(path))


def test_a_device_that_is_silent(path: Path) -> None:
    ended = threading.Event()

    def script(sock: socket.socket) -> None:
        assert ended.wait(10)

    with scripted(path, script):
        with pytest.raises(UserdiskError, match=r"no answer in 0\.1 seconds"):
            SpdUnit(str(path), timeout=0.1)
        ended.set()


def test_a_device_with_odd_blocks(path: Path) -> None:
    odd = bytearray(PARAMETERS)
    struct.pack_into("<I", odd, 24, 520)
    struct.pack_into("<I", odd, 56, 520 * 4)
    sent = _begin(bytes(odd))
    with (
        scripted(path, lambda sock: sock.sendall(sent)),
        pytest.raises(UsageError, match="520 bytes; a disk's have 512"),
    ):
        SpdUnit(str(path))


def test_a_device_that_lies_is_left(path: Path) -> None:
    def script(sock: socket.socket) -> None:
        sock.sendall(_begin())
        sock.recv(1000)
        sock.sendall(response(1, 1, bytes(100)))
        assert sock.recv(1000) == b""

    with scripted(path, script):
        disk = SpdUnit(str(path))
        with pytest.raises(NotReady, match="answers a READ of 512 bytes with 100"):
            disk.read(0, 1, False)
        disk.close()
