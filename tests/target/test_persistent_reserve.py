"""PERSISTENT RESERVE IN and OUT: each service action, its errors, and who is told what."""

from __future__ import annotations

import struct

import pytest

from tests.kit import reservations as pr
from tests.kit.engine import EnginePort, ready_nexus, target_of
from tests.kit.reservations import CONFLICT, EA, EA_AR, EA_RO, TYPES, WE, WE_AR, WE_RO, Host
from tests.kit.units import InlineRamUnit
from userdisk.scsi.sense import Asc, Pointer, Sense
from userdisk.target import registrations
from userdisk.target.target import Target

A, B, C = "iqn.2024-01.org.example:a", "iqn.2024-01.org.example:b", "iqn.2024-01.org.example:c"
ISID = 0x23D000001
PREEMPTED, RELEASED, REMOVED = 0x2A03, 0x2A04, 0x2A05
BAD_CDB, BAD_LIST, BAD_LENGTH = (5, 0x2400), (5, 0x2600), (5, 0x1A00)


def hosts(*names: str, target: Target | None = None, port: int = 1) -> list[Host]:
    """Hosts of one unit that have been told of the power on."""
    target = target or target_of(InlineRamUnit())
    found = []
    for name in names:
        nexus = target.attach(name, ISID, port)
        host = Host(nexus)
        assert host.told() == [Asc.POWER_ON_OR_RESET]
        found.append(host)
    return found


def registered(*names: str) -> list[Host]:
    """Hosts that are registered with the keys 1, 2, ..."""
    found = hosts(*names)
    for key, host in enumerate(found, 1):
        assert host.out(pr.REGISTER, 0, key) == 0
    return found


def refused(host: Host, action: int, data: bytes, kind: int = 0) -> tuple[int, Pointer | None]:
    """Code and pointer of an ILLEGAL REQUEST."""
    result = host.send(action, data, kind)
    assert result.status == 2 and result.sense is not None and result.sense.key == 5
    return result.sense.code, result.sense.pointer


# -- REGISTER ----------------------------------------------------------------------------------


def test_register_change_and_unregister() -> None:
    a, b = hosts(A, B)
    assert (a.keys(), a.generation()) == ([], 0)
    assert a.out(pr.REGISTER, 0, 0) == 0  # does nothing
    assert a.out(pr.REGISTER, 7, 1) == CONFLICT
    assert a.generation() == 0
    assert a.out(pr.REGISTER, 0, 1) == 0
    assert b.out(pr.REGISTER, 0, 1) == 0  # the same key, another registration
    assert (a.keys(), a.generation()) == ([1, 1], 2)
    assert a.out(pr.REGISTER, 0, 2) == CONFLICT
    assert a.out(pr.REGISTER, 1, 1) == 0  # again, with the same key
    assert a.out(pr.REGISTER, 1, 2) == 0
    assert (a.keys(), a.generation()) == ([1, 2], 4)
    assert a.out(pr.REGISTER, 1, 0) == CONFLICT
    assert a.out(pr.REGISTER, 2, 0) == 0
    assert (b.keys(), b.generation()) == ([1], 5)
    assert a.told() == b.told() == []


def test_register_and_ignore_existing_key() -> None:
    (a,) = hosts(A)
    assert a.out(pr.IGNORE, 99, 0) == 0
    assert a.generation() == 0
    assert a.out(pr.IGNORE, 99, 5) == 0
    assert a.out(pr.IGNORE, 98, 6) == 0
    assert (a.keys(), a.generation()) == ([6], 2)
    assert a.out(pr.IGNORE, 97, 0) == 0
    assert (a.keys(), a.generation()) == ([], 3)


