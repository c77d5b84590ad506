"""A disk that grows or shrinks while it is served: limits, what initiators are told, races."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.kit.link import Link, close, environment_of, target_of
from tests.kit.sockets import connect, eventually, serving
from tests.kit.units import KINDS, AsyncRamUnit, ConcurrentRamUnit, InlineRamUnit, RamUnit
from tests.test_portal import Slow
from userdisk import portal as portal_module
from userdisk.backend.file import FileUnit
from userdisk.backend.ram import RamUnit as RamDisk
from userdisk.errors import OutOfRange, UsageError
from userdisk.gate import Gate
from userdisk.initiator_client import Initiator, ScsiError, sense_codes
from userdisk.operation import Kind, Operation
from userdisk.unit import Parameters

READY = bytes(6)
SMALL, LARGE = 2048, 4096  # blocks


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_module, "TICK", 0.02)
    monkeypatch.setattr(portal_module, "_LINGER", 0.2)


def run(initiator: Initiator, cdb: bytes, **more: Any) -> tuple[int, ...]:
    """Status, or key, code and qualifier of the sense data."""
    task = initiator.finish(initiator.session.command(cdb, **more))
    return sense_codes(task.sense) if task.status == 2 else (task.status,)


def read_10(lba: int, blocks: int = 1) -> bytes:
    return struct.pack(">BxIxHx", 0x28, lba, blocks)


def write_10(lba: int, blocks: int = 1) -> bytes:
    return struct.pack(">BxIxHx", 0x2A, lba, blocks)


def sized(kind: type[RamUnit]) -> RamUnit:
    """A unit of SMALL blocks with memory for LARGE."""
    unit = kind(block_count=LARGE)
    unit.resized(SMALL)
    unit.log.clear()
    return unit


# -- what initiators see -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_growing(kind: str) -> None:
    unit = sized(KINDS[kind])
    with (
        serving(unit) as (_, address),
        connect(address) as one,
        connect(address, isid=2) as two,
    ):
        assert one.capacity().block_count == SMALL
        assert run(one, read_10(SMALL), read_length=512) == (5, 0x21, 0)
        unit.resized(LARGE)
        for initiator in (one, two):
            assert run(initiator, READY) == (6, 0x2A, 0x09)
            assert run(initiator, READY) == (0,)
            assert initiator.capacity().block_count == LARGE
        one.write(LARGE - 8, b"new!" * 1024)
        assert two.read(LARGE - 8, 8) == b"new!" * 1024
        assert run(one, read_10(LARGE), read_length=512) == (5, 0x21, 0)
        assert unit.log[-1][1] < LARGE


@pytest.mark.parametrize("kind", KINDS)
def test_shrinking(kind: str) -> None:
    unit = KINDS[kind](block_count=LARGE)
    with serving(unit) as (_, address), connect(address) as initiator:
        initiator.write(SMALL, bytes(512))
        unit.resized(SMALL)
        assert run(initiator, READY) == (6, 0x2A, 0x09)
        commands: list[tuple[bytes, dict[str, Any]]] = [
            (read_10(SMALL), {"read_length": 512}),
            (read_10(SMALL - 1, 2), {"read_length": 1024}),
            (write_10(SMALL), {"data_out": bytes(512)}),
            (write_10(LARGE - 1), {"data_out": bytes(512)}),
        ]
        for cdb, more in commands:
            assert run(initiator, cdb, **more) == (5, 0x21, 0)
        assert initiator.capacity().block_count == SMALL
        initiator.write(SMALL - 1, b"last" * 128)
        assert initiator.read(SMALL - 1, 1) == b"last" * 128


def test_the_fast_path_takes_the_new_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not fall back to the general path: that counts the commands it gets."""
    unit = sized(InlineRamUnit)
    with serving(unit) as (server, address), connect(address) as initiator:
        for _ in range(4):
            assert run(initiator, read_10(SMALL - 1), read_length=512) == (0,)
        unit.resized(LARGE)
        assert run(initiator, READY) == (6, 0x2A, 0x09)
        (lu,) = server._units
        before = server.counters()[lu].commands
        for lba in (LARGE - 1, SMALL, SMALL - 1, LARGE - 1):
            assert run(initiator, read_10(lba), read_length=512) == (0,)
            assert run(initiator, write_10(lba), data_out=bytes(512)) == (0,)
        assert server.counters()[lu].commands == before
        unit.resized(SMALL)
        assert run(initiator, READY) == (6, 0x2A, 0x09)
        before = server.counters()[lu].commands
        assert run(initiator, read_10(SMALL - 1), read_length=512) == (0,)
        assert server.counters()[lu].commands == before
        assert run(initiator, read_10(SMALL), read_length=512) == (5, 0x21, 0)


