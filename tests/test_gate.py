"""The gate: who runs what where, what a read may return, and who is told of a unit's bugs."""

from __future__ import annotations

import pickle
import threading
import time

import pytest

from tests.kit.units import AsyncRamUnit, ConcurrentRamUnit, InlineRamUnit, RamUnit
from userdisk import errors
from userdisk.gate import Gate
from userdisk.operation import Kind, Operation
from userdisk.unit import Inline

#: Whether it runs inline: (kind, fua) -> what the unit has to declare
NEEDS = {
    (Kind.READ, False): Inline.READ,
    (Kind.READ, True): Inline.FLUSH,
    (Kind.WRITE, False): Inline.WRITE,
    (Kind.WRITE, True): Inline.FLUSH,
    (Kind.ZERO, False): Inline.WRITE,
    (Kind.ZERO, True): Inline.FLUSH,
    (Kind.FLUSH, False): Inline.FLUSH,
    (Kind.UNMAP, False): Inline.UNMAP,
    (Kind.EXTENTS, False): Inline.UNMAP,
}


@pytest.mark.parametrize("declared", [Inline.NONE, *Inline, Inline.READ | Inline.WRITE, Inline.ALL])
def test_inline_is_what_the_unit_declares(declared: Inline) -> None:
    unit = RamUnit()
    unit.inline = declared
    gate = Gate(unit)
    for (kind, fua), needed in NEEDS.items():
        assert gate.runs_inline(Operation(kind, fua=fua)) == (needed in declared), (kind, fua)
    assert gate.inline_read == (Inline.READ in declared)
    assert gate.inline_write == (Inline.WRITE in declared)
    assert gate.all_inline == (declared == Inline.ALL)


def test_nothing_of_an_async_unit_is_inline_but_what_is_plain() -> None:
    unit = AsyncRamUnit()
    unit.inline = Inline.ALL
    gate = Gate(unit)
    inline = {kind for kind, fua in NEEDS if gate.runs_inline(Operation(kind, fua=fua))}
    assert inline == {Kind.ZERO, Kind.EXTENTS}


def test_an_owner_does_not_wait_for_a_slow_operation() -> None:
    unit = RamUnit()
    unit.inline = Inline.READ
    gate = Gate(unit)
    entered, go = threading.Event(), threading.Event()

    def fault(name: str, lba: int, blocks: int) -> None:
        entered.set()
        go.wait(10)

    unit.fault = fault
    ended = threading.Event()
    gate.open()
    gate.submit(Operation(Kind.FLUSH), lambda operation: ended.set())
    assert entered.wait(10)
    before = time.monotonic()
    assert not gate.enter()
    assert time.monotonic() - before < 1
    unit.fault = None
    go.set()
    assert ended.wait(10)
    while not gate.enter():
        time.sleep(0.001)
    gate.leave()
    gate.close()


def test_owners_of_an_inline_unit_wait_for_each_other() -> None:
    gate = Gate(InlineRamUnit())
    assert gate.enter()
    entered = threading.Event()

    def other() -> None:
        assert gate.enter()
        entered.set()
        gate.leave()

    thread = threading.Thread(target=other)
    thread.start()
    assert not entered.wait(0.05)
    gate.leave()
    assert entered.wait(10)
    thread.join()


def test_a_concurrent_unit_is_always_free() -> None:
    gate = Gate(ConcurrentRamUnit())
    assert gate.enter()
    assert gate.enter()
    gate.leave()
    gate.leave()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Kind.READ, errors.MediumError),
        (Kind.EXTENTS, errors.MediumError),
        (Kind.WRITE, errors.WriteError),
        (Kind.FLUSH, errors.WriteError),
        (Kind.UNMAP, errors.WriteError),
        (Kind.ZERO, errors.WriteError),
    ],
)
def test_an_io_error_is_one_of_reading_or_of_writing(
    kind: Kind, expected: type[errors.StorageError]
) -> None:
    gate = Gate(RamUnit())
    assert type(gate.failed(OSError(5, "disk"), kind)) is expected


def test_only_bugs_are_logged_with_their_traceback(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(RamUnit(), "the-disk")
    for expected in (OSError(5, "x"), errors.NotReady(), MemoryError()):
        gate.failed(expected, Kind.READ)
    assert not caplog.records
    gate.failed(ZeroDivisionError("division by zero"), Kind.WRITE)
    assert "the-disk" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert len(caplog.records) == 1


def test_a_read_of_the_wrong_length_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(RamUnit(), "the-disk")
    with pytest.raises(errors.HardwareError):
        gate.checked_read(b"abc", 512)
    assert caplog.messages == ["unit the-disk: read returned 3 bytes instead of 512 bytes"]
    with pytest.raises(errors.HardwareError):
        gate.checked_read(None, 512)  # type: ignore[arg-type]
    assert "NoneType" in caplog.messages[1]


def test_what_is_right_is_not_copied() -> None:
    gate = Gate(RamUnit())
    for data in (bytes(512), bytearray(512), memoryview(bytes(512))):
        assert gate.checked_read(data, 512) is data


def test_what_has_no_length_of_its_own_is_wrapped() -> None:
    data = Gate(RamUnit()).checked_read(pickle.PickleBuffer(bytes(512)), 512)
    assert len(data) == 512


def test_keyboard_interrupts_are_for_the_program() -> None:
    unit = InlineRamUnit()

    def fault(name: str, lba: int, blocks: int) -> None:
        raise KeyboardInterrupt

    unit.fault = fault
    with pytest.raises(KeyboardInterrupt):
        Gate(unit).run(Operation(Kind.READ, 0, 1))

    # only the main thread gets them from the system: elsewhere the unit itself raised it
    reads = [Operation(Kind.READ, 0, 1), Operation(Kind.READ, 0, 1)]
    thread = threading.Thread(target=Gate(unit).run, args=reads[:1])
    thread.start()
    thread.join()
    reads[1].perform(unit)
    assert all(isinstance(read.error, KeyboardInterrupt) for read in reads)


def test_the_same_bug_is_logged_with_its_traceback_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(RamUnit(), "the-disk")

    def bug(divisor: int) -> BaseException:
        try:
            1 / divisor
        except ZeroDivisionError as error:
            return error
        raise AssertionError

    for _ in range(150):
        gate.failed(bug(0), Kind.READ)
    told = [record.getMessage() for record in caplog.records]
    assert [bool(record.exc_info) for record in caplog.records] == [True, False, False]
    assert "10 times" in told[1]
    assert "100 times" in told[2]
    gate.failed(bug(0), Kind.WRITE)
    assert caplog.records[-1].exc_info