@pytest.mark.parametrize("action", [pr.RESERVE, pr.RELEASE, pr.CLEAR, pr.PREEMPT, 5])
@pytest.mark.parametrize("kind", [WE, 0x1F])
def test_a_wrong_key_conflicts_whatever_else_is_wrong(action: int, kind: int) -> None:
    a, b = hosts(A, B)
    assert a.out(pr.REGISTER, 0, 1) == 0
    for key in (0, 2):
        assert a.out(action, key, 1, kind) == CONFLICT
        assert b.out(action, key, 1, kind) == CONFLICT
    assert (a.keys(), a.generation(), a.reservation()) == ([1], 1, None)


def test_what_changes_a_registration_leaves_the_reservation() -> None:
    a, b = registered(A, B)
    assert a.out(pr.RESERVE, 1, kind=EA) == 0
    assert a.out(pr.REGISTER, 1, 9) == 0
    assert a.reservation() == (EA, 9)
    assert b.out(pr.REGISTER, 2, 0) == 0
    assert a.reservation() == (EA, 9)
    assert not b.reads()


def test_no_more_registrations_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("userdisk.target.service_actions.MOST", 2)
    a, b, c = hosts(A, B, C)
    assert a.out(pr.REGISTER, 0, 1) == b.out(pr.IGNORE, 0, 2) == 0
    for action in (pr.REGISTER, pr.IGNORE):
        assert c.out(action, 0, 3) == (5, 0x5504)
    assert a.out(pr.RESERVE, 1, kind=WE) == 0
    moved = a.send(pr.MOVE, pr.moving(1, 3, pr.transport_id(C, ISID)))
    assert pr.outcome(moved) == (5, 0x5504)
    assert a.out(pr.REGISTER, 1, 5) == 0
    assert (a.keys(), a.generation()) == ([2, 5], 3)
    assert a.reservation() == (WE, 5)
    # moving on makes room
    moved = a.send(pr.MOVE, pr.moving(5, 3, pr.transport_id(C, ISID), flags=2))
    assert pr.outcome(moved) == 0
    assert (a.keys(), a.reservation()) == ([2, 3], (WE, 3))


# -- REGISTER for others -----------------------------------------------------------------------


def test_specified_initiator_ports() -> None:
    a, b, c = hosts(A, B, C)
    names = pr.transport_id(B, ISID), pr.transport_id(C)
    result = a.send(pr.REGISTER, pr.specifying(0, 8, *names))
    assert (result.status, result.wanted) == (0, 28 + len(names[0]) + len(names[1]))
    assert (a.keys(), a.generation()) == ([8, 8, 8], 1)
    assert b.out(pr.RESERVE, 8, kind=EA_RO) == 0
    assert c.writes() and a.writes()
    # one that is registered fails all
    (d,) = hosts("iqn.2024-01.org.example:d", target=a.nexus.target)
    names = pr.transport_id("iqn.2024-01.org.example:e", 1), pr.transport_id(B, ISID)
    place = 28 + len(names[0])
    assert refused(d, pr.REGISTER, pr.specifying(0, 8, *names)) == (
        Asc.INVALID_FIELD_IN_PARAMETER_LIST,
        Pointer(place, in_cdb=False),
    )
    assert (a.keys(), a.generation()) == ([8, 8, 8], 1)


def test_an_initiator_that_is_away_is_registered_until_it_comes() -> None:
    target = target_of(InlineRamUnit())
    (a,) = hosts(A, target=target)
    assert a.send(pr.REGISTER, pr.specifying(0, 8, pr.transport_id(B.upper(), ISID))).status == 0
    assert a.out(pr.RESERVE, 8, kind=EA_RO) == 0
    b, c = hosts(B, C, target=target)
    assert (b.writes(), c.writes()) == (True, False)
    target.detach(b.nexus)
    other = Host(target.attach(B, ISID + 1))  # another port of the same initiator
    assert other.told() and not other.writes()
    (b,) = hosts(B, target=target)
    assert b.writes()


