"""RESERVE and RELEASE (6) and (10), of the whole unit (SPC-2 7.16, 7.17, 7.21, 7.22, 5.5.1).

Extents and third parties are not offered: the usage maps refuse them. While any nexus is registered
for persistent reservations, all four conflict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.operation import Exclusive, Sequel
from userdisk.target.command import CONFLICT, GOOD, Command, Completion, Steps

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit


def reserve(lu: LogicalUnit, command: Command) -> Steps:
    """RESERVE; the nexus that has the unit may repeat it."""
    granted = yield Exclusive(lambda: _reserve(lu, command))
    return GOOD if granted else CONFLICT


def _reserve(lu: LogicalUnit, command: Command) -> Sequel:
    yield from ()
    if command.task is not None and command.task.aborted:
        return False  # nobody hears of it, so nobody would release it
    granted = lu.reservations.reserve(command.path)
    if granted:
        lu.refresh()
    return granted


def release(lu: LogicalUnit, command: Command) -> Completion:
    """RELEASE; from anybody else it is GOOD and does nothing."""
    if lu.reservations.state.keys:
        return CONFLICT
    if lu.reservations.release(command.path.nexus):
        lu.refresh()
    return GOOD
