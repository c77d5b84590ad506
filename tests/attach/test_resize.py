"""`userdisk resize` of attached disks: unit, device, file system; kills, cuts, bad sizes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.attach.conftest import Desk, wait_until
from tests.attach.test_device import blocks_of, opened
from tests.attach.test_survival import SIZE, Writer, again, kill_unit, log_of, state_of
from tests.kit.requires import requires

MIB = 1 << 20


def shown(device: Path) -> int:
    """The size of a block device, which the kernel must tell alike everywhere."""
    sectors = int(Path("/sys/block", device.name, "size").read_text())
    with opened(device, os.O_RDONLY) as disk:
        assert os.lseek(disk, 0, os.SEEK_END) == sectors * 512
    return sectors * 512


def image(desk: Desk, size: int = SIZE) -> Path:
    path = desk.folder / "disk.img"
    path.touch()
    os.truncate(path, size)
    return path


def may_resize_ext4() -> bool:
    """Whether this user has CAP_SYS_RESOURCE, which ext4 asks for."""
    capabilities = Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
    return bool(int(capabilities, 16) >> 24 & 1)


@requires("blockdev")
def test_an_attached_image_grows(desk: Desk) -> None:
    path = image(desk)
    device = desk.attach(str(path))
    assert desk.userdisk("resize", "disk.img", "48M") == "disk.img: 32 MiB, now 48 MiB"
    assert shown(device) == path.stat().st_size == 48 * MIB
    getsize = subprocess.run(
        ["blockdev", "--getsize64", device], capture_output=True, text=True, check=True
    )
    assert int(getsize.stdout) == 48 * MIB
    assert desk.userdisk("resize", device, "+16M") == f"{device}: 48 MiB, now 64 MiB"
    assert desk.userdisk("resize", path, "64M") == f"{path}: has 64 MiB already"
    assert (shown(device), desk.listed()[0]["size"]) == (64 * MIB, 64 * MIB)
    with opened(device) as disk:
        assert os.pwrite(disk, blocks_of(b"end!" * 1024), 64 * MIB - 4096) == 4096
        with pytest.raises(OSError) as caught:
            os.pwrite(disk, blocks_of(bytes(4096)), 64 * MIB)
        assert caught.value.errno == errno.ENOSPC
    desk.userdisk("eject", device)
    assert path.read_bytes()[-4:] == b"end!"
    assert not list((desk.folder / "run" / "control").iterdir())


def grows_while_mounted(desk: Desk, kind: str, command: list[str]) -> None:
    path, folder = image(desk, 320 * MIB), desk.mountpoint
    desk.userdisk("mount", path, folder, "--format", kind)
    data = os.urandom(4 * MIB)
    (folder / "before").write_bytes(data)
    before = os.statvfs(folder)
    assert desk.userdisk("resize", folder, "640M") == f"{folder}: 320 MiB, now 640 MiB"
    subprocess.run([*command, folder], check=True, capture_output=True, timeout=60)
    after = os.statvfs(folder)
    assert after.f_blocks * after.f_frsize > before.f_blocks * before.f_frsize + 250 * MIB
    (folder / "after").write_bytes(data * 90)  # more than there was room before
    desk.userdisk("eject", folder)
    desk.userdisk("mount", path, folder)
    assert (folder / "before").read_bytes() == data
    assert (folder / "after").read_bytes() == data * 90
    desk.userdisk("eject", folder)


@requires("mkfs.ext4", "resize2fs", "fsck.ext4")
def test_a_mounted_ext4_grows(desk: Desk) -> None:
    if not may_resize_ext4():
        pytest.skip("this user must not resize a mounted ext4 (CAP_SYS_RESOURCE)")
    program = desk.folder / "grow"  # resize2fs takes the device, not the folder
    program.write_text('#!/bin/sh\nexec resize2fs "$(findmnt -no SOURCE "$1")"\n')
    program.chmod(0o755)
    grows_while_mounted(desk, "ext4", [str(program)])


@requires("mkfs.xfs", "xfs_growfs")
def test_a_mounted_xfs_grows(desk: Desk) -> None:
    grows_while_mounted(desk, "xfs", ["xfs_growfs"])


@requires("mkfs.ext4", "resize2fs", "fsck.ext4")
def test_an_ext4_grows_and_is_cut(desk: Desk) -> None:
    path = image(desk)
    desk.userdisk("mount", path, desk.mountpoint, "--format", "ext4")
    data = os.urandom(3 * MIB)
    (desk.mountpoint / "file").write_bytes(data)
    (entry,) = desk.listed()
    device = Path(entry["devices"][0])
    status, line = desk.refused("resize", device, "16M")
    assert status == 2 and "all beyond 16 MiB would be lost; --shrink does it" in line
    status, line = desk.refused("resize", device, "16M", "--shrink")
    assert status == 1
    assert f"{device} is mounted on {desk.mountpoint}; it can be cut only when nothing" in line
    assert (shown(device), path.stat().st_size) == (SIZE, SIZE)
    subprocess.run(["umount", desk.mountpoint], check=True)
    check = ["fsck.ext4", "-fp", device]
    for size, order in (
        (16 * MIB, ["resize2fs", device, "16M"]),
        (48 * MIB, ["resize2fs", device]),
    ):
        if size < shown(device):
            assert subprocess.run(check, capture_output=True, timeout=60).returncode == 0
            subprocess.run(order, check=True, capture_output=True, timeout=60)
        desk.userdisk("resize", device, str(size), "--shrink")
        assert (shown(device), path.stat().st_size) == (size, size)
        assert subprocess.run(check, capture_output=True, timeout=60).returncode == 0
        if size > 16 * MIB:
            subprocess.run(order, check=True, capture_output=True, timeout=60)
    desk.userdisk("eject", device)
    desk.userdisk("mount", path, desk.mountpoint)
    assert (desk.mountpoint / "file").read_bytes() == data
    assert os.statvfs(desk.mountpoint).f_blocks > 16 * MIB // os.statvfs(desk.mountpoint).f_frsize
    desk.userdisk("eject", desk.mountpoint)


def test_what_is_cut_is_gone_and_the_rest_is_there(desk: Desk) -> None:
    path = image(desk)
    device = desk.attach(str(path))
    with device.open("r+b") as file:  # through the page cache, and not flushed by us
        file.write(b"x" * SIZE)
    desk.userdisk("resize", device, "8M", "--shrink")
    assert path.stat().st_size == shown(device) == 8 * MIB
    assert path.read_bytes() == b"x" * 8 * MIB
    desk.userdisk("resize", device, "32M")
    assert device.read_bytes() == b"x" * 8 * MIB + bytes(24 * MIB)
    again(desk, kill_unit(desk))  # nothing beyond an end is repeated
    assert device.read_bytes()[: 16 * MIB] == b"x" * 8 * MIB + bytes(8 * MIB)
    desk.userdisk("eject", device)


def test_a_device_that_is_open_or_held_is_not_cut(desk: Desk) -> None:
    path = image(desk)
    device = desk.attach(str(path))
    for flags in (os.O_RDONLY, os.O_RDWR | os.O_EXCL):
        with opened(device, flags):
            status, line = desk.refused("resize", device, "16M", "--shrink")
            assert status == 1 and f"{device} is in use: used by" in line
            assert f"(pid {os.getpid()})" in line and "only when nothing uses it" in line
            assert (shown(device), path.stat().st_size) == (SIZE, SIZE)
    desk.userdisk("eject", device)


@requires("losetup")
def test_a_device_that_another_one_is_on_is_not_cut(desk: Desk) -> None:
    device = desk.attach(str(image(desk)))
    over = subprocess.run(
        ["losetup", "--show", "-f", device], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        with opened(Path(over), os.O_RDONLY | os.O_EXCL):
            status, _ = desk.refused("resize", device, "16M", "--shrink")
            assert (status, shown(device)) == (1, SIZE)
    finally:
        subprocess.run(["losetup", "-d", over], check=True)
    desk.userdisk("eject", device)


def test_it_grows_under_load_while_the_units_process_dies(desk: Desk) -> None:
    device = desk.attach(str(image(desk)))
    stop = threading.Event()
    writers = [Writer(device, number, stop) for number in range(4)]
    for writer in writers:
        writer.start()
    try:
        size = SIZE
        for round_ in range(6):
            size += 5 * MIB
            desk.userdisk("resize", device, str(size))
            assert shown(device) == size
            if round_ % 3 == 1:
                again(desk, kill_unit(desk))
            time.sleep(0.1)
    finally:
        stop.set()
        for writer in writers:
            writer.join(60)
    assert [writer.error for writer in writers] == [None] * 4
    assert all(writer.writes for writer in writers)
    desk.userdisk("eject", device)
    data = (desk.folder / "disk.img").read_bytes()
    assert len(data) == size
    for writer in writers:
        for block, expected in writer.model.items():
            assert data[block * 4096 : block * 4096 + 4096] == expected


def test_the_units_process_dies_while_it_is_asked(desk: Desk) -> None:
    path = image(desk)
    device = desk.attach(str(path))
    pid = int(state_of(desk)["unit_pid"])
    os.kill(pid, signal.SIGSTOP)
    with desk.start("resize", device, "64M") as resizing:
        time.sleep(1)  # it is asked meanwhile; if not, it is refused all the same
        assert resizing.poll() is None
        kill_unit(desk)
        _, said = resizing.communicate(timeout=60)
    assert (resizing.returncode, said.count("\n")) == (1, 1)
    again(desk, pid)
    assert (shown(device), path.stat().st_size) == (SIZE, SIZE)
    # It died when it had grown the file, and before the device was told.
    os.truncate(path, 64 * MIB)
    again(desk, kill_unit(desk))
    with opened(device) as disk:
        os.pwrite(disk, blocks_of(b"on we go" * 512), 0)
    assert shown(device) == SIZE
    desk.userdisk("resize", device, "64M")
    assert shown(device) == 64 * MIB
    desk.userdisk("eject", device)


def test_while_the_units_process_is_away_nothing_is_resized(desk: Desk) -> None:
    path = image(desk)
    device = desk.attach(str(path), "--wait", "60")
    path.rename(desk.folder / "moved")
    pid = kill_unit(desk)
    wait_until(lambda: state_of(desk)["trouble"], 40)
    status, line = desk.refused("resize", "disk.img", "64M")
    assert status == 1 and "disk.img" in line
    (desk.folder / "moved").rename(path)
    again(desk, pid)
    desk.userdisk("resize", "disk.img", "64M")
    assert shown(device) == 64 * MIB
    desk.userdisk("eject", device)


def test_an_image_that_somebody_cut_gives_errors(desk: Desk) -> None:
    path = image(desk)
    device = desk.attach(str(path), "--wait", "3")
    with opened(device) as disk:
        os.pwrite(disk, blocks_of(b"kept" * 1024), 0)
        os.truncate(path, 16 * MIB + 100)
        memory = blocks_of(bytes(4096))
        for offset in (16 * MIB, SIZE - 4096):
            with pytest.raises(OSError) as caught:
                os.preadv(disk, [memory], offset)
            assert caught.value.errno == errno.EIO
        os.preadv(disk, [memory], 0)
        assert memory[:] == b"kept" * 1024
        os.fsync(disk)
        assert desk.listed()[0]["status"] == "attached"
        # What is cut does not come back by itself; the size does, when it is asked for.
        assert desk.userdisk("resize", path, "32M").endswith("has 32 MiB already")
        os.preadv(disk, [memory], SIZE - 4096)
        assert memory[:] == bytes(4096)
        os.truncate(path, 16 * MIB)
        kill_unit(desk)
        with pytest.raises(OSError) as caught:
            os.preadv(disk, [memory], 0)
        assert caught.value.errno == errno.EIO
    assert "lost: " in desk.listed()[0]["trouble"]
    assert "the disk has changed: 16777216 bytes, not 33554432" in log_of(desk)
    status, line = desk.refused("resize", path, "32M")
    assert status == 1 and "the disk is lost: " in line
    status, line = desk.refused("eject", device)
    assert status == 1 and "is ejected, but" in line


CLASSES = '''
"""Disks whose size is their class's affair."""
import pathlib
from userdisk import StorageUnit


