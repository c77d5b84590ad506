"""Tasks and task management: steps that wait, aborts at every moment, who is told of what."""

from __future__ import annotations

import pytest

from tests.kit.engine import EnginePort, EngineTask, ready_nexus, target_of
from tests.kit.units import InlineRamUnit
from userdisk import errors
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc
from userdisk.target.command import Completion, Receive
from userdisk.target.data_in import data_in
from userdisk.target.nexus import Nexus
from userdisk.target.task import PENDING
from userdisk.target.task_management import Function, Response, manage
from userdisk.unit import Buffer

ONE = 1 << 48
READ = bytes.fromhex("28000000000000000400")  # 4 blocks
WRITE = bytes.fromhex("2a000000000000000400")


class Disk:
    """A target of two units whose operations wait; `a` and `b` are nexuses."""

    def __init__(self) -> None:
        self.unit = InlineRamUnit(max_transfer_length=512)
        self.target = target_of(self.unit, InlineRamUnit())
        self.a, self.b = ready_nexus(self.target, "iqn.a"), ready_nexus(self.target, "iqn.b")
        self.port = EnginePort(deferred=True)
        self.answers: list[int] = []

    def manage(
        self, function: int, nexus: Nexus, task: EngineTask | None = None, lun: int = 0
    ) -> None:
        manage(function, nexus, lun, task, self.answers.append)

    def attentions(self, nexus: Nexus, lun: int = 0) -> list[int]:
        path = nexus.paths[lun]
        found = []
        while not path.ready:
            code = path.lu.take_attention(path)
            assert code is not None
            found.append(code)
        return found

    @property
    def pending(self) -> int:
        return sum(len(lu.task_set) for lu in self.target.units)


@pytest.fixture
def disk() -> Disk:
    return Disk()


# -- steps -------------------------------------------------------------------------------------


def test_a_waiting_command_is_pending_until_it_ends(disk: Disk) -> None:
    task = disk.port.start(disk.a, READ)
    for done in range(4):
        assert set(disk.target.units[0].task_set._tasks) == {task}
        assert len(disk.unit.log) == done
        disk.port.step()
    assert not disk.pending
    (completion,) = task.completions
    assert completion is not None and sum(map(len, completion.data)) == 2048


def test_a_command_is_in_the_task_set_while_it_runs() -> None:
    unit = InlineRamUnit()
    target = target_of(unit)
    nexus = ready_nexus(target)
    seen: list[int] = []
    unit.fault = lambda *_: seen.append(len(target.units[0].task_set))
    assert EnginePort().execute(nexus, READ).status == 0
    assert seen == [1]
    assert not len(target.units[0].task_set)


def test_a_late_failure_is_sense_with_its_block(disk: Disk) -> None:
    task = disk.port.start(disk.a, READ)
    disk.port.step()

    def fault(name: str, lba: int, blocks: int) -> None:
        raise errors.MediumError

    disk.unit.fault = fault
    disk.port.step()
    (completion,) = task.completions
    assert completion is not None and completion.status == 2
    assert sense.decode(completion.sense) == sense.Sense(3, Asc.UNRECOVERED_READ_ERROR, 1)
    assert not disk.pending and not disk.port.waiting


