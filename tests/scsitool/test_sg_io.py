"""SG_IO: the bytes of its argument, and every way in which it fails; the kernel is a stand-in."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from userdisk.scsitool import sg_io
from userdisk.scsitool.device import DeviceError, Result
from userdisk.scsitool.sg_io import HEADER, SG_IO, Ioctl, SgDevice

SENSE = bytes.fromhex("70 00 05 00000000 0a 00000000 2400 00 000000")


class Kernel:
    """Takes the header apart, reads and writes the caller's memory, and fills in an answer."""

    def __init__(self, **answer: int) -> None:
        self.answer = {"status": 0, "sense": 0, "host": 0, "driver": 0, "residual": 0} | answer
        self.asked: dict[str, object] = {}
        self.data = b""

    def __call__(self, descriptor: int, request: int, argument: bytearray, mutate: bool) -> int:
        assert request == SG_IO and mutate and len(argument) == HEADER.size
        fields = list(HEADER.unpack(argument))
        (interface, direction, length, room, vectors, size, data, command, sense, timeout,
         flags, *_) = fields  # fmt: skip
        assert (chr(interface), vectors, flags) == ("S", 0, 0)
        self.asked = {
            "cdb": ctypes.string_at(command, length),
            "direction": direction,
            "timeout": timeout,
            "out": ctypes.string_at(data, size) if direction == -2 else b"",
            "size": size,
        }
        if direction == -3:
            ctypes.memmove(data, self.data, min(size, len(self.data)))
        assert room == sg_io.SENSE_LENGTH
        ctypes.memmove(sense, SENSE, self.answer["sense"])
        fields[-9:] = [
            self.answer["status"], 0, 0, self.answer["sense"], self.answer["host"],
            self.answer["driver"], self.answer["residual"], 3, 0,
        ]  # fmt: skip
        HEADER.pack_into(argument, 0, *fields)
        return 0


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ioctl], SgDevice]:
    """Makes a device of a stand-in for ioctl; the node is none."""
    monkeypatch.setattr(sg_io, "_open", lambda path: os.open("/dev/null", os.O_RDONLY))
    return lambda ioctl: SgDevice("/dev/sg0", 2.5, ioctl)


def test_reading(device: Callable[[Ioctl], SgDevice]) -> None:
    kernel = Kernel(residual=28)
    kernel.data = b"answered" + b"\xaa" * 28
    sg = device(kernel)
    assert sg.execute(b"\x12\0\0\0\x24\0", 36) == Result(0, b"", b"answered")
    assert kernel.asked == {
        "cdb": b"\x12\0\0\0\x24\0", "direction": -3, "timeout": 2500, "out": b"", "size": 36,
    }  # fmt: skip
    sg.close()


def test_writing_and_neither(device: Callable[[Ioctl], SgDevice]) -> None:
    kernel = Kernel()
    sg = device(kernel)
    assert sg.execute(b"\x42" + bytes(9), 0, b"some data") == Result(0, b"", b"")
    assert kernel.asked["out"] == b"some data" and kernel.asked["direction"] == -2
    sg.execute(bytes(6))
    assert kernel.asked["direction"] == -1 and kernel.asked["size"] == 0
    sg.close()


def test_sense(device: Callable[[Ioctl], SgDevice]) -> None:
    sg = device(Kernel(status=2, sense=len(SENSE), residual=36, driver=8))
    assert sg.execute(b"\x12\0\0\0\x24\0", 36) == Result(2, SENSE, b"")
    sg.close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"host": 3}, "no answer in 2.5 seconds"),
        ({"driver": 6}, "no answer in 2.5 seconds"),
        ({"host": 1}, "it cannot be reached"),
        ({"host": 0x77}, "host status 0x77"),
    ],
)
def test_no_answer(device: Callable[[Ioctl], SgDevice], answer: dict[str, int], words: str) -> None:
    sg = device(Kernel(**answer))
    with pytest.raises(DeviceError, match=words):
        sg.execute(bytes(6))
    sg.close()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOTTY, "not a SCSI device"),
        (errno.EPERM, "permission denied for this command"),
        (errno.ENODEV, "the device is gone"),
        (errno.ERANGE, os.strerror(errno.ERANGE)),
    ],
)
def test_ioctl_fails(device: Callable[[Ioctl], SgDevice], number: int, words: str) -> None:
    def ioctl(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    sg = device(ioctl)
    with pytest.raises(DeviceError, match=words):
        sg.execute(bytes(6))
    sg.close()


def test_nodes_that_are_no_disks(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="there is no such device"):
        SgDevice(str(tmp_path / "sg0"), 1)
    for node in ("/dev/null", "/dev/zero"):
        with pytest.raises(DeviceError, match=f"{node}: not a SCSI device"):
            SgDevice(node, 1)