class Fixed(StorageUnit):
    block_count = 2048

    def read(self, lba, blocks, fua):
        return bytes(blocks * 512)

    def write(self, lba, data, fua):
        pass


class Own(Fixed):
    """Has another size when somebody writes it to the first block."""

    def write(self, lba, data, fua):
        if lba == 0:
            self.resized(int(bytes(data[:16])), wait=False)


class Kept(Fixed):
    """Survives its process, and takes any size."""

    persistent = True

    def __init__(self, block_count=2048):
        super().__init__(block_count=block_count)

    def take_size(self, parameters):
        if parameters.block_count == 5000:
            raise ZeroDivisionError("a bug")
        super().take_size(parameters)


class Measured(Fixed):
    """As large as the number in a file says."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        super().__init__(block_count=int(self.path.read_text()))

    def measure(self):
        self.resized(int(self.path.read_text()))

    def read(self, lba, blocks, fua):
        return b"".join(bytes([at % 251 + 1]) * 512 for at in range(lba, lba + blocks))
'''


def class_of(desk: Desk, name: str) -> str:
    (desk.folder / "classes.py").write_text(CLASSES)
    return f"{desk.folder}/classes.py:{name}"


def test_a_unit_that_resizes_itself_is_followed(desk: Desk) -> None:
    device = desk.attach(class_of(desk, "Own"))
    with opened(device) as disk:
        for count in (4096, 3000):
            os.pwrite(disk, blocks_of(str(count).encode().ljust(4096)), 0)
            if count == 4096:
                wait_until(lambda: shown(device) == 4096 * 512, 40)
        memory = blocks_of(bytes(512))
        wait_until(lambda: "is in use" in log_of(desk), 40)  # so it is not cut, but
        with pytest.raises(OSError):
            os.preadv(disk, [memory], 3500 * 512)
        assert os.preadv(disk, [memory], 2999 * 512) == 512
    assert shown(device) == 4096 * 512
    desk.userdisk("eject", device)


def test_a_class_that_takes_sizes_has_them_in_its_next_process(desk: Desk) -> None:
    device = desk.attach(class_of(desk, "Kept"), "--size", "1M")
    for size in (3 * MIB, 2 * MIB):
        desk.userdisk("resize", "Kept", str(size), "--shrink")
        again(desk, kill_unit(desk))
        with opened(device) as disk:
            assert os.preadv(disk, [blocks_of(bytes(4096))], size - 4096) == 4096
    status, line = desk.refused("resize", "Kept", str(5000 * 512))
    assert status == 1 and "ZeroDivisionError: a bug" in line
    assert shown(device) == 2 * MIB
    desk.userdisk("eject", device)


def test_a_class_that_measures(desk: Desk) -> None:
    number = desk.folder / "number"
    number.write_text("2048")
    device = desk.attach(class_of(desk, "Measured"), "--option", f"path={number}")
    status, line = desk.refused("resize", "Measured", "2M")
    assert status == 1 and "its storage has 1 MiB, and has to be resized first" in line
    number.write_text("4096")
    assert desk.userdisk("resize", "Measured", "2M") == "Measured: 1 MiB, now 2 MiB"
    assert shown(device) == 2 * MIB
    number.write_text("1024")
    status, line = desk.refused("resize", "Measured", "256K", "--shrink")
    assert status == 1 and "its storage has 512 KiB" in line
    wait_until(lambda: shown(device) == 512 << 10, 40)  # what it has is what is shown
    desk.userdisk("eject", device)


def test_what_comes_after_an_end_within_a_page_is_seen(desk: Desk) -> None:
    number = desk.folder / "number"
    number.write_text("1001")
    device = desk.attach(class_of(desk, "Measured"), "--option", f"path={number}")
    with device.open("rb") as user:  # so that what is cached stays
        assert len(user.read()) == 1001 * 512
        for count in (2003, 4000):
            number.write_text(str(count))
            desk.userdisk("resize", "Measured", str(count * 512))
            user.seek(0)
            data = user.read()
            assert len(data) == count * 512
            assert [at for at in range(count) if data[at * 512] != at % 251 + 1] == []
    desk.userdisk("eject", device)


def test_memory_and_names(desk: Desk) -> None:
    one, two = desk.attach("ram:8M"), desk.attach("ram:8M")
    status, line = desk.refused("resize", "ram:8M", "16M")
    assert status == 2 and line.endswith(f"stands for 2 disks; name one: {one}, {two}")
    desk.userdisk("resize", "ram-2", "16M")
    assert (shown(one), shown(two)) == (8 * MIB, 16 * MIB)
    with opened(two) as disk:
        os.pwrite(disk, blocks_of(b"deep" * 1024), 16 * MIB - 4096)
    desk.userdisk("resize", two, "4M", "--shrink")
    assert shown(two) == 4 * MIB
    desk.userdisk("eject", one)
    desk.userdisk("eject", two)


@pytest.mark.parametrize(
    ("size", "status", "words"),
    [
        ("much", 2, "is not a size"),
        ("", 2, "is not a size"),
        ("+", 2, "is not a size"),
        ("-1M", 2, "no such option"),
        ("0", 2, "no disk can have 0 bytes"),
        ("1048577", 2, "not a multiple of its 512-byte blocks"),
        ("8E", 2, "larger than a disk can be"),
        ("9223372036854775808", 2, "larger than a disk can be"),
        ("+9223372036854775807", 2, "no disk can have"),
        ("9223372036854775296", 1, "cannot be made"),
        ("1M", 2, "--shrink does it"),
    ],
)
def test_a_size_that_cannot_be_changes_nothing(
    held_image: tuple[Desk, Path, Path], size: str, status: int, words: str
) -> None:
    desk, path, device = held_image
    found, line = desk.refused("resize", device, size)
    assert found == status and words in line.lower()
    assert (shown(device), path.stat().st_size) == (SIZE, SIZE)


@pytest.fixture(scope="module")
def held_image(tmp_path_factory: pytest.TempPathFactory) -> object:
    """One attached image for all bad sizes."""
    from userdisk.attach import fuse_loop

    lacks = fuse_loop.missing()
    if lacks:
        pytest.skip(f"this machine or user has no {' and no '.join(lacks)}")
    desk = Desk(tmp_path_factory.mktemp("held").resolve())
    path = image(desk)
    device = desk.attach(str(path))
    try:
        yield desk, path, device
    finally:
        desk.run("eject", "--force", device)
    assert desk.leftovers() == []


def test_a_unit_that_cannot_be_resized(desk: Desk) -> None:
    device = desk.attach(class_of(desk, "Fixed"))
    for extra, size in (([], "2M"), (["--shrink"], "512K")):
        status, line = desk.refused("resize", "Fixed", size, *extra)
        assert status == 1 and "Fixed cannot be resized" in line
        assert shown(device) == MIB
    desk.userdisk("eject", device)
    path = image(desk)
    device = desk.attach(str(path), "--read-only")
    status, line = desk.refused("resize", "disk.img", "64M")
    assert status == 1 and "is read-only" in line
    os.truncate(path, 64 * MIB)  # by whoever may write it
    desk.userdisk("resize", "disk.img", "64M")
    assert shown(device) == 64 * MIB
    desk.userdisk("eject", device)


def test_who_is_not_there_is_one_line(desk: Desk) -> None:
    for target in ("nothing", "/dev/null", desk.folder):
        status, line = desk.refused("resize", target, "1M")
        assert status == 1 and f"{target}: no running userdisk serve, attach or mount" in line
    desk.attach("ram:8M")
    os.kill(int(desk.listed()[0]["pid"]), signal.SIGKILL)
    wait_until(lambda: desk.listed()[0]["status"] == "killed")
    status, line = desk.refused("resize", "ram", "16M")
    assert status == 1 and "was killed; only eject is possible" in line
    desk.userdisk("eject", "ram")


def test_list_shows_what_is_served_beside_what_is_attached(desk: Desk) -> None:
    device = desk.attach("ram:8M")
    with desk.start("serve", "ram:2M", "--listen", "127.0.0.1:0") as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if line.startswith("serving"):
                    break
            attached, served = json.loads(desk.userdisk("list", "--json"))
            assert (attached["status"], attached["devices"]) == ("attached", [str(device)])
            assert (served["status"], served["pid"]) == ("served", server.pid)
            assert (served["unit"], served["size"]) == ("ram:2M", 2 * MIB)
            assert served["urls"][0].startswith("iscsi://127.0.0.1:")
            assert f"(pid {server.pid})" in desk.userdisk("list").splitlines()[2]
            status, line = desk.refused("resize", "ram", "16M")  # both are called so
            assert status == 2 and str(device) in line and served["urls"][0] in line
            desk.userdisk("resize", served["urls"][0], "4M")
            assert json.loads(desk.userdisk("list", "--json"))[1]["size"] == 4 * MIB
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=60)
    assert shown(device) == 8 * MIB
    desk.userdisk("eject", device)
