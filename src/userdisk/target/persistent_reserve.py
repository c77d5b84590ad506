"""PERSISTENT RESERVE IN and PERSISTENT RESERVE OUT (SPC-5 6.16, 6.17)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from userdisk.operation import Exclusive, Sequel
from userdisk.scsi import reservation as wire
from userdisk.scsi import sense
from userdisk.scsi.reservation import In, Out, TransportId
from userdisk.target.command import (
    CONFLICT,
    Abortable,
    CheckCondition,
    Command,
    Completion,
    Steps,
    Wait,
)
from userdisk.target.data_in import data_in
from userdisk.target.data_out import receive_all
from userdisk.target.nexus import Nexus, NexusName
from userdisk.target.registrations import MOST
from userdisk.target.service_actions import ACTIONS, Change, Conflict, Request

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit

_LARGEST_LIST = 1 << 16  # bytes of a parameter list
_LENGTHS = 4  # of TRANSPORTID PARAMETER DATA LENGTH
_TRANSPORT_ID_MIN = 24


# -- IN ----------------------------------------------------------------------------------------


def reserve_in(lu: LogicalUnit, command: Command) -> Completion:
    """PERSISTENT RESERVE IN; conflicts with RESERVE of whomever (SPC-2 5.5.1)."""
    if lu.reservations.reserver is not None:
        return CONFLICT
    data = _REPORTS[In(command.cdb[1] & 0x1F)](lu)
    return data_in(data, int.from_bytes(command.cdb[7:9], "big"))


def _read_keys(lu: LogicalUnit) -> bytes:
    state = lu.reservations.state
    return wire.keys(state.generation, state.keys.values())


def _read_reservation(lu: LogicalUnit) -> bytes:
    state = lu.reservations.state
    key = 0 if state.holder is None else state.keys[state.holder]
    return wire.reservation(state.generation, state.kind, key)


def _report_capabilities(lu: LogicalUnit) -> bytes:
    reservations = lu.reservations
    return wire.capabilities(
        durable=reservations.durable, active=reservations.state.through_power_loss
    )


def _read_full_status(lu: LogicalUnit) -> bytes:
    state = lu.reservations.state
    return wire.full_status(
        state.generation,
        (
            wire.FullStatus(
                key,
                state.kind if state.holds(name) else None,
                name.port,
                TransportId(name.initiator, name.isid),
            )
            for name, key in state.keys.items()
        ),
    )


_REPORTS: dict[In, Callable[[LogicalUnit], bytes]] = {
    In.READ_KEYS: _read_keys,
    In.READ_RESERVATION: _read_reservation,
    In.REPORT_CAPABILITIES: _report_capabilities,
    In.READ_FULL_STATUS: _read_full_status,
}


# -- OUT ---------------------------------------------------------------------------------------


def reserve_out(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """PERSISTENT RESERVE OUT; decides itself who may, and conflicts with RESERVE of whomever."""
    if lu.reservations.reserver is not None:
        return CONFLICT
    length = int.from_bytes(command.cdb[5:9], "big")
    if not wire.BASIC_LENGTH <= length <= _LARGEST_LIST:
        raise CheckCondition(sense.parameter_list_length_error())
    return _out(lu, command, length)


def _out(lu: LogicalUnit, command: Command, length: int) -> Steps:
    data = yield from receive_all(command, length)
    action = Out(command.cdb[1] & 0x1F)
    decode = _moving if action is Out.REGISTER_AND_MOVE else _basic
    request = decode(lu, command, action, data)
    change = yield Exclusive(lambda: _perform(lu, action, request))
    if change is None:
        return CONFLICT
    if action is Out.PREEMPT_AND_ABORT:
        yield Wait(lambda done: _abort(lu, command, change, done))
    return Completion(wanted=length)


def _perform(lu: LogicalUnit, action: Out, request: Request) -> Sequel:
    """Change the unit's state; the result is the change, or None: a conflict."""
    yield from ()
    reservations = lu.reservations
    state = reservations.state
    if reservations.reserver is not None:
        return None
    try:
        change = ACTIONS[action](state, request)
    except Conflict:
        return None
    new = change.state
    if new is state:
        return change
    if new.through_power_loss and not reservations.durable:
        place = (17, 0) if action is Out.REGISTER_AND_MOVE else (20, 0)
        raise CheckCondition(sense.invalid_field_in_parameter_list(*place))
    reservations.replace(new)
    for attention, names in change.told:
        lu.establish(attention, _present(lu, names))
    lu.refresh()
    return change