def test_a_name_without_isid_stands_for_the_ports_that_are_logged_in() -> None:
    target = target_of(InlineRamUnit())
    (a,) = hosts(A, target=target)
    ports = [Host(target.attach(B, isid)) for isid in (5, 6)]
    assert a.send(pr.REGISTER, pr.specifying(0, 8, pr.transport_id(B))).status == 0
    assert sorted(each.name for each in a.status()) == sorted(
        pr.transport_id(name, isid) for name, isid in ((A, ISID), (B, 5), (B, 6))
    )
    assert [host.told() for host in ports] == [[Asc.POWER_ON_OR_RESET]] * 2
    (d,) = hosts("iqn.2024-01.org.example:d", target=target)
    nobody = pr.specifying(0, 8, pr.transport_id(C))
    assert refused(d, pr.REGISTER, nobody) == (0x2600, Pointer(28, in_cdb=False))
    assert len(a.keys()) == 3


def test_specified_ports_only_for_who_is_new() -> None:
    a, b = registered(A, B)
    names = pr.transport_id(C, ISID)
    pointer = Pointer(20, 3, in_cdb=False)
    for action in (pr.RESERVE, pr.RELEASE, pr.CLEAR, pr.PREEMPT, 5, pr.IGNORE):
        assert refused(a, action, pr.specifying(1, 2, names), WE) == (0x2600, pointer)
    assert refused(a, pr.REGISTER, pr.specifying(1, 2, names)) == (0x2600, pointer)
    assert pr.outcome(a.send(pr.REGISTER, pr.specifying(9, 2, names))) == CONFLICT
    assert (b.keys(), b.generation()) == ([1, 2], 2)


def two_ports() -> tuple[Host, Host, Host]:
    """A host with a path to each of two target ports, and another at the first."""
    target = target_of(InlineRamUnit())
    target.define_groups((1, 2))
    (first, other), (second,) = hosts(A, B, target=target), hosts(A, target=target, port=2)
    return first, second, other


def test_all_target_ports() -> None:
    first, second, other = two_ports()
    assert first.out(pr.REGISTER, 0, 4) == 0
    assert second.out(pr.RESERVE, 4, kind=WE) == CONFLICT  # not registered
    assert first.out(pr.REGISTER, 4, 0) == 0
    assert first.out(pr.REGISTER, 0, 4, flags=pr.ALL_TG_PT) == 0
    assert sorted((each.key, each.port) for each in first.status()) == [(4, 1), (4, 2)]
    assert second.out(pr.RESERVE, 4, kind=EA_RO) == 0
    assert [each.holder for each in sorted(first.status(), key=lambda each: each.port)] == [
        False,
        True,
    ]
    assert first.writes() and not other.writes()
    # as if it had come through each port: one that conflicts fails all
    assert first.out(pr.REGISTER, 4, 5) == 0
    assert second.out(pr.REGISTER, 4, 6, flags=pr.ALL_TG_PT) == CONFLICT
    assert second.out(pr.IGNORE, 0, 6, flags=pr.ALL_TG_PT) == 0
    assert first.keys() == [6, 6]
    assert first.out(pr.REGISTER, 6, 0, flags=pr.ALL_TG_PT) == 0
    assert (first.keys(), first.reservation()) == ([], None)


def test_specified_ports_at_all_target_ports() -> None:
    first, _, _ = two_ports()
    data = pr.specifying(0, 4, pr.transport_id(B, ISID), flags=pr.ALL_TG_PT)
    assert first.send(pr.REGISTER, data).status == 0
    assert sorted((each.name, each.port) for each in first.status()) == sorted(
        (pr.transport_id(name, ISID), port) for name in (A, B) for port in (1, 2)
    )


