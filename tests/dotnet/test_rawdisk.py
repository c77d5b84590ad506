"""rawdisk in C#: its command line, its file, what each operation leaves there."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dotnet import refusing
from tests.dotnet.disk import FLUSH, READ, WRITE, Client, Disk, running
from tests.kit.requires import requires

pytestmark = requires("mcs", "mono", "make")

MIB = 1 << 20


@contextlib.contextmanager
def rawdisk(
    built: Path, folder: Path, *options: str, blocks: int = 8192, refused: str | None = None
) -> Iterator[Disk]:
    """rawdisk on `folder`/disk; `refused`: a system call that fails, as refusing.py takes it."""
    command = [sys.executable, refusing.__file__, refused] if refused else []
    command += ["mono", str(built / "RawDisk.exe"), "-f", str(folder / "disk")]
    command += ["-p", str(folder / "s"), "-c", str(blocks), *options]
    with running(folder / "s", command, "rawdisk: ") as disk:
        yield disk


def _run(built: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["mono", str(built / "RawDisk.exe"), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _stop(disk: Disk) -> None:
    assert disk.stop(signal.SIGTERM) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "-f FILE is needed"),
        (("-f", "disk"), "-p SOCKET is needed"),
        (("-p", "s"), "-f FILE is needed"),
        (("-f",), "-f needs a value"),
        (("-f", "", "-p", "s"), "-f needs a path"),
        (("disk",), "unknown option: disk"),
        (("-x", "1"), "unknown option: -x"),
        (("--help",), "unknown option: --help"),
        (("-c", "many"), "-c needs a number"),
        (("-c", "0"), "-c needs a number"),
        (("-c", "-1"), "-c needs a number"),
        (("-c", "18446744073709551616"), "-c needs a number"),
        (("-c", " 7"), "-c needs a number"),
        (("-l", "15"), "-l needs a number"),
        (("-l", "4294967296"), "-l needs a number"),
        (("-f", "disk", "-p", "s", "-c", "9223372036854775807"), "2^63 bytes or more"),
        (("-W", "2"), "-W needs a number"),
        (("-C", "yes"), "-C needs a number"),
        (("-U", ""), "-U needs a number"),
        (("-d", "-2"), "-d needs a number"),
        (("-i", "seventeen letters"), "-i needs 1 to 16"),
        (("-i", "\u00fc"), "-i needs 1 to 16"),
        (("-r", ""), "-r needs 1 to 4"),
    ],
)
def test_command_lines_that_are_wrong(
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = _run(built, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("rawdisk: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_help(built: Path) -> None:
    done = _run(built, "-?")
    assert (done.returncode, done.stderr) == (0, "")
    for option in "fpclirWCUdD?":
        assert f"  -{option} " in done.stdout


def test_files_that_cannot_be_a_disk(built: Path, tmp_path: Path) -> None:
    disk, path = tmp_path / "disk", str(tmp_path / "s")
    disk.write_bytes(bytes(1000))
    os.mkfifo(tmp_path / "fifo")
    for file, options, message in (
        (disk, (), "has 1000 bytes, but a disk of this form has 536870912: change -c or -l"),
        (disk, ("-c", "1"), "has 1000 bytes, but a disk of this form has 512"),
        (tmp_path, (), "denied"),
        (tmp_path / "none" / "disk", (), "Could not find a part of the path"),
        (tmp_path / "fifo", (), "is not a file"),
    ):
        done = _run(built, "-f", str(file), "-p", path, *options)
        assert (done.returncode, done.stdout) == (1, "")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert disk.read_bytes() == bytes(1000)


def test_a_new_disk(built: Path, tmp_path: Path) -> None:
    with rawdisk(built, tmp_path) as disk:
        with Client(disk.path) as client:
            parameters = client.greeting()
            table = client.call(READ, 0, 1).data
        _stop(disk)
    guid = uuid.UUID((tmp_path / "disk.guid").read_text().strip())
    assert parameters[:16] == guid.bytes_le
    blocks, length, product, revision, _, flags, transfer = struct.unpack_from(
        "<QI16s4sB3xII", parameters, 16
    )
    assert (blocks, length, flags, transfer) == (8192, 512, 0b0110, 65536)
    assert (product, revision) == (b"RawDisk-dotnet\0\0", b"1.0\0")
    # One partition from 4096 bytes to the end; its last block is 8191, not the one behind it.
    assert table[446:462].hex(" ") == "00 00 09 00 07 82 02 00 08 00 00 00 f8 1f 00 00"
    assert table[440:444] == guid.bytes_le[:4]
    assert table[462:] == bytes(48) + b"\x55\xaa"
    status = (tmp_path / "disk").stat()
    assert status.st_size == 4 * MIB
    assert status.st_blocks * 512 < MIB  # sparse


def test_options_are_the_disks(built: Path, tmp_path: Path) -> None:
    options = ("-l", "4096", "-i", "My disk", "-r", "9", "-W", "0", "-C", "0", "-U", "0")
    with rawdisk(built, tmp_path, *options) as disk:
        with Client(disk.path) as client:
            parameters = client.greeting()
            assert client.call(WRITE, 0, 1, bytes(4096)).sense == (7, 0x27, 0)
            assert client.unmap((0, 1)).sense == (7, 0x27, 0)
            assert len(client.call(READ, 0, 16).data) == 65536
        _stop(disk)
    expected = struct.pack("<QI16s4sB3xII", 8192, 4096, b"My disk", b"9", 0, 1, 65536)
    assert parameters[16:60] == expected[:44]


@pytest.mark.parametrize(
    ("length", "transfer"), [("520", 65520), ("65536", 65536), ("131072", 131072)]
)
def test_unusual_block_lengths(built: Path, tmp_path: Path, length: str, transfer: int) -> None:
    with rawdisk(built, tmp_path, "-l", length, blocks=16) as disk:
        with Client(disk.path) as client:
            parameters = client.greeting()
            assert struct.unpack_from("<I", parameters, 56) == (transfer,)
            assert client.call(WRITE, 15, 1, b"u" * int(length)).status == 0
            assert client.call(READ, 15, 1).data == b"u" * int(length)
            assert client.call(READ, 0, 1).data[510:512] == b"\x55\xaa"
        _stop(disk)


def test_the_disk_is_the_same_the_next_time(built: Path, tmp_path: Path) -> None:
    greetings = []
    for round_ in range(2):
        with rawdisk(built, tmp_path) as disk:
            with Client(disk.path) as client:
                greetings.append(client.greeting())
                if round_ == 0:
                    assert client.call(WRITE, 0, 2, b"d" * 1024).status == 0
                else:  # no new partition table, either
                    assert client.call(READ, 0, 2).data == b"d" * 1024
            _stop(disk)
    assert greetings[0] == greetings[1]


def test_an_identity_that_cannot_be_read(built: Path, tmp_path: Path) -> None:
    guid = tmp_path / "disk.guid"
    for text in ("", "no guid\n", f"{uuid.UUID(int=0)}\n"):
        guid.write_text(text)
        done = _run(built, "-f", str(tmp_path / "disk"), "-p", str(tmp_path / "s"), "-c", "16")
        assert done.returncode == 1
        assert "disk.guid has no GUID: remove it" in done.stderr
        assert guid.read_text() == text


def test_the_file_belongs_to_one_process(built: Path, tmp_path: Path) -> None:
    file = tmp_path / "disk"
    with rawdisk(built, tmp_path):
        done = _run(built, "-f", str(file), "-p", str(tmp_path / "t"), "-c", "8192")
    assert (done.returncode, done.stderr) == (1, f"rawdisk: {file} is in use by another process\n")
    with file.open("rb+") as other:
        fcntl = pytest.importorskip("fcntl")
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which userdisk's own files have
        done = _run(built, "-f", str(file), "-p", str(tmp_path / "t"), "-c", "8192")
    assert done.returncode == 1


@pytest.mark.parametrize("refused", [None, "fallocate=EOPNOTSUPP"])
def test_unmap_zeroes_exactly_the_range(built: Path, tmp_path: Path, refused: str | None) -> None:
    """Also where the file system has no holes, and with lengths that are not those of a buffer."""
    size = 4 * MIB
    with rawdisk(built, tmp_path, refused=refused) as disk, disk.client() as client:
        for block in range(0, 8192, 128):
            client.call(WRITE, block, 128, b"f" * 65536)
        expected = bytearray(b"f" * size)
        ranges = ((1, 1), (129, 127), (300, 129), (1000, 257), (2048, 2047), (8191, 1), (5000, 0))
        assert client.unmap(*ranges).status == 0
        for block, count in ranges:
            expected[block * 512 : (block + count) * 512] = bytes(count * 512)
        got = b"".join(client.call(READ, block, 128).data for block in range(0, 8192, 128))
        assert got == expected
        client.call(FLUSH)
        _stop(disk)
    assert (tmp_path / "disk").read_bytes() == expected
    assert (tmp_path / "disk").stat().st_size == size


def test_unmap_frees_space(built: Path, tmp_path: Path) -> None:
    with rawdisk(built, tmp_path) as disk, disk.client() as client:
        for block in range(0, 8192, 128):
            client.call(WRITE, block, 128, b"f" * 65536)
        client.call(FLUSH)
        used = (tmp_path / "disk").stat().st_blocks
        assert client.unmap((0, 8192)).status == 0
        client.call(FLUSH)
        if (now := (tmp_path / "disk").stat().st_blocks) > used // 8:
            with (tmp_path / "disk").open("rb+") as file:
                pytest.skip(f"the file system of {file.name} has no holes: {now} of {used}")
        _stop(disk)


def test_a_flush_that_fails_is_told_ever_after(built: Path, tmp_path: Path) -> None:
    """Mono's FileStream.Flush(true) would swallow it; and Linux fails one fdatasync only."""
    with rawdisk(built, tmp_path, refused="fdatasync=EIO") as disk, disk.client() as client:
        assert client.call(WRITE, 0, 1, b"n" * 512).status == 0
        assert client.call(FLUSH).sense == (3, 0x0C, 0)
        assert client.call(FLUSH).sense == (3, 0x0C, 0)
        assert client.call(WRITE, 1, 1, b"n" * 512, fua=1).sense == (3, 0x0C, 0)
        assert client.call(READ, 1, 1, fua=1).sense == (3, 0x11, 0)
        assert client.call(READ, 0, 1).data == b"n" * 512
        status, _, errors = disk.stop(signal.SIGTERM)
    assert status == 1
    assert "cannot flush: Input/output error" in errors
    assert "an earlier flush failed: cannot flush: Input/output error" in errors
    assert errors.endswith("rawdisk: the last flush failed: what was written may be lost\n")


