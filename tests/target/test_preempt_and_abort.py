"""PREEMPT AND ABORT: whose commands it ends, and that it waits for the last of them."""

from __future__ import annotations

import struct

import pytest

from tests.kit import reservations as pr
from tests.kit.copies import copy_list, cscd, extended_copy, segment
from tests.kit.engine import EnginePort, EngineTask, ready_nexus, target_of
from tests.kit.reservations import EA_AR, WE_RO, Host
from tests.kit.units import InlineRamUnit
from userdisk.target.command import GOOD

WRITE = bytes.fromhex("2a000000000000000100")


class Cluster:
    """Hosts a, b, c with the keys 1, 2, 3, and commands that wait for their unit."""

    def __init__(self, kind: int | None = None) -> None:
        self.unit = InlineRamUnit()
        self.target = target_of(self.unit)
        self.hosts = {each: Host(ready_nexus(self.target, f"iqn.x:{each}")) for each in "abc"}
        for key, host in enumerate(self.hosts.values(), 1):
            assert host.out(pr.REGISTER, 0, key) == 0
        if kind:
            assert self.hosts["b"].out(pr.RESERVE, 2, kind=kind) == 0
        self.port = EnginePort(deferred=True)

    def write(self, host: str) -> EngineTask:
        return self.port.start(self.hosts[host].nexus, WRITE, b"x" * 512)

    def preempt(
        self, host: str, key: int, preempted: int, kind: int = WE_RO, action: int = 5
    ) -> EngineTask:
        cdb = struct.pack(">BBBxxIx", 0x5F, action, kind, 24)
        return self.port.start(self.hosts[host].nexus, cdb, pr.basic(key, preempted))

    def run(self, *tasks: EngineTask) -> None:
        """Run these tasks' operations, in this order."""
        for task in tasks:
            self.port.waiting.remove(task)
            self.port.waiting.appendleft(task)
            self.port.step()


@pytest.mark.parametrize("kind", [WE_RO, None])
def test_it_waits_for_the_commands_of_the_preempted(kind: int | None) -> None:
    cluster = Cluster(kind)
    doomed = [cluster.write("b"), cluster.write("b")]
    others = [cluster.write("a"), cluster.write("c")]
    task = cluster.preempt("a", 1, 2)
    cluster.run(task)
    assert [each.aborted for each in (*doomed, *others, task)] == [True, True, False, False, False]
    assert not task.completions
    cluster.run(doomed[1])
    assert doomed[1].completions == [None] and not task.completions
    cluster.run(doomed[0])
    assert doomed[0].completions == [None]
    assert task.completions == [GOOD._replace(wanted=24)]
    cluster.run(*others)
    assert [each.completions for each in others] == [[GOOD._replace(wanted=512)]] * 2
    assert cluster.hosts["b"].told() == [0x2A05]
    assert not cluster.hosts["b"].writes() or kind is None


def test_preempt_alone_waits_for_nobody() -> None:
    cluster = Cluster(WE_RO)
    write = cluster.write("b")
    task = cluster.preempt("a", 1, 2, action=pr.PREEMPT)
    cluster.run(task)
    assert task.completions and not write.aborted
    cluster.run(write)  # it was let in before
    assert write.completions == [GOOD._replace(wanted=512)]


def test_everybody_of_an_all_registrants_reservation() -> None:
    cluster = Cluster(EA_AR)
    writes = [cluster.write(each) for each in "abc"]
    task = cluster.preempt("a", 1, 0, EA_AR)
    cluster.run(task)
    assert all(each.aborted for each in writes) and not task.aborted
    cluster.run(*writes)
    assert [each.completions for each in writes] == [[None]] * 3
    assert task.completions == [GOOD._replace(wanted=24)]


def test_ones_own_commands_but_not_the_command_itself() -> None:
    cluster = Cluster()
    own, other = cluster.write("a"), cluster.write("c")
    task = cluster.preempt("a", 1, 1)
    cluster.run(task)
    assert own.aborted and not other.aborted and not task.completions
    cluster.run(own, other)
    assert own.completions == [None]
    assert task.completions == [GOOD._replace(wanted=24)]


