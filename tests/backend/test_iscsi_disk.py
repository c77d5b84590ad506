"""Disks of other targets as they come: old ones, busy ones, and such that say nonsense."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.backend import iscsi, iscsi_disk
from userdisk.backend.iscsi_disk import Disk
from userdisk.errors import (
    Aborted,
    HardwareError,
    NotReady,
    StorageError,
    Unsupported,
    UserdiskError,
    WriteError,
)
from userdisk.iscsi.initiator_task import Task
from userdisk.unit import Extent

BLOCKS = 1000
_INVALID, _POWER_ON, _RECOVERED = (0x52000, 0x62901, 0x11701)


class OldDisk:
    """As `Client`: a disk with the 10-byte commands, and what `has` says besides.

    `answers`: (opcode, status, sense) of the next commands with that opcode, in place of the real.
    """

    lost = None

    def __init__(self, *has: str) -> None:
        self.has = set(has)
        self.memory = bytearray(BLOCKS * 512)
        self.log: list[str] = []
        self.calls: Counter[int] = Counter()
        self.answers: list[tuple[int, int, int]] = []

    def close(self) -> None:
        pass

    def execute(
        self, cdb: bytes, *, data_out: Any = b"", read_length: int = 0, timeout: float
    ) -> Task:
        task = Task(cdb, read_length, data_out)
        self.calls[cdb[0]] += 1
        for index, (opcode, status, code) in enumerate(self.answers):
            if opcode == cdb[0]:
                del self.answers[index]
                return self.failed(task, status, code)
        handler = getattr(self, f"do_{cdb[0]:02x}", None)
        data = handler(cdb, data_out) if handler else None
        if data is None:
            return self.failed(task, 2, _INVALID)
        task.data = data[:read_length]
        return task

    def failed(self, task: Task, status: int, code: int) -> Task:
        task.status = status
        if status == 2:
            sense = (0x70, code >> 16, 10, code >> 8 & 255, code & 255)
            task.sense = struct.pack(">BxB4xB4xBB4x", *sense)
        return task

    def do_12(self, cdb: bytes, _: bytes) -> bytes | None:
        return None if cdb[1] else bytes([0, 0, 2, 2, 31]) + bytes(31)

    def do_25(self, *_: bytes) -> bytes:
        return struct.pack(">II", BLOCKS - 1, 512)

    def do_1a(self, *_: bytes) -> bytes | None:
        if "modes" not in self.has:
            return None
        return bytes([23, 0, 0x80 * ("protected" in self.has), 0, 0x08, 18, 0x04]) + bytes(17)

    def do_5a(self, *_: bytes) -> bytes | None:
        if "modes10" not in self.has:
            return None
        return bytes([0, 26, 0, 0x10, 0, 0, 0, 0, 0x08, 18, 0]) + bytes(17)

    def do_28(self, cdb: bytes, _: bytes) -> bytes:
        lba, blocks = struct.unpack_from(">IxH", cdb, 2)
        self.log.append(f"read {lba} {blocks}")
        return bytes(self.memory[lba * 512 : (lba + blocks) * 512])

    def do_2a(self, cdb: bytes, data: bytes) -> bytes:
        lba, blocks = struct.unpack_from(">IxH", cdb, 2)
        assert len(data) == blocks * 512
        self.memory[lba * 512 : (lba + blocks) * 512] = data
        self.log.append(f"write {lba} {blocks}" + " fua" * bool(cdb[1] & 8))
        return b""

    def do_35(self, *_: bytes) -> bytes:
        self.log.append("flush")
        return b""


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(iscsi, "_BUSY_SECONDS", 0.0)
    yield


def unit_of(disk: OldDisk, monkeypatch: pytest.MonkeyPatch) -> iscsi.IscsiUnit:
    monkeypatch.setattr(iscsi.IscsiUnit, "_connect", lambda self: disk)
    return iscsi.IscsiUnit("iscsi://127.0.0.1/iqn.2026-11.example:old/0")


def block(text: bytes) -> memoryview:
    return memoryview(text * 512)


def test_a_disk_that_knows_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """No VPD pages, no mode pages, no 16-byte commands: a cache is taken for granted."""
    disk = OldDisk()
    unit = unit_of(disk, monkeypatch)
    found = unit.parameters
    assert (found.block_count, found.block_length) == (BLOCKS, 512)
    assert found.cache_supported
    assert not found.unmap_supported
    unit.write(5, block(b"a"), False)
    unit.write(6, block(b"b"), True)  # no FUA there: a flush follows
    assert unit.read(5, 2, True) == b"a" * 512 + b"b" * 512
    unit.zero(5, 1, False)
    unit.flush()
    assert disk.log == [
        "write 5 1", "write 6 1", "flush", "flush", "read 5 2", "write 5 1", "flush"
    ]  # fmt: skip
    unit.zero(5, 1, False)
    assert disk.calls[0x41] == 1  # WRITE SAME is not tried again
    assert list(unit.extents(0, 10)) == [Extent(0, 10)]


def test_mode_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = unit_of(OldDisk("modes", "protected"), monkeypatch).parameters
    assert found.write_protected
    assert found.cache_supported
    disk = OldDisk("modes10")
    unit = unit_of(disk, monkeypatch)
    assert not unit.parameters.cache_supported
    unit.write(1, block(b"a"), True)
    assert disk.log == ["write 1 1 fua"]


def test_a_busy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = OldDisk()
    unit = unit_of(disk, monkeypatch)
    disk.answers = [(0x2A, 0x08, 0), (0x2A, 0x28, 0), (0x2A, 0x40, 0), (0x2A, 2, 0x62903)]
    unit.write(1, block(b"a"), False)
    assert disk.log == ["write 1 1"]
    disk.answers = [(0x28, 0x08, 0)] * 100
    with pytest.raises(NotReady, match="busy"):
        unit.read(0, 1, False)
    disk.answers = [(0x28, 2, 0x62903)] * 100
    with pytest.raises(NotReady, match="without end"):
        unit.read(0, 1, False)
    disk.answers = []
    assert bytes(unit.read(1, 1, False)) == b"a" * 512


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (2, 0xB4700, Aborted),
        (2, 0x44400, HardwareError),
        (2, 0x30C02, WriteError),
        (2, 0x52400, Unsupported),
        (2, 0xF0000, HardwareError),
        (0x30, 0, HardwareError),
    ],
)
def test_errors(
    status: int, code: int, kind: type[StorageError], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = OldDisk()
    unit = unit_of(disk, monkeypatch)
    disk.answers = [(0x2A, status, code)]
    with pytest.raises(kind) as raised:
        unit.write(1, block(b"a"), False)
    assert type(raised.value) is kind


def test_recovered_errors_and_short_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = OldDisk()
    unit = unit_of(disk, monkeypatch)
    disk.answers = [(0x2A, 2, _RECOVERED)]
    unit.write(1, block(b"a"), False)
    disk.answers = [(0x28, 2, _RECOVERED)]
    with pytest.raises(HardwareError, match="0 bytes read instead of 512"):
        unit.read(1, 1, False)


def test_a_disk_that_lost_its_power(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = OldDisk()
    unit = unit_of(disk, monkeypatch)
    unit.write(1, block(b"a"), False)
    unit.flush()
    disk.answers = [(0x28, 2, _POWER_ON)]
    unit.read(1, 1, False)
    unit.flush()  # nothing was in the cache
    unit.write(1, block(b"a"), False)
    disk.answers = [(0x28, 2, _POWER_ON)]
    unit.read(1, 1, False)
    with pytest.raises(WriteError, match="may be lost"):
        unit.flush()
    disk.answers = [(0x28, 2, _POWER_ON)]
    unit.read(1, 1, False)
    unit.flush()  # nothing was in the cache that nobody was told of


def test_a_disk_that_loses_its_power_under_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = OldDisk()
    unit = unit_of(disk, monkeypatch)
    unit.write(1, block(b"a"), False)
    disk.answers = [(0x35, 2, _POWER_ON)]
    with pytest.raises(WriteError, match="may be lost"):
        unit.flush()
    unit.flush()
    disk.answers = [(0x35, 2, _POWER_ON)]
    unit.flush()  # nothing was in the cache
    disk.answers = [(0x2A, 2, _POWER_ON)]
    unit.write(1, block(b"a"), False)  # it came after the loss
    unit.flush()


def after_each_write(disk: OldDisk, monkeypatch: pytest.MonkeyPatch, do: Any) -> None:
    execute = disk.execute

    def late(cdb: bytes, **options: Any) -> Task:
        done = execute(cdb, **options)
        if cdb[0] == 0x2A:
            do()
        return done

    monkeypatch.setattr(disk, "execute", late)


def test_fua_with_a_flush_under_which_the_power_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = OldDisk()
    unit = unit_of(disk, monkeypatch)
    disk.answers = [(0x35, 2, _POWER_ON)]
    unit.write(1, block(b"a"), True)
    assert disk.log == ["write 1 1", "flush", "write 1 1", "flush"]
    after_each_write(disk, monkeypatch, lambda: disk.answers.append((0x35, 2, _POWER_ON)))
    with pytest.raises(NotReady, match="lost its cache"):
        unit.write(1, block(b"a"), True)


def test_a_write_that_is_answered_when_the_power_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command has learned of it before the answer is looked at."""
    disk = OldDisk()
    unit = unit_of(disk, monkeypatch)

    def lose() -> None:
        disk.answers.append((0x28, 2, _POWER_ON))
        unit.read(1, 1, False)

    after_each_write(disk, monkeypatch, lose)
    unit.write(1, block(b"a"), False)
    with pytest.raises(WriteError, match="may be lost"):
        unit.flush()
    unit.flush()


