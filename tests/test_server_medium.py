"""Ejecting and sanitizing a unit that a real server serves, while other sessions write."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.kit.sockets import connect, eventually, server_of, serving
from tests.kit.units import KINDS, InlineRamUnit, RamUnit
from userdisk import portal as portal_module
from userdisk.gate import Gate
from userdisk.initiator_client import Initiator, ScsiError, sense_codes
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit, Unsaved
from userdisk.target.target import Target

EJECT, LOAD = bytes.fromhex("1b0000000200"), bytes.fromhex("1b0000000300")
NO_MEDIUM, SANITIZING = (2, 0x3A, 0), (2, 0x04, 0x1B)
DEPTH = 8


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal_module, "TICK", 0.02)
    monkeypatch.setattr(portal_module, "_LINGER", 0.2)


class Writer:
    """A session that writes different data for ever, several commands at a time."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self.initiator = connect(address, isid=number)
        self.number = number
        self.written = 0
        self.refused: set[tuple[int, int, int]] = set()
        self.stop = False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.stop:
                tasks = [self._write() for _ in range(DEPTH)]
                for task in tasks:
                    if self.initiator.finish(task).status:
                        self.refused.add(sense_codes(task.sense))
                    else:
                        self.written += 1
        except BaseException as error:
            self.error = error

    def _write(self) -> Any:
        lba = (self.number + 7 * self.written) % 256
        data = struct.pack(">QQ", self.number, self.written + time.monotonic_ns()) * 32
        cdb = struct.pack(">BBQIxx", 0x8A, 0, lba, 1)
        return self.initiator.session.command(cdb, lun=self.initiator.lun, data_out=data)

    def end(self) -> None:
        self.stop = True
        self.thread.join(20)
        assert self.error is None, self.error
        self.initiator.close()


@contextmanager
def writers(address: tuple[str, int]) -> Iterator[list[Writer]]:
    found = [Writer(address, number) for number in (1, 2)]
    try:
        eventually(lambda: all(writer.written > 10 * DEPTH for writer in found))
        yield found
    finally:
        for writer in found:
            writer.end()


def codes(initiator: Initiator, cdb: bytes, data_out: bytes = b"") -> tuple[int, int, int] | None:
    try:
        initiator.execute(cdb, data_out=data_out)
    except ScsiError as error:
        return sense_codes(error.sense)
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_not_one_write_changes_the_unit_after_an_eject(kind: str) -> None:
    unit = KINDS[kind](removable=True, block_count=256)
    with (
        serving(unit) as (_, address),
        connect(address, isid=9) as other,
        writers(address) as writing,
    ):
        for _ in range(5):
            other.execute(EJECT)
            after = bytes(unit.memory)
            assert unit.log[-1][0] == "flush"
            assert codes(other, bytes(6)) == NO_MEDIUM
            time.sleep(0.02)
            assert unit.memory == after
            written = [writer.written for writer in writing]
            other.execute(LOAD)
            eventually(
                lambda before=written: all(  # type: ignore[misc]
                    writer.written > count + DEPTH
                    for writer, count in zip(writing, before, strict=True)
                )
            )
        for writer in writing:
            assert writer.refused <= {NO_MEDIUM, (6, 0x28, 0)}
            assert NO_MEDIUM in writer.refused


@pytest.mark.parametrize("kind", KINDS)
def test_no_write_comes_between_those_of_sanitize(kind: str) -> None:
    unit = KINDS[kind](max_transfer_length=1 << 14, block_count=256)
    found: list[set[int]] = []

    def fault(name: str, lba: int, blocks: int) -> None:
        if name == "flush":  # a pass over the disk has ended
            found.append(set(unit.memory))

    def refuse_someone(name: str, lba: int, blocks: int) -> None:
        fault(name, lba, blocks)
        if name == "flush":  # a quick pass may end before a writer has asked
            time.sleep(0.02)

    unit.fault = refuse_someone
    with (
        serving(unit) as (_, address),
        connect(address, isid=9) as other,
        writers(address) as writing,
    ):
        for number in range(5):
            parameters = bytes([2, 0, 0, 1, number])
            cdb = bytes([0x48, 1 | number % 2 << 7, 0, 0, 0, 0, 0, 0, 5, 0])
            other.execute(cdb, data_out=parameters)
            eventually(lambda: codes(other, bytes(6)) is None)
            written = sum(writer.written for writer in writing)
            eventually(
                lambda before=written: (
                    sum(  # type: ignore[misc]
                        writer.written for writer in writing
                    )
                    > before + 4 * DEPTH
                )
            )
        unit.fault = None
        for writer in writing:
            assert writer.refused == {SANITIZING}
    assert found == [{number} for number in range(5) for _ in range(2)]