def test_every_session_gets_an_asynchronous_event() -> None:
    """RFC 7143 11.9: event 0 with the sense data; also one that is idle."""
    unit = sized(RamUnit)
    with (
        serving(RamUnit(), unit) as (_, address),
        connect(address, lun=1) as one,
        connect(address, lun=1, isid=2) as two,
    ):
        unit.resized(LARGE)
        for initiator in (one, two):
            initiator.run(lambda initiator=initiator: bool(initiator.session.events))  # type: ignore[misc]
            assert initiator.session.events == [(0, 0, 0, 0)]
            assert run(initiator, READY, lun=1) == (6, 0x2A, 0x09)


def test_the_event_on_the_wire() -> None:
    """An Asynchronous Message, written by hand."""
    first, second = RamUnit(block_count=LARGE), RamUnit(block_count=LARGE)
    target = target_of(first, second)
    link = Link(environment_of(target)).login()
    link.ready(lun=1)
    stat_sn = link.session.exp_stat_sn
    cmd_sn = link.session.cmd_sn
    second.resized(SMALL)
    link.end.wait()
    sent = link.end.settle()
    header, data = sent[:48], sent[48:]
    assert header[:24] == bytes.fromhex("32 80 0000 00 000014 0001000000000000 ffffffff 00000000")
    assert header[24:32] == struct.pack(">II", stat_sn, cmd_sn)
    assert header[36:] == bytes(12), "event 0, and no parameters"
    sense = "0012 70 00 06 00000000 0a 00000000 2a 09 00 000000"
    assert data == bytes.fromhex(sense)
    link.session.received(sent)
    assert link.session.events == [(0, 0, 0, 0)]
    assert sense_codes(link.command(READY, lun=1).sense) == (6, 0x2A, 0x09)
    link.end.disconnect()
    close(target)


def test_a_session_that_is_gone_is_not_told() -> None:
    unit = sized(RamUnit)
    with serving(unit) as (server, address):
        connect(address).close()
        (lu,) = server._units
        eventually(lambda: not lu.paths)
        unit.resized(LARGE)
        with connect(address) as initiator:
            assert initiator.capacity().block_count == LARGE
            assert not initiator.session.events


def test_the_same_size_is_no_news() -> None:
    unit = sized(InlineRamUnit)
    with serving(unit) as (_, address), connect(address) as initiator:
        unit.resized(SMALL)
        assert run(initiator, READY) == (0,)
        assert not initiator.session.events


# -- what a shrinking disk promises --------------------------------------------------------------


class Watched(InlineRamUnit):
    """Notes each operation that goes past `end`, whenever that is set."""

    end = 1 << 60

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.beyond: list[str] = []
        self.fault = self._look

    def _look(self, name: str, lba: int, blocks: int) -> None:
        if lba + blocks > self.end:
            self.beyond.append(f"{name} {lba}+{blocks}")


class WatchedConcurrent(Watched, ConcurrentRamUnit):
    inline = ConcurrentRamUnit.inline


class WatchedSerial(Watched):
    inline = RamUnit.inline


class WatchedAsync(Watched, AsyncRamUnit):
    inline = RamUnit.inline


