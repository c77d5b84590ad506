"""An aspect of a logical unit: one part of its state that commands come to feel (SAM-6 5).

Reservations, the medium, SANITIZE, access states of ports and mode parameters are one each. An
aspect says whether it may keep a path's commands from running; while any does, the path is off the
fast path, and each command is shown to every aspect. So the common case pays for none of them.

Whoever changes an aspect's state so that it restrains more than before does it in an `Exclusive`
operation and calls `LogicalUnit.refresh` there: no batch runs meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.target.command import Command, Completion

if TYPE_CHECKING:
    from userdisk.scsi.sense import Sense
    from userdisk.target.nexus import Nexus, Path
    from userdisk.target.row import Row


class Aspect:
    """The default: restrains nobody. Methods are called from any thread and do not block."""

    def restrains(self, path: Path) -> bool:
        """Whether `check` might refuse a command of this path. Under the logical unit's lock."""
        return False

    def check(self, row: Row, command: Command) -> Completion | None:
        """Let the command run (None), answer it, or raise CheckCondition."""
        return None

    def pollable(self) -> Sense | None:
        """What REQUEST SENSE tells of it while nothing else is to be told (SPC-5 6.39)."""
        return None

    def nexus_lost(self, nexus: Nexus) -> None:
        """An I_T nexus is gone. Without the logical unit's lock."""

    def preempted(self, nexus: Nexus) -> None:
        """PREEMPT AND ABORT ends what a nexus has begun (SPC-5 5.14.11.2.6). As `nexus_lost`."""

    def reset(self) -> None:
        """The logical unit was reset. Without the logical unit's lock."""
