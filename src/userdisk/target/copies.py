"""Copies and what became of them: RECEIVE COPY STATUS and its like (SPC-5 5.18.4, 6.22 to 6.26).

A copy is known by its nexus and list identifier, 8 bits or 32 in one number space. Its results are
kept until they were fetched (where the standard says that this ends it), another copy has the same
identifier, the nexus is lost, the unit is reset, or room is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from userdisk.scsi import sense, third_party_copy
from userdisk.scsi.copy_status import Progress, State
from userdisk.scsi.sense import Asc, Sense, SenseKey
from userdisk.scsi.third_party_copy import MAX_COPIES
from userdisk.target.aspect import Aspect
from userdisk.target.command import CheckCondition, Command, Completion
from userdisk.target.data_in import data_in

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.nexus import Nexus


class _Kept(NamedTuple):
    """What is kept of a copy. The three kinds of results are fetched independently."""

    progress: Progress
    status: bool = True  #: RECEIVE COPY STATUS(LID1) has not been answered since it ended
    failure: bool = True  #: nor RECEIVE COPY FAILURE DETAILS(LID1)
    token: bytes = b""  #: until it was fetched


class Copies(Aspect):
    """The copies of one logical unit. Thread-safe."""

    def __init__(self, lu: LogicalUnit) -> None:
        self._lock = lu.lock
        self._kept: dict[Nexus, dict[int, _Kept]] = {}

    def begin(self, nexus: Nexus, identifier: int, progress: Progress) -> bool:
        """A copy begins; False: there are too many. Raises CheckCondition for a duplicate."""
        with self._lock:
            mine = self._kept.setdefault(nexus, {})
            if identifier in mine and mine[identifier].progress.state is State.RUNNING:
                raise CheckCondition(Sense(SenseKey.ILLEGAL_REQUEST, Asc.OPERATION_IN_PROGRESS))
            mine.pop(identifier, None)  # the new one is the youngest
            if len(mine) >= MAX_COPIES:
                done = (each for each, kept in mine.items() if _ended(kept))
                oldest = next(done, None)
                if oldest is None:
                    return False
                del mine[oldest]
            mine[identifier] = _Kept(progress)
            return True

    def keep_token(self, nexus: Nexus, identifier: int, token: bytes) -> None:
        """The copy has made a token, which can be fetched."""
        self._change(nexus, identifier, lambda kept: kept._replace(token=token))

    def find(self, nexus: Nexus, identifier: int) -> _Kept | None:
        """What is kept of a copy."""
        with self._lock:
            return self._kept.get(nexus, {}).get(identifier)

    def fetched(self, nexus: Nexus, identifier: int, seen: _Kept, left: _Kept) -> None:
        """Results were fetched as they were `seen`, and only `left` is kept of them."""
        self._change(nexus, identifier, lambda kept: left if kept is seen else kept)

    def _change(self, nexus: Nexus, identifier: int, change: Callable[[_Kept], _Kept]) -> None:
        with self._lock:
            mine = self._kept.get(nexus, {})
            if identifier in mine:
                mine[identifier] = change(mine[identifier])

    def nexus_lost(self, nexus: Nexus) -> None:
        """Its results are forgotten; what runs is its task's."""
        with self._lock:
            self._kept.pop(nexus, None)

    def reset(self) -> None:
        """All results are forgotten."""
        with self._lock:
            self._kept.clear()


def _ended(kept: _Kept) -> bool:
    return kept.progress.state is not State.RUNNING


def _find(lu: LogicalUnit, command: Command, identifier: int) -> _Kept:
    kept = lu.copies.find(command.path.nexus, identifier)
    if kept is None:
        raise CheckCondition(sense.invalid_field_in_cdb(2))
    return kept


def _allocation(cdb: bytes) -> int:
    return int.from_bytes(cdb[10:14], "big")


def status_lid1(lu: LogicalUnit, command: Command) -> Completion:
    """RECEIVE COPY STATUS(LID1): progress in short; once after the copy has ended."""
    cdb = command.cdb
    kept = _find(lu, command, cdb[2])
    if not kept.status:
        raise CheckCondition(sense.invalid_field_in_cdb(2))
    if _ended(kept):
        lu.copies.fetched(command.path.nexus, cdb[2], kept, kept._replace(status=False))
    return data_in(kept.progress.short(), _allocation(cdb))


def failure_details_lid1(lu: LogicalUnit, command: Command) -> Completion:
    """RECEIVE COPY FAILURE DETAILS(LID1): the sense data of a copy that has failed; once."""
    cdb = command.cdb
    kept = _find(lu, command, cdb[2])
    if not _ended(kept):
        raise CheckCondition(sense.invalid_field_in_cdb(2))
    if not kept.failure or not kept.progress.sense:
        return data_in(bytes(4), _allocation(cdb))
    data = kept.progress.failure()
    if not 0 < _allocation(cdb) < len(data):
        lu.copies.fetched(command.path.nexus, cdb[2], kept, kept._replace(failure=False))
    return data_in(data, _allocation(cdb))


def operating_parameters(lu: LogicalUnit, command: Command) -> Completion:
    """RECEIVE COPY OPERATING PARAMETERS."""
    return data_in(third_party_copy.operating_parameters(), _allocation(command.cdb))


def status_lid4(lu: LogicalUnit, command: Command) -> Completion:
    """RECEIVE COPY STATUS(LID4): progress in full."""
    cdb = command.cdb
    kept = _find(lu, command, int.from_bytes(cdb[2:6], "big"))
    return data_in(kept.progress.long(), _allocation(cdb))


def rod_token_information(lu: LogicalUnit, command: Command) -> Completion:
    """RECEIVE ROD TOKEN INFORMATION: progress in full, and the token that was made; once."""
    cdb = command.cdb
    identifier = int.from_bytes(cdb[2:6], "big")
    kept = _find(lu, command, identifier)
    data = kept.progress.long(kept.token)
    if kept.token and not 0 < _allocation(cdb) < len(data):
        lu.copies.fetched(command.path.nexus, identifier, kept, kept._replace(token=b""))
    return data_in(data, _allocation(cdb))