@pytest.mark.parametrize(
    "kind",
    [Watched, WatchedSerial, WatchedConcurrent, WatchedAsync],
    ids=lambda kind: kind.__name__,
)
def test_nothing_goes_past_the_end_after_the_resize(kind: type[Watched]) -> None:
    """Sessions write and read all over the disk, while it shrinks and grows again and again."""
    unit = kind(block_count=LARGE)
    stop = threading.Event()
    wrong: list[object] = []

    def work(address: tuple[str, int], isid: int) -> None:
        with connect(address, isid=isid) as initiator:
            lba = isid * 977
            while not stop.is_set():
                tasks = []
                for number in range(24):
                    lba = (lba * 1103515245 + 12345) % (LARGE - 64)
                    blocks = (1, 8, 64)[number % 3]
                    if number % 2:
                        command = initiator.session.command(
                            write_10(lba, blocks), data_out=bytes(blocks * 512)
                        )
                    else:
                        command = initiator.session.command(
                            read_10(lba, blocks), read_length=blocks * 512
                        )
                    tasks.append(command)
                for task in tasks:
                    initiator.finish(task)
                    codes = sense_codes(task.sense)
                    if task.status and codes not in ((5, 0x21, 0), (6, 0x2A, 9)):
                        wrong.append(codes)

    with serving(unit) as (_, address):
        threads = [threading.Thread(target=work, args=(address, isid)) for isid in (1, 2, 3)]
        for thread in threads:
            thread.start()
        try:
            for round_ in range(12):
                seen = len(unit.log)
                eventually(lambda seen=seen: len(unit.log) > seen + 20)  # type: ignore[misc]
                unit.resized(SMALL - round_)
                unit.end = SMALL - round_
                seen = len(unit.log)
                eventually(lambda seen=seen: len(unit.log) > seen + 20)  # type: ignore[misc]
                assert not unit.beyond
                unit.end = 1 << 60
                unit.resized(LARGE)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert not wrong


def test_a_long_write_ends_where_the_disk_now_ends() -> None:
    """It was let in when the disk was large, and waits for its data when the disk shrinks."""
    unit = RamUnit(block_count=LARGE)
    target = target_of(unit)
    link = Link(environment_of(target), initial_r2t=True, immediate_data=False).login()
    link.ready()
    header_only = link.session.command(write_10(SMALL - 4, 8), data_out=bytes(4096))
    link.end.feed(b"".join(link.session.take_output()))  # the R2T stays unanswered
    unit.resized(SMALL)
    unit.log.clear()
    link.session.received(link.end.settle())
    assert not header_only.done
    # the answer to the R2T: its data, for a write that does not fit any more
    task = link.session.tasks[header_only.itt]
    link.session.parameters.immediate_data = True
    link.session._send_data(task, _ttt(link), 0, 4096)
    link.run(task)
    assert sense_codes(task.sense) == (5, 0x21, 0)
    assert not unit.log, "not a block of it was written"
    link.end.disconnect()
    close(target)


def _ttt(link: Link) -> int:
    """The transfer tag of the only R2T."""
    (data,) = [task.data for task in link.end.connection.tasks._by_itt.values()]
    assert data is not None and data.ttt is not None
    return data.ttt


def test_what_waits_in_the_queue_is_checked_again() -> None:
    """Behind a slow operation there are a write past the new end, an unmap, and the resize."""
    slow = Slow(block_count=LARGE)
    gate = Gate(slow)
    gate.open()
    ended: list[Operation] = []
    gate.submit(Operation(Kind.FLUSH), ended.append)
    assert slow.entered.acquire(timeout=10)
    shrinking = threading.Thread(target=lambda: slow.resized(SMALL))
    shrinking.start()
    eventually(lambda: len(gate._dispatcher._queue) == 1)
    late = [
        Operation(Kind.WRITE, SMALL, 1, data=memoryview(bytes(512))),
        Operation(Kind.UNMAP, extents=[(0, 8), (SMALL - 1, 2)]),
        Operation(Kind.READ, SMALL - 1, 2),
        Operation(Kind.READ, SMALL - 1, 1),
    ]
    for operation in late:
        gate.submit(operation, ended.append)
    assert shrinking.is_alive(), "the flush is still in the unit"
    slow.go.set()
    shrinking.join(10)
    gate.close()
    for operation, lba in zip(late[:3], (SMALL, SMALL, SMALL), strict=True):
        assert isinstance(operation.error, OutOfRange)
        assert operation.error.lba == lba
    assert late[3].error is None and len(late[3].result) == 512
    assert [name for name, *_ in slow.log] == ["flush", "read", "flush"]


