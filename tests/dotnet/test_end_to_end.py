"""A C# disk as a disk of userdisk: over NBD to other people's clients, and with a file system."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attach.conftest import Desk, desk  # noqa: F401
from tests.dotnet.disk import PATIENCE, READ, listens
from tests.dotnet.test_rawdisk import rawdisk
from tests.kit.requires import requires

pytestmark = requires("mcs", "mono", "make", "nbdcopy", "nbdinfo", "qemu-io", "mkfs.ext4")

MIB = 1 << 20
BLOCKS = 32 * MIB // 512

#: WinSpd's three kinds of disk: with a cache, without one, without unmap.
KINDS = {"cc": (), "nc": ("-C", "0"), "nu": ("-U", "0")}


@contextlib.contextmanager
def over_nbd(path: Path, *options: str) -> Iterator[str]:
    """The URI of an export of the disk behind a pipe."""
    sock = path.with_name("nbd")
    command = [sys.executable, "-m", "userdisk", "serve", f"spd:{path}", "--no-iscsi"]
    command += ["--nbd", f"unix:{sock}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            end = time.monotonic() + PATIENCE
            while not listens(sock):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < end
                time.sleep(0.02)
            yield f"nbd+unix:///?socket={sock}"
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, errors
        finally:
            process.kill()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _qemu_io(uri: str, *commands: str) -> str:
    arguments = [word for command in commands for word in ("-c", command)]
    shown = _run("qemu-io", "-f", "raw", "-t", "none", *arguments, uri)
    assert "failed" not in shown and "error" not in shown, shown
    return shown


@pytest.mark.parametrize("kind", KINDS)
def test_copies_patterns_and_discards_over_nbd(built: Path, tmp_path: Path, kind: str) -> None:
    with rawdisk(built, tmp_path, *KINDS[kind], blocks=BLOCKS) as disk:
        image = tmp_path / "image"
        data = bytearray(os.urandom(32 * MIB))
        image.write_bytes(data)
        with over_nbd(disk.path) as uri:
            assert _run("nbdinfo", "--size", uri).strip() == str(32 * MIB)
            _run("nbdcopy", "--flush", str(image), uri)
            _run("nbdcopy", uri, str(tmp_path / "back"))
            assert (tmp_path / "back").read_bytes() == data
            _qemu_io(
                uri,
                "write -P 0x5a 1M 3M",
                "write -f -P 0xa5 512 512",
                "write -z 8M 65k",
                "discard 16M 1M",
                "flush",
                "read -P 0x5a 1M 3M",
                "read -P 0xa5 512 512",
                "read -P 0 8M 65k",
            )
            can = subprocess.run(["nbdinfo", "--can", "trim", uri], check=False, timeout=60)
            assert (can.returncode == 0) == (kind != "nu")
        data[1 * MIB : 4 * MIB] = b"\x5a" * (3 * MIB)
        data[512:1024] = b"\xa5" * 512
        data[8 * MIB : 8 * MIB + (65 << 10)] = bytes(65 << 10)
        if kind != "nu":
            data[16 * MIB : 17 * MIB] = bytes(MIB)
        assert disk.stop(signal.SIGTERM) == (0, "", "")
    assert (tmp_path / "disk").read_bytes() == data


def test_a_write_protected_disk_over_nbd(built: Path, tmp_path: Path) -> None:
    with rawdisk(built, tmp_path, "-W", "0", blocks=BLOCKS) as disk, over_nbd(disk.path) as uri:
        assert subprocess.run(["nbdinfo", "--is", "read-only", uri], check=False).returncode == 0
        _run("nbdcopy", uri, str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == (tmp_path / "disk").read_bytes()


def test_a_disk_that_was_killed_comes_back(built: Path, tmp_path: Path) -> None:
    """The server of the disk goes on; what was flushed is there."""
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(rawdisk(built, tmp_path, blocks=BLOCKS))
        later = stack.enter_context(contextlib.ExitStack())  # ends after what uses it
        uri = stack.enter_context(over_nbd(disk.path))
        _qemu_io(uri, "write -P 0x11 0 1M", "flush")
        disk.process.kill()
        disk.process.wait()
        failed = subprocess.run(
            ["qemu-io", "-f", "raw", "-c", "read 0 4k", uri],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "read failed" in failed.stdout + failed.stderr
        later.enter_context(rawdisk(built, tmp_path, blocks=BLOCKS))
        _qemu_io(uri, "read -P 0x11 0 1M")


@requires("mkfs.ext4", "e2fsck")
@pytest.mark.parametrize("kind", KINDS)
def test_an_ext4_file_system(
    built: Path,
    tmp_path: Path,
    desk: Desk,  # noqa: F811
    kind: str,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    source = Path(__file__).resolve().parents[2] / "src"
    unit, size = f"spd:{home / 's'}", 128 * MIB
    with rawdisk(built, home, *KINDS[kind], blocks=size // 512) as disk:
        desk.userdisk("mount", unit, desk.mountpoint, "--format", "ext4")
        subprocess.run(["cp", "-r", source, desk.mountpoint], check=True)
        (desk.mountpoint / "large").write_bytes(os.urandom(16 * MIB))
        expected = _tree(desk.mountpoint)
        assert len(expected) > 100
        desk.userdisk("eject", desk.mountpoint)
        assert disk.stop(signal.SIGTERM) == (0, "", "")
    # It is in the partition that a new disk has, at 4096.
    command = ["e2fsck", "-fn", f"{home / 'disk'}?offset=4096"]
    checked = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stdout
    with rawdisk(built, home, *KINDS[kind], blocks=size // 512) as disk:
        desk.userdisk("mount", unit, desk.mountpoint)
        assert _tree(desk.mountpoint) == expected
        desk.userdisk("eject", desk.mountpoint)
        with disk.client() as client:  # the next client, after the last one has gone
            assert client.call(READ, 2, 1).status == 0


def _tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
