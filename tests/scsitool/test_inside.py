"""A unit as a device: data both ways, errors, work that goes on, and units that are stuck."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.kit.units import RamUnit
from userdisk.errors import HardwareError, UsageError, UserdiskError
from userdisk.scsitool.asker import Asker, CommandFailed
from userdisk.scsitool.device import DeviceError, open_device
from userdisk.scsitool.inside import InsideDevice

READ, WRITE = bytes.fromhex("28 00 00000001 00 0002 00"), bytes.fromhex("2a 00 00000001 00 0002 00")
#: OVERWRITE with IMMED, 12 bytes of parameters: once, a pattern of 8 bytes.
SANITIZE, PATTERN = (
    bytes.fromhex("48 81 0000000000 000c 00"),
    bytes.fromhex("01 00 0008") + b"sanitize",
)
KINDS = ("InlineRamUnit", "RamUnit", "ConcurrentRamUnit", "AsyncRamUnit", "AbleRamUnit")


@pytest.mark.parametrize("kind", KINDS)
def test_data_both_ways(kind: str) -> None:
    device = open_device(f"tests/kit/units.py:{kind}", 10)
    asker = Asker(device)
    asker.run(WRITE, 0, b"there and back!!" * 64)
    assert asker.run(READ, 1024) == b"there and back!!" * 64
    assert asker.run(READ, 100) == (b"there and back!!" * 64)[:100]
    with pytest.raises(CommandFailed, match="logical block address out of range"):
        asker.run(bytes.fromhex("28 00 ffff0000 00 0001 00"), 512)
    device.close()


def test_what_a_unit_raises_is_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: RamUnit, lba: int, blocks: int, fua: bool) -> bytes:
        raise HardwareError("broken")

    monkeypatch.setattr("tests.kit.units.RamUnit.read", fail)
    device = open_device("tests.kit.units:RamUnit", 10)
    with pytest.raises(CommandFailed, match="hardware error, internal target failure"):
        Asker(device).run(READ, 1024)
    device.close()


def test_sanitize_goes_on_until_the_device_is_closed(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"x" * (1 << 20))
    device = InsideDevice(str(image), 10)
    asker = Asker(device)
    asker.run(SANITIZE, 0, PATTERN)
    for _ in range(10_000):
        try:
            asker.run(bytes(6))
            break
        except CommandFailed as error:
            assert "sanitize in progress" in str(error)
    device.close()
    assert image.read_bytes() == b"sanitize" * (1 << 17)


def test_a_unit_that_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    free = threading.Event()

    def wait(self: RamUnit, lba: int, blocks: int, fua: bool) -> bytes:
        free.wait(60)
        return bytes(blocks * 512)

    monkeypatch.setattr("tests.kit.units.RamUnit.read", wait)
    device = open_device("tests.kit.units:RamUnit", 0.2)
    try:
        with pytest.raises(DeviceError, match=r"no answer in 0.2 seconds"):
            Asker(device).run(READ, 1024)
        device.close()  # does not wait for it
    finally:
        free.set()


def test_a_unit_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: RamUnit) -> None:
        raise OSError(5, "no such luck")

    monkeypatch.setattr("tests.kit.units.RamUnit.open", fail)
    with pytest.raises(UserdiskError, match=r"RamUnit: cannot be opened: .*no such luck"):
        open_device("tests.kit.units:RamUnit")


@pytest.mark.parametrize("name", ["", "ram:", "nonsense:x", "nowhere/disk.img", "a\0b"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError):
        open_device(name)
