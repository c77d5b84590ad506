"""Task attributes over two sessions of a slow unit, and of an inline one beside it (SAM-6 8.6)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.kit.link import Link, close, environment_of, target_of
from tests.kit.units import InlineRamUnit, RamUnit
from userdisk.iscsi.initiator import Task
from userdisk.iscsi.initiator_task import ABORTED

SIMPLE, ORDERED, HEAD, ACA = 1, 2, 3, 4
ABORT_TASK, LOGICAL_UNIT_RESET = 1, 5


def write(lba: int) -> bytes:
    return b"\x2a\0" + lba.to_bytes(4, "big") + bytes.fromhex("0000010000000000")


class Disk:
    """A unit whose writes wait for `go`, one permit each."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.slow = RamUnit()
        self.slow.fault = lambda name, lba, blocks: self._wait(name)
        self.target = target_of(self.slow, InlineRamUnit())
        environment = environment_of(self.target)
        self.a = Link(environment).login()
        self.b = Link(environment, initiator="iqn.2026-11.io.userdisk:other").login()
        for link in (self.a, self.b):
            for lun in (0, 1):
                link.ready(lun=lun)

    def _wait(self, name: str) -> None:
        if name == "write":
            self.entered.release()
            assert self.go.acquire(timeout=10)

    def send(self, link: Link, lba: int, attribute: int = SIMPLE, lun: int = 0) -> Task:
        task = link.session.command(write(lba), data_out=bytes(512), attribute=attribute, lun=lun)
        link.pump()
        return task

    def finish(self, *tasks: tuple[Link, Task]) -> None:
        self.go.release(16)
        while not all(task.done for _, task in tasks):
            for link, task in tasks:
                if not task.done and not link.end.inbox.empty():
                    link.end.wait()
                link.pump()

    def order(self) -> list[int]:
        return [lba for name, lba, _, _ in self.slow.log if name == "write"]


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.go.release(100)
    for link in (made.a, made.b):
        link.end.disconnect()
    assert not len(made.target.units[0].task_set)
    close(made.target)


def test_ordered_commands_of_two_sessions_keep_their_places(disk: Disk) -> None:
    a, b = disk.a, disk.b
    tasks = [
        (a, disk.send(a, 1)),
        (b, disk.send(b, 2)),
        (a, disk.send(a, 3, ORDERED)),
        (b, disk.send(b, 4)),
        (a, disk.send(a, 5)),
        (b, disk.send(b, 6, ORDERED)),
    ]
    assert not any(task.done for _, task in tasks)
    disk.finish(*tasks)
    assert all(task.status == 0 for _, task in tasks)
    order = disk.order()
    assert (set(order[:2]), order[2], set(order[3:5]), order[5]) == ({1, 2}, 3, {4, 5}, 6)


def test_a_ping_and_another_unit_do_not_wait(disk: Disk) -> None:
    waiting = disk.send(disk.a, 1), disk.send(disk.a, 2, ORDERED), disk.send(disk.a, 3)
    assert disk.a.run(disk.a.session.ping(b"there?")).data == b"there?"
    assert disk.send(disk.a, 9, ORDERED, lun=1).done
    assert disk.send(disk.a, 9, lun=1).done
    disk.finish(*((disk.a, task) for task in waiting))


def test_inline_commands_stay_off_the_fast_path_behind_an_ordered_one(disk: Disk) -> None:
    lu = disk.target.units[0]
    first, ordered = disk.send(disk.a, 1), disk.send(disk.a, 2, ORDERED)
    assert not any(path.ready for path in lu.paths)
    disk.finish((disk.a, first), (disk.a, ordered))
    assert all(path.ready for path in lu.paths)


def test_a_dormant_command_is_aborted_at_once(disk: Disk) -> None:
    first, ordered = disk.send(disk.a, 1), disk.send(disk.a, 2, ORDERED)
    last = disk.send(disk.b, 3)
    abort = disk.a.session.task_management(ABORT_TASK, about=ordered)
    disk.a.pump()
    assert abort.done
    assert abort.response == 0
    disk.finish((disk.a, first), (disk.b, last))
    assert disk.order() == [1, 3]
    assert ordered.response == ABORTED


def test_a_reset_takes_dormant_commands_of_all_sessions(disk: Disk) -> None:
    first = disk.send(disk.a, 1)
    assert disk.entered.acquire(timeout=10)
    for link in (disk.a, disk.b):
        disk.send(link, 2, ORDERED)
        disk.send(link, 3)
    reset = disk.b.session.task_management(LOGICAL_UNIT_RESET)
    disk.b.pump()
    assert not reset.done  # the first write is in the unit
    disk.go.release()
    while not reset.done:
        for link in (disk.a, disk.b):
            if not link.end.inbox.empty():
                link.end.wait()
            link.pump()
    assert reset.response == 0
    assert disk.order() == [1]
    assert not first.done


def test_a_lost_connection_lets_the_others_go_on(disk: Disk) -> None:
    disk.send(disk.a, 1)
    assert disk.entered.acquire(timeout=10)
    disk.send(disk.a, 2, ORDERED)
    last = disk.send(disk.b, 3)
    disk.go.release(16)
    disk.a.end.disconnect()
    disk.finish((disk.b, last))
    assert last.status == 0
    assert disk.order() == [1, 3]


@pytest.mark.parametrize("attribute", [ACA, 5, 6, 7])
def test_attributes_without_a_meaning_are_refused(disk: Disk, attribute: int) -> None:
    task = disk.send(disk.a, 1, attribute, lun=1)
    assert task.status == 2
    assert (task.sense[2], task.sense[12:14]) == (5, b"\x49\0")