# -- RESERVE, RELEASE, CLEAR -------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_reserve_and_release(kind: int) -> None:
    a, b = registered(A, B)
    (c,) = hosts(C, target=a.nexus.target)
    assert a.out(pr.RESERVE, 1, kind=kind) == 0
    everybody = kind in (WE_AR, EA_AR)
    assert a.reservation() == (kind, 0 if everybody else 1)
    assert sorted((each.key, each.holder, each.kind) for each in a.status()) == [
        (1, True, kind),
        (2, everybody, kind if everybody else 0),
    ]
    assert a.out(pr.RESERVE, 1, kind=kind) == 0  # again
    assert b.out(pr.RESERVE, 2, kind=kind) == (0 if everybody else CONFLICT)
    for other in set(TYPES) - {kind}:
        assert a.out(pr.RESERVE, 1, kind=other) == CONFLICT
        assert a.out(pr.RELEASE, 1, kind=other) == (5, 0x2604)
    assert c.out(pr.RELEASE, 0, kind=kind) == CONFLICT
    if not everybody:
        assert b.out(pr.RELEASE, 2, kind=kind) == 0  # without effect
    assert a.reservation() is not None
    assert (a.told(), b.told(), c.told()) == ([], [], [])
    assert a.out(pr.RELEASE, 1, kind=kind) == 0
    assert (a.reservation(), a.keys()) == (None, [1, 2])
    assert b.told() == ([RELEASED] if kind in (WE_RO, EA_RO, WE_AR, EA_AR) else [])
    assert (a.told(), c.told()) == ([], [])
    assert a.out(pr.RELEASE, 1, kind=kind) == 0  # nothing to release
    assert a.generation() == 2


@pytest.mark.parametrize("action", [pr.RESERVE, pr.RELEASE])
def test_scopes_and_types_that_there_are_not(action: int) -> None:
    a, _ = registered(A, B)
    assert a.out(pr.RESERVE, 1, kind=EA) == 0
    for scope in range(1, 16):
        assert refused(a, action, pr.basic(1, 0), scope << 4 | EA) == (0x2400, Pointer(2, 7))
    for kind in {*range(16)} - {*TYPES}:
        assert refused(a, action, pr.basic(1, 0), kind) == (0x2400, Pointer(2, 3))
    assert a.reservation() == (EA, 1)


@pytest.mark.parametrize("kind", [None, WE, EA_RO, WE_AR])
def test_clear(kind: int | None) -> None:
    a, b = registered(A, B)
    (c,) = hosts(C, target=a.nexus.target)
    if kind:
        assert a.out(pr.RESERVE, 1, kind=kind) == 0
    assert b.out(pr.CLEAR, 2, kind=0xFF) == 0  # scope and type are ignored
    assert (b.keys(), b.reservation(), b.generation()) == ([], None, 3)
    assert (a.told(), b.told(), c.told()) == ([PREEMPTED], [], [])
    assert c.writes() and c.reads()


# -- the holder unregisters --------------------------------------------------------------------


@pytest.mark.parametrize("action", [pr.REGISTER, pr.IGNORE])
@pytest.mark.parametrize("kind", TYPES)
def test_the_holder_unregisters(kind: int, action: int) -> None:
    a, b, c = registered(A, B, C)
    (d,) = hosts("iqn.2024-01.org.example:d", target=a.nexus.target)
    assert a.out(pr.RESERVE, 1, kind=kind) == 0
    assert a.out(action, 1, 0) == 0
    if kind in (WE_AR, EA_AR):
        assert b.reservation() == (kind, 0)
        assert b.told() == c.told() == []
        assert b.out(action, 2, 0) == 0
        assert c.reservation() == (kind, 0)
        assert c.out(action, 3, 0) == 0
    assert d.reservation() is None
    told = [RELEASED] if kind in (WE_RO, EA_RO) else []
    assert (a.told(), b.told(), c.told(), d.told()) == ([], told, told, [])
    assert d.writes() and d.reads()