def test_a_bug_in_a_handler_ends_only_its_command(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(length: int, fields: object, values: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr("userdisk.scsi.fields.encode", broken)
    task = disk.port.start(disk.a, bytes.fromhex("12000000ff00"))
    (completion,) = task.completions
    assert completion is not None
    assert sense.decode(completion.sense) == sense.INTERNAL_TARGET_FAILURE
    assert [type(error) for error in disk.port.reports] == [ZeroDivisionError]

    monkeypatch.undo()

    class Broken(EnginePort):
        def receive(self, task: EngineTask, request: Receive) -> object:
            raise ZeroDivisionError

    port = Broken()
    task = port.start(disk.a, WRITE, bytes(2048))
    assert task.completions[0] is not None and task.completions[0].status == 2
    assert len(port.reports) == 1 and not disk.pending
    disk.port.deferred = False
    assert disk.port.start(disk.a, READ).completions[0] is not None


def test_data_that_ends_early_ends_the_command(disk: Disk) -> None:
    port = EnginePort()
    task = EngineTask(port, disk.a, bytes(1024))
    task.start(0, WRITE.ljust(16, b"\0"), 2048)  # announces more than ever comes
    (completion,) = task.completions
    assert completion is not None and completion.wanted == 2048
    assert sense.decode(completion.sense).code == Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT


# -- ABORT TASK --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_an_abort_is_answered_when_the_operation_has_ended(disk: Disk, steps: int) -> None:
    task = disk.port.start(disk.a, READ)
    for _ in range(steps):
        disk.port.step()
    disk.manage(Function.ABORT_TASK, disk.a, task)
    assert not disk.answers  # the unit is still at work
    disk.port.step()
    assert disk.answers == [Response.COMPLETE]
    assert task.completions == [None]
    assert len(disk.unit.log) == steps + 1
    assert not disk.port.waiting and not disk.pending
    assert disk.a.paths[0].ready


def test_abort_of_a_command_that_waits_for_data(disk: Disk) -> None:
    class Late(EnginePort):
        def receive(self, task: EngineTask, request: Receive) -> object:
            return PENDING

    task = Late().start(disk.a, WRITE, bytes(2048))
    assert disk.pending == 1
    disk.manage(Function.ABORT_TASK, disk.a, task)
    assert disk.answers == [Response.COMPLETE] and task.completions == [None]
    task.advance(memoryview(bytes(512)))  # data that comes after all
    assert not disk.unit.log and not disk.pending


def test_abort_of_a_command_that_its_port_keeps_waiting(disk: Disk) -> None:
    task = EngineTask(disk.port, disk.a, b"")
    task.wait(0)
    disk.manage(Function.ABORT_TASK, disk.a, task)
    assert disk.answers == [Response.COMPLETE] and task.completions == [None]
    task.start(0, READ.ljust(16, b"\0"))
    assert task.completions == [None] and not disk.unit.log and not disk.pending


def test_a_command_may_wait_and_then_start(disk: Disk) -> None:
    disk.port.deferred = False
    task = EngineTask(disk.port, disk.a, b"")
    task.wait(0)
    assert disk.pending == 1
    task.start(0, READ.ljust(16, b"\0"))
    assert task.completions[0] is not None and not disk.pending


def test_two_functions_for_one_task_are_both_answered_once(disk: Disk) -> None:
    task = disk.port.start(disk.a, READ)
    disk.manage(Function.ABORT_TASK, disk.a, task)
    disk.manage(Function.ABORT_TASK_SET, disk.a)
    disk.port.step()
    assert disk.answers == [Response.COMPLETE] * 2
    assert task.completions == [None]


@pytest.mark.parametrize(
    ("function", "lun", "answer"),
    [
        (Function.ABORT_TASK, 0, Response.NO_SUCH_TASK),
        (Function.ABORT_TASK, 5 << 48, Response.NO_SUCH_LUN),
        (Function.ABORT_TASK_SET, 0, Response.COMPLETE),
        (Function.ABORT_TASK_SET, 5 << 48, Response.NO_SUCH_LUN),
        (Function.LOGICAL_UNIT_RESET, 5 << 48, Response.NO_SUCH_LUN),
        (Function.TARGET_WARM_RESET, 5 << 48, Response.COMPLETE),
        (Function.CLEAR_ACA, 0, Response.NOT_SUPPORTED),
        (Function.TASK_REASSIGN, 0, Response.REASSIGNMENT_NOT_SUPPORTED),
        (9, 0, Response.NOT_SUPPORTED),
        (0, 0, Response.NOT_SUPPORTED),
    ],
)
def test_functions_with_nothing_to_wait_for(
    disk: Disk, function: int, lun: int, answer: Response
) -> None:
    disk.manage(function, disk.a, lun=lun)
    assert disk.answers == [answer]


def test_a_task_that_has_ended_is_complete_at_once(disk: Disk) -> None:
    disk.port.deferred = False
    task = disk.port.start(disk.a, READ)
    disk.manage(Function.ABORT_TASK, disk.a, task)
    assert disk.answers == [Response.COMPLETE]
    assert len(task.completions) == 1 and task.completions[0] is not None


# -- sets and resets ---------------------------------------------------------------------------

#: function -> which of (a's, b's, a's to the other unit) tasks end, and what a and b are told
SETS = {
    Function.ABORT_TASK_SET: ((True, False, False), [], []),
    Function.CLEAR_TASK_SET: ((True, True, False), [], [Asc.COMMANDS_CLEARED]),
    Function.LOGICAL_UNIT_RESET: ((True, True, False), [0x2903], [0x2903]),
    Function.TARGET_WARM_RESET: ((True, True, True), [0x2902], [0x2902]),
    Function.TARGET_COLD_RESET: ((True, True, True), [0x2901], [0x2901]),
}


@pytest.mark.parametrize("function", SETS)
def test_sets(disk: Disk, function: Function) -> None:
    ended, told_a, told_b = SETS[function]
    tasks = [
        disk.port.start(disk.a, READ),
        disk.port.start(disk.b, READ),
        disk.port.start(disk.a, READ, lun=ONE),
    ]
    disk.manage(function, disk.a)
    assert not disk.answers
    for _ in range(2):
        disk.port.step()
    assert disk.answers == ([] if ended[2] else [Response.COMPLETE])
    while disk.port.waiting:
        disk.port.step()
    assert disk.answers == [Response.COMPLETE]
    assert [task.completions == [None] for task in tasks] == list(ended)
    assert disk.attentions(disk.a) == told_a
    assert disk.attentions(disk.b) == told_b
    assert disk.attentions(disk.b, ONE) == (told_b if ended[2] else [])
    assert not disk.pending


def test_clear_task_set_tells_only_those_who_lost_a_command(disk: Disk) -> None:
    disk.port.start(disk.a, READ)
    disk.manage(Function.CLEAR_TASK_SET, disk.a)
    disk.port.step()
    assert disk.attentions(disk.a) == disk.attentions(disk.b) == []


def test_commands_that_come_after_a_reset_go_on(disk: Disk) -> None:
    old = disk.port.start(disk.a, READ)
    disk.manage(Function.LOGICAL_UNIT_RESET, disk.a)
    disk.attentions(disk.a)
    new = disk.port.start(disk.a, READ)
    while disk.port.waiting:
        disk.port.step()
    assert disk.answers == [Response.COMPLETE]
    assert old.completions == [None]
    assert isinstance(new.completions[0], Completion)


def test_data_in_is_cut_to_the_allocation_length() -> None:
    assert data_in(b"abc", 2).data == (b"ab",)
    assert data_in(b"abc", 0).data == ()


def test_an_abort_in_the_last_moment_takes_the_response_away(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = disk.port.start(disk.a, READ[:8] + b"\x01\0")
    gate = disk.target.units[0].gate
    checked = gate.checked_read

    def late(data: Buffer, length: int) -> Buffer:  # after the last look at `aborted`
        disk.manage(Function.ABORT_TASK, disk.a, task)
        return checked(data, length)

    monkeypatch.setattr(gate, "checked_read", late)
    disk.port.step()
    assert task.completions == [None]
    assert disk.answers == [Response.COMPLETE]


def test_a_function_is_not_answered_again_by_later_commands(disk: Disk) -> None:
    task = disk.port.start(disk.a, READ)
    disk.manage(Function.ABORT_TASK, disk.a, task)
    disk.port.step()
    disk.port.start(disk.a, READ)
    while disk.port.waiting:
        disk.port.step()
    assert disk.answers == [Response.COMPLETE]