class Batching(Slow):
    """Takes what waits in one call."""

    seen: list[int]

    def batch(self, operations: Any) -> None:
        self.seen = [operation.lba for operation in operations]
        for operation in operations:
            operation.perform(self)


def test_a_batch_gets_only_what_exists() -> None:
    slow = Batching(block_count=LARGE)
    gate = Gate(slow)
    gate.open()
    ended: list[Operation] = []
    gate.submit(Operation(Kind.FLUSH), ended.append)
    assert slow.entered.acquire(timeout=10)
    slow.resized(SMALL, wait=False)
    late = [Operation(Kind.READ, lba, 1) for lba in (SMALL - 1, SMALL, 5)]
    for operation in late:
        gate.submit(operation, ended.append)
    slow.go.set()
    gate.close()
    assert slow.seen == [] or isinstance(late[1].error, OutOfRange)
    assert isinstance(late[1].error, OutOfRange)
    assert late[0].error is late[2].error is None
    assert ("read", SMALL, 1, False) not in slow.log


# -- the unit's side -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, -1, 1 << 54, 1 << 63, 1.5, True, "8"])
def test_sizes_that_cannot_be(count: Any) -> None:
    unit = RamUnit()
    gate = Gate(unit)
    gate.open()
    with pytest.raises(UsageError, match="block_count"):
        unit.resized(count)
    assert gate.parameters.block_count == unit.block_count == RamUnit.block_count
    gate.close()


def test_before_and_after_it_is_served() -> None:
    unit = RamUnit()
    unit.resized(100)
    assert unit.block_count == unit.parameters.block_count == 100
    gate = Gate(unit)
    unit.resized(200)
    assert gate.parameters.block_count == 200
    gate.open()
    gate.close()
    unit.resized(300)
    assert unit.block_count == gate.parameters.block_count == 300


class Grows(RamUnit):
    """Finds on its own thread that there is more of it."""

    def __init__(self, wait: bool) -> None:
        super().__init__(block_count=LARGE)
        self.resized(SMALL)
        self._wait = wait

    def flush(self) -> None:
        self.resized(LARGE, wait=self._wait)


def test_a_method_of_the_unit_does_not_wait_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Grows(wait=False)) as (_, address), connect(address) as initiator:
        initiator.flush()
        eventually(lambda: run(initiator, READY) == (6, 0x2A, 9))
        assert initiator.capacity().block_count == LARGE
    assert not caplog.records
    gate = Gate(Grows(wait=True))
    gate.open()
    operation = Operation(Kind.FLUSH)
    done = threading.Event()
    gate.submit(operation, lambda _: done.set())
    assert done.wait(10)
    assert isinstance(operation.error, RuntimeError)
    gate.close()


class Refuses(RamUnit):
    """Cannot become larger."""

    def take_size(self, parameters: Parameters) -> None:
        if parameters.block_count > RamUnit.block_count:
            raise UsageError("there is no room")
        super().take_size(parameters)


def test_a_unit_that_cannot(caplog: pytest.LogCaptureFixture) -> None:
    unit = Refuses()
    with serving(unit) as (_, address), connect(address) as initiator:
        with pytest.raises(UsageError, match="no room"):
            unit.resized(LARGE)
        assert not caplog.records
        unit.resized(LARGE, wait=False)
        eventually(lambda: bool(caplog.records))
        assert "no room" in caplog.text
        assert run(initiator, READY) == (0,)
        assert initiator.capacity().block_count == RamUnit.block_count


