"""The medium of a logical unit: ejected, loaded, locked (SBC-4 4.6, 5.31; SPC-5 6.16).

START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL. Theory of operation:

    loaded -> ejected: START STOP UNIT with LOEJ, or `eject`; flushed first, and alone in the unit.
    What was on its way there then finds no medium, even if there is one again by then: when the
    eject is answered, nothing changes the unit any more.
    ejected -> loaded: the same with START, or `load`; everybody else is told 28/00.
    locked, while any nexus prevents removal: it neither leaves nor comes.

The unit stays open, so that nothing is lost; a server that starts again has its medium loaded. A
unit that raises `NoMedium` by itself is not this one's business.

There are no power conditions, which would be for one initiator to choose and for all to suffer:
every one of them, and START=0 without LOEJ, flushes, and the unit stays ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from userdisk.errors import NoMedium
from userdisk.operation import Exclusive, Kind, Operation, Sequel
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, Sense
from userdisk.target.aspect import Aspect
from userdisk.target.command import GOOD, CheckCondition, Command, Completion, Steps
from userdisk.target.row import Access, Flags, Row

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.nexus import Nexus, Path

_START, _LOEJ, _NO_FLUSH = 0x01, 0x02, 0x04

#: Hears how an `eject` or a `load` has ended: None, or why not.
Done = Callable[[BaseException | None], None]


class Medium(Aspect):
    """Whether the medium is there, and who keeps it. All methods may be called from any thread."""

    def __init__(self, lu: LogicalUnit) -> None:
        self._lu = lu
        self.loaded = True
        self._preventing: frozenset[Nexus] = frozenset()

    # -- from the program that serves the unit -------------------------------------------------

    def eject(self, done: Done, *, force: bool = False) -> None:
        """Flush the unit and take its medium out; ejecting twice is no error. Does not block.

        Args:
            done: called on a thread of the unit. The error is a `CheckCondition` while somebody
                prevents removal, the unit disables it, or it is being sanitized; else what the
                flush raised. The medium then stays.
            force: whoever prevents removal.
        """
        steps = self._eject(None, force=force)
        self._lu.gate.submit(Exclusive(steps), lambda operation: done(operation.error))

    def load(self, done: Done) -> None:
        """Put the medium in again; loading twice is no error. As `eject`."""
        self._lu.gate.submit(Exclusive(self._load(None)), lambda operation: done(operation.error))

    # -- what commands ask ---------------------------------------------------------------------

    def prevent(self, nexus: Nexus, *, removal: bool) -> None:
        """A nexus locks the medium, or does not keep it locked any more."""
        with self._lu.lock:
            rest = self._preventing - {nexus}
            self._preventing = rest | {nexus} if removal else rest

    def moving(self, nexus: Nexus, *, loaded: bool) -> Exclusive | None:
        """What ejects or loads the medium; None: it is so already.

        Raises CheckCondition where the medium may not be moved.
        """
        if not self._lu.parameters.removable:
            raise CheckCondition(sense.invalid_field_in_cdb(4, 1))
        if self._lu.parameters.eject_disabled and not loaded:
            raise CheckCondition(sense.medium_removal_prevented())
        if self.loaded is loaded:
            return None
        self._check_free()
        return Exclusive(self._load(nexus) if loaded else self._eject(nexus))

    def restrains(self, path: Path) -> bool:
        """See `Aspect.restrains`."""
        return not self.loaded

    def check(self, row: Row, command: Command) -> Completion | None:
        """See `Aspect.check`."""
        if not self.loaded and Flags.WITHOUT_MEDIUM not in row.flags:
            raise CheckCondition(sense.medium_not_present())
        return None

    def pollable(self) -> Sense | None:
        """See `Aspect.pollable`."""
        return None if self.loaded else sense.medium_not_present()

    def nexus_lost(self, nexus: Nexus) -> None:
        """See `Aspect.nexus_lost`."""
        self.prevent(nexus, removal=False)

    def preempted(self, nexus: Nexus) -> None:
        """See `Aspect.preempted`."""
        self.prevent(nexus, removal=False)

    def reset(self) -> None:
        """See `Aspect.reset`: nobody prevents removal any more."""
        with self._lu.lock:
            self._preventing = frozenset()

    # -- steps, alone in the unit --------------------------------------------------------------

    def _eject(self, nexus: Nexus | None, *, force: bool = False) -> Callable[[], Sequel]:
        def steps() -> Sequel:
            if not self.loaded:
                return
            self._lu.sanitize.check_idle()
            if not force:
                self._check_free(disabled=self._lu.parameters.eject_disabled)
            yield from _flush(self._lu)
            with self._lu.lock:
                if not force:
                    self._check_free()  # or somebody has locked it meanwhile
                self.loaded = False
            self._lu.rods.cancel_all()
            self._lu.gate.bar(self, NoMedium)
            self._lu.end_era(NoMedium)
            self._lu.refresh()

        return steps

    def _load(self, nexus: Nexus | None) -> Callable[[], Sequel]:
        def steps() -> Sequel:
            if self.loaded:
                return
            if nexus is not None:
                self._check_free()
            self.loaded = True
            self._lu.gate.bar(self, None)
            self._lu.establish(Asc.MEDIUM_MAY_HAVE_CHANGED, but=nexus)
            self._lu.refresh()
            yield from ()

        return steps

    def _check_free(self, *, disabled: bool = False) -> None:
        if self._preventing or disabled:
            raise CheckCondition(sense.medium_removal_prevented())


def offered(lu: LogicalUnit) -> bool:
    """Whether the medium can be locked at all."""
    return lu.parameters.removable


def start_stop_access(cdb: bytes) -> Access:
    """START=1 is allowed to everybody, unless it is about power (SBC-4 table 14)."""
    return Access.ALWAYS if cdb[4] & (0xF0 | _START) == _START else Access.WRITING


def prevent_access(cdb: bytes) -> Access:
    """Allowing is allowed to everybody (SPC-5 table 65)."""
    return Access.WRITING if cdb[4] & 1 else Access.ALWAYS


def start_stop_unit(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """START STOP UNIT; a POWER CONDITION makes LOEJ and START be ignored.

    IMMED is accepted and not used: an eject is answered when the medium is out.
    """
    what = command.cdb[4]
    power = bool(what & 0xF0)
    if what & _LOEJ and not power:
        move = lu.medium.moving(command.path.nexus, loaded=bool(what & _START))
        return GOOD if move is None else _move(move)
    if not lu.medium.loaded:
        raise CheckCondition(sense.medium_not_present())
    stops = power or not what & _START
    if stops and not what & _NO_FLUSH and not lu.parameters.write_protected:
        return _stop(lu)
    return GOOD


def _move(exclusive: Exclusive) -> Steps:
    yield exclusive
    return GOOD


def _stop(lu: LogicalUnit) -> Steps:
    yield from _flush(lu)
    return GOOD


def _flush(lu: LogicalUnit) -> Sequel:
    if not lu.parameters.write_protected:
        yield Operation(Kind.FLUSH)


def prevent_allow(lu: LogicalUnit, command: Command) -> Completion:
    """PREVENT ALLOW MEDIUM REMOVAL: of this nexus, until it allows, is lost, or a reset."""
    lu.medium.prevent(command.path.nexus, removal=bool(command.cdb[4] & 1))
    return GOOD
