"""Block commands of several sessions at once: what is atomic, what is long, what is aborted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.kit.sockets import connect, serving
from tests.kit.units import AsyncRamUnit, ConcurrentRamUnit, InlineRamUnit, RamUnit
from tests.target.test_atomic import exchange
from tests.target.test_block_commands import extent
from userdisk.initiator_client import Initiator, ScsiError, sense_codes
from userdisk.iscsi.initiator_task import ABORTED
from userdisk.unit import Inline

ABORT_TASK = 1
MISCOMPARE = (0xE, 0x1D, 0)


class InlineConcurrentRamUnit(ConcurrentRamUnit):
    """Operations overlap, on the threads of connections."""

    inline = Inline.ALL


KINDS = [InlineRamUnit, InlineConcurrentRamUnit, RamUnit, ConcurrentRamUnit, AsyncRamUnit]


def slowed(unit: RamUnit) -> RamUnit:
    """Others get a chance between a read and what follows it."""

    def wait(name: str, lba: int, blocks: int) -> None:
        if name in ("read", "write"):
            time.sleep(0.0005)

    unit.fault = wait
    return unit


def value_of(initiator: Initiator) -> int:
    return int.from_bytes(initiator.read(0, 1), "big")


def block(value: int) -> bytes:
    return value.to_bytes(512, "big")


def exchanged(initiator: Initiator, old: int, new: int) -> bool:
    """COMPARE AND WRITE of block 0; False if it was not `old`."""
    try:
        initiator.execute(exchange(0, 1), data_out=block(old) + block(new))
    except ScsiError as error:
        assert sense_codes(error.sense) == MISCOMPARE
        return False
    return True


def together(*jobs: Callable[[], None]) -> None:
    """Run the jobs on threads of their own; raises what one of them raised."""
    failures: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("kind", KINDS)
def test_no_increment_is_lost(kind: type[RamUnit]) -> None:
    with (
        serving(slowed(kind())) as (_, address),
        connect(address, isid=1) as first,
        connect(address, isid=2) as second,
    ):
        first.execute(bytes(6))

        def count(initiator: Initiator) -> None:
            done = 0
            while done < 30:
                value = value_of(initiator)
                done += exchanged(initiator, value, value + 1)

        together(lambda: count(first), lambda: count(second))
        assert value_of(first) == 60


@pytest.mark.parametrize("kind", KINDS)
def test_no_write_comes_between_comparing_and_writing(kind: type[RamUnit]) -> None:
    """Plain writes, which inline units do on the fast path, are never overwritten unseen."""
    with (
        serving(slowed(kind())) as (_, address),
        connect(address, isid=1) as writer,
        connect(address, isid=2) as locker,
    ):
        writer.execute(bytes(6))
        stop = threading.Event()
        exchanges = 0

        def write() -> None:
            try:
                for epoch in range(1, 120):
                    writer.write(0, block(epoch << 32))
                    found = value_of(writer)
                    assert found >> 32 == epoch, "a write was lost"
            finally:
                stop.set()

        def lock() -> None:
            nonlocal exchanges
            while not stop.is_set():
                value = value_of(locker)
                exchanges += exchanged(locker, value, value + 1)

        together(write, lock)
        assert exchanges


@pytest.mark.parametrize("kind", KINDS)
def test_no_bit_is_lost(kind: type[RamUnit]) -> None:
    with (
        serving(slowed(kind())) as (_, address),
        connect(address, isid=1) as first,
        connect(address, isid=2) as second,
    ):
        first.execute(bytes(6))

        def set_bits(initiator: Initiator, start: int) -> None:
            for bit in range(start, 120, 2):
                initiator.execute(extent(0x8B, 0, 1), data_out=block(1 << bit))

        together(lambda: set_bits(first, 0), lambda: set_bits(second, 1))
        assert value_of(first) == (1 << 120) - 1


LONG = [
    (extent(0x8F, 0, 0x10000), b"", "read"),
    (extent(0x93, 0, 0xFFFF), bytes(range(256)) * 2, "write"),
    (extent(0x93, 0, 0xFFFF), bytes(512), "write"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("cdb", "data", "name"), LONG, ids=["verify", "write same", "zero"])
def test_a_long_command_is_aborted_and_holds_up_nobody(
    kind: type[RamUnit], cdb: bytes, data: bytes, name: str
) -> None:
    unit = kind(block_count=0x10000)
    steps = 32  # of 1 MiB

    def wait(what: str, lba: int, blocks: int) -> None:
        if what == name and blocks == 2048:
            time.sleep(0.03)

    unit.fault = wait
    with serving(unit) as (_, address), connect(address) as initiator:
        session = initiator.session
        long = session.command(cdb, data_out=data)
        initiator.send()
        for _ in range(3):
            initiator.read(0, 1)
            initiator.write(0, bytes(512))
        assert not long.done
        done = unit.calls[name]
        assert done < steps, "there would be more"
        answer = initiator.finish(session.task_management(ABORT_TASK, about=long))
        assert answer.response == 0
        ended = unit.calls[name]
        time.sleep(0.1)
        assert unit.calls[name] == ended
        assert ended < steps
        assert long.response == ABORTED
        initiator.execute(bytes(6))
