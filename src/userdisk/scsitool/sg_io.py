"""A SCSI device of this machine: `/dev/sgN`, `/dev/sdN`, by the SG_IO ioctl (Linux, scsi/sg.h)."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

from userdisk.errors import UsageError
from userdisk.scsitool.device import DeviceError, Result

Ioctl = Callable[[int, int, bytearray, bool], int]

SG_IO = 0x2285
SENSE_LENGTH = 252

_NONE, _TO_DEVICE, _FROM_DEVICE = -1, -2, -3  # dxfer_direction

#: struct sg_io_hdr, native sizes and alignment: interface_id, dxfer_direction, cmd_len, mx_sb_len,
#: iovec_count, dxfer_len, dxferp, cmdp, sbp, timeout (ms), flags, pack_id, usr_ptr; and what the
#: kernel fills in: status, masked_status, msg_status, sb_len_wr, host_status, driver_status,
#: resid, duration, info
HEADER = struct.Struct("@iiBBHIPPPIIiPBBBBHHiII0P")

#: host_status: why no answer of the device came (DID_...); 0 means that one came.
_HOST: dict[int, str] = {
    0x01: "it cannot be reached",
    0x02: "the bus was busy",
    0x03: "no answer in {timeout:g} seconds",
    0x04: "there is no such device",
    0x05: "the command was aborted",
    0x06: "parity error",
    0x07: "the adapter reports an error",
    0x08: "the device was reset",
    0x09: "unexpected interrupt",
    0x0B: "the adapter asks to try again",
    0x0C: "the adapter asks to try again",
    0x0D: "the command must be sent again",
    0x0E: "the path to it was lost",
    0x0F: "the path to it has failed",
}
_DRIVER_TIMEOUT = 0x06
_SG_MAJOR = 21  # of /dev/sgN

_OPEN: dict[int, str] = {
    errno.ENOENT: "there is no such device",
    errno.ENXIO: "there is no device behind this node",
    errno.ENODEV: "there is no device behind this node",
    errno.EACCES: "permission denied; root may, or the group of the node",
    errno.EPERM: "permission denied; root may",
    errno.EBUSY: "somebody else uses it exclusively",
    errno.ENOTTY: "not a SCSI device; give /dev/sgN or /dev/sdN",
    errno.ENOMEDIUM: "there is no medium in it",
}
_FAILED: dict[int, str] = {
    errno.ENOTTY: "not a SCSI device (it has no SG_IO)",
    errno.EINVAL: "not a SCSI device (it has no SG_IO)",
    errno.ENOSYS: "not a SCSI device (it has no SG_IO)",
    errno.EOPNOTSUPP: "not a SCSI device (it has no SG_IO)",
    errno.EPERM: "permission denied for this command; root may",
    errno.EACCES: "permission denied for this command; root may",
    errno.ENODEV: "the device is gone",
    errno.ENXIO: "the device is gone",
    errno.ENOMEM: "not enough memory for the data",
    errno.EIO: "input/output error",
}


class _Answer(NamedTuple):
    """The part of the header that the kernel fills in."""

    status: int
    masked_status: int
    msg_status: int
    sense_length: int
    host_status: int
    driver_status: int
    residual: int
    duration: int
    info: int


class SgDevice:
    """A device node.

    Args:
        name: path of the node.
        timeout: seconds for each command.
        ioctl: `fcntl.ioctl`, or what stands for it in a test.

    The constructor may block while the kernel opens the node. Raises `DeviceError`.
    """

    def __init__(self, name: str, timeout: float, ioctl: Ioctl | None = None) -> None:
        if ioctl is None:
            if sys.platform != "linux":
                raise UsageError(f"{name}: device nodes are asked with SG_IO, which only Linux has")
            from fcntl import ioctl as found

            ioctl = found
        self.name = os.path.realpath(name)
        self._timeout = timeout
        self._ioctl = ioctl
        try:
            self._descriptor = _open(self.name)
        except OSError as error:
            raise DeviceError(f"{name}: {_words(_OPEN, error)}") from error

    def execute(self, cdb: bytes, read_length: int = 0, data_out: bytes = b"") -> Result:
        """See `Device.execute`. A command has data one way only."""
        size = len(data_out) or read_length
        command = ctypes.create_string_buffer(cdb, len(cdb))
        sense = ctypes.create_string_buffer(SENSE_LENGTH)
        data = ctypes.create_string_buffer(data_out, max(1, size))
        direction = _TO_DEVICE if data_out else _FROM_DEVICE if read_length else _NONE
        header = bytearray(HEADER.size)
        HEADER.pack_into(
            header, 0, ord("S"), direction, len(cdb), SENSE_LENGTH, 0, size,
            ctypes.addressof(data) if size else 0, ctypes.addressof(command),
            ctypes.addressof(sense), max(1, round(self._timeout * 1000)), 0, 0, 0,
            *_Answer(0, 0, 0, 0, 0, 0, 0, 0, 0),
        )  # fmt: skip
        try:
            self._ioctl(self._descriptor, SG_IO, header, True)
        except OSError as error:
            raise DeviceError(f"{self.name}: {_words(_FAILED, error)}") from error
        answer = _Answer._make(HEADER.unpack(header)[-len(_Answer._fields) :])
        self._check(answer)
        got = max(0, min(read_length, read_length - answer.residual))
        length = min(answer.sense_length, SENSE_LENGTH)
        return Result(answer.status & 0xFE, sense.raw[:length], data.raw[:got])

    def close(self) -> None:
        """Close the node."""
        os.close(self._descriptor)

    def _check(self, answer: _Answer) -> None:
        """Raise `DeviceError` if the device did not answer itself."""
        if answer.driver_status & 0x0F == _DRIVER_TIMEOUT:
            raise DeviceError(f"{self.name}: no answer in {self._timeout:g} seconds")
        if answer.host_status:
            words = _HOST.get(answer.host_status, f"host status {answer.host_status:#04x}")
            raise DeviceError(f"{self.name}: {words.format(timeout=self._timeout)}")


def _open(path: str) -> int:
    """A descriptor. The sg driver wants it writable; a disk's node is opened for reading.

    Closing a disk's node that was open for writing would have udev look at the disk again.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    status = os.stat(path)
    if stat.S_ISCHR(status.st_mode):
        if os.major(status.st_rdev) != _SG_MAJOR:  # opening may already do something to it
            raise OSError(errno.ENOTTY, "")
        try:
            return os.open(path, flags | os.O_RDWR)
        except PermissionError:
            pass  # commands that only ask may be allowed all the same
    return os.open(path, flags)


def _words(table: dict[int, str], error: OSError) -> str:
    return table.get(error.errno or 0, error.strerror or str(error))
