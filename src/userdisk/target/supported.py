"""REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-5 6.35, 6.36).

Both are print-outs of the tables that commands and functions are run by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from userdisk.scsi import sense
from userdisk.scsi import supported as wire
from userdisk.scsi.supported import Supported
from userdisk.target import task_management
from userdisk.target.command import CheckCondition, Command, Completion
from userdisk.target.data_in import data_in
from userdisk.target.row import Row
from userdisk.target.task_management import Function

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit


def operation_codes(lu: LogicalUnit, command: Command, rows: Sequence[Row]) -> Completion:
    """REPORT SUPPORTED OPERATION CODES: what `rows` offers of this unit."""
    cdb = command.cdb
    timeouts, option = bool(cdb[2] & 0x80), cdb[2] & 0x07
    if option > wire.EITHER:
        raise CheckCondition(sense.invalid_field_in_cdb(2, 2))
    if option == wire.ALL:
        offered = (_supported(row) for row in rows if row.offered(lu))
        data = wire.all_commands(offered, timeouts=timeouts)
    else:
        row = _one(option, cdb[3], int.from_bytes(cdb[4:6], "big"), rows)
        found = None if row is None or not row.offered(lu) else _supported(row)
        data = wire.one_command(found, timeouts=timeouts)
    return data_in(data, int.from_bytes(cdb[6:10], "big"))


def _supported(row: Row) -> Supported:
    return Supported(row.service_action, row.usage)


def _one(option: int, opcode: int, action: int, rows: Sequence[Row]) -> Row | None:
    """The row that is asked for; raises CheckCondition if the option contradicts the opcode."""
    actions = {row.service_action: row for row in rows if row.opcode == opcode}
    plain = actions.get(None)
    contradicted = wire.SERVICE_ACTION if plain else wire.OPCODE
    if actions and option == contradicted:
        raise CheckCondition(sense.invalid_field_in_cdb(2, 2))
    if plain is None:
        return actions.get(action)
    return None if option == wire.EITHER and action else plain


#: The bit that reports a function.
_BITS: dict[Function, str] = {
    Function.ABORT_TASK: "ATS",
    Function.ABORT_TASK_SET: "ATSS",
    Function.CLEAR_ACA: "CACAS",
    Function.CLEAR_TASK_SET: "CTSS",
    Function.LOGICAL_UNIT_RESET: "LURS",
    Function.TARGET_WARM_RESET: "TRS",
    Function.TARGET_COLD_RESET: "TRS",
}


def task_management_functions(lu: LogicalUnit, command: Command) -> Completion:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS."""
    cdb = command.cdb
    bits = (_BITS[function] for function in task_management.SUPPORTED if function in _BITS)
    data = wire.functions(bits, extended=bool(cdb[2] & 0x80))
    return data_in(data, int.from_bytes(cdb[6:10], "big"))
