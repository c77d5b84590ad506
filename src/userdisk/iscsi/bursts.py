"""The session's budget in bytes, and the R2Ts that ask for write data within it (RFC 7143 11.8).

Data-in that is under way and bursts that were asked for count; a command that does not fit waits.
Data-out that a handler assembles counts as a whole from its first R2T to the end of the command.
One command of a session may always go, whatever its size, so that every one ends.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from userdisk.budget import SESSION_LIMIT
from userdisk.iscsi import pdu
from userdisk.iscsi.pdu import TargetOpcode

if TYPE_CHECKING:
    from userdisk.iscsi.connection import Connection
    from userdisk.iscsi.scsi_task import ScsiTask

_MUCH = 64 << 10  # bytes of solicited data that are worth landing


class Bursts:
    """What the commands of one connection hold of the budgets. On the owner's thread only."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: deque[ScsiTask] = deque()  # for budget, to be asked for data
        self._in_flight = 0  # bytes of the session's budget
        self._coming = 0  # of these, bytes that were asked for
        self._ttt = 0

    @property
    def waiting(self) -> bool:
        """Whether a command waits for budget before it can be asked for its data."""
        return bool(self._waiting)

    def fits(self, amount: int) -> bool:
        """Whether a command with this much data-in may start."""
        return not self._in_flight or self._in_flight + amount <= SESSION_LIMIT

    def reserve(self, task: ScsiTask, amount: int) -> None:
        """Count the data-in of a command that starts."""
        task.reserved = amount
        self._in_flight += amount

    def end(self, task: ScsiTask) -> None:
        """The command has ended: give back all that it holds."""
        self.release(task)
        self._give(task.kept)
        self._in_flight -= task.reserved
        task.reserved = task.kept = 0
        task.wanted = None

    def release(self, task: ScsiTask) -> None:
        """The burst before was consumed: give its bytes back."""
        if task.solicited:
            self._give(task.budgeted)
            self._expect(-task.solicited)
            task.solicited = task.budgeted = 0

    def _give(self, amount: int) -> None:
        if amount:
            self._connection.environment.budget.give(amount)
            self._in_flight -= amount

    def solicit(self, task: ScsiTask) -> None:
        """Ask for the data that the task's handler wants, as soon as there is budget."""
        if task.kept:  # it has its budget; those that wait may wait for it
            self._solicit(task)
            return
        self._waiting.append(task)
        if self._waiting[0] is task:
            self.retry()

    def retry(self) -> None:
        """Ask for what had to wait."""
        while self._waiting:
            if self._waiting[0].wanted is not None and not self._solicit(self._waiting[0]):
                break
            self._waiting.popleft()

    def _solicit(self, task: ScsiTask) -> bool:
        connection = self._connection
        data, wanted = task.data, task.wanted
        assert data is not None and wanted is not None
        length = data.burst(wanted.length)
        amount = length
        if wanted.whole:
            amount = 0 if task.kept else wanted.whole
        alone = self._in_flight == task.reserved + task.kept
        if not alone and self._in_flight + amount > SESSION_LIMIT:
            return False
        if not connection.environment.budget.take(amount, force=alone):
            return False
        if wanted.whole:
            task.kept += amount
        else:
            task.budgeted = amount
        task.solicited = length
        self._in_flight += amount
        self._expect(length)
        self._ttt = self._ttt % (pdu.RESERVED_TAG - 1) + 1
        offset = data.solicit(length, self._ttt)
        connection.out.send(
            pdu.R2T.pack(
                TargetOpcode.R2T,
                pdu.FINAL,
                task.lun,
                task.itt,
                self._ttt,
                *connection.out.numbers(status=False),
                data.r2t_sn,
                offset,
                length,
            )
        )
        data.r2t_sn += 1
        return True

    def _expect(self, change: int) -> None:
        self._coming += change
        self._connection.incoming.approaching = self._coming >= _MUCH
