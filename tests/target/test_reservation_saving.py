"""APTPL: registrations and reservation over a restart, and state files that are not right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit import reservations as pr
from tests.kit.engine import ready_nexus
from tests.kit.reservations import CONFLICT, EA, EA_AR, EA_RO, WE, Host
from tests.kit.units import InlineRamUnit
from userdisk import identity
from userdisk.errors import UsageError
from userdisk.gate import Gate
from userdisk.scsi.reservation import Type
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.nexus import NexusName
from userdisk.target.registrations import State
from userdisk.target.target import Target

A, B = "iqn.2024-01.org.example:a", "iqn.2024-01.org.example:b"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"")
    return path


def saved(image: Path) -> Path:
    return image.with_name(image.name + ".userdisk")


def started(image: Path) -> Target:
    """A server's target, after a start."""
    unit = InlineRamUnit()
    found = identity.identify(unit, identity.beside(str(image), read_only=False))
    return Target("iqn.x:disk", [LogicalUnit(Gate(unit), saved=found)])


def hosts(target: Target) -> tuple[Host, Host]:
    return Host(ready_nexus(target, A)), Host(ready_nexus(target, B))


@pytest.mark.parametrize("kind", [*pr.TYPES, None])
def test_over_a_restart(image: Path, kind: int | None) -> None:
    a, b = hosts(started(image))
    assert a.read(pr.CAPABILITIES)[2:4] == bytes.fromhex("0dc0")
    assert b.out(pr.REGISTER, 0, 1 << 63) == 0
    assert a.out(pr.REGISTER, 0, 2, flags=pr.APTPL) == 0
    assert a.read(pr.CAPABILITIES)[2:4] == bytes.fromhex("0dc1")
    if kind:
        assert b.out(pr.RESERVE, 1 << 63, kind=kind) == 0
    before = a.status(), a.reservation()

    a, b = hosts(started(image))
    assert (a.status(), a.reservation(), a.generation()) == (*before, 0)
    assert a.read(pr.CAPABILITIES)[3] & 1
    assert a.writes() is (kind not in (WE, EA)) and b.writes()
    other = Host(ready_nexus(a.nexus.target, "iqn.x:other"))
    assert other.writes() is (kind is None)
    # what happens then is kept as well
    if kind:
        assert b.out(pr.RELEASE, 1 << 63, kind=kind) == 0
    assert b.out(pr.REGISTER, 1 << 63, 0, flags=pr.APTPL) == 0
    a, b = hosts(started(image))
    assert (a.keys(), a.reservation()) == ([2], None)


def test_the_last_aptpl_counts(image: Path) -> None:
    a, b = hosts(started(image))
    assert a.out(pr.REGISTER, 0, 1, flags=pr.APTPL) == 0
    assert a.out(pr.RESERVE, 1, kind=EA_RO) == 0
    assert b.out(pr.IGNORE, 0, 2) == 0
    assert not a.read(pr.CAPABILITIES)[3] & 1
    assert "reservations" not in json.loads(saved(image).read_text())
    a, b = hosts(started(image))
    assert (a.keys(), a.reservation()) == ([], None)


def test_a_state_without_registrations_is_a_state(image: Path) -> None:
    (a, _) = hosts(started(image))
    assert a.out(pr.REGISTER, 0, 1, flags=pr.APTPL) == a.out(pr.CLEAR, 1) == 0
    (a, _) = hosts(started(image))
    assert (a.keys(), a.read(pr.CAPABILITIES)[3]) == ([], 0xC1)


def test_moved_and_preempted_is_kept(image: Path) -> None:
    a, b = hosts(started(image))
    assert a.out(pr.REGISTER, 0, 1) == a.out(pr.RESERVE, 1, kind=WE) == 0
    move = pr.moving(1, 2, pr.transport_id(B, 0), flags=3)
    assert pr.outcome(a.send(pr.MOVE, move)) == 0
    a, b = hosts(started(image))
    assert (b.keys(), b.reservation()) == ([2], (WE, 2))
    assert not a.writes() and b.writes()
    assert b.out(pr.PREEMPT, 2, 2, kind=EA_AR) == 0
    a, b = hosts(started(image))
    assert (b.keys(), b.reservation()) == ([2], (EA_AR, 0))


