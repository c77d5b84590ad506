"""Disks that do not begin an operation at once: busy, full, or with news for the initiator."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.kit.units import InlineRamUnit
from userdisk.gate import Gate
from userdisk.server import Server
from userdisk.stgtest import journal
from userdisk.stgtest.again import Again
from userdisk.stgtest.engine import Engine, Limits
from userdisk.stgtest.generator import RANDOM, Plan
from userdisk.stgtest.pattern import Pattern
from userdisk.stgtest.port import Geometry, Op, Port, passes
from userdisk.stgtest.targets import Wishes, open_port
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target

BLOCKS = 512


class Full:
    """A disk with room for some operations, that refuses others; each is done once.

    Args:
        room: operations under way.
        refuses: the next so many are refused all the same.
    """

    kind = Op
    plain = False
    geometry = Geometry(
        BLOCKS, 512, 64, cached=True, fua=True, flushes=True, unmaps=True, zeroes=True,
        read_only=False,
    )  # fmt: skip

    def __init__(self, room: int, refuses: float = 0) -> None:
        self.memory = bytearray(BLOCKS * 512)
        self.room = room
        self.refuses = refuses
        self.queue: deque[Op] = deque()
        self.refused: list[Op] = []
        self.done: list[int] = []
        self.most = 0

    def submit(self, operations: Sequence[Op]) -> None:
        for op in operations:
            if len(self.queue) >= self.room or self.refuses > 0:
                self.refuses -= 1
                op.error, op.again = "BUSY", True
                self.refused.append(op)
            else:
                self.queue.append(op)
        self.most = max(self.most, len(self.queue))

    def collect(self) -> list[Op]:
        assert self.queue or self.refused, "nothing is under way"
        if self.refused:
            ended, self.refused = self.refused, []
            return ended
        op = self.queue.popleft()
        at, size = op.lba * 512, op.blocks * 512
        if op.letter == "W":
            self.memory[at : at + size] = op.data_out
        elif op.letter == "U":
            self.memory[at : at + size] = bytes(size)
        op.data = bytes(self.memory[at : at + size])
        self.done.append(op.number)
        return [op]

    def close(self, *, stuck: bool = False) -> None:
        pass


def engine_of(
    port: Port,
    mix: str,
    count: int,
    depth: int,
    *,
    record: journal.Writer | None = None,
    patience: float = 60,
) -> Engine:
    most = port.geometry.max_blocks
    plan = Plan(7, mix, RANDOM, RANDOM, min(BLOCKS, port.geometry.block_count), min(16, most))
    limits = Limits(count, depth, patience=patience)
    return Engine(
        port, plan.operations(), limits, Pattern(512, 9 * (depth > 1)),
        stamped=depth > 1, fua=False, group=len(mix) if depth == 1 else 1, record=record,
    )  # fmt: skip


@pytest.mark.parametrize("depth", [1, 2, 64])
@pytest.mark.parametrize("room", [1, 5, 1000])
def test_all_is_done_once(room: int, depth: int) -> None:
    disk = Full(room, refuses=3)
    engine = engine_of(disk, "WRUF", 400, depth)
    assert engine.run() is None
    assert sorted(disk.done) == [*range(1, 401)]
    assert engine.meter.count == 400
    assert engine.meter.refused >= 3
    assert disk.most == min(room, depth), "the disk is kept busy"


def test_at_depth_one_the_order_stays() -> None:
    disk = Full(1, refuses=2)
    assert engine_of(disk, "WR", 20, 1).run() is None
    assert disk.done == [*range(1, 21)]


def test_a_disk_that_is_always_busy_is_given_up() -> None:
    disk = Full(4, refuses=float("inf"))
    problem = engine_of(disk, "W", 4, 4, patience=0.1).run()
    assert problem is not None
    assert problem.endswith("transact error: BUSY")
    assert not disk.done


def test_the_journal_has_each_operation_once(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    writer = journal.Writer(path, journal.Head(9, BLOCKS, 512, True))
    engine = engine_of(Full(2), "WRF", 60, 8, record=writer)
    assert engine.run() is None
    writer.close()
    kinds = [step.kind for step in journal.read(path).steps()]
    assert kinds.count(journal.DONE) == 60
    assert journal.FAILED not in kinds
    assert len(kinds) == 120
    assert engine.meter.refused


def test_pauses_grow_for_one_operation() -> None:
    pauses: list[float] = []
    again = Again(10, sleep=pauses.append)

    def refused(op: Op) -> None:
        op.error, op.again = "BUSY", True
        assert again.keep([op], 1.0) == []
        assert again.take(0) == [op]

    first = Op("R", 1, 0, 1, fua=False)
    for _ in range(12):
        refused(first)
    assert pauses[0] == 0.001
    assert pauses == sorted(pauses)
    assert pauses[-2:] == [0.256] * 2
    assert again.keep([first], 1.0) == [first]
    refused(Op("R", 2, 0, 1, fua=False))
    assert pauses[-1] == 0.001
    assert again.count == 13


def test_a_busy_disk_gets_as_much_as_it_took() -> None:
    again = Again(10, sleep=lambda seconds: None)
    ops = [Op("R", number, 0, 1, fua=False) for number in range(12)]
    for op in ops[:10]:
        op.error, op.again = "BUSY", True
    ops[10].error = "broken"
    assert again.keep(ops, 1.0) == ops[10:], "an error that stays has ended, too"
    assert again.take(5) == ops[:4]
    assert again.take(5) == []
    assert again.take(0) == [ops[4]]


def test_an_error_that_stays_is_none_of_these() -> None:
    assert passes(0x08, None)
    assert passes(0x28, None)
    assert passes(0x02, 6)
    for status, key in ((0x02, 3), (0x02, None), (0x18, None), (0, None), (0x40, 6)):
        assert not passes(status, key)


# -- over a wire ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "connections"), [(1, 1), (16, 1), (16, 3)])
def test_unit_attentions_in_the_middle(depth: int, connections: int) -> None:
    """The disk grows again and again: each time every session is told."""
    unit = InlineRamUnit(max_transfer_length=32 << 10)
    calls = 0

    def grows(name: str, lba: int, blocks: int) -> None:
        nonlocal calls
        calls += 1
        if calls % 50 == 0:
            unit.memory += bytes(512)
            unit.resized(len(unit.memory) // 512, wait=False)

    name = "iqn.2026-11.io.userdisk:again"
    server = Server([Target(name, [LogicalUnit(Gate(unit))])], listen=[("127.0.0.1", 0)])
    ((host, number),) = server.start()
    try:
        wishes = Wishes(30, depth, connections, changes=True)
        port = open_port(f"iscsi://{host}:{number}/{name}/0", wishes)
        unit.fault = grows
        engine = engine_of(port, "WRUF", 400, depth)
        assert engine.run() is None
        unit.fault = None
        port.close()
    finally:
        server.stop()
    assert engine.meter.count == 400
    assert engine.meter.refused >= 3


@contextlib.contextmanager
def pipe_device(path: Path) -> Iterator[None]:
    """A device that says of every third request that it is busy, full, or has news; of FLUSH not.

    It keeps no data: what is read is zeros.
    """
    answers = deque([(8, 0, 0, 0), (0x28, 0, 0, 0), (2, 6, 0x29, 0)])
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def run() -> None:
        sock, _ = listener.accept()
        with sock, sock.makefile("rb") as file:
            parameters = struct.pack(
                "<16sQI16s4sB3xII68x", b"g" * 16, BLOCKS, 512, b"p", b"1", 0, 2, 65536
            )
            sock.sendall(struct.pack("<I", len(parameters)) + parameters)
            number = 0
            while head := file.read(4):
                request = file.read(int.from_bytes(head, "little"))
                hint, kind, _, blocks = struct.unpack_from("<QB7xQI", request)
                number += 1
                status, data = (0, 0, 0, 0), bytes(512 * blocks if kind == 1 else 0)
                if number % 3 == 0 and kind != 3:
                    status, data = answers[0], b""
                    answers.rotate()
                body = struct.pack("<QB7xBBBB28x", hint, kind, *status) + data
                sock.sendall(struct.pack("<I", len(body)) + body)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
        listener.close()
        assert not thread.is_alive()


@pytest.mark.parametrize("depth", [1, 4])
def test_a_device_that_takes_nothing_is_given_up(tmp_path: Path, depth: int) -> None:
    """It allows long transfers; only one at a time is that long."""
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        parameters = struct.pack(
            "<16sQI16s4sB3xII68x", b"g" * 16, 1 << 20, 512, b"p", b"1", 0, 2, 64 << 20
        )
        deaf: list[socket.socket] = []

        def run() -> None:
            deaf.append(listener.accept()[0])
            deaf[0].sendall(struct.pack("<I", len(parameters)) + parameters)

        thread = threading.Thread(target=run)
        thread.start()
        port = open_port(f"spd:{path}", Wishes(1, depth))
        thread.join()
        most = (64 << 20 if depth == 1 else 1 << 20) // 512
        assert port.geometry.max_blocks == most
        op = Op("W", 1, 0, most, fua=False)
        op.data_out = bytes(most * 512)
        port.submit([op])
        assert port.collect() == [op]
        assert op.error is not None
        assert op.error.endswith("the device takes no data")
        assert not op.again
        port.close(stuck=True)
        deaf[0].close()


@pytest.mark.parametrize("depth", [1, 8])
def test_a_device_behind_a_pipe(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "sock"
    with pipe_device(path):
        port = open_port(f"spd:{path}", Wishes(30, depth))
        try:
            engine = engine_of(port, "R", 90, depth)
            assert engine.run() is None
        finally:
            port.close()
    assert engine.meter.count == 90
    assert engine.meter.refused >= 40
