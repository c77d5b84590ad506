"""A C# disk keeps the contract of a storage unit; one with more than 2^32 blocks, too."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.dotnet.test_end_to_end import KINDS
from tests.dotnet.test_rawdisk import rawdisk
from tests.kit.requires import requires
from userdisk.backend.spd import SpdUnit
from userdisk.errors import OutOfRange, WriteError
from userdisk.testing import check_storage_unit

pytestmark = requires("mcs", "mono", "make")

_TIB = 1 << 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_length", [512, 4096])
def test_the_contract(built: Path, tmp_path: Path, kind: str, block_length: int) -> None:
    options = (*KINDS[kind], "-l", str(block_length))
    with rawdisk(built, tmp_path, *options, blocks=65536) as disk:
        check_storage_unit(SpdUnit(str(disk.path)))
        assert disk.stop(signal.SIGTERM) == (0, "", "")


def test_a_disk_of_4_tebibytes(built: Path, tmp_path: Path) -> None:
    try:
        with (tmp_path / "probe").open("wb") as probe:
            os.truncate(probe.fileno(), 4 * _TIB)
    except OSError:
        pytest.skip("this file system has no files of 4 TiB")
    blocks = 4 * _TIB // 512
    with rawdisk(built, tmp_path, blocks=blocks) as disk:
        check_storage_unit(SpdUnit(str(disk.path)))
        with disk.client() as client:
            assert client.call(1, blocks - 1, 1).status == 0
            assert client.unmap((blocks - (1 << 23), 1 << 23)).status == 0  # 4 GiB: 0 in 32 bits
            assert client.unmap((1 << 32, 0xFFFFFFFF)).status == 0
        assert disk.stop(signal.SIGTERM) == (0, "", "")


def test_a_lost_disk_is_an_error_and_the_next_connection_finds_it(
    built: Path, tmp_path: Path
) -> None:
    """What was not flushed may be gone: one flush says so."""
    with contextlib.ExitStack() as stack:
        with rawdisk(built, tmp_path) as disk:
            unit = stack.enter_context(contextlib.closing(SpdUnit(str(disk.path))))
            unit.write(7, memoryview(b"w" * 512), False)
            disk.process.kill()
            disk.process.wait()
        stack.enter_context(rawdisk(built, tmp_path))
        with pytest.raises(WriteError):
            unit.flush()
        unit.flush()
        assert bytes(unit.read(7, 1, False)) == b"w" * 512  # a killed process loses no page cache
        with pytest.raises(OutOfRange):
            unit.read(8192, 1, False)
        unit.close()
