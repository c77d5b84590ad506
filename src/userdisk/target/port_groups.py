"""Target port groups, and how a unit can be reached through each (SPC-5 5.16, 6.36, 6.46).

A portal group is a target port, and a target port group of its own: one number stands for all
three. A logical unit has an access state for each. Theory of operation of a state:

    ACTIVE_OPTIMIZED, ACTIVE_NON_OPTIMIZED: every command runs
    STANDBY, UNAVAILABLE: few commands run; those and the active ones follow each other in any order
    TRANSITIONING: only the server's own code enters and leaves it, while it moves the storage

An initiator changes states with SET TARGET PORT GROUPS, the server's code with `change`. Either
happens with nobody in the unit, so that no command of a port that is put into standby is under way
in the unit afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from userdisk.operation import Exclusive, Sequel
from userdisk.scsi import port_groups, sense
from userdisk.scsi.port_groups import AccessState, Cause, PortGroup
from userdisk.scsi.sense import Asc, Sense, SenseKey
from userdisk.target.aspect import Aspect
from userdisk.target.command import GOOD, CheckCondition, Command, Completion, Steps
from userdisk.target.data_in import data_in
from userdisk.target.data_out import receive_all
from userdisk.target.row import Flags, Row

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.nexus import Nexus, Path

_MAX_LIST = port_groups.HEADER_LENGTH + 256 * port_groups.DESCRIPTOR_LENGTH  # bytes

#: The states that keep commands out: which commands run all the same, and what others are told.
_RESTRAINING: Mapping[AccessState, tuple[Flags, Asc]] = {
    AccessState.STANDBY: (Flags.IN_STANDBY, Asc.TARGET_PORT_IN_STANDBY),
    AccessState.UNAVAILABLE: (Flags.WHILE_UNAVAILABLE, Asc.TARGET_PORT_UNAVAILABLE),
    AccessState.TRANSITIONING: (Flags.WHILE_UNAVAILABLE, Asc.ACCESS_STATE_TRANSITION),
}


class PortGroups(Aspect):
    """The target port groups of a logical unit, one port each, and their access states."""

    def __init__(self, lu: LogicalUnit) -> None:
        self._lu = lu
        #: by tag, in order; replaced, never changed in place
        self.groups: Mapping[int, PortGroup] = {}
        self.define((1,))

    def define(self, tags: Iterable[int]) -> None:
        """The groups there are, before anybody connects; one that is new is active/optimized."""
        groups = self.groups
        self.groups = {tag: groups.get(tag) or PortGroup(tag, (tag,)) for tag in sorted(set(tags))}

    @property
    def several(self) -> bool:
        """Whether access can be asymmetric at all, and is reported."""
        return len(self.groups) > 1

    def state(self, tag: int) -> AccessState:
        """The state of a group; of one that was not defined it is active/optimized."""
        group = self.groups.get(tag)
        return AccessState.ACTIVE_OPTIMIZED if group is None else group.state

    def restrains(self, path: Path) -> bool:
        """See `Aspect.restrains`."""
        return self.state(path.nexus.port) in _RESTRAINING

    def check(self, row: Row, command: Command) -> Completion | None:
        """See `Aspect.check`."""
        rule = _RESTRAINING.get(self.state(command.path.nexus.port))
        if rule is not None and rule[0] not in row.flags:
            raise CheckCondition(Sense(SenseKey.NOT_READY, rule[1]))
        return None

    def change(
        self, states: Mapping[int, AccessState], cause: Cause, *, but: Nexus | None = None
    ) -> Exclusive:
        """The operation that brings groups into these states, and tells every nexus but one."""

        def steps() -> Sequel:
            changed = {
                tag: self.groups[tag]._replace(state=state, cause=cause)
                for tag, state in states.items()
                if self.groups[tag].state != state
            }
            if changed:
                self.groups = {**self.groups, **changed}
                for tag in changed:
                    self._end(tag)
                self._lu.refresh()
                self._lu.establish(Asc.ACCESS_STATE_CHANGED, but=but)
            yield from ()

        return Exclusive(steps)

    def _end(self, tag: int) -> None:
        """What was begun through a port that is restrained now does not go on."""
        rule = _RESTRAINING.get(self.state(tag))
        if rule is not None:
            code = rule[1]
            self._lu.end_era(lambda: CheckCondition(Sense(SenseKey.NOT_READY, code)), tag)


def offered(lu: LogicalUnit) -> bool:
    """Whether there are several groups, so that access may differ."""
    return lu.port_groups.several


def report_target_port_groups(lu: LogicalUnit, command: Command) -> Completion:
    """REPORT TARGET PORT GROUPS, in the format that is asked for."""
    cdb = command.cdb
    extended = bool(cdb[1] & port_groups.EXTENDED_HEADER)
    groups = list(lu.port_groups.groups.values())
    return data_in(port_groups.encode(groups, extended=extended), int.from_bytes(cdb[6:10], "big"))


def set_target_port_groups(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """SET TARGET PORT GROUPS; all descriptors are checked before the first has an effect."""
    _check_settled(lu, [command.path.nexus.port])
    length = int.from_bytes(command.cdb[6:10], "big")
    if not length:
        return GOOD
    described = length - port_groups.HEADER_LENGTH
    if described < 0 or described % port_groups.DESCRIPTOR_LENGTH or length > _MAX_LIST:
        raise CheckCondition(sense.invalid_field_in_cdb(6))
    return _set(lu, command, length)


def _set(lu: LogicalUnit, command: Command, length: int) -> Steps:
    states = _decode(lu, (yield from receive_all(command, length)))
    _check_settled(lu, states)
    if states:
        yield lu.port_groups.change(states, Cause.EXPLICIT, but=command.path.nexus)
    return Completion(wanted=length)


def _check_settled(lu: LogicalUnit, tags: Iterable[int]) -> None:
    if any(lu.port_groups.state(tag) is AccessState.TRANSITIONING for tag in tags):
        raise CheckCondition(Sense(SenseKey.NOT_READY, Asc.ACCESS_STATE_TRANSITION))


def _decode(lu: LogicalUnit, data: bytes) -> dict[int, AccessState]:
    """The state that is wanted of each group. Offline, LBA dependent and transitioning are not
    for initiators to set."""
    for at, value in enumerate(data[: port_groups.HEADER_LENGTH]):
        if value:
            raise CheckCondition(sense.invalid_field_in_parameter_list(at))
    states: dict[int, AccessState] = {}
    at = port_groups.HEADER_LENGTH
    for state, tag, reserved in port_groups.decode_wanted(data):
        if reserved:
            byte, bit = (at, 7) if reserved > 0xFF else (at + 1, None)
            raise CheckCondition(sense.invalid_field_in_parameter_list(byte, bit))
        if state > AccessState.UNAVAILABLE:
            raise CheckCondition(sense.invalid_field_in_parameter_list(at, 3))
        if tag not in lu.port_groups.groups or tag in states:
            raise CheckCondition(sense.invalid_field_in_parameter_list(at + 2))
        states[tag] = AccessState(state)
        at += port_groups.DESCRIPTOR_LENGTH
    return states
