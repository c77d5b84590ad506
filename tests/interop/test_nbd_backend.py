"""`nbd:URI` as a disk: nbdkit and qemu-nbd serve, a unit of userdisk uses them."""

from __future__ import annotations

import logging
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.requires import requires
from userdisk.backend import open_unit
from userdisk.errors import HardwareError, NotReady, UserdiskError, WriteError
from userdisk.nbd.uri import parse_uri
from userdisk.nbd_client import list_exports
from userdisk.unit import StorageUnit

SIZE = 8 << 20


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@contextmanager
def serving(path: Path, *command: str) -> Iterator[None]:
    """A server of another project on a Unix socket."""
    path.unlink(missing_ok=True)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not _listens(path):
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < end, "the server does not begin"
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def nbdkit(tmp_path: Path, *arguments: str) -> tuple[Path, tuple[str, ...]]:
    path = tmp_path / "s"
    return path, ("nbdkit", "-f", "-U", str(path), *arguments)


def opened(path: Path, export: str = "", **parameters: object) -> StorageUnit:
    return open_unit(f"nbd:nbd+unix:///{export}?socket={path}", **parameters)  # type: ignore[arg-type]


def exercised(unit: StorageUnit) -> None:
    """Each operation, and what is there afterwards."""
    try:
        blocks = unit.block_count
        data = bytes(range(256)) * 2 * (unit.max_transfer_length // 512)
        unit.write(8, memoryview(data), False)
        unit.write(blocks - 8, memoryview(data[: 8 * unit.block_length]), True)
        unit.flush()
        count = len(data) // unit.block_length
        assert unit.read(8, count, False) == data
        assert not any(bytes(unit.read(0, 8, False)))  # type: ignore[arg-type]
        unit.zero(16, 8, True)
        zeros = bytes(8 * unit.block_length)
        assert bytes(unit.read(16, 8, False)) == zeros  # type: ignore[arg-type]
        unit.unmap([(8, count)])
        found = list(unit.extents(0, blocks))
        assert found[0].lba == 0
        assert sum(extent.blocks for extent in found) <= blocks
        assert any(extent.mapped for extent in found)
    finally:
        unit.close()


@requires("nbdkit")
@pytest.mark.parametrize("options", [(), ("--no-sr",)])
def test_nbdkit(tmp_path: Path, options: tuple[str, ...]) -> None:
    path, command = nbdkit(tmp_path, *options, "memory", str(SIZE))
    with serving(path, *command):
        unit = opened(path)
        assert (unit.parameters.block_count, unit.block_length) == (SIZE // 512, 512)
        exercised(unit)


@requires("qemu-nbd")
def test_qemu_nbd(tmp_path: Path) -> None:
    image, path = tmp_path / "image", tmp_path / "s"
    image.write_bytes(bytes(SIZE))
    command = ("qemu-nbd", "-k", str(path), "-t", "-f", "raw", "-x", "a b", "-D", "d", str(image))
    with serving(path, *command):
        uri = parse_uri(f"nbd+unix:///?socket={path}")
        assert [(each.name, each.description) for each in list_exports(uri)] == [("a b", "d")]
        with pytest.raises(UserdiskError, match="no export ''"):
            opened(path)
        exercised(opened(path, "a%20b"))


@requires("nbdkit")
def test_a_read_only_export(tmp_path: Path) -> None:
    path, command = nbdkit(tmp_path, "-r", "memory", str(SIZE))
    with serving(path, *command):
        unit = opened(path)
        assert unit.parameters.write_protected
        unit.close()


@requires("nbdkit")
def test_the_smallest_block_of_the_server(tmp_path: Path) -> None:
    policy = ("--filter=blocksize-policy", "memory", str(SIZE), "blocksize-minimum=4096")
    path, command = nbdkit(tmp_path, *policy, "blocksize-error-policy=error")
    with serving(path, *command):
        unit = opened(path)
        assert unit.block_length == 4096
        exercised(unit)
        with pytest.raises(UserdiskError, match="not a multiple"):
            opened(path, block_length=512)


@requires("nbdkit")
def test_a_size_that_is_not_whole_blocks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, command = nbdkit(tmp_path, "memory", "10000")
    with serving(path, *command), caplog.at_level(logging.WARNING):
        unit = opened(path)
        assert unit.parameters.block_count == 10000 // 512
        unit.close()
    assert "272 bytes are left out" in caplog.text


@requires("nbdkit")
def test_the_same_export_is_the_same_disk(tmp_path: Path) -> None:
    path, command = nbdkit(tmp_path, "memory", str(SIZE))
    with serving(path, *command):
        guids = []
        for _ in range(2):
            unit = opened(path)
            guids.append(unit.parameters.guid)
            unit.close()
        assert guids[0] == guids[1]


@requires("nbdkit")
def test_a_server_that_comes_back(tmp_path: Path) -> None:
    path, command = nbdkit(tmp_path, "memory", str(SIZE))
    with serving(path, *command):
        unit = opened(path)
        unit.write(0, memoryview(bytes(512)), False)
    with pytest.raises(NotReady):
        unit.read(0, 1, False)
    with serving(path, *command):
        assert bytes(unit.read(0, 1, False)) == bytes(512)  # type: ignore[arg-type]
        with pytest.raises(WriteError, match="were not flushed"):
            unit.flush()
        unit.flush()
        unit.write(0, memoryview(bytes(512)), False)
        unit.flush()
    with serving(path, *command):
        while True:  # until it is known that the first server is gone
            try:
                unit.flush()  # nothing was left to be lost
                break
            except NotReady:
                continue
    path, command = nbdkit(tmp_path, "memory", str(2 * SIZE))
    with serving(path, *command):
        while True:
            try:
                with pytest.raises(HardwareError, match="serve it anew"):
                    unit.read(0, 1, False)
                break
            except NotReady:
                continue
    unit.close()