@pytest.mark.parametrize("options", [("-C", "1"), ("-C", "0")])
def test_what_was_durable_is_there_after_a_kill(
    built: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with rawdisk(built, tmp_path, *options) as disk, disk.client() as client:
        client.call(WRITE, 100, 2, b"v" * 1024)
        assert client.call(FLUSH).status == 0
        disk.process.kill()
        disk.process.wait()
    with rawdisk(built, tmp_path, *options) as disk, disk.client() as client:
        assert client.call(READ, 100, 2).data == b"v" * 1024


def test_a_file_that_became_short(built: Path, tmp_path: Path) -> None:
    """Not zeros: they would be taken for data."""
    with rawdisk(built, tmp_path) as disk, disk.client() as client:
        os.truncate(tmp_path / "disk", 512)
        assert client.call(READ, 0, 1).status == 0
        assert client.call(READ, 0, 2).sense == (3, 0x11, 0)
        assert client.call(READ, 4000, 1).sense == (3, 0x11, 0)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it(built: Path, tmp_path: Path, signum: int) -> None:
    with rawdisk(built, tmp_path) as disk:
        assert disk.stop(signum) == (0, "", "")
    assert not (tmp_path / "s").exists()


def test_the_debug_log_is_appended(built: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    with rawdisk(built, tmp_path, "-d", "-1", "-D", str(log)) as disk:
        with disk.client() as client:
            client.call(READ, 0, 1)
        _stop(disk)
    lines = log.read_text().splitlines()
    assert lines[0] == "before"
    assert [line.split(": ")[2].split()[0] for line in lines[1:]] == [">>Read", "<<Read"]


def test_an_identity_that_cannot_be_kept(built: Path, tmp_path: Path) -> None:
    """It is derived from the path, so it is the same the next time."""
    (tmp_path / "disk.guid.new").mkdir()
    guids = []
    for _ in range(2):
        with rawdisk(built, tmp_path) as disk:
            with Client(disk.path) as client:
                guids.append(uuid.UUID(bytes_le=client.greeting()[:16]))
            _stop(disk)
    assert guids[0] == guids[1]
    assert (guids[0].version, guids[0].variant) == (8, uuid.RFC_4122)
    assert not (tmp_path / "disk.guid").exists()
