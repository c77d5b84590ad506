"""Writes to a disk in the guest, and marks in the log of the medium what was acknowledged when.

Run in the guest: `python -m tests.guest.crash_workload ROUNDS FOLDER {DISK DM_DEVICE}...`. A round
is some writes and discards at once, their acknowledgements, a flush with further writes beside it,
its acknowledgement, and a mark; or one FUA write, its acknowledgement and a mark. A list of steps
goes to FOLDER/DM_DEVICE.json; `crash_model` says what they promise.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import random
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.guest.crash_model import BLOCK, BLOCKS, Step, content

BLKDISCARD = 0x1277
SG_IO = 0x2285
_SG_DXFER_TO_DEV = -2
_WRITE_16 = 0x8A
_FUA = 0x08


class _SgIoHeader(ctypes.Structure):
    """struct sg_io_hdr of <scsi/sg.h>."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


class Disk:
    """The disk, past the page cache. `write` and `discard` may be called on any thread."""

    flushes_after_fua = False

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)

    def write(self, block: int, blocks: int, version: int) -> None:
        """Returns when the disk has acknowledged the write."""
        with _aligned(block, blocks, version) as buffer:
            written = os.pwrite(self.descriptor, buffer, block * BLOCK)
            assert written == blocks * BLOCK, written

    def write_fua(self, block: int, blocks: int, version: int) -> None:
        """A WRITE(16) with FUA and no flush: block devices offer only both together."""
        cdb = struct.pack(">BBQIxx", _WRITE_16, _FUA, block * (BLOCK // 512), blocks * BLOCK // 512)
        data = ctypes.create_string_buffer(b"".join(_contents(block, blocks, version)))
        command = ctypes.create_string_buffer(cdb, len(cdb))
        header = _SgIoHeader(
            interface_id=ord("S"),
            dxfer_direction=_SG_DXFER_TO_DEV,
            cmd_len=len(cdb),
            dxfer_len=blocks * BLOCK,
            dxferp=ctypes.addressof(data),
            cmdp=ctypes.addressof(command),
            timeout=60_000,
        )
        fcntl.ioctl(self.descriptor, SG_IO, header)
        assert not (header.status or header.host_status or header.driver_status), "FUA write failed"

    def discard(self, block: int, blocks: int) -> None:
        """Returns when the disk has acknowledged the UNMAP (or TRIM)."""
        fcntl.ioctl(self.descriptor, BLKDISCARD, struct.pack("=QQ", block * BLOCK, blocks * BLOCK))

    def flush(self) -> None:
        """Returns when the disk has acknowledged SYNCHRONIZE CACHE (or FLUSH)."""
        os.fsync(self.descriptor)


class BlockDevice(Disk):
    """A disk that takes no SCSI commands: Linux follows each FUA write with a flush."""

    flushes_after_fua = True

    def write_fua(self, block: int, blocks: int, version: int) -> None:
        """Returns when the disk has acknowledged the write with FUA, and then the flush."""
        with _aligned(block, blocks, version) as buffer:
            written = os.pwritev(self.descriptor, [buffer], block * BLOCK, os.RWF_DSYNC)
            assert written == blocks * BLOCK, written


def open_disk(path: str) -> Disk:
    """The disk as one that takes SCSI commands, if it does."""
    return Disk(path) if path.startswith("/dev/sd") else BlockDevice(path)


def _contents(block: int, blocks: int, version: int) -> list[bytes]:
    return [content(number, version) for number in range(block, block + blocks)]


def _aligned(block: int, blocks: int, version: int) -> mmap.mmap:
    buffer = mmap.mmap(-1, blocks * BLOCK)
    buffer.write(b"".join(_contents(block, blocks, version)))
    return buffer


def run(disk: Disk, dm_device: str, rounds: int, seed: int) -> list[Step]:
    """Do the rounds; returns what was done, in the order of its acknowledgements."""
    chance = random.Random(seed)
    history: list[Step] = []
    version = 0

    def changes(count: int) -> list[Step]:
        """Random changes to ranges that do not overlap, so that they may run at once."""
        nonlocal version
        starts = sorted(chance.sample(range(0, BLOCKS, 16), count))
        steps = []
        for start in starts:
            version += 1
            kind = "discard" if chance.random() < 0.25 else "write"
            block = start + chance.randrange(8)
            steps.append(Step(kind, block, chance.randint(1, 8), version))
        return steps

    def perform(step: Step) -> None:
        if step.kind == "discard":
            disk.discard(step.block, step.blocks)
        elif step.kind == "fua":
            disk.write_fua(step.block, step.blocks, step.version)
        else:
            disk.write(step.block, step.blocks, step.version)

    def mark() -> None:
        text = str(sum(step.kind == "mark" for step in history))
        subprocess.run(["dmsetup", "message", dm_device, "0", "mark", text], check=True)
        history.append(Step("mark"))

    with ThreadPoolExecutor(4) as pool:
        for number in range(rounds):
            if number % 3 == 2:
                version += 1
                fua = Step("fua", chance.randrange(BLOCKS - 4), 4, version)
                perform(fua)
                history.append(fua)
                if disk.flushes_after_fua:
                    history.append(Step("flush"))
                mark()
                continue
            before = changes(chance.randint(1, 6))
            list(pool.map(perform, before))
            history += before
            beside = changes(2)
            running = [pool.submit(perform, step) for step in beside]
            disk.flush()
            history.append(Step("flush"))
            history += beside
            for future in running:
                future.result()
            mark()
    return history


if __name__ == "__main__":
    rounds_text, folder, *pairs = sys.argv[1:]
    for path, device in zip(pairs[::2], pairs[1::2], strict=True):
        done = run(open_disk(path), device, int(rounds_text), seed=1)
        with open(f"{folder}/{device}.json", "w") as file:
            json.dump(done, file)