# -- PREEMPT -----------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [pr.PREEMPT, pr.PREEMPT_AND_ABORT])
class TestPreempt:
    def test_a_registration(self, action: int) -> None:
        a, b, c = registered(A, B, C)
        assert a.out(action, 1, 2, kind=0xFF) == 0  # scope and type are ignored
        assert (a.keys(), a.generation(), a.reservation()) == ([1, 3], 4, None)
        assert (a.told(), b.told(), c.told()) == ([], [REMOVED], [])
        assert c.out(pr.RESERVE, 3, kind=WE) == 0
        assert a.out(pr.IGNORE, 0, 3) == 0
        assert b.out(pr.REGISTER, 0, 4) == 0
        assert b.out(action, 4, 4, kind=WE) == 0  # one's own, with nobody told
        assert (b.keys(), b.told()) == ([3, 3], [])
        assert c.reservation() == (WE, 3)

    def test_a_key_that_nobody_has(self, action: int) -> None:
        a, _ = registered(A, B)
        for key in (0, 3):
            assert a.out(action, 1, key, kind=WE) == CONFLICT
        assert a.out(pr.RESERVE, 1, kind=EA) == 0
        assert a.out(action, 1, 3, kind=WE) == CONFLICT
        pointer = Pointer(8, in_cdb=False)
        assert refused(a, action, pr.basic(1, 0), WE) == (0x2600, pointer)
        assert (a.keys(), a.generation(), a.reservation()) == ([1, 2], 2, (EA, 1))

    @pytest.mark.parametrize("kind", [WE, EA, WE_RO, EA_RO])
    @pytest.mark.parametrize("new", TYPES)
    def test_the_holder(self, action: int, kind: int, new: int) -> None:
        a, b, c = registered(A, B, C)
        (d,) = hosts("iqn.2024-01.org.example:d", target=a.nexus.target)
        assert a.out(pr.RESERVE, 1, kind=kind) == 0
        assert refused(b, action, pr.basic(2, 1), 0x10 | new) == (0x2400, Pointer(2, 7))
        assert refused(b, action, pr.basic(2, 1), 4) == (0x2400, Pointer(2, 3))
        assert b.out(action, 2, 1, kind=new) == 0
        assert (b.keys(), b.generation()) == ([2, 3], 4)
        assert b.reservation() == (new, 0 if new in (WE_AR, EA_AR) else 2)
        assert a.told() == [REMOVED]
        assert c.told() == ([] if new == kind else [RELEASED])
        assert (b.told(), d.told()) == ([], [])

    def test_oneself_as_the_holder_changes_the_type(self, action: int) -> None:
        a, b = registered(A, B)
        assert b.out(pr.REGISTER, 2, 1) == 0
        assert a.out(pr.RESERVE, 1, kind=WE) == 0
        assert a.out(action, 1, 1, kind=EA_RO) == 0
        assert (a.keys(), a.reservation()) == ([1], (EA_RO, 1))  # b had the key as well
        assert (a.told(), b.told()) == ([], [REMOVED])
        assert not b.reads()

    @pytest.mark.parametrize("kind", [WE_AR, EA_AR])
    def test_what_all_registrants_hold(self, action: int, kind: int) -> None:
        a, b, c = registered(A, B, C)
        assert a.out(pr.RESERVE, 1, kind=kind) == 0
        assert a.out(action, 1, 2, kind=EA) == 0  # removes a registration, no more
        assert (a.keys(), a.reservation()) == ([1, 3], (kind, 0))
        assert (a.told(), b.told(), c.told()) == ([], [REMOVED], [])
        assert a.out(action, 1, 9, kind=EA) == CONFLICT
        assert c.out(action, 3, 0, kind=4) == BAD_CDB
        assert c.out(action, 3, 0, kind=EA) == 0
        assert (c.keys(), c.reservation()) == ([3], (EA, 3))
        assert (a.told(), b.told(), c.told()) == ([REMOVED], [], [])

    def test_the_last_of_all_registrants(self, action: int) -> None:
        (a,) = registered(A)
        assert a.out(pr.RESERVE, 1, kind=EA_AR) == 0
        assert a.out(action, 1, 1, kind=EA_AR) == 0
        assert (a.keys(), a.reservation(), a.told()) == ([], None, [])


