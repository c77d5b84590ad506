"""What each service action of PERSISTENT RESERVE OUT does (SPC-5 5.14.7 to 5.14.11, 6.17).

Pure: a `State` and a `Request` give a `Change`, or the reason why there is none. Who is told what
is in the change; nobody is ever told of what it did itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from userdisk.scsi import sense
from userdisk.scsi.reservation import ALL_REGISTRANTS, REGISTRANTS_ONLY, Out, Type
from userdisk.scsi.sense import Asc
from userdisk.target.command import CheckCondition
from userdisk.target.nexus import NexusName
from userdisk.target.registrations import MOST, State

#: where the fields are in the parameter list
_SERVICE_KEY, _FLAGS, _MOVED_TO = 8, 20, 24


class Conflict(Exception):
    """The service action is answered RESERVATION CONFLICT."""


class Request(NamedTuple):
    """A PERSISTENT RESERVE OUT command, decoded."""

    nexus: NexusName  #: on which it came
    scope_and_type: int = 0
    key: int = 0
    service_key: int = 0
    through_power_loss: bool = False
    #: the nexus, with ALL_TG_PT at every target port
    names: tuple[NexusName, ...] = ()
    #: with SPEC_I_PT: the nexuses of each TransportID, and where that is; None without
    specified: tuple[tuple[int, tuple[NexusName, ...]], ...] | None = None
    moved_to: NexusName | None = None  #: only in REGISTER AND MOVE
    unregister: bool = False

    def kind(self) -> Type:
        """TYPE; raises CheckCondition unless it and SCOPE are what there is."""
        if self.scope_and_type >> 4:
            raise CheckCondition(sense.invalid_field_in_cdb(2, 7))
        try:
            return Type(self.scope_and_type)
        except ValueError:
            raise CheckCondition(sense.invalid_field_in_cdb(2, 3)) from None


class Change(NamedTuple):
    """What a service action did."""

    state: State
    #: unit attentions, and for whom
    told: tuple[tuple[Asc, frozenset[NexusName]], ...] = ()
    #: whose commands PREEMPT AND ABORT ends
    preempted: frozenset[NexusName] = frozenset()


Action: TypeAlias = Callable[[State, Request], Change]


def _verify(state: State, request: Request) -> None:
    if state.keys.get(request.nexus) != request.key:
        raise Conflict


def _count(change: Change) -> Change:
    """The change with PRGENERATION incremented: not for RESERVE and RELEASE (table 213)."""
    generation = change.state.generation + 1 & 0xFFFFFFFF
    return change._replace(state=change.state._replace(generation=generation))


def _enough(keys: dict[NexusName, int]) -> dict[NexusName, int]:
    if len(keys) > MOST:
        raise CheckCondition(sense.insufficient_registration_resources())
    return keys


# -- registering -------------------------------------------------------------------------------


def _register(state: State, request: Request) -> Change:
    for name in request.names:
        if state.keys.get(name, 0) != request.key:
            raise Conflict
    if request.specified is not None and request.key:  # the nexus is registered
        raise CheckCondition(sense.invalid_field_in_parameter_list(_FLAGS, 3))
    return _register_and_ignore(state, request)


def _register_and_ignore(state: State, request: Request) -> Change:
    if request.service_key:
        keys = {**state.keys, **dict.fromkeys(request.names, request.service_key)}
        for place, names in request.specified or ():
            if not state.keys.keys().isdisjoint(names):
                raise CheckCondition(sense.invalid_field_in_parameter_list(place))
            keys |= dict.fromkeys(names, request.service_key)
        change = Change(state._replace(keys=_enough(keys)))
    elif state.keys.keys().isdisjoint(request.names):
        return Change(state)
    else:
        change = _remove(state, request.names, request.nexus)
    active = change.state._replace(through_power_loss=request.through_power_loss)
    return _count(change._replace(state=active))


def _remove(state: State, names: Iterable[NexusName], cause: NexusName) -> Change:
    """Remove registrations, and release what their nexuses held (5.14.11.2.3, table 71)."""
    gone = frozenset(names)
    keys = {name: key for name, key in state.keys.items() if name not in gone}
    released = not keys if state.kind in ALL_REGISTRANTS else state.holder in gone
    if not released:
        return Change(state._replace(keys=keys))
    told = ((Asc.RESERVATIONS_RELEASED, frozenset(keys) - {cause}),)
    return Change(
        state._replace(keys=keys, kind=None, holder=None),
        told if state.kind in REGISTRANTS_ONLY else (),
    )


def _move(state: State, request: Request) -> Change:
    _verify(state, request)
    if state.kind is None:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 4))
    if state.kind in ALL_REGISTRANTS or not state.holds(request.nexus):
        raise Conflict
    if not request.service_key:
        raise CheckCondition(sense.invalid_field_in_parameter_list(_SERVICE_KEY))
    new = request.moved_to
    assert new is not None
    if new._replace(port=0) == request.nexus._replace(port=0):
        raise CheckCondition(sense.invalid_field_in_parameter_list(_MOVED_TO))
    keys = {**state.keys, new: request.service_key}
    if request.unregister:
        del keys[request.nexus]
    return _count(
        Change(
            state._replace(
                keys=_enough(keys), holder=new, through_power_loss=request.through_power_loss
            )
        )
    )


# -- reserving and releasing -------------------------------------------------------------------


def _reserve(state: State, request: Request) -> Change:
    _verify(state, request)
    kind = request.kind()
    if state.kind is None:
        holder = None if kind in ALL_REGISTRANTS else request.nexus
        return Change(state._replace(kind=kind, holder=holder))
    if kind is not state.kind or not state.holds(request.nexus):
        raise Conflict
    return Change(state)


def _release(state: State, request: Request) -> Change:
    _verify(state, request)
    kind = request.kind()
    if not state.holds(request.nexus):
        return Change(state)
    if kind is not state.kind:
        raise CheckCondition(sense.invalid_release())
    others = frozenset(state.keys) - {request.nexus}
    told = ((Asc.RESERVATIONS_RELEASED, others),)
    return Change(
        state._replace(kind=None, holder=None),
        told if kind in REGISTRANTS_ONLY | ALL_REGISTRANTS else (),
    )


def _clear(state: State, request: Request) -> Change:
    _verify(state, request)
    others = frozenset(state.keys) - {request.nexus}
    cleared = state._replace(keys={}, kind=None, holder=None)
    return _count(Change(cleared, ((Asc.RESERVATIONS_PREEMPTED, others),)))


def _preempt(state: State, request: Request) -> Change:
    """PREEMPT, with or without ABORT (table 72)."""
    _verify(state, request)
    key = request.service_key
    everybody = state.kind in ALL_REGISTRANTS
    if not key and state.kind is not None and not everybody:
        raise CheckCondition(sense.invalid_field_in_parameter_list(_SERVICE_KEY))
    if key or not everybody:
        chosen = frozenset(name for name, each in state.keys.items() if each == key)
    else:
        chosen = frozenset(state.keys)
    if not chosen:
        raise Conflict
    others = chosen - {request.nexus}
    told = [(Asc.REGISTRATIONS_PREEMPTED, others)]
    if not key or state.holder in chosen:
        kind = request.kind()
        keys = {name: each for name, each in state.keys.items() if name not in others}
        if kind is not state.kind:
            told.append((Asc.RESERVATIONS_RELEASED, frozenset(keys) - {request.nexus}))
        holder = None if kind in ALL_REGISTRANTS else request.nexus
        new = state._replace(keys=keys, kind=kind, holder=holder)
    else:
        new = _remove(state, chosen, request.nexus).state
    return _count(Change(new, tuple(told), chosen))


ACTIONS: dict[Out, Action] = {
    Out.REGISTER: _register,
    Out.RESERVE: _reserve,
    Out.RELEASE: _release,
    Out.CLEAR: _clear,
    Out.PREEMPT: _preempt,
    Out.PREEMPT_AND_ABORT: _preempt,
    Out.REGISTER_AND_IGNORE_EXISTING_KEY: _register_and_ignore,
    Out.REGISTER_AND_MOVE: _move,
}
