"""TEST UNIT READY, REQUEST SENSE, REPORT LUNS (SPC-5 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.scsi import luns as lun_list
from userdisk.scsi import sense
from userdisk.scsi.sense import Sense
from userdisk.target.command import GOOD, CheckCondition, Command, Completion
from userdisk.target.data_in import data_in

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.target import Target


def test_unit_ready(lu: LogicalUnit, command: Command) -> Completion:
    """The unit is ready."""
    return GOOD


def sense_data(cdb: bytes, what: Sense) -> Completion:
    """REQUEST SENSE data, in the format that the DESC bit asks for."""
    return data_in(what.encode(descriptor=bool(cdb[1] & 1)), cdb[4])


def request_sense(lu: LogicalUnit, command: Command) -> Completion:
    """The most urgent unit attention as data, which clears it; else why the unit is not ready."""
    attention = None if command.path.ready else lu.take_attention(command.path)
    if attention is not None:
        return sense_data(command.cdb, sense.unit_attention(attention))
    told = (aspect.pollable() for aspect in lu.aspects)
    return sense_data(command.cdb, next(filter(None, told), sense.NO_SENSE))


def report_luns(lu: LogicalUnit, command: Command) -> Completion:
    """The logical units of the target."""
    return luns(command.path.nexus.target, command.cdb)


def luns(target: Target, cdb: bytes) -> Completion:
    """REPORT LUNS to any LUN of the target; there are no well-known logical units."""
    if cdb[2] not in lun_list.SELECT_REPORTS:
        raise CheckCondition(sense.invalid_field_in_cdb(2))
    listed = () if cdb[2] == 1 else target.luns
    return data_in(lun_list.encode(listed), int.from_bytes(cdb[6:10], "big"))
