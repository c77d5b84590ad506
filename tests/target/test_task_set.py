"""The task set: ORDERED and HEAD OF QUEUE tasks, and who waits for whom."""

from __future__ import annotations

from tests.kit.engine import EnginePort, EngineTask, ready_nexus, target_of
from tests.kit.units import RamUnit
from userdisk.target.command import Attribute

READ = bytes.fromhex("28000000000000000100")


class _Disk:
    def __init__(self) -> None:
        self.target = target_of(RamUnit())
        self.lu = self.target.units[0]
        self.a, self.b = (ready_nexus(self.target, name) for name in ("a", "b"))
        self.port = EnginePort(deferred=True)

    def start(self, attribute: Attribute, nexus: str = "a") -> EngineTask:
        return self.port.start(getattr(self, nexus), READ, attribute=attribute)


def test_simple_tasks_do_not_wait_for_each_other() -> None:
    disk = _Disk()
    disk.start(Attribute.SIMPLE)
    disk.start(Attribute.SIMPLE)
    disk.start(Attribute.UNTAGGED)
    assert len(disk.port.waiting) == 3
    assert all(path.ready for path in disk.lu.paths)


def test_ordered_waits_for_older_and_keeps_newer_waiting() -> None:
    disk = _Disk()
    older = disk.start(Attribute.SIMPLE, "b")
    ordered = disk.start(Attribute.ORDERED)
    newer = disk.start(Attribute.SIMPLE, "b")
    second = disk.start(Attribute.ORDERED, "b")
    last = disk.start(Attribute.SIMPLE)
    assert list(disk.port.waiting) == [older]
    assert not any(path.ready for path in disk.lu.paths)  # no fast path past them
    for expected in ([ordered], [newer], [second], [last], []):
        disk.port.step()
        assert list(disk.port.waiting) == expected
    for task in (older, ordered, newer, second, last):
        assert task.completions[0] is not None and task.completions[0].status == 0
    assert all(path.ready for path in disk.lu.paths)


def test_head_of_queue_goes_first() -> None:
    disk = _Disk()
    disk.start(Attribute.SIMPLE)
    disk.start(Attribute.ORDERED)
    head = disk.start(Attribute.HEAD_OF_QUEUE)
    assert disk.port.waiting[-1] is head


def test_a_dormant_task_can_be_aborted() -> None:
    disk = _Disk()
    older = disk.start(Attribute.SIMPLE)
    ordered = disk.start(Attribute.ORDERED)
    newer = disk.start(Attribute.SIMPLE)
    answered: list[bool] = []
    for task in disk.lu.task_set.mark(lambda each: each is ordered, lambda: answered.append(True)):
        task.abort()
    assert answered == [True]
    assert ordered.completions == [None]
    assert list(disk.port.waiting) == [older, newer]
    assert not disk.lu.task_set.ordered


def test_what_follows_an_aborted_ordered_task_that_runs() -> None:
    disk = _Disk()
    ordered = disk.start(Attribute.ORDERED)
    newer = disk.start(Attribute.SIMPLE)
    for task in disk.lu.task_set.mark(lambda each: each is ordered, lambda: None):
        task.aborted = True
    disk.port.step()
    assert ordered.completions == [None]
    assert list(disk.port.waiting) == [newer]


def test_aca_and_reserved_attributes_are_refused() -> None:
    disk = _Disk()
    for attribute in (4, 5, 6, 7):
        task = disk.port.start(disk.a, READ, attribute=attribute)
        completion = task.completions[0]
        assert completion is not None and completion.sense[2] == 5
        assert completion.sense[12:14] == b"\x49\0"
    assert not len(disk.lu.task_set)
