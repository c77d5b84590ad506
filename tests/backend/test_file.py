"""The image file: creation, sizes, locks, holes, and what it does when the medium fails."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from userdisk import (
    Extent,
    MediumError,
    NotReady,
    OutOfSpace,
    UsageError,
    WriteError,
    WriteProtected,
)
from userdisk.backend import descriptor, holes
from userdisk.backend.file import FileUnit
from userdisk.testing import check_storage_unit

_MIB = 1 << 20


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def failing(number: int, *, at: int = 0) -> Callable[..., int]:
    """A system call that fails, from byte offset `at` on."""

    def call(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("block_length", [512, 4096])
def test_contract(image: Path, block_length: int) -> None:
    check_storage_unit(FileUnit(image, size=3 * _MIB, block_length=block_length), operations=300)


def test_contract_where_holes_cannot_be_punched(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(holes, "_allocate", lambda *arguments: bool(asked.append(arguments)))
    check_storage_unit(FileUnit(image, size=2 * _MIB), operations=200)
    assert asked


def test_contract_of_a_read_only_image(image: Path) -> None:
    data = os.urandom(_MIB)
    image.write_bytes(data)
    check_storage_unit(FileUnit(image, read_only=True))
    assert image.read_bytes() == data


def test_created_sparse_and_found_again(image: Path) -> None:
    unit = FileUnit(image, size=10 << 40)
    unit.write(unit.block_count - 1, memoryview(b"e" * 512), True)
    guid = unit.parameters.guid
    unit.close()
    assert image.stat().st_size == 10 << 40
    assert image.stat().st_blocks < 2048
    again = FileUnit(image)
    assert again.block_count == unit.block_count
    assert again.read(unit.block_count - 1, 1, True) == b"e" * 512
    assert again.parameters.guid == guid
    again.close()


def test_an_empty_file_becomes_a_disk(image: Path) -> None:
    image.touch()
    unit = FileUnit(image, size=_MIB)
    assert image.stat().st_size == _MIB
    unit.close()


def test_creation_is_durable(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(number: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{number}"))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    FileUnit(image, size=_MIB, guid="d9b1a7c2-0000-4000-8000-000000000001").close()
    assert synced == [str(image), str(image.parent)]


def refused(part: str, path: object, **arguments: object) -> None:
    with pytest.raises(UsageError, match=part) as caught:
        FileUnit(path, **arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_sizes_that_do_not_fit(image: Path) -> None:
    refused("give a size", image)
    image.touch()
    refused("empty", image)
    image.write_bytes(bytes(1000))
    refused("1000 bytes.*multiple.*512", image)
    image.write_bytes(bytes(_MIB))
    refused("has 1 MiB, not 2 MiB", image, size=2 * _MIB)
    assert image.stat().st_size == _MIB


def test_images_that_cannot_be_opened(image: Path, tmp_path: Path) -> None:
    refused("no such image", image, read_only=True)
    refused("cannot be created: No such file", tmp_path / "no" / "disk.img", size=_MIB)
    refused("not a file", tmp_path)
    refused("product_id", image, size=_MIB, product_id="far too long a name")
    refused("cannot be made", image, size=(1 << 63) - 512)
    assert not image.exists()


def test_exclusive_and_shared_locks(image: Path) -> None:
    code = "import sys; from userdisk.backend.file import FileUnit; "
    code += "FileUnit(sys.argv[1], read_only=sys.argv[2] == 'ro').close()"

    def elsewhere(mode: str) -> str:
        command = [sys.executable, "-c", code, str(image), mode]
        return subprocess.run(command, capture_output=True, text=True).stderr

    unit = FileUnit(image, size=_MIB)
    assert f"{image} is in use by another process" in elsewhere("rw")
    assert f"{image} is in use by another process" in elsewhere("ro")
    refused("in use", image)
    unit.close()
    reader = FileUnit(image, read_only=True)
    assert elsewhere("ro") == ""
    assert "in use" in elsewhere("rw")
    reader.close()
    assert elsewhere("rw") == ""


def test_a_failed_flush_is_not_forgotten(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = FileUnit(image, size=_MIB)
    with monkeypatch.context() as context:
        context.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(WriteError):
            unit.flush()
    with pytest.raises(WriteError, match="earlier flush"):
        unit.flush()
    with pytest.raises(WriteError, match="earlier flush"):
        unit.write(0, memoryview(bytes(512)), True)
    unit.write(0, memoryview(bytes(512)), False)
    unit.close()
    unit.open()
    unit.flush()
    unit.close()


def test_a_full_disk_while_flushing(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = FileUnit(image, size=_MIB)
    monkeypatch.setattr(os, "fdatasync", failing(errno.ENOSPC))
    with pytest.raises(OutOfSpace):
        unit.flush()
    unit.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODATA, errno.EBADMSG])
def test_a_bad_block_is_named(image: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    unit = FileUnit(image, size=_MIB)
    real = os.pread
    bad = 37 * 512

    def pread(fd: int, length: int, offset: int) -> bytes:
        if offset <= bad < offset + length:
            raise OSError(number, os.strerror(number))
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    assert unit.read(0, 37, False) == bytes(37 * 512)
    with pytest.raises(MediumError) as caught:
        unit.read(8, 64, False)
    assert caught.value.lba == 37
    assert not isinstance(caught.value, WriteError)
    unit.close()


def test_short_reads_and_writes_go_on(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = FileUnit(image, size=_MIB)
    data = os.urandom(4096)
    real_read, real_write = os.pread, os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real_write(fd, data[:700], at))
    monkeypatch.setattr(os, "pread", lambda fd, length, at: real_read(fd, min(length, 300), at))
    unit.write(3, memoryview(data), False)
    assert unit.read(3, 8, False) == data
    assert unit.read(0, 3, False) == bytes(1536)
    unit.close()


def test_a_write_error_names_the_first_block_that_failed(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = FileUnit(image, size=_MIB)
    real = os.pwrite

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if offset >= 5 * 512:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[: 5 * 512 - offset], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OutOfSpace) as caught:
        unit.write(2, memoryview(bytes(8 * 512)), False)
    assert caught.value.lba == 5
    unit.close()


def test_an_image_that_was_cut_is_an_error(image: Path) -> None:
    unit = FileUnit(image, size=_MIB)
    os.truncate(image, _MIB // 2 + 100)
    assert unit.read(0, 1024, False) == bytes(_MIB // 2)
    with pytest.raises(MediumError, match="ends before") as caught:
        unit.read(1000, 100, False)
    assert caught.value.lba == 1024
    unit.close()
    with pytest.raises(UsageError, match="not 1 MiB"):
        unit.open()


def test_an_image_that_was_removed_is_not_made_again(image: Path) -> None:
    unit = FileUnit(image, size=_MIB)
    unit.close()
    image.unlink()
    with pytest.raises(UsageError, match="gone"):
        unit.open()
    with pytest.raises(NotReady):
        unit.read(0, 1, False)
    assert not image.exists()


def test_unmap_and_extents(image: Path) -> None:
    unit = FileUnit(image, size=8 * _MIB)
    unit.write(0, memoryview(b"d" * _MIB), True)
    unit.unmap([(512, 512), (1024, 256)])
    assert list(unit.extents(0, unit.block_count)) == [
        Extent(0, 512),
        Extent(512, 768, mapped=False, zero=True),
        Extent(1280, 768),
        Extent(2048, unit.block_count - 2048, mapped=False, zero=True),
    ]
    assert image.stat().st_blocks * 512 <= _MIB - 768 * 512 + 8192
    unit.close()


def test_extents_are_bounded(image: Path) -> None:
    unit = FileUnit(image, size=64 * _MIB)
    for lba in range(0, unit.block_count, 32):
        unit.write(lba, memoryview(b"d" * 512), False)
    found = list(unit.extents(0, unit.block_count))
    assert len(found) == 1024
    assert sum(each.blocks for each in found) < unit.block_count
    unit.close()


def test_zero_leaves_no_data(image: Path) -> None:
    unit = FileUnit(image, size=4 * _MIB)
    unit.write(0, memoryview(b"d" * _MIB), False)
    unit.zero(1, 2046, True)
    assert unit.read(0, 2048, False) == b"d" * 512 + bytes(2046 * 512) + b"d" * 512
    unit.close()


def test_read_only_refuses_to_write(image: Path) -> None:
    image.write_bytes(bytes(_MIB))
    unit = FileUnit(image, read_only=True)
    assert unit.parameters.write_protected
    for attempt in (
        lambda: unit.write(0, memoryview(bytes(512)), False),
        lambda: unit.unmap([(0, 8)]),
        lambda: unit.zero(0, 8, False),
    ):
        with pytest.raises(WriteProtected):
            attempt()
    unit.flush()
    assert unit.read(0, 1, True) == bytes(512)
    unit.close()


def test_not_on_systems_without_pread(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptor, "fcntl", None)
    refused("POSIX", image, size=_MIB)


# -- usage -------------------------------------------------------------------------------------


def test_usage_is_what_the_image_occupies_and_what_the_file_system_has(image: Path) -> None:
    unit = FileUnit(image, size=64 * _MIB, block_length=4096, soft_threshold=80)
    try:
        empty = unit.usage()
        system = os.statvfs(image)
        assert abs(empty.available - system.f_bavail * system.f_frsize // 4096) < 1 << 20
        assert empty.used < 16
        unit.write(0, memoryview(b"x" * (4 * _MIB)), True)
        full = unit.usage()
        assert 1024 <= full.used <= 1024 + 64
        assert full.used == -(-os.stat(image).st_blocks * 512 // 4096)
        unit.unmap([(0, 1024)])
        unit.flush()
        assert unit.usage().used < 64
    finally:
        unit.close()
    with pytest.raises(NotReady):
        unit.usage()


def test_a_threshold_of_an_image(image: Path) -> None:
    unit = FileUnit(image, size=_MIB, soft_threshold=70)
    unit.close()
    assert unit.parameters.soft_threshold == 70
    with pytest.raises(UsageError, match="soft_threshold"):
        FileUnit(image, soft_threshold=70, unmap_supported=False)
