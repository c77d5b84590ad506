"""Unit attention conditions: what a nexus still has to be told (SAM-6 5.14).

A condition waits at a path until some command (not INQUIRY, REPORT LUNS) reports it; the most
urgent first. A condition that waits already is not queued twice, so the queue is bounded by the
number of codes.
"""

from __future__ import annotations

from userdisk.scsi.sense import Asc

#: From the most urgent on; codes that are not here come last, in the order of their coming.
_URGENCY: dict[int, int] = {
    code: rank
    for rank, code in enumerate(
        (
            Asc.POWER_ON_OR_RESET,
            Asc.POWER_ON,
            Asc.TARGET_RESET,
            Asc.LOGICAL_UNIT_RESET,
            Asc.NEXUS_LOSS,
            Asc.COMMANDS_CLEARED,
            Asc.MEDIUM_MAY_HAVE_CHANGED,
            Asc.REPORTED_LUNS_CHANGED,
            Asc.INQUIRY_DATA_CHANGED,
            Asc.CAPACITY_CHANGED,
            Asc.ACCESS_STATE_CHANGED,
            Asc.MODE_PARAMETERS_CHANGED,
        )
    )
}


class Attentions:
    """The conditions that wait at one path. The logical unit's lock guards it."""

    __slots__ = ("_codes",)

    def __init__(self) -> None:
        self._codes: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._codes)

    def add(self, code: int) -> None:
        """Queue a condition, unless it waits already."""
        if code not in self._codes:
            self._codes.append(code)
            self._codes.sort(key=lambda each: _URGENCY.get(each, len(_URGENCY)))

    def take(self, family: int | None = None) -> int | None:
        """The most urgent condition, which is told now; None if there is none.

        Args:
            family: only one with this additional sense code, whatever its qualifier.
        """
        for number, code in enumerate(self._codes):
            if family is None or code >> 8 == family:
                return self._codes.pop(number)
        return None