# -- REGISTER AND MOVE -------------------------------------------------------------------------


@pytest.mark.parametrize("unregister", [False, True])
@pytest.mark.parametrize("kind", [WE, EA, WE_RO, EA_RO])
def test_move(kind: int, unregister: bool) -> None:
    a, b = registered(A, B)
    (c,) = hosts(C, target=a.nexus.target)
    assert a.out(pr.RESERVE, 1, kind=kind) == 0
    data = pr.moving(1, 7, pr.transport_id(C, ISID), flags=2 if unregister else 0)
    assert pr.outcome(b.send(pr.MOVE, pr.moving(2, 7, pr.transport_id(C, ISID)))) == CONFLICT
    assert pr.outcome(c.send(pr.MOVE, data)) == CONFLICT
    result = a.send(pr.MOVE, data, 0xFF)
    assert (result.status, result.wanted) == (0, len(data))
    assert c.reservation() == (kind, 7)
    assert (c.keys(), c.generation()) == ([2, 7] if unregister else [1, 2, 7], 3)
    assert (a.told(), b.told(), c.told()) == ([], [], [])
    assert c.writes()
    assert a.writes() is (not unregister and kind in (WE_RO, EA_RO))
    # to one that is registered already, with another key
    assert pr.outcome(c.send(pr.MOVE, pr.moving(7, 8, pr.transport_id(B, ISID)))) == 0
    assert b.reservation() == (kind, 8)
    assert b.out(pr.RELEASE, 8, kind=kind) == 0


def test_moves_that_are_refused() -> None:
    a, _ = registered(A, B)
    name = pr.transport_id(C, ISID)
    cdb, listed = Asc.INVALID_FIELD_IN_CDB, Asc.INVALID_FIELD_IN_PARAMETER_LIST

    def where(byte: int) -> tuple[int, Pointer]:
        return listed, Pointer(byte, in_cdb=False)

    assert refused(a, pr.MOVE, pr.moving(1, 7, name)) == (cdb, Pointer(1, 4))  # nothing to move
    assert a.out(pr.RESERVE, 1, kind=WE_AR) == 0
    assert pr.outcome(a.send(pr.MOVE, pr.moving(1, 7, name))) == CONFLICT
    assert a.out(pr.RELEASE, 1, kind=WE_AR) == a.out(pr.RESERVE, 1, kind=WE) == 0
    assert pr.outcome(a.send(pr.MOVE, pr.moving(3, 7, name))) == CONFLICT
    assert refused(a, pr.MOVE, pr.moving(1, 0, name)) == where(8)
    assert refused(a, pr.MOVE, pr.moving(1, 7, pr.transport_id(A, ISID))) == where(24)
    assert refused(a, pr.MOVE, pr.moving(1, 7, pr.transport_id(B))) == where(24)
    assert refused(a, pr.MOVE, pr.moving(1, 7, name, port=2)) == where(18)
    assert refused(a, pr.MOVE, pr.moving(1, 7, name, port=0)) == where(18)
    assert refused(a, pr.MOVE, pr.moving(1, 7, b"\x06" + name[1:])) == where(24)
    assert refused(a, pr.MOVE, pr.moving(1, 7, name + name)) == where(20)
    assert refused(a, pr.MOVE, pr.moving(1, 7, name[:20])) == where(20)
    assert (a.keys(), a.reservation(), a.generation()) == ([1, 2], (WE, 1), 2)


# -- parameter lists that are not right --------------------------------------------------------


@pytest.mark.parametrize("action", range(8))
@pytest.mark.parametrize("length", [0, 1, 23, 25, 27, 1 << 16, (1 << 16) + 1, 0xFFFFFFFF])
def test_lengths(action: int, length: int) -> None:
    (a,) = hosts(A)
    data = bytes(min(length, 1 << 17))
    cdb = struct.pack(">BBBxxIx", 0x5F, action, WE, length)
    assert pr.outcome(a.command(cdb, data)) == BAD_LENGTH
    assert a.generation() == 0


