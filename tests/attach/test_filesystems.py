"""mount: file systems made, filled, checked clean, and found again."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

import userdisk
from tests.attach.conftest import Desk
from tests.kit.requires import requires

#: type -> the program that says whether it is clean, and without changing anything
CHECKS = {
    "ext4": ["e2fsck", "-fn"],
    "xfs": ["xfs_repair", "-n"],
    "ntfs": ["ntfsfix", "-n"],
}
SOURCE = Path(userdisk.__file__).parent


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", source, target], check=True)


@requires("mkfs.ext4", "mkfs.xfs", "mkntfs", "ntfs-3g", *(check[0] for check in CHECKS.values()))
@pytest.mark.parametrize("block_length", [512, 4096])
@pytest.mark.parametrize("kind", CHECKS)
def test_format_fill_check_and_find_again(desk: Desk, kind: str, block_length: int) -> None:
    image, size = desk.folder / "disk.img", 400 << 20
    geometry = ["--block-length", str(block_length)]
    shown = desk.userdisk(
        "mount", image, desk.mountpoint, "--size", str(size), "--format", kind, *geometry
    )
    assert f"({kind} on /dev/loop" in shown
    copy(SOURCE, desk.mountpoint)
    (desk.mountpoint / "large").write_bytes(os.urandom(8 << 20))
    expected = tree(desk.mountpoint)
    assert expected.items() >= {f"userdisk/{k}": v for k, v in tree(SOURCE).items()}.items()
    desk.userdisk("eject", desk.mountpoint)
    assert list(desk.mountpoint.iterdir()) == []

    device = desk.attach(str(image), *geometry)
    checked = subprocess.run(
        [*CHECKS[kind], device], capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    desk.userdisk("eject", device)

    desk.userdisk("mount", image, desk.mountpoint, *geometry)
    assert tree(desk.mountpoint) == expected
    desk.userdisk("eject", desk.mountpoint)


@requires("mkfs.ext4", "fstrim")
def test_formatting_and_deleting_discard(desk: Desk) -> None:
    desk.userdisk("mount", *desk.probe, desk.mountpoint, "--format", "ext4")
    assert any(line.startswith("unmap") for line in desk.operations())
    (desk.mountpoint / "file").write_bytes(os.urandom(4 << 20))
    os.sync()
    desk.forget()
    (desk.mountpoint / "file").unlink()
    subprocess.run(["sync", "-f", desk.mountpoint], check=True)  # mounted with -o discard
    unmapped = sum(int(line.split()[2]) for line in desk.operations() if line.startswith("unmap"))
    assert unmapped >= (4 << 20) // 512
    desk.userdisk("eject", desk.mountpoint)


@requires("mkfs.ext4")
def test_fsync_of_a_file_is_a_flush_and_its_failure_is_seen(desk: Desk) -> None:
    desk.userdisk("mount", *desk.probe, desk.mountpoint, "--format", "ext4")
    file = os.open(desk.mountpoint / "file", os.O_RDWR | os.O_CREAT)
    try:
        os.write(file, b"x" * 4096)
        desk.forget()
        os.fsync(file)
        assert "flush" in desk.operations()
        os.write(file, b"y" * 4096)
        desk.order("write MediumError")
        with pytest.raises(OSError) as caught:
            os.fsync(file)
        assert caught.value.errno == errno.EIO
        desk.order()
    finally:
        os.close(file)
    desk.userdisk("eject", desk.mountpoint)


@requires("mkfs.ext4")
def test_a_disk_that_is_not_blank_is_not_formatted(desk: Desk) -> None:
    image = desk.folder / "disk.img"
    desk.userdisk("mount", image, desk.mountpoint, "--size", "32M", "--format", "ext4")
    (desk.mountpoint / "precious").write_text("data")
    desk.userdisk("eject", desk.mountpoint)
    status, line = desk.refused("mount", image, desk.mountpoint, "--format", "ext4")
    assert (status, "holds ext4" in line) == (2, True)
    assert desk.leftovers() == []
    desk.userdisk("mount", image, desk.mountpoint)
    assert (desk.mountpoint / "precious").read_text() == "data"
    desk.userdisk("eject", desk.mountpoint)
    desk.userdisk("mount", image, desk.mountpoint, "--format", "ext4", "--force")
    assert not (desk.mountpoint / "precious").exists()
    desk.userdisk("eject", desk.mountpoint)


@requires("mkfs.ext4")
def test_the_only_partition_is_the_one_to_mount(desk: Desk) -> None:
    image = desk.folder / "disk.img"
    entry = bytes.fromhex("0000000083000000") + (2048).to_bytes(4, "little")
    table = bytes(446) + entry + (63488).to_bytes(4, "little") + bytes(48) + b"\x55\xaa"
    image.write_bytes(table + bytes((32 << 20) - 512))
    shown = desk.userdisk("mount", image, desk.mountpoint, "--format", "ext4")
    assert shown.endswith("p1)")
    desk.userdisk("eject", desk.mountpoint)
    assert image.read_bytes()[:512] == table
    status, line = desk.refused("mount", image, desk.mountpoint, "--partition", "2")
    assert (status, "no such partition (it has: 1)" in line) == (2, True)
    status, line = desk.refused(
        "mount", image, desk.mountpoint, "--partition", "0", "--format", "xfs"
    )
    assert (status, "a partition table (dos)" in line) == (2, True)


@requires("mkfs.ext4", "mkfs.xfs")
@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["ram:1M", "mnt"], 2, "blank; make a file system with --format"),
        (["ram:1M", "mnt", "--format", "xfs"], 1, "mkfs.xfs /dev/loop"),
        (["ram:1M", "mnt", "--format", "fat99"], 2, "'fat99' is not one of 'ext4'"),
        (["ram:1M", "nowhere"], 2, "nowhere: no such folder"),
        (["ram:1M", "/proc", "--format", "ext4"], 2, "/proc: something is mounted there"),
        (["ram:1M", "mnt", "--force"], 2, "needs --format"),
        (["ram:1M", "mnt", "--format", "ext4", "--read-only"], 2, "read-only"),
        (["ram:1M", "mnt", "--format", "ext4", "-o", "no-such-option"], 1, "mnt"),
        (["nothing.img", "mnt"], 2, "nothing.img"),
    ],
)
def test_what_cannot_be_mounted_is_undone(
    desk: Desk, arguments: list[str], status: int, expected: str
) -> None:
    found, line = desk.refused("mount", *arguments)
    assert expected in line and found == status
    assert desk.leftovers() == []


def test_a_missing_program_is_named_with_its_package(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from userdisk.attach import filesystem
    from userdisk.errors import UserdiskError

    monkeypatch.setattr(filesystem, "_find", lambda name: None if "mk" in name else "/bin/" + name)
    with pytest.raises(UserdiskError, match=r"mkfs.xfs is not installed .* xfsprogs"):
        filesystem.check_tools("xfs")
