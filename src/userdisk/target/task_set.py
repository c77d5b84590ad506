"""The task set of a logical unit: commands that have not ended, and which of them may run.

SAM-6 8: one task set for all I_T nexuses. SIMPLE commands run in any order, an ORDERED one when all
that are older have ended and before all that are newer, HEAD OF QUEUE at once. Task management
marks tasks and hears when the last of them has left.

A port's fast path begins and ends commands within a batch, without the task set; while an ORDERED
command is in it, there is no fast path.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from userdisk.target.command import Abortable, Attribute


class TaskSet:
    """The tasks of one unit. All methods may be called from any thread.

    Args:
        lock: guards the set; nothing else is called under it.
    """

    def __init__(self, lock: AbstractContextManager[object]) -> None:
        self._lock = lock
        self._tasks: dict[Abortable, None] = {}  # in the order of their arrival
        self._dormant: list[Abortable] = []  # those of them that may not run yet
        self._waits: list[tuple[set[Abortable], Callable[[], None]]] = []
        self.ordered = 0  #: ORDERED tasks in the set

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: Abortable) -> None:
        """Add a task, `enabled` or not; in the latter case `wake` is called when it may run."""
        with self._lock:
            self._tasks[task] = None
            self.ordered += task.attribute == Attribute.ORDERED
            task.enabled = not self.ordered or self._may_run(task)
            if not task.enabled:
                self._dormant.append(task)

    def end(self, task: Abortable) -> bool:
        """A task has left the unit. True: send its response; False: it was aborted, send none."""
        finished: list[Callable[[], None]] = []
        awake: list[Abortable] = []
        with self._lock:
            del self._tasks[task]
            self.ordered -= task.attribute == Attribute.ORDERED
            alive = not task.aborted
            if self._dormant:
                if task in self._dormant:
                    self._dormant.remove(task)
                awake = [each for each in self._dormant if self._may_run(each)]
                self._dormant = [each for each in self._dormant if each not in awake]
                for each in awake:
                    each.enabled = True
            for pending, done in self._waits:
                pending.discard(task)
                if not pending:
                    finished.append(done)
            if finished:
                self._waits = [wait for wait in self._waits if wait[0]]
        for each in awake:
            each.wake()
        for done in finished:
            done()
        return alive

    def mark(
        self, chosen: Callable[[Abortable], bool], done: Callable[[], None]
    ) -> list[Abortable]:
        """Mark the chosen tasks as aborted; `done` is called when the last of them has ended.

        Returns those that were not marked before: call `abort` on each.
        """
        with self._lock:
            marked = {task for task in self._tasks if chosen(task)}
            fresh = [task for task in marked if not task.aborted]
            for task in fresh:
                task.aborted = True
            if marked:
                self._waits.append((marked, done))
        if not marked:
            done()
        return fresh

    def _may_run(self, task: Abortable) -> bool:
        """Whether no older task keeps it waiting; the caller holds the lock."""
        if task.attribute == Attribute.HEAD_OF_QUEUE:
            return True
        for older in self._tasks:
            if older is task:
                return True
            if Attribute.ORDERED in (task.attribute, older.attribute):
                return False
        return True
