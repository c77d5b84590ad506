"""WinSpd's own tests of its driver, by their names, on units behind a target."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from tests.kit.server import serve
from tests.kit.units import InlineRamUnit, RamUnit
from userdisk.backend import open_unit
from userdisk.errors import StorageError, UsageError, UserdiskError
from userdisk.gate import Gate
from userdisk.initiator_client import Initiator, discover
from userdisk.iscsi.initiator_login import Settings
from userdisk.iscsi.initiator_task import Task
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target

IQN = "iqn.2026-11.io.userdisk:scenario"
INITIATOR = "iqn.2026-11.io.userdisk:scenarios"
GUIDS = [str(uuid.UUID(int=number)) for number in range(1, 40)]


class Provisioned:
    """Units as logical units of a target that is served, and a session with it."""

    def __init__(self, *units: InlineRamUnit | RamUnit) -> None:
        self.units = units
        lus = [LogicalUnit(Gate(unit)) for unit in units]
        self.server = Server([Target(IQN, lus)], listen=[("127.0.0.1", 0)])

    def __enter__(self) -> Provisioned:
        (self.address,) = self.server.start()
        self.initiator = Initiator(self.address, Settings(INITIATOR, IQN))
        for lun in range(len(self.units)):  # what it is told of the start
            self.do(b"\0" * 6, lun=lun)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(InitiatorError):  # the target may have left first
            self.initiator.close()
        self.server.stop()

    def do(self, cdb: bytes, *, lun: int = 0, length: int = 0, data: bytes = b"") -> Task:
        """A command, and how it ended."""
        session = self.initiator.session
        task = session.command(cdb, lun=lun, read_length=length, data_out=data)
        self.initiator.run(lambda: task.done)
        return task


def read16(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBQIxx", 0x88, 0, lba, blocks)


def write16(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBQIxx", 0x8A, 0, lba, blocks)


def unit(number: int = 0, **parameters: object) -> InlineRamUnit:
    return InlineRamUnit(**{"block_count": 16, "guid": GUIDS[number], **parameters})


def test_ioctl_provision() -> None:
    with Provisioned(unit()) as target:
        luns = target.do(struct.pack(">BxxxxxI2x", 0xA0, 256), length=256).data
        assert bytes(luns) == bytes.fromhex("0000000800000000") + bytes(8)


@pytest.mark.parametrize(
    "parameters",
    [
        {"block_count": 0},
        {"block_length": 0},
        {"block_length": 15},
        {"max_transfer_length": 0},
        {"max_transfer_length": 513},
        {"guid": str(uuid.UUID(int=0))},
    ],
)
def test_ioctl_provision_invalid(parameters: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        unit(**parameters)
    test_ioctl_provision()


def test_ioctl_provision_multi() -> None:
    from userdisk.identity import check_unique

    with pytest.raises(UsageError, match="same"):
        check_unique([unit(), unit()])
    target = Provisioned(unit(0), unit(1))
    with target:
        assert target.do(read16(0, 1), lun=1, length=512).status == 0
    target.server.stop()  # once more, and nothing is left to do


def test_ioctl_provision_toomany() -> None:
    lus = [LogicalUnit(Gate(unit(number))) for number in range(16)]
    assert list(Target(IQN, lus).units) == lus


def test_ioctl_list() -> None:
    with Provisioned(*map(unit, range(3))) as target:
        short = target.do(struct.pack(">BxxxxxI2x", 0xA0, 16), length=16)
        assert (short.status, bytes(short.data)) == (0, bytes.fromhex("00000018") + bytes(12))
        whole = bytes(target.do(struct.pack(">BxxxxxI2x", 0xA0, 256), length=256).data)
        assert [whole[at + 1] for at in range(8, 32, 8)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("most", "expected"), [(5, [(7, 5)]), (3, [(7, 3), (10, 2)])], ids=["", "chunked"]
)
def test_ioctl_transact_read(most: int, expected: list[tuple[int, int]]) -> None:
    disk = unit(max_transfer_length=most * 512)
    disk.memory[:] = os.urandom(len(disk.memory))
    with Provisioned(disk) as target:
        task = target.do(read16(7, 5), length=5 * 512)
        assert bytes(task.data) == disk.memory[7 * 512 : 12 * 512]
        assert [(lba, blocks) for name, lba, blocks, _ in disk.log if name == "read"] == expected


@pytest.mark.parametrize(
    ("most", "expected"), [(5, [(7, 5)]), (3, [(7, 3), (10, 2)])], ids=["", "chunked"]
)
def test_ioctl_transact_write(most: int, expected: list[tuple[int, int]]) -> None:
    disk = unit(max_transfer_length=most * 512)
    data = os.urandom(5 * 512)
    with Provisioned(disk) as target:
        assert target.do(write16(7, 5), data=data).status == 0
        assert disk.memory[7 * 512 : 12 * 512] == data
        assert [(lba, blocks) for name, lba, blocks, _ in disk.log if name == "write"] == expected


def test_ioctl_transact_flush() -> None:
    disk = unit()
    with Provisioned(disk) as target:
        for lba, blocks in ((7, 5), (0, 0)):  # of some blocks, and of all of them
            before = disk.calls["flush"]
            assert target.do(struct.pack(">BBQIxx", 0x91, 0, lba, blocks)).status == 0
            assert disk.calls["flush"] == before + 1


def test_ioctl_transact_unmap() -> None:
    extents = [(0, 7), (3, 2), (5, 3)]
    descriptors = b"".join(struct.pack(">QIxxxx", *each) for each in extents)
    parameters = struct.pack(">HHxxxx", 6 + len(descriptors), len(descriptors)) + descriptors
    disk = unit()
    with Provisioned(disk) as target:
        cdb = struct.pack(">BBxxxxxHx", 0x42, 0, len(parameters))
        assert target.do(cdb, data=parameters).status == 0
        assert [(lba, n) for name, lba, n, _ in disk.log if name == "unmap"] == extents


def test_ioctl_transact_error() -> None:
    class Broken(StorageError):
        sense = (3, 0x15, 2)

    def fault(name: str, lba: int, blocks: int) -> None:
        raise Broken(lba=11)

    disk = unit()
    with Provisioned(disk) as target:
        disk.fault = fault
        task = target.do(read16(7, 5), length=5 * 512)
        disk.fault = None
        assert task.status == 2
        assert task.sense[0] & 0x80, "the information is valid"
        assert (task.sense[2] & 0xF, task.sense[12], task.sense[13]) == (3, 0x15, 2)
        assert task.sense[3:7] == bytes((0, 0, 0, 11))


def test_ioctl_transact_cancel() -> None:
    """The server stops while a read is under way: its reader gets an error, not silence."""
    go = threading.Event()

    class Slow(RamUnit):
        def read(self, lba: int, blocks: int, fua: bool) -> bytes:
            assert go.wait(30)
            return bytes(super().read(lba, blocks, fua))

    target = Provisioned(Slow(block_count=16))
    with target:
        task = target.initiator.session.command(read16(7, 5), read_length=5 * 512)
        stopper = threading.Thread(target=target.server.stop)
        stopper.start()
        release = threading.Timer(4.0, go.set)  # the unit is busy until long after the stop
        release.start()
        try:
            with pytest.raises(InitiatorError, match="closed"):
                target.initiator.run(lambda: False)
            assert not task.done or task.status
            assert not go.is_set(), "the reader is told before the unit is done"
        finally:
            release.join()
            stopper.join()


def test_ioctl_process_death() -> None:
    with serve("ram:1M") as served:
        host, port = served.address.host, served.address.port
        assert discover((host, port), Settings(INITIATOR))
        served.process.kill()
        served.process.wait()
        with pytest.raises((InitiatorError, UserdiskError, OSError)):
            discover((host, port), Settings(INITIATOR))
        with serve("ram:1M", listen=f"{host}:{port}"):
            assert discover((host, port), Settings(INITIATOR)), "and its address is free again"


def test_ioctl_process_access(tmp_path: Path) -> None:
    """Another process cannot have the same image."""
    image = tmp_path / "disk.img"
    with serve(str(image), options=("--size", "1M")):
        done = subprocess.run(
            [sys.executable, "-m", "userdisk", "serve", str(image), "--listen", "127.0.0.1:0"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (1, 2)
        assert "disk.img" in done.stderr and done.stderr.count("\n") == 1


def test_ioctl_process_transact(tmp_path: Path) -> None:
    """One process has the unit, another offers it."""
    pipe = tmp_path / "pipe"
    with (
        serve("ram:1M", options=("--pipe", str(pipe))) as first,
        serve(f"spd:{pipe}") as second,
    ):
        for served, data in ((first, b"a" * 512), (second, b"b" * 512)):
            address = (served.address.host, served.address.port)
            with Initiator(address, Settings(INITIATOR, served.address.target)) as initiator:
                initiator.write(3, data)
        unit = open_unit(f"spd:{pipe}")
        assert unit.read(3, 1, False) == b"b" * 512
        unit.close()
        assert second.stop(signal.SIGINT) == 0
        assert first.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("unmap", [False, True])
def test_scsi_inquiry(unmap: bool) -> None:
    disk = unit(product_id="a product", product_revision="1.2", unmap_supported=unmap)
    with Provisioned(disk) as target:
        found = bytes(target.do(bytes((0x12, 0, 0, 0, 255, 0)), length=255).data)
        assert (found[0], found[4] + 5) == (0, len(found))
        assert (found[16:32], found[32:36]) == (b"a product".ljust(16), b"1.2 ")
        pages = {}
        for page in (0x00, 0x80, 0x83, 0xB0, 0xB2):
            data = bytes(target.do(bytes((0x12, 1, page, 0, 255, 0)), length=255).data)
            assert data[1] == page
            assert int.from_bytes(data[2:4], "big") + 4 == len(data)
            pages[page] = data
        assert set(pages) <= set(pages[0x00][4:])
        assert bool(int.from_bytes(pages[0xB0][20:24], "big")) == unmap
        assert bool(pages[0xB2][5] & 0x80) == unmap


@pytest.mark.parametrize(("protected", "cache"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("ten", [False, True])
def test_scsi_mode_sense(protected: bool, cache: bool, ten: bool) -> None:
    disk = unit(write_protected=protected, cache_supported=cache)
    with Provisioned(disk) as target:
        cdb = struct.pack(">BBBxxxxHx", 0x5A, 8, 8, 255) if ten else bytes((0x1A, 8, 8, 0, 255, 0))
        data = bytes(target.do(cdb, length=255).data)
        page = data[8:] if ten else data[4:]
        assert bool(data[3 if ten else 2] & 0x80) == protected
        assert page[:2] == b"\x08\x12"
        assert bool(page[2] & 0x04) == cache


@pytest.mark.parametrize("unmap", [False, True])
def test_scsi_read_capacity(unmap: bool) -> None:
    with Provisioned(unit(unmap_supported=unmap)) as target:
        ten = bytes(target.do(bytes((0x25,)).ljust(10, b"\0"), length=8).data)
        assert struct.unpack(">II", ten) == (15, 512)
        cdb = struct.pack(">BBQIxx", 0x9E, 0x10, 0, 32)
        sixteen = bytes(target.do(cdb, length=32).data)
        assert struct.unpack_from(">QI", sixteen) == (15, 512)
        assert bool(sixteen[14] & 0x80) == unmap
