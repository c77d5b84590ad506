"""Other people's NBD clients and units of every kind: nbdinfo, nbdcopy, qemu, fio, libnbd."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.interop.libnbd import NEEDS_LIBNBD, libnbd
from tests.kit.nbd_server import nbd_server
from tests.kit.requires import requires
from tests.kit.units import AsyncRamUnit, ConcurrentRamUnit, InlineRamUnit, RamUnit
from userdisk.backend import open_unit

SIZE = 8 << 20
KINDS = [RamUnit, InlineRamUnit, ConcurrentRamUnit, AsyncRamUnit]

# Run by the system's Python, which has libnbd: each call, and the errno it must end with.
LIBNBD = """
import errno, nbd, sys
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
size = h.get_size()
def fails(number, call, *arguments, **flags):
    try:
        call(*arguments, **flags)
    except nbd.Error as error:
        assert error.errnum == number, (call.__name__, arguments, flags, error)
    else:
        raise AssertionError((call.__name__, arguments, flags, "did not fail"))
seen = lambda *_: 0
fails(errno.EINVAL, h.pread, 4096, size)
fails(errno.EINVAL, h.pread, 4096, size - 2048)
fails(errno.ENOSPC, h.pwrite, bytes(4096), size)
fails(errno.ENOSPC, h.pwrite, bytes(4096), size - 2048)
fails(errno.EINVAL, h.trim, 4096, size)
fails(errno.EINVAL, h.block_status, 4096, size, seen)
fails(errno.EINVAL, h.pread, 512, 0, flags=1 << 9)
fails(errno.EINVAL, h.pwrite, bytes(512), 0, flags=1 << 9)
fails(errno.EINVAL, h.flush, flags=1 << 9)
h.pwrite(b"x" * 4096, size - 4096, flags=nbd.CMD_FLAG_FUA)
h.flush()
assert h.pread(4096, size - 4096) == b"x" * 4096
h.shutdown()
"""


@pytest.fixture
def short(tmp_path: Path) -> Path:
    return tmp_path / "s"


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@requires("nbdinfo")
def test_nbdinfo(short: Path) -> None:
    first = InlineRamUnit(block_count=SIZE // 512)
    second = InlineRamUnit(block_count=SIZE // 4096, block_length=4096)
    with nbd_server(short, first=first, second=second) as uri:
        listed = json.loads(run("nbdinfo", "--json", "--list", f"nbd+unix:///?socket={short}"))
        found = {each["export-name"]: each for each in listed["exports"]}
        assert sorted(found) == ["first", "second"]
        assert found["second"]["description"] == "disk second"
        assert found["first"]["export-size"] == found["second"]["export-size"] == SIZE
        assert found["second"]["block_size_minimum"] == 4096
        assert run("nbdinfo", "--size", uri).strip() == str(SIZE)
        run("nbdinfo", "--can", "multi-conn", uri)
        assert subprocess.run(["nbdinfo", "--is", "read-only", uri], check=False).returncode == 2


@requires("nbdinfo")
def test_nbdinfo_of_a_read_only_export(short: Path) -> None:
    def answers(option: str, what: str) -> bool:
        done = subprocess.run(["nbdinfo", option, what, uri], capture_output=True, check=False)
        assert done.returncode in (0, 2), done  # 2: no
        return done.returncode == 0

    with nbd_server(short, disk=InlineRamUnit(write_protected=True)) as uri:
        (told,) = json.loads(run("nbdinfo", "--json", uri))["exports"]
        assert told["is_read_only"] is True and told["can_multi_conn"] is True
        assert told["contexts"] == ["base:allocation"]
        for what in ("trim", "zero", "fast_zero"):
            assert told[f"can_{what}"] is False
        assert answers("--is", "read-only") and answers("--can", "read")
        for what in ("write", "trim", "zero", "fast-zero"):
            assert not answers("--can", what)
    with nbd_server(short, disk=InlineRamUnit()) as uri:
        assert not answers("--is", "read-only")
        for what in ("write", "trim", "zero", "fast-zero", "flush", "fua"):
            assert answers("--can", what)


@requires("nbdcopy")
@pytest.mark.parametrize("kind", KINDS)
def test_nbdcopy_of_4096_byte_blocks(tmp_path: Path, short: Path, kind: type[RamUnit]) -> None:
    """Both ways, over one connection and over several."""
    source, back = tmp_path / "source", tmp_path / "back"
    unit = kind(block_count=SIZE // 4096, block_length=4096)
    with nbd_server(short, disk=unit) as uri:
        for connections in (1, 4):
            source.write_bytes(os.urandom(SIZE))
            many = f"--connections={connections}"
            run("nbdcopy", many, "--flush", source, uri)
            assert source.read_bytes() == unit.memory
            run("nbdcopy", many, uri, back)
            assert source.read_bytes() == back.read_bytes()
        assert unit.calls["flush"] >= 2


@requires("qemu-img", "qemu-io")
def test_qemu_img_map(tmp_path: Path, short: Path) -> None:
    """Data where it was written, holes around it; all of a disk that knows no holes is data."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        for at in (0, 2, 5):
            file.seek(at << 20)
            file.write(b"d" * (1 << 20))
    os.truncate(image, SIZE)
    units = {"sparse": open_unit(str(image)), "full": InlineRamUnit(block_count=SIZE // 512)}

    def mapped(uri: str) -> list[tuple[int, int, bool, bool]]:
        found = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", uri))
        return [
            (each["start"] >> 20, each["length"] >> 20, each["data"], each["zero"])
            for each in found
        ]

    with nbd_server(short, **units) as uri:
        full = uri.replace("sparse", "full")
        data, hole = (True, False), (False, True)
        assert mapped(full) == [(0, 8, *data)]
        assert mapped(uri) == [
            (0, 1, *data), (1, 1, *hole), (2, 1, *data), (3, 2, *hole), (5, 1, *data), (6, 2, *hole)
        ]  # fmt: skip
        run("qemu-io", "-f", "raw", "-c", "discard 2M 1M", "-c", "write 6M 1M", uri)
        assert mapped(uri) == [
            (0, 1, *data), (1, 4, *hole), (5, 2, *data), (7, 1, *hole)
        ]  # fmt: skip


@requires("nbdcopy", "nbdinfo")
def test_nbdcopy_of_a_sparse_image(tmp_path: Path, short: Path) -> None:
    """Content there and back over several connections; what was a hole is one."""
    source, image, back = tmp_path / "source", tmp_path / "image", tmp_path / "back"
    data = os.urandom(1 << 20)
    with source.open("wb") as file:
        file.truncate(SIZE)
        file.seek(2 << 20)
        file.write(data)
    image.touch()
    os.truncate(image, SIZE)
    with nbd_server(short, disk=open_unit(str(image))) as uri:
        run("nbdcopy", "--connections=4", source, uri)
        run("nbdcopy", "--connections=4", uri, back)
        extents = json.loads(run("nbdinfo", "--json", "--map", uri))
    assert image.read_bytes() == back.read_bytes() == source.read_bytes()
    assert sum(each["length"] for each in extents) == SIZE
    assert [(e["offset"], e["length"]) for e in extents if e["type"] == 0] == [(2 << 20, 1 << 20)]


@requires("qemu-io", "qemu-img")
@pytest.mark.parametrize("length", [512, 4096])
@pytest.mark.parametrize("kind", KINDS)
def test_qemu(tmp_path: Path, short: Path, kind: type[RamUnit], length: int) -> None:
    commands = (
        "write -P 0xa5 0 1M",
        "write -f -P 0x5a 1M 64k",
        "write -z 64k 64k",
        "write -z -u 128k 64k",
        "discard 512k 64k",
        "write -P 0x11 700001 4099",
        "flush",
        "read -P 0xa5 0 64k",
        "read -P 0 64k 128k",
        "read -P 0x11 700001 4099",
        "read -P 0xa5 704100 5000",
        "read -P 0x5a 1M 64k",
    )
    with nbd_server(short, disk=kind(block_count=SIZE // length, block_length=length)) as uri:
        arguments = [word for command in commands for word in ("-c", command)]
        told = run("qemu-io", "-f", "raw", *arguments, uri)
        assert "failed" not in told, told
        copy = tmp_path / "copy"
        run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, copy)
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, copy)


@requires("fio")
@pytest.mark.parametrize("kind", KINDS)
def test_fio(tmp_path: Path, short: Path, kind: type[RamUnit]) -> None:
    """Two jobs, a connection each; every block is read back and checked."""
    with nbd_server(short, disk=kind(block_count=SIZE // 512)) as uri:
        options = "--rw=randwrite --bs=4k --iodepth=8 --size=2M --numjobs=2 --offset_increment=2M"
        command = ["fio", "--name=n", "--ioengine=nbd", f"--uri={uri}", *options.split()]
        check = ["--verify=crc32c", "--verify_fatal=1", f"--aux-path={tmp_path}"]
        run(*command, *check, "--output-format=normal")


@NEEDS_LIBNBD
@pytest.mark.parametrize("kind", KINDS)
def test_libnbd_errors(short: Path, kind: type[RamUnit]) -> None:
    with nbd_server(short, disk=kind(block_count=SIZE // 512)) as uri:
        libnbd(LIBNBD, uri)


# Contexts, DF, REQ_ONE, NO_HOLE, FAST_ZERO, and a flush on another connection.
STRUCTURED = """
import nbd, sys
h, other = nbd.NBD(), nbd.NBD()
for each in h, other:
    each.add_meta_context("base:allocation")
    each.connect_uri(sys.argv[1])
assert h.get_structured_replies_negotiated() and h.can_meta_context("base:allocation")
assert h.can_df() and h.can_fua() and h.can_multi_conn()
h.pwrite(b"a" * 65536, 65536)
other.flush()
assert other.pread(65536, 65536) == b"a" * 65536
pieces = []
def seen(data, offset, status, error):
    pieces.append((offset, status))
read = h.pread_structured(65536, 65536, seen, nbd.CMD_FLAG_DF)
assert read == b"a" * 65536 and pieces == [(65536, nbd.READ_DATA)], pieces
found = []
def status(name, offset, entries, error):
    found.append(list(entries))
h.block_status(262144, 0, status, nbd.CMD_FLAG_REQ_ONE)
assert len(found) == 1 and len(found[0]) == 2 and 0 < found[0][0] <= 262144, found
h.zero(65536, 65536, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(65536, 65536) == bytes(65536)
if h.can_fast_zero():
    try:
        h.zero(65536, 0, nbd.CMD_FLAG_FAST_ZERO)
    except nbd.Error as error:
        assert error.errno == "ENOTSUP", error
h.shutdown()
other.shutdown()
plain = nbd.NBD()
plain.set_request_structured_replies(False)
plain.connect_uri(sys.argv[1])
assert not plain.get_structured_replies_negotiated() and not plain.can_df()
assert plain.pread(512, 65536) == bytes(512)
plain.shutdown()
"""


@NEEDS_LIBNBD
@pytest.mark.parametrize("kind", KINDS)
def test_libnbd_structured(short: Path, kind: type[RamUnit]) -> None:
    with nbd_server(short, disk=kind(block_count=SIZE // 512)) as uri:
        libnbd(STRUCTURED, uri)