def test_reserve_is_not_kept_and_not_in_the_way(image: Path) -> None:
    a, b = hosts(started(image))
    assert a.command(bytes.fromhex("160000000000")).status == 0
    assert not b.writes()
    a, b = hosts(started(image))
    assert b.writes()


def test_what_cannot_be_saved_does_not_happen(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = hosts(started(image))
    assert a.out(pr.REGISTER, 0, 1, flags=pr.APTPL) == b.out(pr.IGNORE, 0, 2, flags=1) == 0
    assert a.out(pr.RESERVE, 1, kind=EA_RO) == 0
    before = saved(image).read_bytes()
    state = a.status(), a.reservation(), a.generation()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(identity, "_write", full)
        for action, key, kind in (
            (pr.REGISTER, 3, 0),
            (pr.IGNORE, 0, 0),
            (pr.RELEASE, 0, EA_RO),
            (pr.CLEAR, 0, 0),
            (pr.PREEMPT, 2, WE),
            (pr.PREEMPT_AND_ABORT, 1, WE),
        ):
            for flags in (0, pr.APTPL):
                assert a.out(action, 1, key, kind, flags) == (4, 0x4400)
        assert (a.status(), a.reservation(), a.generation()) == state
        assert a.told() == b.told() == []
        assert b.writes()
    assert saved(image).read_bytes() == before
    assert a.out(pr.CLEAR, 1) == 0


# -- state files that are not right ------------------------------------------------------------


def full_state(image: Path) -> str:
    a, b = hosts(started(image))
    assert a.out(pr.REGISTER, 0, 1, flags=pr.APTPL) == b.out(pr.IGNORE, 0, 2, flags=1) == 0
    assert a.out(pr.RESERVE, 1, kind=EA_RO) == 0
    return saved(image).read_text()


def test_a_file_that_ends_anywhere(image: Path) -> None:
    text = full_state(image).rstrip()
    for end in range(len(text)):
        saved(image).write_text(text[:end])
        with pytest.raises(UsageError, match=r"disk\.img\.userdisk: not a state file"):
            started(image)


ENTRY = {"initiator": "iqn.a", "isid": "000000000001", "port": 1, "key": "0000000000000001"}
GOOD = {"type": 5, "holder": 0, "registrations": [ENTRY]}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (5, "not an object"),
        ([], "not an object"),
        ({}, "not an object"),
        ({**GOOD, "more": 1}, "not an object"),
        ({**GOOD, "type": 2}, "type"),
        ({**GOOD, "type": "5"}, "type"),
        ({**GOOD, "type": True}, "type"),
        ({**GOOD, "type": 1.0}, "type"),
        ({**GOOD, "type": None}, "holder"),
        ({**GOOD, "type": 7}, "holder"),
        ({**GOOD, "holder": None}, "holder"),
        ({**GOOD, "holder": 1}, "holder"),
        ({**GOOD, "holder": -1}, "holder"),
        ({**GOOD, "holder": False}, "holder"),
        ({**GOOD, "registrations": {}}, "not a list"),
        ({**GOOD, "registrations": []}, "type"),
        ({"type": 7, "holder": None, "registrations": []}, "type"),
        ({**GOOD, "registrations": [ENTRY] * 2049}, "not a list of at most"),
        ({**GOOD, "registrations": [ENTRY, ENTRY]}, "registration 1: registered twice"),
        ({**GOOD, "registrations": [ENTRY, None]}, "registration 1: not an object"),
        ({**GOOD, "registrations": [{**ENTRY, "initiator": ""}]}, "registration 0: not a name"),
        ({**GOOD, "registrations": [{**ENTRY, "initiator": "a\0"}]}, "not a name"),
        ({**GOOD, "registrations": [{**ENTRY, "initiator": "\ud800"}]}, "registration 0"),
        ({**GOOD, "registrations": [{**ENTRY, "initiator": "é" * 112}]}, "not a name"),
        ({**GOOD, "registrations": [{**ENTRY, "initiator": 1}]}, "initiator"),
        ({**GOOD, "registrations": [{**ENTRY, "isid": 1}]}, "isid"),
        ({**GOOD, "registrations": [{**ENTRY, "isid": "1"}]}, "isid"),
        ({**GOOD, "registrations": [{**ENTRY, "isid": "00000000000G"}]}, "isid"),
        ({**GOOD, "registrations": [{**ENTRY, "port": 0}]}, "port"),
        ({**GOOD, "registrations": [{**ENTRY, "port": 1 << 16}]}, "port"),
        ({**GOOD, "registrations": [{**ENTRY, "port": True}]}, "port"),
        ({**GOOD, "registrations": [{**ENTRY, "key": "0" * 16}]}, "key: zero"),
        ({**GOOD, "registrations": [{**ENTRY, "key": "1"}]}, "key"),
        ({**GOOD, "registrations": [{**ENTRY, "key": "+000000000000001"}]}, "key"),
    ],
)
def test_reservations_that_make_no_sense(image: Path, value: Any, why: str) -> None:
    started(image)
    whole = json.loads(saved(image).read_text()) | {"reservations": value}
    saved(image).write_text(json.dumps(whole))
    with pytest.raises(UsageError) as caught:
        started(image)
    (line,) = str(caught.value).splitlines()
    assert str(saved(image)) in line and why in line
    assert "restore the file, or remove" in line
    assert json.loads(saved(image).read_text()) == whole  # it is left as it is


