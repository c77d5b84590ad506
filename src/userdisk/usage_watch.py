"""Asks thin units with a soft threshold how much storage they use, about once a second.

A question is an operation like any other: it waits for its turn in the unit's own queue, on the
unit's thread. The next one is asked when the last has been answered, so a slow unit has one of
them at most, and no connection ever waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from functools import partial

from userdisk.errors import StorageError
from userdisk.operation import Kind, Operation
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.task import outcome

log = logging.getLogger("userdisk")

INTERVAL = 1.0  # seconds


class UsageWatch:
    """The watch over the given units, those without a threshold left out."""

    def __init__(self, units: Iterable[LogicalUnit]) -> None:
        self._units = [lu for lu in units if lu.soft_threshold.enabled]
        self._asked: set[LogicalUnit] = set()
        self._failed: set[LogicalUnit] = set()  # which the log has been told
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage watch", daemon=True)

    def start(self) -> None:
        """Begin to ask, when the units are open."""
        if self._units:
            self._thread.start()

    def stop(self) -> None:
        """Ask no more; what was asked may still be answered."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            for lu in self._units:
                if lu not in self._asked:
                    self._asked.add(lu)
                    lu.gate.submit(Operation(Kind.USAGE), partial(self._answered, lu))
            if self._stopping.wait(INTERVAL):
                return

    def _answered(self, lu: LogicalUnit, operation: Operation) -> None:
        """The unit has answered; on its thread."""
        try:
            lu.soft_threshold.look(lu.gate.checked_usage(outcome(lu.gate, operation)))
            self._failed.discard(lu)
        except StorageError as error:
            if lu not in self._failed:
                self._failed.add(lu)
                log.warning("unit %s: its usage is not known: %s", lu.gate.name, error)
        finally:
            self._asked.discard(lu)