# -- the disk's answers ----------------------------------------------------------------------------

_DISK = Disk(
    block_count=1 << 40, block_length=512, physical_block_length=512, long_commands=True,
    write_protected=False, volatile_cache=True, fua=True, max_transfer_blocks=100,
    unmap_blocks=10, unmap_descriptors=3, same_unmaps=True, same_blocks=5, unmap_zeroes=True,
    removable=False, identity=b"",
)  # fmt: skip


def decoded(commands: Iterator[tuple[bytes, bytes]]) -> list[list[tuple[int, int]]]:
    found = []
    for cdb, data in commands:
        assert (cdb[0], int.from_bytes(cdb[7:9])) == (0x42, len(data))
        assert struct.unpack_from(">HH", data) == (len(data) - 2, len(data) - 8)
        found.append([struct.unpack_from(">QI", data, at) for at in range(8, len(data), 16)])
    return found


def test_unmap_keeps_to_the_limits() -> None:
    assert decoded(_DISK.unmap([(5, 7), (100, 25)])) == [
        [(5, 7), (100, 3)], [(103, 10)], [(113, 10)], [(123, 2)]
    ]  # fmt: skip
    assert decoded(_DISK.unmap([(n * 2, 1) for n in range(7)])) == [
        [(0, 1), (2, 1), (4, 1)], [(6, 1), (8, 1), (10, 1)], [(12, 1)]
    ]  # fmt: skip
    assert decoded(_DISK.unmap([])) == []
    wide = replace(_DISK, unmap_blocks=0xFFFFFFFF, unmap_descriptors=0xFFFFFFFF)
    assert len(decoded(wide.unmap([(n, 1) for n in range(1000)]))) == 4
    assert decoded(wide.unmap([(0, 1 << 33)])) == [[(0, 0xFFFFFFFF)], [(0xFFFFFFFF, 0xFFFFFFFF)], [
        (0x1FFFFFFFE, 2)]]  # fmt: skip


