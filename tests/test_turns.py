"""Turns and exclusive operations: alone means alone, for every kind of unit."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests.kit.units import KINDS, RamUnit
from userdisk.errors import MediumError
from userdisk.gate import Gate
from userdisk.operation import Exclusive, Kind, Operation, Sequel
from userdisk.turns import Turns


@pytest.mark.parametrize("serial", [False, True])
def test_alone(serial: bool) -> None:
    turns = Turns(serial=serial)
    assert turns.try_enter()
    got = threading.Event()

    def alone() -> None:
        turns.enter_alone()
        got.set()

    thread = threading.Thread(target=alone)
    thread.start()
    assert not got.wait(0.05)
    assert not serial or not turns.try_enter()
    turns.leave()
    assert got.wait(5)
    thread.join()
    assert not turns.try_enter()
    turns.leave_alone()
    assert turns.try_enter()
    turns.leave()


def test_who_wants_to_be_alone_is_not_starved() -> None:
    turns = Turns(serial=False)
    assert turns.enter()
    thread = threading.Thread(target=turns.enter_alone)
    thread.start()
    while turns.try_enter():  # until the other has asked
        turns.leave()
    turns.leave()
    thread.join(5)
    assert not thread.is_alive()
    turns.leave_alone()


def _count(unit: RamUnit, lba: int) -> Callable[[], Sequel]:
    """Add one to the number in a block, in two operations."""

    def steps() -> Sequel:
        data = yield Operation(Kind.READ, lba, 1)
        number = int.from_bytes(data, "big") + 1
        yield Operation(Kind.WRITE, lba, data=memoryview(number.to_bytes(512, "big")))
        return number

    return steps


@pytest.mark.parametrize("kind", KINDS)
def test_exclusive_operations_are_atomic(kind: str) -> None:
    unit = KINDS[kind]()
    gate = Gate(unit)
    gate.open()
    done = threading.Semaphore(0)
    count = 200
    operations = [Exclusive(_count(unit, 3), 3, 1) for _ in range(count)]

    def submit(some: list[Exclusive]) -> None:
        for operation in some:
            gate.submit(operation, lambda _: done.release())
            other = Operation(Kind.WRITE, 5, data=memoryview(bytes(512)))
            gate.submit(other, lambda _: done.release())

    threads = [threading.Thread(target=submit, args=(operations[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(2 * count):
        assert done.acquire(timeout=10)
    for thread in threads:
        thread.join()
    assert sorted(operation.result for operation in operations) == list(range(1, count + 1))
    gate.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_inside(kind: str) -> None:
    unit = KINDS[kind]()

    def fault(name: str, lba: int, blocks: int) -> None:
        if name == "write":
            raise MediumError

    unit.fault = fault
    gate = Gate(unit)
    gate.open()
    done = threading.Event()
    operation = Exclusive(_count(unit, 0), 0, 1)
    gate.submit(operation, lambda _: done.set())
    assert done.wait(5)
    assert isinstance(operation.error, MediumError)
    unit.fault = None
    gate.close()


def test_operations_that_write_are_watched() -> None:
    gate = Gate(RamUnit())
    seen: list[Kind] = []
    gate.watch = lambda operation: seen.append(operation.kind)
    for operation in (
        Operation(Kind.READ, 0, 1),
        Operation(Kind.WRITE, 0, 1, data=memoryview(bytes(512))),
        Operation(Kind.UNMAP, extents=[(0, 1)]),
        Operation(Kind.FLUSH),
    ):
        gate.perform(operation)
    assert seen == [Kind.WRITE, Kind.UNMAP]
