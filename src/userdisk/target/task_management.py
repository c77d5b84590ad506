"""Task management: which tasks a function ends, whom it tells, and when it is answered.

RFC 7143 11.5 and 11.6 (codes), SAM-6 7 (functions). A function marks tasks as aborted and has
their owners give them up; it is answered when the last of them has left its unit, so that nothing
of an aborted command happens after the answer. What fast paths of others have begun is no task, and
runs to its end: where a function ends commands of others, that comes before the answer as well.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from userdisk.scsi.sense import Asc
from userdisk.target.command import Abortable

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.nexus import Nexus


class Function(enum.IntEnum):
    """The function codes of iSCSI."""

    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_ACA = 3
    CLEAR_TASK_SET = 4
    LOGICAL_UNIT_RESET = 5
    TARGET_WARM_RESET = 6
    TARGET_COLD_RESET = 7
    TASK_REASSIGN = 8


class Response(enum.IntEnum):
    """The response codes of iSCSI."""

    COMPLETE = 0
    NO_SUCH_TASK = 1
    NO_SUCH_LUN = 2
    STILL_ALLEGIANT = 3
    REASSIGNMENT_NOT_SUPPORTED = 4
    NOT_SUPPORTED = 5
    AUTHORIZATION_FAILED = 6
    REJECTED = 255


class _Rule(NamedTuple):
    """What a function does to the tasks of a logical unit."""

    others: bool  #: also tasks of other nexuses
    whole_target: bool = False  #: every unit of the target
    reset: Asc | None = None  #: unit attention for every nexus of the unit
    cleared: Asc | None = None  #: unit attention for other nexuses that lost a task


_RULES: dict[int, _Rule] = {
    Function.ABORT_TASK_SET: _Rule(others=False),
    Function.CLEAR_TASK_SET: _Rule(others=True, cleared=Asc.COMMANDS_CLEARED),
    Function.LOGICAL_UNIT_RESET: _Rule(others=True, reset=Asc.LOGICAL_UNIT_RESET),
    Function.TARGET_WARM_RESET: _Rule(others=True, whole_target=True, reset=Asc.TARGET_RESET),
    Function.TARGET_COLD_RESET: _Rule(others=True, whole_target=True, reset=Asc.POWER_ON),
}

#: The functions that are performed, as REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS tells.
SUPPORTED: frozenset[Function] = frozenset(
    {Function.ABORT_TASK, *(function for function in Function if function in _RULES)}
)

_REFUSED: dict[int, Response] = {
    Function.CLEAR_ACA: Response.NOT_SUPPORTED,
    Function.TASK_REASSIGN: Response.REASSIGNMENT_NOT_SUPPORTED,
}


class _Countdown:
    """Calls `done` when every expected arrival has come, whatever thread they come on."""

    def __init__(
        self, lock: AbstractContextManager[object], expected: int, done: Callable[[], None]
    ) -> None:
        self._lock = lock
        self._expected = expected
        self._done = done

    def arrive(self) -> None:
        with self._lock:
            self._expected -= 1
            last = not self._expected
        if last:
            self._done()


def manage(
    function: int,
    nexus: Nexus,
    lun: int,
    task: Abortable | None,
    done: Callable[[int], None],
) -> None:
    """Perform a task management function. Does not block; may be called from any thread.

    Args:
        function: as in `Function`; anything else is answered NOT_SUPPORTED.
        nexus: where the function came from; its port has left the unit's gate.
        lun: the 8-byte LUN field; of no meaning for target resets.
        task: for ABORT TASK, the pending task that it names; None if there is no such task.
        done: called once with the response code, on the thread that ends the last task, perhaps
            before this returns. Ending the sessions after a cold reset is the port's.
    """
    if function in _REFUSED:
        done(_REFUSED[function])
        return
    rule = _RULES.get(function)
    path = nexus.target.path(nexus, lun)
    lu = None if path is None else path.lu
    if function == Function.ABORT_TASK:
        _abort_task(lu, task, done)
    elif rule is None:
        done(Response.NOT_SUPPORTED)
    elif rule.whole_target:
        _apply(rule, nexus, nexus.target.units, done)
    elif lu is None:
        done(Response.NO_SUCH_LUN)
    else:
        _apply(rule, nexus, (lu,), done)


def _abort_task(
    lu: LogicalUnit | None, task: Abortable | None, done: Callable[[int], None]
) -> None:
    if lu is None:
        done(Response.NO_SUCH_LUN)
    elif task is None:
        done(Response.NO_SUCH_TASK)
    else:
        for marked in lu.task_set.mark(lambda each: each is task, lambda: done(Response.COMPLETE)):
            marked.abort()


def _apply(
    rule: _Rule, nexus: Nexus, units: Sequence[LogicalUnit], done: Callable[[int], None]
) -> None:
    if not units:
        done(Response.COMPLETE)
        return
    everything = _Countdown(units[0].lock, 2 * len(units) + 1, lambda: done(Response.COMPLETE))
    marked: list[Abortable] = []
    for lu in units:
        fresh = lu.task_set.mark(lambda each: rule.others or each.nexus is nexus, everything.arrive)
        if rule.reset is not None:  # after that: a marked RESERVE is not granted any more
            lu.reset(rule.reset)
        if rule.cleared is not None:
            losers = {task.nexus for task in fresh} - {nexus}
            if losers:
                lu.establish(rule.cleared, losers)
        if rule.others:
            lu.when_left(everything.arrive)
        else:
            everything.arrive()
        marked += fresh
    for task in marked:
        task.abort()
    everything.arrive()