def test_less_data_than_the_list_is_long() -> None:
    (a,) = hosts(A)
    result = a.command(struct.pack(">BBBxxIx", 0x5F, pr.REGISTER, 0, 24), bytes(23))
    assert pr.outcome(result) == (5, Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)


NAME = pr.transport_id(B, ISID)


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b"", BAD_LENGTH),
        (struct.pack(">I", len(NAME) + 4) + NAME, BAD_LENGTH),
        (struct.pack(">I", len(NAME) - 4) + NAME, BAD_LENGTH),
        (struct.pack(">I", 0xFFFFFFFF) + NAME, BAD_LENGTH),
        (struct.pack(">I", len(NAME) - 4) + NAME[:-4], BAD_LIST),  # cuts the TransportID
        (struct.pack(">I", 2) + NAME[:2], BAD_LIST),
        (struct.pack(">I", len(NAME)) + b"\x85" + NAME[1:], BAD_LIST),  # format code
        (struct.pack(">I", len(NAME)) + b"\x40" + NAME[1:], BAD_LIST),  # Fibre Channel
        (struct.pack(">I", len(NAME)) + pr.transport_id(B, ISID, additional=16), BAD_LIST),
        (struct.pack(">I", len(NAME)) + pr.transport_id(B, ISID, additional=21), BAD_LIST),
        (struct.pack(">I", 24) + b"\x45\0\0\x14" + b"a,i,0x12345678901234", BAD_LIST),
        (struct.pack(">I", 24) + b"\x45\0\0\x14" + b"a,i,0x".ljust(20, b"\0"), BAD_LIST),
        (struct.pack(">I", 24) + b"\x45\0\0\x14" + b"a,i,0x0x1".ljust(20, b"\0"), BAD_LIST),
        (struct.pack(">I", 24) + b"\x45\0\0\x14" + b",i,0x1".ljust(20, b"\0"), BAD_LIST),
        (struct.pack(">I", 24) + b"\x45\0\0\x14" + b"a".ljust(20, b"\0"), BAD_LIST),
        (struct.pack(">I", 24) + b"\x05\0\0\x14" + b"\xff".ljust(20, b"\0"), BAD_LIST),
        (struct.pack(">I", 24) + b"\x05\0\0\x14" + bytes(20), BAD_LIST),
        (struct.pack(">I", 232) + b"\x45\0\0\xe4" + b"a" * 222 + b",i,0x1", 0),
        (struct.pack(">I", 236) + b"\x45\0\0\xe8" + b"a" * 226 + b",i,0x1", BAD_LIST),
        (struct.pack(">I", 0), 0),  # nobody else
    ],
)
def test_transport_ids_that_lie(tail: bytes, expected: int | tuple[int, int]) -> None:
    (a,) = hosts(A)
    result = a.send(pr.REGISTER, pr.basic(0, 5, pr.SPEC_I_PT) + tail)
    assert pr.outcome(result) == expected
    if expected == BAD_LIST:
        assert result.sense is not None and result.sense.pointer == Pointer(28, in_cdb=False)
    assert bool(a.keys()) is (expected == 0)


def test_persistence_is_refused_where_nothing_can_be_saved() -> None:
    a, b = hosts(A, B)
    for action in (pr.REGISTER, pr.IGNORE):
        pointer = Pointer(20, 0, in_cdb=False)
        assert refused(a, action, pr.basic(0, 1, pr.APTPL)) == (0x2600, pointer)
    assert a.out(pr.REGISTER, 0, 1) == 0
    assert a.out(pr.RESERVE, 1, kind=WE, flags=pr.APTPL) == 0  # ignored
    move = pr.moving(1, 2, pr.transport_id(B, ISID), flags=1)
    assert refused(a, pr.MOVE, move) == (0x2600, Pointer(17, 0, in_cdb=False))
    assert (b.keys(), b.reservation()) == ([1], (WE, 1))
    assert not b.read(pr.CAPABILITIES)[2] & 1 and not b.read(pr.CAPABILITIES)[3] & 1


