"""The examples: each is a disk by the suite for authors, and does what it says."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.docs.documents import ROOT
from tests.docs.terminal import can_mount
from tests.kit.server import serve
from userdisk.backend import open_unit
from userdisk.errors import OutOfSpace, UsageError
from userdisk.initiator_client import Initiator, ScsiError, parse_url, sense_codes
from userdisk.iscsi.initiator_login import Settings
from userdisk.testing import check_storage_unit
from userdisk.unit import Extent, StorageUnit

EXAMPLES = ROOT / "examples"
NAME = "iqn.2026-11.io.userdisk:test"
#: example -> class and the options it needs; {} stands for a folder
UNITS: dict[str, tuple[str, dict[str, str]]] = {
    "ten_lines.py": ("Disk", {}),
    "file_disk.py": ("FileDisk", {"path": "{}/disk.img"}),
    "sqlite_disk.py": ("SqliteDisk", {"path": "{}/disk.db"}),
    "faulty_disk.py": ("FaultyDisk", {}),
    "async_disk.py": ("AsyncDisk", {"latency_ms": "0"}),
    "overlay_disk.py": ("OverlayDisk", {"image": "{}/image"}),
}
PROGRAMS = {"demo.py", "rawdisk.py"}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def unit(name: str, folder: Path, **more: Any) -> StorageUnit:
    kind, options = UNITS[name]
    (folder / "image").write_bytes(os.urandom(1 << 20))
    filled = {key: value.format(folder) for key, value in options.items()}
    options = {**filled, **more.pop("options", {})}
    return open_unit(f"{EXAMPLES / name}:{kind}", options=options, **more)


def connect(url: str) -> Initiator:
    where = parse_url(url)
    return Initiator((where.host, where.port), Settings(NAME, where.target), lun=where.lun)


def test_every_example_is_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(UNITS) | PROGRAMS


@pytest.mark.parametrize("name", UNITS)
def test_is_a_disk(name: str, tmp_path: Path) -> None:
    check_storage_unit(unit(name, tmp_path))


def test_file_disk_keeps_its_data(tmp_path: Path) -> None:
    options = ("--option", f"path={tmp_path / 'disk.img'}", "--size", "1M")
    spec = f"{EXAMPLES / 'file_disk.py'}:FileDisk"
    with serve(spec, options=options) as served, connect(served.url) as initiator:
        initiator.write(7, b"x" * 512)
    with serve(spec, options=options) as served, connect(served.url) as initiator:
        assert initiator.read(7, 1) == b"x" * 512
    assert (tmp_path / "disk.img").stat().st_size == 1 << 20


def test_sqlite_disk_forgets_what_was_not_flushed(tmp_path: Path) -> None:
    disk: Any = unit("sqlite_disk.py", tmp_path)
    disk.open()
    disk.write(5, memoryview(b"a" * 4096), False)
    disk.flush()
    disk.write(6, memoryview(b"b" * 8192), False)
    assert list(disk.extents(0, 100)) == [
        Extent(0, 5, mapped=False, zero=True),
        Extent(5, 3),
        Extent(8, 92, mapped=False, zero=True),
    ]
    disk.close()  # without a flush, as in a crash
    with sqlite3.connect(tmp_path / "disk.db") as db:
        assert db.execute("SELECT lba FROM blocks").fetchall() == [(5,)]
    db.close()


def test_sqlite_disk_keeps_its_size(tmp_path: Path) -> None:
    first = unit("sqlite_disk.py", tmp_path, size=1 << 20)
    first.open()
    first.close()
    with pytest.raises(UsageError, match="made with 256 blocks of 4096 bytes, not 512 of 4096"):
        unit("sqlite_disk.py", tmp_path, size=2 << 20).open()


def test_faulty_disk_names_the_bad_block() -> None:
    spec = f"{EXAMPLES / 'faulty_disk.py'}:FaultyDisk"
    options = ("--option", "bad=10-11,20")
    with serve(spec, options=options) as served, connect(served.url) as initiator:
        with pytest.raises(ScsiError) as caught:
            initiator.read(5, 10)
        assert sense_codes(caught.value.sense) == (3, 0x11, 0)
        assert int.from_bytes(caught.value.sense[3:7]) == 10
        initiator.write(10, bytes(1024))
        assert initiator.read(5, 10) == bytes(5120)


def test_faulty_disk_gets_full_and_breaks(tmp_path: Path) -> None:
    full: Any = unit("faulty_disk.py", tmp_path, options={"space": "1K"})
    full.write(0, memoryview(bytes(1024)), False)
    with pytest.raises(OutOfSpace):
        full.write(9, memoryview(bytes(512)), False)
    full.unmap([(1, 1)])
    full.write(9, memoryview(bytes(512)), False)
    broken: Any = unit("faulty_disk.py", tmp_path, options={"fail_after": "2"})
    broken.read(0, 1, False)
    broken.read(0, 1, False)
    for _ in range(2):
        with pytest.raises(Exception, match="broken"):
            broken.read(0, 1, False)


@pytest.mark.parametrize("bad", ["x", "5-", "9-8", "1-200000"])
def test_faulty_disk_refuses_bad_numbers(tmp_path: Path, bad: str) -> None:
    with pytest.raises(UsageError, match="bad:"):
        unit("faulty_disk.py", tmp_path, options={"bad": bad})


def test_async_disk_overlaps_requests() -> None:
    spec = f"{EXAMPLES / 'async_disk.py'}:AsyncDisk"
    options = ("--option", "latency_ms=100")
    with serve(spec, options=options) as served, connect(served.url) as initiator:
        initiator.read(0, 1)
        began = time.monotonic()
        cdbs = [bytes((0x28, 0, 0, 0, n, 0, 0, 0, 1, 0)) for n in range(20)]
        tasks = [initiator.session.command(cdb, read_length=512) for cdb in cdbs]
        for task in tasks:
            assert initiator.finish(task).status == 0
        assert time.monotonic() - began < 1.5  # one after the other it is 2 s


def test_overlay_disk_never_changes_the_image(tmp_path: Path) -> None:
    disk: Any = unit("overlay_disk.py", tmp_path)
    before = (tmp_path / "image").read_bytes()
    disk.write(3, memoryview(b"n" * 1024), True)
    assert disk.read(2, 4, False) == before[1024:1536] + b"n" * 1024 + before[2560:3072]
    assert (tmp_path / "image").read_bytes() == before


# -- rawdisk -----------------------------------------------------------------------------------


def load(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rawdisk() -> Any:
    return load("rawdisk")


class Running:
    """rawdisk as a process, on a free port. A context manager."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "rawdisk.py"), *arguments],
            env={**os.environ, "RAWDISK_LISTEN": "127.0.0.1:0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.error = ""

    @property
    def url(self) -> str:
        return self.line.split()[-1]

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            _, self.error = self.process.communicate(timeout=20)
        finally:
            self.process.kill()


def test_rawdisk_check(rawdisk: Any, tmp_path: Path) -> None:
    options = rawdisk.Options(str(tmp_path / "disk.img"), block_count=65536)
    check_storage_unit(rawdisk.open_disk(options, sys.stderr))


def test_rawdisk_defaults(rawdisk: Any) -> None:
    options = rawdisk.parse(["-f", "x"])
    assert options == rawdisk.Options("x", 1048576, 512, "RawDisk", "1.0", True, True, True, 0, "-")
    line = "-f x -c 100 -l 4096 -i Id -r 2 -W 0 -C 0 -U 0 -d -1 -D log"
    assert rawdisk.parse(line.split()) == rawdisk.Options(
        "x", 100, 4096, "Id", "2", False, False, False, -1, "log"
    )


def test_rawdisk_partition_table(rawdisk: Any) -> None:
    # 512 MiB: partition from block 8; last block 1048575 is cylinder 65, head 69, sector 4.
    table = rawdisk.partition_table(1048576, 512, 0x12345678)
    assert table[:5].hex() == "cd18f4ebfd"
    assert table[440:446].hex() == "785634120000"
    assert table[446:462].hex() == "00 000900 07 450441 08000000 f8ff0f00".replace(" ", "")
    assert table[462:510] == bytes(48)
    assert table[510:] == b"\x55\xaa"
    assert len(table) == 512


@pytest.mark.parametrize(
    ("last", "chs"),
    [(62, "003f00"), (63, "010100"), (16064, "fe3f00"), (16065, "000101"),
     (16065 * 256, "004100"), (16065 * 1024 - 1, "feffff"), (16065 * 1024, "feffff")],
)  # fmt: skip
def test_rawdisk_cylinders_heads_sectors(rawdisk: Any, last: int, chs: str) -> None:
    table = rawdisk.partition_table(last + 1, 512, 1)
    assert table[451:454].hex() == chs


def test_rawdisk_large_and_4k_disks(rawdisk: Any) -> None:
    assert rawdisk.partition_table(1 << 32, 512, 1) == b""
    table = rawdisk.partition_table(1000, 4096, 1)
    assert table[454:462].hex() == "01000000e7030000"
    assert len(table) == 4096


def test_rawdisk_serves(tmp_path: Path) -> None:
    image, log = tmp_path / "disk.img", tmp_path / "log"
    arguments = ("-f", str(image), "-c", "4096", "-d", "-1", "-D", str(log))
    with Running(*arguments) as running, connect(running.url) as initiator:
        assert initiator.capacity().block_count == 4096
        assert initiator.read(0, 1)[510:] == b"\x55\xaa"
        initiator.write(100, b"y" * 512)
        initiator.flush()
        initiator.unmap(200, 8)
        first = initiator.execute(bytes((0x12, 1, 0x80, 0, 255, 0)), read_length=255)
        inquiry = initiator.execute(bytes((0x12, 0, 0, 0, 96, 0)), read_length=96)
        assert inquiry[16:36] == b"RawDisk         1.0 "
    assert running.process.returncode == 0 and not running.error
    events = re.findall(r"\d: (>>\w+|<<\w+ +Status=\w+)", log.read_text())
    assert {">>Read", "<<Read  Status=GOOD", ">>Write", ">>Flush", ">>Unmap"} <= set(events)
    assert "BlockAddress=0:64, BlockCount=1, FUA=0" in log.read_text()
    with Running(*arguments) as running, connect(running.url) as initiator:
        again = initiator.execute(bytes((0x12, 1, 0x80, 0, 255, 0)), read_length=255)
        assert again == first  # the same disk
        assert initiator.read(100, 1) == b"y" * 512


def test_rawdisk_write_protected(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    arguments = ("-f", str(image), "-c", "64", "-W", "0")
    with Running(*arguments) as running, connect(running.url) as initiator:
        with pytest.raises(ScsiError) as caught:
            initiator.write(1, bytes(512))
        assert sense_codes(caught.value.sense) == (7, 0x27, 0)
    assert image.read_bytes()[510:512] == b"\x55\xaa"


def test_rawdisk_without_cache_syncs_each_write(
    rawdisk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = rawdisk.Options(str(tmp_path / "disk.img"), block_count=64, cache=False)
    disk = rawdisk.open_disk(options, sys.stderr)
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    disk.write(1, memoryview(bytes(512)), False)
    disk.close()
    assert len(synced) == 1
    assert not disk.parameters.cache_supported


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the option -f FILE is missing"),
        ("disk.img", "disk.img: not an option"),
        ("-f", "option -f requires argument"),
        ("-z", "option -z not recognized"),
        ("-f x -c many", "-c many: not a number"),
        ("-f x -c 0", "at least one block"),
        ("-f x -W 2", "-W 2: must be from 0 to 1"),
        ("-f x -l 1000", "block_length: must be a power of two"),
        ("-f x -i SeventeenLetters!", "product_id: must be 1 to 16 characters"),
        ("-f x -p", "option -p requires argument"),
        ("-f /nowhere/x", "/nowhere/x"),
        ("-f x -D /nowhere/log", "/nowhere/log: No such file"),
    ],
)
def test_rawdisk_mistakes(arguments: str, message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "rawdisk.py"), *arguments.split()],
        env={**os.environ, "RAWDISK_LISTEN": "127.0.0.1:0"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode in (1, 2), done.stdout
    assert message in done.stderr
    assert done.stderr.startswith("rawdisk: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


# -- demo --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--without-root"]], ids=["block device", "iscsi"])
def test_demo(arguments: list[str]) -> None:
    if not arguments and not can_mount():
        pytest.skip("not root, or no /dev/fuse")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith("done")
    assert "compared by SHA-256" in done.stdout
    if arguments:
        assert "over iSCSI" in done.stdout
    else:
        assert "$ mkfs.ext4" in done.stdout


def test_demo_stays_with_a_console(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    output = tmp_path / "output"
    with open(output, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "demo.py"), "--without-root", "--stay"],
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + 100
        while not (link := re.search(r"http://\S+/#login=\S+\n", output.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        with urllib.request.urlopen(link[0].partition("#")[0]) as page:
            assert page.status == 200 and b"userdisk" in page.read()
        assert "demo disk: running" in output.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(60)
    assert status == 0 and output.read_text().splitlines()[-1].endswith("done")
    run = Path(re.search(r"USERDISK_RUN=([^ ;]+)", output.read_text())[1])  # type: ignore[index]
    assert not run.exists()


def test_demo_with_nothing_but_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = load("demo")
    monkeypatch.setattr(demo, "find", lambda program: None)
    demo.without_root(tmp_path)
    output = capsys.readouterr().out
    assert "mke2fs is not installed" in output
    assert "no other initiator is installed" in output
    total = int(re.search(r"every byte is there: (\d+) MiB", output)[1])  # type: ignore[index]
    assert total >= 64  # as this repository needs
    assert f"{total * 2048} blocks of 512 bytes" in output
    assert "every byte is there" in output


def test_demo_notices_a_byte_that_changed(tmp_path: Path) -> None:
    demo = load("demo")
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    (source / "file").write_bytes(b"abc")
    (source / "link").symlink_to("file")
    tree, size = demo.copy_tree(source, copy)
    assert size == 3 and set(tree) == {"file", "link"}
    demo.compare(tree, copy)
    (copy / "file").write_bytes(b"abd")
    with pytest.raises(demo.Failed, match="file differs"):
        demo.compare(tree, copy)
    (copy / "file").unlink()
    with pytest.raises(demo.Failed, match="missing on the disk: file"):
        demo.compare({"file": tree["file"]}, tmp_path / "nothing")
