"""The block device, on a loop device where one can be had, and on what sysfs says elsewhere."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from userdisk import UsageError
from userdisk.backend import block, open_unit
from userdisk.backend.block import BlockDeviceUnit
from userdisk.testing import check_storage_unit

_MIB = 1 << 20

needs_loop = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/loop-control"),
    reason="loop devices need root and /dev/loop-control",
)


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "backing.img").write_bytes(os.urandom(4 * _MIB))
    command = ["losetup", "--find", "--show", str(tmp_path / "backing.img")]
    device = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


@needs_loop
def test_contract(loop: str) -> None:
    unit = open_unit(loop)
    assert isinstance(unit, BlockDeviceUnit)
    assert unit.parameters.size == 4 * _MIB
    check_storage_unit(unit, operations=300)


@needs_loop
def test_read_only_and_4096(loop: str) -> None:
    unit = open_unit(loop, read_only=True, block_length=4096)
    assert unit.parameters.block_count == 1024
    check_storage_unit(unit)


@needs_loop
def test_exclusive_and_the_same_disk_next_time(loop: str) -> None:
    unit = open_unit(loop)
    with pytest.raises(UsageError, match=f"{loop} is in use"):
        open_unit(loop)
    unit.close()
    again = open_unit(loop)
    assert again.parameters.guid == unit.parameters.guid
    again.close()


@needs_loop
def test_unmap_reaches_the_medium(loop: str, tmp_path: Path) -> None:
    unit = BlockDeviceUnit(loop)
    assert unit.unmap_zeroes
    unit.unmap([(8, 1024), (2048, 4096)])
    unit.flush()
    assert unit.read(0, 8, False) != bytes(4096)
    assert unit.read(8, 1024, False) == bytes(1024 * 512)
    unit.close()
    assert (tmp_path / "backing.img").stat().st_blocks * 512 < 2 * _MIB


@needs_loop
def test_sizes_that_do_not_fit(loop: str) -> None:
    with pytest.raises(UsageError, match="has 4 MiB, not 8 MiB"):
        open_unit(loop, size=8 * _MIB)


def test_what_is_no_device(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a block device"):
        BlockDeviceUnit(tmp_path)
    with pytest.raises(UsageError, match="No such file"):
        BlockDeviceUnit(tmp_path / "none")


class Discards(BlockDeviceUnit):
    """A device that discards in granules of 4 KiB, from byte 512 on, and promises no zeros."""

    def __init__(self, path: Path) -> None:
        self.discarded: list[tuple[int, int]] = []
        super().__init__(path, guid="4112a9a1-f079-4f3d-ba53-2d5df27d28b5")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Discards:
    """A file that is taken for a device with the queue that the folder `sys` describes."""
    sysfs = tmp_path / "sys"
    (sysfs / "queue").mkdir(parents=True)
    for name, value in (
        ("queue/logical_block_size", 512),
        ("queue/physical_block_size", 4096),
        ("queue/discard_granularity", 4096),
        ("queue/discard_max_bytes", 1 << 30),
        ("queue/write_zeroes_max_bytes", 0),
        ("discard_alignment", 512),
    ):
        (sysfs / name).write_text(f"{value}\n")
    (tmp_path / "device").write_bytes(b"d" * _MIB)
    monkeypatch.setattr(block, "_look_at", lambda path: (_MIB, str(sysfs)))
    unit = Discards(tmp_path / "device")

    def ioctl(descriptor: int, request: int, data: bytes) -> None:
        assert request == 0x1277
        unit.discarded.append(struct.unpack("=QQ", data))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    return unit


def test_discard_keeps_to_whole_granules(device: Discards) -> None:
    assert not device.unmap_zeroes
    assert device.parameters.unmap_supported
    assert device.parameters.physical_block_length == 4096
    device.unmap([(1, 8)])  # just one granule
    device.unmap([(0, 16)])  # one, and parts of two
    device.unmap([(2, 8)])  # parts of two only
    device.unmap([(0, 2048)])
    assert device.discarded == [(512, 4096), (512, 4096), (512, _MIB - 4096)]
    assert device.read(0, 2048, False) == b"d" * _MIB
    device.close()


def test_a_device_that_refuses_to_discard_may_ignore_it(
    device: Discards, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(*arguments: object) -> None:
        asked.append(arguments)
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    device.unmap([(0, 2048)])  # does not raise
    device.close()
    assert asked


def test_no_discard_no_unmap(device: Discards, tmp_path: Path) -> None:
    device.close()
    (tmp_path / "sys/queue/discard_max_bytes").write_text("0")
    unit = BlockDeviceUnit(tmp_path / "device", guid="4112a9a1-f079-4f3d-ba53-2d5df27d28b5")
    assert not unit.parameters.unmap_supported
    unit.close()
    (tmp_path / "sys/queue/logical_block_size").write_text("4096")
    with pytest.raises(UsageError, match="less than the device's, 4096"):
        BlockDeviceUnit(tmp_path / "device", block_length=512)