def test_reservations_that_make_sense(image: Path) -> None:
    started(image)
    whole = json.loads(saved(image).read_text()) | {"reservations": GOOD}
    saved(image).write_text(json.dumps(whole))
    host = Host(started(image).attach("iqn.a", 1))
    assert host.told()
    assert (host.keys(), host.reservation()) == ([1], (5, 1))


names = st.builds(
    NexusName,
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(
        lambda text: len(text.encode()) <= 223
    ),
    st.integers(0, (1 << 48) - 1),
    st.integers(1, 0xFFFF),
)


@given(st.dictionaries(names, st.integers(1, (1 << 64) - 1), max_size=5), st.data())
def test_what_is_saved_is_what_is_restored(keys: dict[NexusName, int], data: st.DataObject) -> None:
    kind = data.draw(st.none() | st.sampled_from(list(Type))) if keys else None
    holder = None
    if kind is not None and kind < 7:
        holder = data.draw(st.sampled_from(list(keys)))
    state = State(keys, kind, holder, through_power_loss=True)
    again = State.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state and list(again.keys) == list(keys)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*GOOD, *ENTRY]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {
            "type": st.none() | st.integers(0, 9) | json_values,
            "holder": st.none() | st.integers(-1, 2) | json_values,
            "registrations": st.lists(
                st.fixed_dictionaries(
                    {
                        "initiator": st.sampled_from(["a", "b"]) | json_values,
                        "isid": st.just("000000000001") | json_values,
                        "port": st.integers(0, 2) | json_values,
                        "key": st.just("0000000000000001") | json_values,
                    }
                ),
                max_size=2,
            )
            | json_values,
        }
    )
    | json_values
)
def test_other_values_are_refused_or_taken_whole(value: Any) -> None:
    try:
        state = State.from_json(value)
    except ValueError:
        return
    assert state.to_json() == value
    assert state.kind is None or state.kind >= 7 or state.holder in state.keys


def test_conflicts_after_a_restart_before_anybody_has_come_back(image: Path) -> None:
    full_state(image)
    stranger = Host(started(image).attach("iqn.x:other"))
    assert stranger.told()
    assert not stranger.writes() and not stranger.reads()
    assert stranger.out(pr.REGISTER, 0, 9) == 0
    assert stranger.out(pr.PREEMPT_AND_ABORT, 9, 1, EA_RO) == 0
    assert stranger.writes()
    assert stranger.out(pr.PREEMPT, 1, 9, EA_RO) == CONFLICT