# -- IN ----------------------------------------------------------------------------------------


def test_capabilities() -> None:
    (a,) = hosts(A)
    # LENGTH 8; SIP_C, ATP_C; TMV, ALLOW COMMANDS 4; all six types
    assert a.read(pr.CAPABILITIES) == bytes.fromhex("0008 0c c0 ea01 0000")


@pytest.mark.parametrize("action", range(4))
def test_data_is_truncated_and_its_length_is_not(action: int) -> None:
    a, _ = registered(A, B)
    assert a.out(pr.RESERVE, 1, kind=WE) == 0
    full = a.read(action)
    assert len(full) >= 8
    for length in range(len(full) + 2):
        assert a.read(action, length) == full[:length]


def test_full_status_as_it_is_on_the_wire() -> None:
    a, _ = registered("iqn.a", "iqn.bb")
    assert a.out(pr.RESERVE, 1, kind=EA_RO) == 0
    assert a.read(pr.FULL_STATUS) == bytes.fromhex(
        "00000002 00000068"
        "0000000000000001 00000000 01 06 00000000 0001 0000001c"
        "45 00 0018 69716e2e61 2c692c3078 303030323364303030303031 0000"
        "0000000000000002 00000000 00 00 00000000 0001 0000001c"
        "45 00 0018 69716e2e6262 2c692c3078 303030323364303030303031 00"
    )


@pytest.mark.parametrize("opcode", [0x5E, 0x5F])
def test_other_service_actions(opcode: int) -> None:
    (a,) = hosts(A)
    for action in range(4 if opcode == 0x5E else 8, 32):
        result = a.command(bytes([opcode, action, 0, 0, 0, 0, 0, 0, 24, 0]), bytes(24))
        assert result.sense == Sense(5, Asc.INVALID_FIELD_IN_CDB, None, Pointer(1, 4))


def test_as_many_as_there_may_be() -> None:
    (a,) = hosts(A)
    ways = registrations.MOST // 4
    for number in range(4):
        names = b"".join(pr.transport_id(B, ways * number + each) for each in range(ways - 1))
        data = pr.basic(0, 5, pr.SPEC_I_PT) + struct.pack(">I", len(names)) + names
        host = Host(ready_nexus(a.nexus.target, f"iqn.x:{number}"))
        assert host.send(pr.REGISTER, data).status == 0
    assert a.out(pr.REGISTER, 0, 6) == (5, 0x5504)
    assert a.keys() == [5] * registrations.MOST
    # the length counts all descriptors, also those beyond the longest allocation length
    status = a.read(pr.FULL_STATUS)
    assert len(status) == 0xFFFF
    length = len(pr.transport_id(B, 0)) * (ways - 1) + len(pr.transport_id("iqn.x:0", 0))
    assert int.from_bytes(status[4:8], "big") == 4 * (24 * ways + length)
    # a list is as long as 64 KiB
    names = pr.transport_id(B) * 2800
    data = pr.basic(0, 5, pr.SPEC_I_PT) + struct.pack(">I", len(names)) + names
    assert pr.outcome(a.send(pr.REGISTER, data)) == BAD_LENGTH


def test_nobody_in_the_unit_while_it_changes() -> None:
    """A change waits for its turn: until then nothing has changed."""
    target = target_of(InlineRamUnit())
    port = EnginePort(deferred=True)
    (a,) = hosts(A, target=target)
    task = port.start(a.nexus, struct.pack(">BBBxxIx", 0x5F, 0, 0, 24), pr.basic(0, 1))
    assert not task.completions and a.keys() == []
    port.step()
    assert a.keys() == [1] and task.completions[0] is not None