@pytest.mark.parametrize("kind", [InlineRamUnit, AsyncRamUnit])
def test_many_at_once(kind: type[RamUnit]) -> None:
    unit = kind(block_count=LARGE)
    with serving(unit) as (_, address), connect(address) as initiator:
        threads = [
            threading.Thread(target=unit.resized, args=(SMALL + number,)) for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
        size = initiator.capacity().block_count
        assert SMALL <= size < SMALL + 8
        assert size == unit.block_count == unit.parameters.block_count


# -- an image ------------------------------------------------------------------------------------


def test_an_image_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    disk = FileUnit(path, size=1 << 20)
    with serving(disk) as (_, address), connect(address) as initiator:
        disk.measure()
        assert run(initiator, READY) == (0,)
        os.truncate(path, 2 << 20)
        disk.measure()
        assert run(initiator, READY) == (6, 0x2A, 9)
        initiator.write(4095, pattern(3))
        assert path.read_bytes()[-512:] == pattern(3)
        os.truncate(path, (3 << 20) + 100)
        with pytest.raises(UsageError, match="its size, 3145828 bytes, is not a mult"):
            disk.measure()
        assert initiator.capacity().block_count == 4096
        os.truncate(path, 1 << 20)
        disk.measure()
        assert initiator.capacity().block_count == 2048
        with pytest.raises(ScsiError, match="5/21/00"):
            initiator.read(2048, 1)
        os.truncate(path, 0)
        with pytest.raises(UsageError, match="block_count"):
            disk.measure()
        os.truncate(path, 1 << 20)
    disk.measure()  # it is closed: there is nothing to look at
    disk.open()  # the size that it had last is expected
    disk.close()


# -- a disk in memory ----------------------------------------------------------------------------


def pattern(number: int) -> bytes:
    return struct.pack(">Q", number) * 64


@pytest.mark.parametrize("memfd", [True, False])
def test_ram_grows_and_shrinks(memfd: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not memfd:
        monkeypatch.delattr("os.memfd_create", raising=False)
    disk = RamDisk(block_count=300)
    for lba in (0, 127, 128, 299):
        disk.write(lba, memoryview(pattern(lba + 1)), False)
    kept = disk.read(299, 1, False)
    disk.resized(1000)
    assert bytes(disk.read(299, 1, False)) == pattern(300)
    assert bytes(disk.read(300, 700, False)) == bytes(700 * 512)
    disk.write(999, memoryview(pattern(7)), False)
    disk.resized(128)
    assert bytes(disk.read(127, 1, False)) == pattern(128)
    assert len(kept) == 512, "what was read before is still there to be sent"
    bytes(kept)
    disk.resized(500)
    assert bytes(disk.read(0, 1, False)) == pattern(1)
    assert bytes(disk.read(128, 372, False)) == bytes(372 * 512), "what was cut off is gone"
    disk.resized(1200)
    assert bytes(disk.read(128, 1000, False)) == bytes(1000 * 512)
    disk.write(1199, memoryview(pattern(9)), False)
    assert bytes(disk.read(1199, 1, False)) == pattern(9)
    assert next(iter(disk.extents(1000, 100))).zero
    disk.close()


def test_ram_that_is_too_large() -> None:
    disk = RamDisk(block_count=300)
    disk.write(5, memoryview(pattern(5)), False)
    with pytest.raises(UsageError, match="cannot map"):
        disk.resized((1 << 62) // 512)
    assert disk.parameters.block_count == 300
    assert bytes(disk.read(5, 1, False)) == pattern(5)
    disk.close()


def test_a_served_ram_disk() -> None:
    disk = RamDisk(block_count=SMALL)
    with serving(disk) as (_, address), connect(address) as initiator:
        initiator.write(SMALL - 1, pattern(1))
        disk.resized(LARGE)
        initiator.write(SMALL, pattern(2))
        assert initiator.read(SMALL - 1, 3) == pattern(1) + pattern(2) + bytes(512)
        disk.resized(SMALL)
        with pytest.raises(ScsiError, match="5/21/00"):
            initiator.read(SMALL, 1)
        disk.resized(LARGE)
        assert initiator.read(SMALL - 1, 2) == pattern(1) + bytes(512)