def test_one_that_conflicts_ends_nothing() -> None:
    cluster = Cluster(WE_RO)
    write = cluster.write("b")
    for key, preempted in ((9, 2), (1, 9)):
        task = cluster.preempt("a", key, preempted)
        cluster.run(task)
        assert task.completions[0] is not None and task.completions[0].status == 0x18
    assert not write.aborted


def test_two_that_preempt_each_other() -> None:
    """The first wins; the other's command is one of those that it ends."""
    cluster = Cluster(WE_RO)
    first, second = cluster.preempt("a", 1, 2), cluster.preempt("b", 2, 1)
    cluster.run(first)
    assert second.aborted and not first.completions
    cluster.run(second)
    assert second.completions == [None]
    assert first.completions == [GOOD._replace(wanted=24)]
    assert cluster.hosts["a"].keys() == [1, 3]
    assert cluster.hosts["a"].reservation() == (WE_RO, 1)


def test_one_that_waits_is_ended_by_another() -> None:
    cluster = Cluster(WE_RO)
    write = cluster.write("b")
    first = cluster.preempt("a", 1, 2)
    cluster.run(first)  # waits for the write
    second = cluster.preempt("c", 3, 1)
    cluster.run(second)
    assert first.completions == [None]
    assert second.completions == [GOOD._replace(wanted=24)]
    cluster.run(write)
    assert write.completions == [None]
    assert cluster.hosts["c"].keys() == [3]


def test_a_command_of_a_preempted_nexus_that_comes_later_conflicts() -> None:
    cluster = Cluster(WE_RO)
    doomed = cluster.write("b")
    task = cluster.preempt("a", 1, 2)
    cluster.run(task)
    late = cluster.port.start(cluster.hosts["b"].nexus, bytes.fromhex("2a000000000000000100"))
    assert late.completions[0] is not None and late.completions[0].status == 0x18
    assert not task.completions
    cluster.run(doomed)
    assert cluster.unit.calls["write"] == 1  # it could not be stopped any more


def test_the_medium_is_unlocked() -> None:
    class Removable(InlineRamUnit):
        removable = True

    target = target_of(Removable())
    a, b = (Host(ready_nexus(target, f"iqn.x:{each}")) for each in "ab")
    assert a.out(pr.REGISTER, 0, 1) == b.out(pr.REGISTER, 0, 2) == 0
    prevent, eject = bytes.fromhex("1e0000000100"), bytes.fromhex("1b0000000200")
    assert b.command(prevent).status == 0
    assert a.out(pr.PREEMPT, 1, 2) == 0
    assert pr.outcome(a.command(eject)) == (5, 0x5302)
    assert b.told() and b.out(pr.REGISTER, 0, 2) == 0
    assert a.out(pr.PREEMPT_AND_ABORT, 1, 2) == 0
    assert a.command(eject).status == 0


def test_a_copy_that_another_unit_makes_is_kept_out() -> None:
    """The copy is no task of the unit that it writes to: it asks there when it is its turn."""
    units = InlineRamUnit(), InlineRamUnit()
    units[0].memory[:512] = b"x" * 512
    target = target_of(*units)
    victim, fencer = (ready_nexus(target, f"iqn.x:{each}") for each in "ab")
    lun = target.luns[1]
    for nexus, key in ((victim, 1), (fencer, 2)):
        register = bytes.fromhex("5f060000000000001800")
        assert EnginePort().execute(nexus, register, pr.basic(0, key), lun).status == 0
    reserve = bytes.fromhex("5f010500000000001800")
    assert EnginePort().execute(victim, reserve, pr.basic(1, 0), lun).status == 0

    port = EnginePort(deferred=True)
    data = copy_list([cscd(units[1])], [segment(0xFFFF, 0, 1, 0, 0)])
    copy = port.start(victim, extended_copy(len(data)), data)
    port.step()  # it has read; its write is on its way
    assert port.waiting and not units[1].log
    preempt = bytes.fromhex("5f050500000000001800")
    assert EnginePort().execute(fencer, preempt, pr.basic(2, 1), lun).status == 0
    while port.waiting:
        port.step()
    assert not units[1].log
    assert copy.completions[0] is not None and copy.completions[0].status == 2
