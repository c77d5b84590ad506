"""RESERVE and RELEASE: one nexus has the unit until it, a reset or its end lets go."""

from __future__ import annotations

import pytest

from tests.kit import reservations as pr
from tests.kit.engine import EnginePort, ready_nexus, target_of
from tests.kit.reservations import CONFLICT, Host
from tests.kit.units import InlineRamUnit
from userdisk.scsi.sense import Asc, Pointer
from userdisk.target.target import Target
from userdisk.target.task_management import Function, manage

RESERVE, RELEASE = {6: bytes([0x16]), 10: bytes([0x56])}, {6: bytes([0x17]), 10: bytes([0x57])}
SIZES = pytest.mark.parametrize("size", [6, 10])


def disk() -> tuple[Target, Host, Host]:
    target = target_of(InlineRamUnit())
    a, b = (Host(ready_nexus(target, f"iqn.x:{each}")) for each in "ab")
    return target, a, b


@SIZES
def test_reserve_and_release(size: int) -> None:
    _, a, b = disk()
    assert a.command(RESERVE[size]).status == 0
    assert a.command(RESERVE[16 - size]).status == 0  # again
    assert b.command(RESERVE[size]).status == CONFLICT
    assert not b.writes() and not b.reads()
    assert b.command(bytes(6)).status == CONFLICT
    assert a.writes() and a.reads()
    assert b.command(RELEASE[size]).status == 0  # without effect
    assert b.command(RESERVE[size]).status == CONFLICT
    assert a.command(RELEASE[size]).status == 0
    assert a.command(RELEASE[size]).status == 0
    assert b.writes()
    assert b.command(RESERVE[size]).status == 0
    assert not a.writes()
    assert b.command(RELEASE[size]).status == 0
    assert a.told() == b.told() == []


def test_only_the_path_that_is_kept_out_leaves_the_fast_path() -> None:
    target, a, b = disk()
    (path_a,), (path_b,) = a.nexus.paths.values(), b.nexus.paths.values()
    assert a.command(RESERVE[6]).status == 0
    assert (path_a.ready, path_b.ready) == (True, False)
    (path_c,) = ready_nexus(target, "iqn.x:c").paths.values()
    assert not path_c.ready
    assert a.command(RELEASE[6]).status == 0
    assert (path_b.ready, path_c.ready) == (True, True)


@SIZES
def test_no_extents_and_no_third_parties(size: int) -> None:
    _, a, b = disk()
    for byte, bit in ((1, 0), (1, 1), (1, 4), (2, 0), (3, 7), (4, 0)):
        cdb = bytearray((RESERVE[size] + bytes(9))[:size])
        cdb[byte] |= 1 << bit
        result = a.command(bytes(cdb))
        assert pr.outcome(result) == (5, Asc.INVALID_FIELD_IN_CDB)
        assert result.sense is not None and result.sense.pointer == Pointer(byte, bit)
    assert b.writes()


@pytest.mark.parametrize(
    "function",
    [Function.LOGICAL_UNIT_RESET, Function.TARGET_WARM_RESET, Function.TARGET_COLD_RESET],
)
def test_resets(function: Function) -> None:
    _, a, b = disk()
    assert a.command(RESERVE[6]).status == 0
    answers: list[int] = []
    manage(function, b.nexus, 0, None, answers.append)
    assert answers == [0]
    assert len(a.told()) == len(b.told()) == 1
    assert b.writes()
    assert b.command(RESERVE[6]).status == 0


def test_other_functions_leave_it() -> None:
    _, a, b = disk()
    assert a.command(RESERVE[6]).status == 0
    for function in (Function.ABORT_TASK_SET, Function.CLEAR_TASK_SET):
        manage(function, b.nexus, 0, None, lambda answer: None)
    assert not b.writes() and a.writes()


def test_the_nexus_is_lost() -> None:
    target, a, b = disk()
    assert a.command(RESERVE[6]).status == 0
    target.detach(b.nexus)
    b = Host(ready_nexus(target, "iqn.x:b"))
    assert not b.writes()
    target.detach(a.nexus)
    assert b.writes()
    a = Host(ready_nexus(target, "iqn.x:a"))
    assert a.writes()


def test_whoever_was_kept_out_by_a_nexus_that_is_lost_is_on_the_fast_path_again() -> None:
    target, a, b = disk()
    (path,) = b.nexus.paths.values()
    assert a.command(RESERVE[6]).status == 0
    assert path.restricted
    target.detach(a.nexus)
    assert path.ready and not path.restricted


def test_a_nexus_that_is_lost_before_its_turn_gets_nothing() -> None:
    target, a, b = disk()
    port = EnginePort(deferred=True)
    port.start(a.nexus, RESERVE[6])
    target.detach(a.nexus)
    port.step()
    assert b.writes()


def test_a_reset_before_its_turn_leaves_nobody_with_the_unit() -> None:
    target, a, b = disk()
    port = EnginePort(deferred=True)
    task = port.start(a.nexus, RESERVE[6])
    answers: list[int] = []
    manage(Function.LOGICAL_UNIT_RESET, b.nexus, 0, None, answers.append)
    while port.waiting:
        port.step()
    assert answers == [0]
    assert task.completions == [None]
    assert target.units[0].reservations.reserver is None


def test_resets_leave_persistent_reservations() -> None:
    _, a, b = disk()
    assert a.out(pr.REGISTER, 0, 1) == a.out(pr.RESERVE, 1, kind=pr.EA) == 0
    manage(Function.LOGICAL_UNIT_RESET, b.nexus, 0, None, lambda answer: None)
    assert a.told() and b.told()
    assert (a.keys(), a.reservation(), b.reads()) == ([1], (pr.EA, 1), False)


def test_registering_waits_for_the_end_of_reserve() -> None:
    _, a, b = disk()
    assert a.command(RESERVE[6]).status == 0
    for host in (a, b):
        assert host.out(pr.REGISTER, 0, 1) == CONFLICT
        assert host.command(bytes.fromhex("5e0000000000000008")).status == CONFLICT
    assert a.command(RELEASE[6]).status == 0
    assert a.out(pr.REGISTER, 0, 1) == 0


def test_whoever_is_first_alone_in_the_unit_has_it() -> None:
    """RESERVE and REGISTER that were both accepted: the second finds what the first did."""
    _, a, b = disk()
    port = EnginePort(deferred=True)
    reserve = port.start(a.nexus, RESERVE[6])
    register = port.start(b.nexus, bytes.fromhex("5f000000000000001800"), pr.basic(0, 1))
    again = port.start(b.nexus, RESERVE[6])
    while port.waiting:
        port.step()
    statuses = [task.completions[0] for task in (reserve, register, again)]
    assert [each and each.status for each in statuses] == [0, CONFLICT, CONFLICT]
    assert a.command(RELEASE[6]).status == 0
    assert a.keys() == []