class SlowUnit(RamUnit):
    """Takes its time for each write."""

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        time.sleep(0.05)
        super().write(lba, data, fua)


@pytest.mark.parametrize("immediately", [0, 0x80])
def test_stopping_interrupts_it_and_the_next_server_goes_on(immediately: int) -> None:
    unit, saved = SlowUnit(max_transfer_length=1 << 15), Unsaved()
    pieces = unit.parameters.size >> 15

    def served() -> Server:
        target = Target("iqn.2024-01.org.example:target", [LogicalUnit(Gate(unit), saved=saved)])
        return Server([target], listen=[("127.0.0.1", 0)])

    server = served()
    (address,) = server.start()
    initiator = connect(address, target="iqn.2024-01.org.example:target")
    cdb = bytes([0x48, 1 | immediately, 0, 0, 0, 0, 0, 0, 5, 0])
    task = initiator.session.command(cdb, lun=0, data_out=b"\x01\0\0\x01\xaa")
    initiator.send()
    eventually(lambda: unit.calls["write"] > 1)
    initiator.socket.close()
    server.stop()
    assert not task.done or immediately
    count = unit.calls["write"]
    assert 1 < count < pieces
    assert saved.get("sanitize") is not None
    assert unit.log[-1][0] == "flush"  # as for every unit that is closed

    again = served()
    (address,) = again.start()
    with connect(address, target=None) as _:
        pass
    assert saved.get("sanitize") is not None
    eventually(lambda: saved.get("sanitize") is None, 20)
    again.stop()
    assert unit.calls["write"] == count + pieces
    assert set(unit.memory) == {0xAA}


def test_a_server_that_does_not_start_leaves_it_alone() -> None:
    unit, saved = RamUnit(), Unsaved()
    lu = LogicalUnit(Gate(unit), saved=saved)
    saved.save("sanitize", {"kind": "WRITE", "unrestricted": False, "pattern": "aa"})
    target = Target("iqn.2024-01.org.example:target", [LogicalUnit(Gate(unit), saved=saved)])
    busy = server_of(RamUnit())
    (address,) = busy.start()
    with pytest.raises(Exception, match="in use"):
        Server([target], listen=[address]).start()
    busy.stop()
    assert lu.sanitize.pollable() is None  # made before it was saved


def test_the_program_ejects_a_served_unit() -> None:
    unit = RamUnit(removable=True)
    lu = LogicalUnit(Gate(unit))
    target = Target("iqn.2024-01.org.example:target", [lu])
    with Server([target], listen=[("127.0.0.1", 0)]) as server:
        (address,) = server._bound
        with connect(address, target="iqn.2024-01.org.example:target") as initiator:
            initiator.write(0, b"x" * 512)
            heard: list[BaseException | None] = []
            lu.medium.eject(heard.append)
            eventually(lambda: bool(heard))
            assert heard == [None]
            assert codes(initiator, bytes(6)) == NO_MEDIUM
            lu.medium.load(heard.append)
            eventually(lambda: len(heard) == 2)
            assert initiator.read(0, 1) == b"x" * 512


class SlowErase(InlineRamUnit):
    """Everything is inline; `erase` takes as long as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def erase(self) -> None:
        assert self.go.wait(10)
        self.memory[:] = bytes(len(self.memory))


def test_sessions_are_answered_while_an_inline_unit_is_erased() -> None:
    """Both have been on the fast path; a unit that is held for long is not waited for."""
    unit = SlowErase()
    with serving(unit) as (_, address), connect(address) as one, connect(address, isid=7) as other:
        for initiator in (one, other):
            initiator.write(0, b"x" * 512)
        try:
            one.execute(bytes.fromhex("4882 0000000000000000"))  # BLOCK ERASE, IMMED
            for initiator in (one, other):
                assert codes(initiator, bytes(6)) == (2, 0x04, 0x1B)
                for cdb in ("28 00 00000000 00 0001 00", "88 00 0000000000000000 00000001 00 00"):
                    read = initiator.session.command(bytes.fromhex(cdb), read_length=512)
                    assert sense_codes(initiator.finish(read).sense) == (2, 0x04, 0x1B)
                initiator.finish(initiator.session.ping(b"there?"))
                assert initiator.finish(initiator.session.task_management(5)).response == 0
        finally:
            unit.go.set()
        eventually(lambda: codes(one, bytes(6)) is None)
        assert one.read(0, 1) == bytes(512)