def _abort(lu: LogicalUnit, command: Command, change: Change, done: Callable[[], None]) -> None:
    """End what the preempted nexuses have under way here; `done` is called when it has ended."""

    def chosen(task: Abortable) -> bool:
        return task is not command.task and task.nexus.name in change.preempted

    for aspect in lu.aspects:
        for nexus in _present(lu, change.preempted):
            aspect.preempted(nexus)
    for task in lu.task_set.mark(chosen, done):
        task.abort()


def _present(lu: LogicalUnit, names: frozenset[NexusName]) -> list[Nexus]:
    return [nexus for nexus in _nexuses(lu) if nexus.name in names] if names else []


def _nexuses(lu: LogicalUnit) -> list[Nexus]:
    with lu.lock:
        return [path.nexus for path in lu.paths]


# -- parameter lists ---------------------------------------------------------------------------


def _basic(lu: LogicalUnit, command: Command, action: Out, data: bytes) -> Request:
    nexus = command.path.nexus
    fields = wire.decode_basic(data)
    registering = action in (Out.REGISTER, Out.REGISTER_AND_IGNORE_EXISTING_KEY)
    ports = _ports(nexus) if registering and fields.all_target_ports else (nexus.port,)
    specified = None
    if fields.specify_initiators:
        if action is not Out.REGISTER:
            raise CheckCondition(sense.invalid_field_in_parameter_list(20, 3))
        specified = _specified(lu, data, ports)
    elif len(data) != wire.BASIC_LENGTH:
        raise CheckCondition(sense.parameter_list_length_error())
    return Request(
        nexus.name,
        command.cdb[2],
        fields.key,
        fields.service_key,
        fields.through_power_loss,
        tuple(nexus.name._replace(port=port) for port in ports),
        specified,
    )


def _ports(nexus: Nexus) -> tuple[int, ...]:
    """All target ports, the one of this nexus first."""
    return tuple(dict.fromkeys((nexus.port, *nexus.target.ports)))


def _specified(
    lu: LogicalUnit, data: bytes, ports: tuple[int, ...]
) -> tuple[tuple[int, tuple[NexusName, ...]], ...]:
    """The nexuses of each TransportID in the list of REGISTER."""
    at, end = wire.BASIC_LENGTH + _LENGTHS, len(data)
    if end < at or at + int.from_bytes(data[at - _LENGTHS : at], "big") != end:
        raise CheckCondition(sense.parameter_list_length_error())
    # the ports of an initiator that are known are those that are logged in now (7.6.4.6)
    known: dict[str, dict[int, None]] = {}
    for nexus in _nexuses(lu):
        known.setdefault(nexus.initiator, {})[nexus.isid] = None
    found = []
    named = 0
    while at < end:
        (initiator, isid), length = _transport_id(data, at)
        isids = known.get(initiator, ()) if isid is None else (isid,)
        if not isids:  # to register nobody would be no registration
            raise CheckCondition(sense.invalid_field_in_parameter_list(at))
        named += len(isids) * len(ports)
        if named > 2 * MOST:  # some may be named twice; see `_enough` of service_actions
            raise CheckCondition(sense.insufficient_registration_resources())
        names = tuple(NexusName(initiator, each, port) for each in isids for port in ports)
        found.append((at, names))
        at += length
    return tuple(found)


def _moving(lu: LogicalUnit, command: Command, action: Out, data: bytes) -> Request:
    nexus = command.path.nexus
    fields = wire.decode_move(data)
    if wire.BASIC_LENGTH + fields.length != len(data):
        raise CheckCondition(sense.parameter_list_length_error())
    if fields.length < _TRANSPORT_ID_MIN or fields.length % 4:
        raise CheckCondition(sense.invalid_field_in_parameter_list(20))
    which, length = _transport_id(data, wire.BASIC_LENGTH)
    if length != fields.length:
        raise CheckCondition(sense.invalid_field_in_parameter_list(20))
    if which.isid is None:  # an initiator, where one of its ports has to be named
        raise CheckCondition(sense.invalid_field_in_parameter_list(wire.BASIC_LENGTH))
    if fields.port not in _ports(nexus):
        raise CheckCondition(sense.invalid_field_in_parameter_list(18))
    return Request(
        nexus.name,
        command.cdb[2],
        fields.key,
        fields.service_key,
        fields.through_power_loss,
        moved_to=NexusName(which.initiator, which.isid, fields.port),
        unregister=fields.unregister,
    )


def _transport_id(data: bytes, at: int) -> tuple[TransportId, int]:
    """The TransportID at this place, and its length."""
    try:
        length = wire.transport_id_length(memoryview(data)[at:])
        return wire.decode_transport_id(data[at : at + length]), length
    except ValueError:
        raise CheckCondition(sense.invalid_field_in_parameter_list(at)) from None
