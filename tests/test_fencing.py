"""Fencing: after PREEMPT AND ABORT is answered, nothing of the fenced initiator reaches the disk.

A real server, two sessions; the one that is fenced writes all the while, as fast as it can.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kit import reservations as pr
from tests.kit.reservations import CONFLICT, EA_RO, WE_RO
from tests.kit.sockets import connect, eventually, serving
from tests.kit.units import AsyncRamUnit, ConcurrentRamUnit, InlineRamUnit, RamUnit
from userdisk.initiator_client import Initiator
from userdisk.iscsi.initiator import Task
from userdisk.iscsi.initiator_wire import InitiatorError

HOST_A, HOST_B = "iqn.2024-01.org.example:a", "iqn.2024-01.org.example:b"
BLOCKS = 64
DEPTH = 16
ROUNDS = 6


class Fast(InlineRamUnit):
    """Many sessions write at once, each on its own thread."""

    concurrent = True


class Slow(RamUnit):
    """Each write takes a while, and is seen half done."""

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        half = len(data) // 2
        start = lba * self.block_length
        self.memory[start : start + half] = data[:half]
        time.sleep(0.002)
        super().write(lba, data, fua)


class SlowConcurrent(Slow, ConcurrentRamUnit):
    """The same on several threads."""


class SlowAsync(AsyncRamUnit):
    """The same, in coroutines."""

    async def write(self, lba: int, data: memoryview, fua: bool) -> None:  # type: ignore[override]
        time.sleep(0.002)
        await super().write(lba, data, fua)


def out(initiator: Initiator, action: int, key: int, service_key: int, kind: int = WE_RO) -> None:
    cdb = struct.pack(">BBBxxIx", 0x5F, action, kind, 24)
    initiator.execute(cdb, data_out=pr.basic(key, service_key))


class Writer(threading.Thread):
    """Writes blocks with ever other bytes, many commands at once, whatever it is answered."""

    def __init__(self, initiator: Initiator, blocks: int) -> None:
        super().__init__(daemon=True)
        self.initiator = initiator
        self.blocks = blocks
        self.statuses: Counter[int] = Counter()
        self.begun = 0  #: commands up to now
        self.oldest = 0  #: the oldest that has not ended, or was aborted
        self.stopped = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.failure = error

    def _run(self) -> None:
        waiting: dict[Task, int] = {}  # with the number of each
        awaited = 0  # how many of them, from the last on
        self.initiator.timeout = 0.05
        while not self.stopped:
            while awaited < DEPTH:
                self.begun += 1
                data = bytes([self.begun % 255 + 1]) * (512 * self.blocks)
                lba = self.begun * self.blocks % BLOCKS
                cdb = struct.pack(">BBIxHx", 0x2A, 0, lba, self.blocks)
                waiting[self.initiator.session.command(cdb, data_out=data)] = self.begun
                awaited += 1
            try:
                self.initiator.run(lambda: any(task.done for task in waiting))
            except InitiatorError as error:
                assert "does not answer" in str(error)
                awaited = 0  # perhaps they were aborted: nobody answers those
            for task in [task for task in waiting if task.done]:
                del waiting[task]
                awaited = max(awaited - 1, 0)
                self.statuses[task.status] += 1
            self.oldest = min(waiting.values(), default=self.begun)


@contextmanager
def writing(initiator: Initiator, blocks: int) -> Iterator[Writer]:
    writer = Writer(initiator, blocks)
    writer.start()
    try:
        yield writer
    finally:
        writer.stopped = True
        writer.join(20)
    assert writer.failure is None and not writer.is_alive()


@pytest.mark.parametrize("blocks", [1, 64])
@pytest.mark.parametrize("make", [Fast, InlineRamUnit, Slow, SlowConcurrent, SlowAsync])
def test_no_write_after_the_answer(make: type[RamUnit], blocks: int) -> None:
    unit = make(max_transfer_length=16 * 512)
    with serving(unit) as (_, address):
        for number in range(ROUNDS):
            with (
                connect(address, initiator=HOST_A, isid=1) as fencer,
                connect(address, initiator=HOST_B, isid=2 + number) as victim,
            ):
                out(fencer, pr.IGNORE, 0, 1)
                out(victim, pr.IGNORE, 0, 2)
                out(victim, pr.RESERVE, 2, 0)
                with writing(victim, blocks) as writer:
                    eventually(lambda writer=writer: writer.statuses[0] >= 20)  # type: ignore[misc]
                    out(fencer, pr.PREEMPT_AND_ABORT, 1, 2, EA_RO if number % 2 else WE_RO)
                    after = bytes(unit.memory)
                    count = unit.calls["write"]
                    # it goes on trying
                    eventually(
                        lambda writer=writer: writer.statuses[CONFLICT] >= 2 * DEPTH  # type: ignore[misc]
                    )
                    assert unit.memory == after
                    assert unit.calls["write"] == count
                # whoever is registered writes again
                fencer.write(0, b"f" * 512)
                assert unit.memory[:512] == b"f" * 512
                out(fencer, pr.CLEAR, 1, 0)


@pytest.mark.parametrize("make", [Fast, Slow])
def test_reserve_is_answered_when_nobody_else_writes(make: type[RamUnit]) -> None:
    """RESERVE lets what was let in before go on, and nothing that comes later."""
    unit = make()
    with (
        serving(unit) as (_, address),
        connect(address, initiator=HOST_A, isid=1) as owner,
        connect(address, initiator=HOST_B, isid=2) as other,
        writing(other, 1) as writer,
    ):
        eventually(lambda: writer.statuses[0] >= 20)
        owner.execute(bytes.fromhex("160000000000"))
        let_in = writer.begun
        eventually(lambda: writer.oldest > let_in)
        after, count = bytearray(unit.memory), unit.calls["write"]
        conflicts = writer.statuses[CONFLICT]
        eventually(lambda: writer.statuses[CONFLICT] >= conflicts + 2 * DEPTH)
        assert (unit.memory, unit.calls["write"]) == (after, count)
        before = writer.statuses[0]
        owner.execute(bytes.fromhex("170000000000"))
        eventually(lambda: writer.statuses[0] > before)


class Held(InlineRamUnit):
    """Writes are inline, and wait until the test lets them go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()
        self.fault = self._wait

    def _wait(self, name: str, lba: int, blocks: int) -> None:
        if name == "write":
            self.entered.set()
            assert self.go.wait(10)


class HeldConcurrent(Held):
    """Others may be inside meanwhile."""

    concurrent = True


@pytest.mark.parametrize("kind", [Held, HeldConcurrent])
@pytest.mark.parametrize("function", [4, 5, 6])
def test_a_reset_is_answered_after_the_fast_path_of_another_session(
    kind: type[Held], function: int
) -> None:
    """What it has begun is no task; nothing of it comes after the answer."""
    unit = kind()
    with serving(unit) as (_, address), connect(address) as one, connect(address, isid=2) as other:
        write = one.session.command(bytes.fromhex("2a000000000000000100"), data_out=b"x" * 512)
        one.send()
        assert unit.entered.wait(10)
        reset = other.session.task_management(function)
        other.send()
        other.timeout = 0.2
        try:
            with pytest.raises(InitiatorError, match="does not answer"):
                other.finish(reset)
            assert not any(unit.memory)
        finally:
            unit.go.set()
        other.timeout = 10
        assert other.finish(reset).response == 0
        assert unit.memory[:512] == b"x" * 512
        assert one.finish(write).status == 0
