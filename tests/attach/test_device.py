"""An attached unit as the kernel shows it: size, blocks, discards, flushes, errors."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.attach.conftest import Desk
from tests.kit.requires import requires

SIZE = 64 << 20
BLKROGET = 0x125E


@contextmanager
def opened(device: Path, flags: int = os.O_RDWR | os.O_DIRECT) -> Iterator[int]:
    descriptor = os.open(device, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def blocks_of(data: bytes) -> mmap.mmap:
    """Memory that O_DIRECT takes."""
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memory


@requires("blockdev")
@pytest.mark.parametrize("block_length", [512, 1024, 2048, 4096])
def test_size_and_block_size(desk: Desk, block_length: int) -> None:
    device = desk.attach("ram:40M", "--block-length", str(block_length))
    shown = subprocess.run(
        ["blockdev", "--getsize64", "--getss", "--getpbsz", "--getro", device],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == [str(40 << 20), str(block_length), str(block_length), "0"]
    granularity = Path("/sys/block", device.name, "queue/discard_granularity").read_text()
    assert int(granularity) == block_length
    desk.userdisk("eject", device)


def test_a_disk_larger_than_memory(desk: Desk) -> None:
    device = desk.attach("ram:64T")
    with opened(device) as disk:
        assert os.lseek(disk, 0, os.SEEK_END) == 64 << 40
        assert os.pwrite(disk, blocks_of(b"end!" * 1024), (64 << 40) - 4096) == 4096
        memory = blocks_of(bytes(4096))
        assert os.preadv(disk, [memory], (64 << 40) - 4096) == 4096
        assert memory[:] == b"end!" * 1024
    desk.userdisk("eject", device)


def test_writes_reads_and_flushes_reach_the_unit(desk: Desk) -> None:
    device = desk.attach(*desk.probe)
    with opened(device) as disk:
        desk.forget()
        data = blocks_of(os.urandom(8192))
        os.pwrite(disk, data, 4096)
        assert desk.operations() == ["write 8 16"]
        back = blocks_of(bytes(8192))
        os.preadv(disk, [back], 4096)
        assert back[:] == data[:]
        assert desk.operations() == ["write 8 16", "read 8 16"]
        desk.forget()
        os.fsync(disk)
        assert desk.operations() == ["flush"]
    desk.userdisk("eject", device)
    assert desk.operations()[-2:] == ["flush", "close"]


@requires("blkdiscard")
def test_discards_reach_unmap_and_zeroing_does_too(desk: Desk) -> None:
    device = desk.attach(*desk.probe)
    subprocess.run(["blkdiscard", "-o", "1M", "-l", "2M", device], check=True)
    assert "unmap 2048 4096" in desk.operations()
    with opened(device) as disk:
        os.pwrite(disk, blocks_of(b"x" * 4096), 0)
        subprocess.run(["blkdiscard", "--zeroout", "-l", "4096", device], check=True)
        back = blocks_of(b"y" * 4096)
        os.preadv(disk, [back], 0)
        assert back[:] == bytes(4096)
    subprocess.run(["blkdiscard", device], check=True)
    assert f"unmap 0 {SIZE // 512}" in desk.operations()
    desk.userdisk("eject", device)


@requires("blkdiscard")
def test_a_unit_without_unmap_ignores_discards_but_zeroes(desk: Desk) -> None:
    code = (desk.folder / "plain.py").resolve()
    code.write_text(
        "from userdisk import StorageUnit\n"
        "class Plain(StorageUnit):\n"
        "    block_count = 8192\n"
        "    data = bytearray(b'x' * 512 * 8192)\n"
        "    def read(self, lba, blocks, fua):\n"
        "        return bytes(self.data[lba * 512:(lba + blocks) * 512])\n"
        "    def write(self, lba, data, fua):\n"
        "        self.data[lba * 512:lba * 512 + len(data)] = data\n"
    )
    device = desk.attach(f"{code}:Plain")
    subprocess.run(["blkdiscard", device], check=False)
    with opened(device) as disk:
        back = blocks_of(bytes(4096))
        assert os.preadv(disk, [back], 0) == 4096
        assert back[:] == b"x" * 4096
    subprocess.run(["blkdiscard", "--zeroout", device], check=True)
    with opened(device) as disk:
        back = blocks_of(b"y" * (1 << 20))
        assert os.preadv(disk, [back], 3 << 20) == 1 << 20
        assert back[:] == bytes(1 << 20)
    desk.userdisk("eject", device)


@pytest.mark.parametrize(
    ("raised", "seen"),
    [("MediumError", errno.EIO), ("OutOfSpace", errno.ENOSPC), ("bug", errno.EIO)],
)
def test_errors_of_the_unit_reach_the_writer(desk: Desk, raised: str, seen: int) -> None:
    device = desk.attach(*desk.probe)
    with opened(device) as disk:
        memory = blocks_of(bytes(4096))
        for operation, call in (
            ("write", lambda: os.pwrite(disk, memory, 4096)),
            ("flush", lambda: os.fsync(disk)),
            ("read", lambda: os.preadv(disk, [memory], 4096)),
        ):
            desk.order(f"{operation} {raised}")
            with pytest.raises(OSError) as caught:
                call()
            # The loop driver makes EIO of whatever a flush failed with.
            assert caught.value.errno == (errno.EIO if operation == "flush" else seen)
            desk.order()
            call()  # everything else goes on
    log = (desk.state / "Probe" / "log").read_text()
    assert log.count("ZeroDivisionError: ordered") == (3 if raised == "bug" else 0)
    desk.userdisk("eject", device)


def test_a_unit_that_sleeps_is_only_slow(desk: Desk) -> None:
    device = desk.attach(*desk.probe)
    with opened(device) as disk:
        desk.order("flush 3")
        started = time.monotonic()
        os.fsync(disk)
        assert time.monotonic() - started >= 3
        desk.order()
    desk.userdisk("eject", device)


def test_read_only(desk: Desk) -> None:
    image = desk.folder / "disk.img"
    image.write_bytes(b"data" * (1 << 18))
    device = desk.attach(str(image), "--read-only")
    with opened(device, os.O_RDONLY) as disk:
        assert os.read(disk, 4) == b"data"
        assert fcntl.ioctl(disk, BLKROGET, bytes(4)) != bytes(4)
    with opened(device) as disk, pytest.raises(OSError) as caught:
        os.pwrite(disk, blocks_of(bytes(4096)), 0)
    assert caught.value.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    assert desk.listed()[0]["read_only"] is True
    desk.userdisk("eject", device)
    assert image.read_bytes() == b"data" * (1 << 18)


def test_partitions_of_the_disk_are_devices(desk: Desk) -> None:
    image = desk.folder / "disk.img"
    table = bytearray(512)
    table[446:462] = (
        bytes.fromhex("00000000 83000000")
        + (2048).to_bytes(4, "little")
        + (16384).to_bytes(4, "little")
    )
    table[510:] = b"\x55\xaa"
    image.write_bytes(bytes(table) + bytes((16 << 20) - 512))
    device = desk.attach(str(image))
    partition = Path(f"{device}p1")
    with opened(partition) as disk:
        assert os.lseek(disk, 0, os.SEEK_END) == 8 << 20
        os.pwrite(disk, blocks_of(b"in here " * 512), 0)
    status, line = desk.refused("mount", image, desk.mountpoint)
    assert status != 0 and "disk.img" in line  # one process opens an image
    desk.userdisk("eject", partition)
    assert image.read_bytes()[1 << 20 : (1 << 20) + 8] == b"in here "
