"""Files and block devices as ports: what is refused, what is cached, what is unmapped."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.requires import requires
from userdisk.errors import UsageError
from userdisk.stgtest import held
from userdisk.stgtest.on_device import DevicePort
from userdisk.stgtest.port import Op, Unanswered, run
from userdisk.stgtest.targets import Wishes, open_port

SIZE = 4 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
def loop(image: Path) -> Iterator[str]:
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("loop devices need root and a kernel that has them")
    command = ["losetup", "--find", "--show", str(image)]
    device = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def op(letter: str, lba: int = 0, blocks: int = 1, data: bytes = b"", *, fua: bool = False) -> Op:
    made = Op(letter, 1, lba, blocks, fua=fua)
    made.data_out = data
    return made


def exercise(path: str, changes: bool = True) -> None:
    """Write, read, flush and unmap, at both ends of the disk."""
    port = open_port(path, Wishes(depth=4, changes=changes))
    try:
        geometry = port.geometry
        last = geometry.block_count - 1
        assert geometry.block_count * geometry.block_length == SIZE
        for lba, fua in ((0, False), (last, True)):
            data = os.urandom(geometry.block_length)
            assert run(port, op("W", lba, 1, data, fua=fua), 5).error is None
            assert bytes(run(port, op("R", lba), 5).data) == data
        assert run(port, op("F"), 5).error is None
        assert run(port, op("U", 0, 8), 5).error is None
        assert bytes(run(port, op("R", 0, 8), 5).data) == bytes(8 * geometry.block_length)
        past = run(port, op("R", last, 2), 5)
        assert past.error is not None
    finally:
        port.close()


def test_a_file(image: Path) -> None:
    exercise(str(image))
    assert image.read_bytes()[-512:] != bytes(512)
    assert os.path.getsize(image) == SIZE


@requires("losetup")
def test_a_block_device(loop: str) -> None:
    exercise(loop)
    assert Path(loop).read_bytes()[-512:] != bytes(512)


def test_reading_needs_no_right_to_write(image: Path) -> None:
    image.chmod(0o444)
    port = open_port(str(image), Wishes(changes=False))
    assert port.geometry.read_only
    assert bytes(run(port, op("R"), 5).data) == bytes(512)
    port.close()


def test_two_do_not_write_to_one_file(image: Path) -> None:
    port = open_port(str(image), Wishes(changes=True))
    try:
        with pytest.raises(UsageError, match="in use by another process"):
            open_port(str(image), Wishes(changes=True))
    finally:
        port.close()


@pytest.mark.parametrize("size", [0, 511])
def test_files_without_a_block(tmp_path: Path, size: int) -> None:
    path = tmp_path / "small.img"
    path.write_bytes(bytes(size))
    with pytest.raises(UsageError, match=f"has {size} bytes, less than a block"):
        open_port(str(path), Wishes())


@requires("losetup")
@pytest.mark.parametrize(
    ("offset", "mark"), [(510, b"\x55\xaa"), (512, b"EFI PART"), (4096, b"EFI PART")]
)
def test_a_partition_table_is_not_overwritten(loop: str, offset: int, mark: bytes) -> None:
    assert held.uses(loop) == []
    with open(loop, "r+b") as file:
        file.seek(offset)
        file.write(mark)
    with pytest.raises(UsageError, match=r"has a partition table.*; --destroy overwrites it"):
        open_port(loop, Wishes(changes=True))
    open_port(loop, Wishes(changes=False)).close()
    exercise_destroyed = open_port(loop, Wishes(changes=True, destroy=True))
    assert run(exercise_destroyed, op("W", 0, 16, bytes(16 * 512)), 5).error is None
    exercise_destroyed.close()
    assert held.uses(loop) == []


@requires("losetup", "mkfs.ext4")
def test_a_mounted_device_is_not_overwritten(loop: str, tmp_path: Path) -> None:
    mkfs = shutil.which("mkfs.ext4") or "/sbin/mkfs.ext4"
    subprocess.run([mkfs, "-q", loop], check=True)
    folder = tmp_path / "mnt"
    folder.mkdir()
    subprocess.run(["mount", loop, str(folder)], check=True)
    try:
        assert held.uses(loop) == [f"mounted on {folder}"]
        with pytest.raises(UsageError, match=r"is in use .mounted on .*; --destroy overwrites it"):
            open_port(loop, Wishes(changes=True))
        open_port(loop, Wishes(changes=False)).close()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@requires("losetup", "dmsetup")
def test_a_device_below_another_is_not_overwritten(loop: str) -> None:
    name = f"userdisk-stgtest-{os.getpid()}"
    table = f"0 {SIZE // 512} linear {loop} 0"
    made = subprocess.run(["dmsetup", "create", name, "--table", table], capture_output=True)
    if made.returncode:
        pytest.skip("this kernel has no device mapper")
    try:
        assert any(each.startswith("used by dm-") for each in held.uses(loop))
        with pytest.raises(UsageError, match="used by dm-"):
            open_port(loop, Wishes(changes=True))
    finally:
        subprocess.run(["dmsetup", "remove", name], check=True)


def test_a_call_that_does_not_return_is_given_up(image: Path) -> None:
    port = DevicePort(str(image), 0.2, depth=1, changes=True, destroy=False)
    try:
        with pytest.raises(Unanswered, match=r"no answer in 0\.2 seconds"):
            port.collect()
    finally:
        port.close()
