"""Steps in the background: in order, to the end, or interrupted between two of them."""

from __future__ import annotations

import threading

import pytest

from tests.kit.sockets import eventually
from tests.kit.stepped import SteppedGate
from tests.kit.units import ConcurrentRamUnit, InlineRamUnit
from userdisk.errors import WriteError
from userdisk.gate import Gate
from userdisk.operation import Kind, Operation, Sequel
from userdisk.target.background import Background


class Work:
    """Writes blocks one after the other, and notes what it was told of each."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.told: list[object] = []
        self.closed = False

    def steps(self) -> Sequel:
        try:
            for lba in range(self.blocks):
                data = memoryview(b"%3d " % lba * 128)
                try:
                    self.told.append((yield Operation(Kind.WRITE, lba, 1, data=data)))
                except WriteError as error:
                    self.told.append(error)
        except GeneratorExit:
            self.closed = True
            raise


@pytest.fixture
def gate() -> SteppedGate:
    return SteppedGate(InlineRamUnit())


def test_to_the_end(gate: SteppedGate) -> None:
    background, work, idle = Background(gate, gate.state_lock), Work(3), list[int]()
    background.when_idle(lambda: idle.append(0))
    assert idle == [0]
    background.start(work.steps())
    background.when_idle(lambda: idle.append(1))
    gate.step()
    gate.step()
    assert idle == [0]
    assert gate.run_all() == 1
    assert (work.told, idle, work.closed) == ([None] * 3, [0, 1], False)


def test_failures_are_for_the_steps_to_see(gate: SteppedGate) -> None:
    def fault(name: str, lba: int, blocks: int) -> None:
        if lba == 1:
            raise OSError(5, "worn out")

    assert isinstance(gate.unit, InlineRamUnit)
    gate.unit.fault = fault
    background, work = Background(gate, gate.state_lock), Work(3)
    background.start(work.steps())
    gate.run_all()
    assert [type(each) for each in work.told] == [type(None), WriteError, type(None)]


def test_what_the_steps_raise_is_logged_and_ends_them(
    gate: SteppedGate, caplog: pytest.LogCaptureFixture
) -> None:
    def steps() -> Sequel:
        yield Operation(Kind.FLUSH)
        raise ZeroDivisionError

    background, idle = Background(gate, gate.state_lock), list[int]()
    background.start(steps())
    background.when_idle(lambda: idle.append(0))
    gate.run_all()
    assert idle == [0]
    assert "ZeroDivisionError" in caplog.text


def test_stopped_between_two_steps(gate: SteppedGate) -> None:
    background, work, idle = Background(gate, gate.state_lock), Work(3), list[int]()
    background.start(work.steps())
    gate.step()
    background.stop(lambda: idle.append(0))
    assert not idle
    gate.step()
    assert (idle, work.closed, work.told, len(gate.submitted)) == ([0], True, [None], 0)
    other = Work(1)
    background.start(other.steps())
    background.stop(lambda: idle.append(1))
    assert (idle, len(gate.submitted)) == ([0, 1], 0)


def test_one_after_the_other(gate: SteppedGate) -> None:
    background, first, second, idle = (
        Background(gate, gate.state_lock), Work(2), Work(2), list[int]())  # fmt: skip
    background.start(first.steps())
    background.start(second.steps())
    background.when_idle(lambda: idle.append(0))
    assert len(gate.submitted) == 1
    gate.step()
    gate.step()
    assert (first.told, second.told, idle) == ([None, None], [], [])
    gate.run_all()
    assert (second.told, idle) == ([None, None], [0])


def test_many_steps_on_the_threads_of_a_unit() -> None:
    gate = Gate(ConcurrentRamUnit())
    gate.open()
    background, work, idle = Background(gate, gate.state_lock), Work(2000), threading.Event()
    background.start(work.steps())
    background.when_idle(idle.set)
    assert idle.wait(30)
    eventually(lambda: len(work.told) == 2000)
    gate.close()
