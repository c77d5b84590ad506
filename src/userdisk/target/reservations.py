"""Reservations of a logical unit: who keeps whom out (SPC-5 5.14; SPC-2 5.5 for RESERVE).

Theory of operation. A unit has persistent reservations or is reserved by RESERVE, never both (CRH
is zero). The state of the former is replaced as a whole by PERSISTENT RESERVE OUT, in an
`Exclusive`, and saved before that if it has to outlive the process; a registration is by the
nexus' name, so it stays while the initiator is away. RESERVE belongs to a nexus and goes with it.

Which commands a reservation keeps out is decided by `conflicts` from two tables: what a command
does (the `access` column of the operation table) and what a reservation type keeps others from.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from userdisk.errors import HardwareError, UsageError, UserdiskError
from userdisk.scsi.reservation import Type
from userdisk.target.aspect import Aspect
from userdisk.target.command import CONFLICT, Command, Completion
from userdisk.target.registrations import State
from userdisk.target.row import Access, Flags, Row

if TYPE_CHECKING:
    from userdisk.target.logical_unit import Saved
    from userdisk.target.nexus import Nexus, Path

_SAVED_AS = "reservations"


class _Rule(NamedTuple):
    """What a persistent reservation keeps from whom, its holders excepted."""

    kept: frozenset[Access]
    registered_too: bool  #: from registered nexuses as well


_WRITES = frozenset({Access.WRITING})
_BOTH = frozenset({Access.READING, Access.WRITING})

#: SPC-5 5.14.1, SBC-4 4.17: the columns of the tables of commands that are allowed.
_RULES: dict[Type, _Rule] = {
    Type.WRITE_EXCLUSIVE: _Rule(_WRITES, True),
    Type.EXCLUSIVE_ACCESS: _Rule(_BOTH, True),
    Type.WRITE_EXCLUSIVE_REGISTRANTS_ONLY: _Rule(_WRITES, False),
    Type.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: _Rule(_BOTH, False),
    Type.WRITE_EXCLUSIVE_ALL_REGISTRANTS: _Rule(_WRITES, False),
    Type.EXCLUSIVE_ACCESS_ALL_REGISTRANTS: _Rule(_BOTH, False),
}


def conflicts(kind: Type, *, holder: bool, registered: bool, access: Access) -> bool:
    """Whether a persistent reservation keeps a command out.

    Args:
        kind: its type.
        holder: the command's nexus is a persistent reservation holder.
        registered: the nexus is registered.
        access: what the command does.
    """
    rule = _RULES[kind]
    if holder or (registered and not rule.registered_too):
        return False
    return access in rule.kept


class Reservations(Aspect):
    """The reservations of one unit.

    Args:
        lock: the unit's; guards who has it by RESERVE.
        saved: state from before; `UsageError` if it is not valid.
    """

    def __init__(self, lock: AbstractContextManager[object], saved: Saved) -> None:
        self._lock = lock
        self._saved = saved
        #: Persistent reservations; a value, replaced as a whole.
        self.state = _restored(saved)
        #: Who has the unit by RESERVE(6) or (10).
        self.reserver: Nexus | None = None

    @property
    def durable(self) -> bool:
        """Whether APTPL can be set: there is a place to save the state."""
        return self._saved.path is not None

    def permits(self, nexus: Nexus, access: Access) -> bool:
        """Whether the nexus may do this to the unit, whatever the command is."""
        state = self.state
        if self.reserver not in (None, nexus):
            return access is Access.ALWAYS
        if state.kind is None:
            return True
        name = nexus.name
        return not conflicts(
            state.kind, holder=state.holds(name), registered=name in state.keys, access=access
        )

    def replace(self, state: State) -> None:
        """Save the next state if it is to be, and make it the unit's. In an `Exclusive`; blocks.

        Raises HardwareError if it cannot be saved; nothing has changed then.
        """
        try:
            if state.through_power_loss:
                self._saved.save(_SAVED_AS, state.to_json())
            elif self.state.through_power_loss:
                self._saved.save(_SAVED_AS, None)
        except UserdiskError as error:
            raise HardwareError(str(error)) from error
        self.state = state

    def reserve(self, path: Path) -> bool:
        """RESERVE the unit for the path's nexus. In an `Exclusive`."""
        with self._lock:
            if self.reserver not in (None, path.nexus) or self.state.keys:
                return False
            # a nexus that is lost by now would keep it for ever
            self.reserver = path.nexus if path in path.lu.paths else None
        return True

    def release(self, nexus: Nexus) -> bool:
        """End the RESERVE of this nexus; False if it has none."""
        with self._lock:
            had = self.reserver is nexus
            if had:
                self.reserver = None
        return had

    # -- as an aspect --------------------------------------------------------------------------

    def restrains(self, path: Path) -> bool:
        """See `Aspect.restrains`: what may write may do everything."""
        return not self.permits(path.nexus, Access.WRITING)

    def check(self, row: Row, command: Command) -> Completion | None:
        """See `Aspect.check`."""
        nexus = command.path.nexus
        if self.reserver not in (None, nexus) and Flags.DESPITE_RESERVE not in row.flags:
            return CONFLICT
        return None if self.permits(nexus, row.access_of(command.cdb)) else CONFLICT

    def nexus_lost(self, nexus: Nexus) -> None:
        """See `Aspect.nexus_lost`."""
        self.release(nexus)

    def reset(self) -> None:
        """See `Aspect.reset`: persistent reservations stay."""
        with self._lock:
            self.reserver = None


def _restored(saved: Saved) -> State:
    value = saved.get(_SAVED_AS)
    if value is None:
        return State()
    try:
        return State.from_json(value)
    except ValueError as error:
        raise UsageError(
            f"{saved.path}: its reservations are not valid ({error}): restore the file, or remove"
            f' "{_SAVED_AS}" from it to start with none'
        ) from None