def test_what_is_mapped() -> None:
    data = struct.pack(">I4xQIB3xQIB3xQIB3x", 52, 0, 10, 0, 10, 10, 1, 20, 10, 2)
    assert iscsi_disk.extents(data, 5, 20, zeroes=True) == [
        Extent(5, 5), Extent(10, 10, False, True), Extent(20, 5, False, True)
    ]  # fmt: skip
    assert iscsi_disk.extents(data[:30], 5, 20, zeroes=False) == [Extent(5, 5)]
    for wrong in (b"", data[:20], struct.pack(">I4xQIB3x", 20, 6, 1, 0)):
        with pytest.raises(HardwareError, match="block 5"):
            iscsi_disk.extents(wrong, 5, 20, zeroes=True)


@given(st.binary(max_size=200), st.integers(0, 1 << 62), st.integers(1, 1 << 31))
def test_any_lba_status(data: bytes, lba: int, blocks: int) -> None:
    try:
        found = iscsi_disk.extents(data, lba, blocks, zeroes=True)
    except HardwareError:
        return
    end = lba
    for extent in found:
        assert extent.lba == end
        assert extent.blocks > 0
        end += extent.blocks
    assert end <= lba + blocks


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 0, 2, 8]), st.binary(max_size=260)), max_size=12))
def test_any_answer_to_the_first_questions(answers: list[tuple[int, bytes]]) -> None:
    """A disk that can be used, or one clear line."""
    steps = iscsi_disk.probe("iscsi://here")
    left = iter(answers)
    try:
        task = next(steps)
        for _ in range(32):
            status, data = next(left, (2, b""))
            task.status, task.data = status, data[: task.read_length]
            task = steps.send(task)
        raise AssertionError("it asks without end")
    except UserdiskError as error:
        assert str(error).startswith("iscsi://here: ")
    except StopIteration as stop:
        found = stop.value
        assert found.block_count > 0
        assert 0 < found.max_transfer_blocks <= 0xFFFF
        assert found.same_blocks > 0
