"""LOG SENSE (SPC-5 6.8, 7.3; SBC-4 6.4).

Counters count from when the server started. There is no LOG SELECT, and no threshold of a counter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from userdisk.scsi import log, sense
from userdisk.scsi.log import Parameter
from userdisk.target import soft_threshold
from userdisk.target.command import CheckCondition, Command, Completion, Steps
from userdisk.target.data_in import data_in

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit


class Processed(NamedTuple):
    """Bytes that a logical unit has read and written for all its initiators."""

    read: int = 0
    written: int = 0


def _counters(processed: int, failed: int, control: int) -> list[Parameter]:
    return [
        log.counter(log.CORRECTED, 0, control),  # whatever a unit corrects, it does not tell
        log.counter(log.BYTES_PROCESSED, processed, control),
        log.counter(log.UNCORRECTED, failed, control),
    ]


def _write_errors(lu: LogicalUnit, control: int) -> list[Parameter]:
    return _counters(lu.processed().written, lu.gate.write_errors, control)


def _read_errors(lu: LogicalUnit, control: int) -> list[Parameter]:
    return _counters(lu.processed().read, lu.gate.read_errors, control)


def _temperature(lu: LogicalUnit, control: int) -> list[Parameter]:
    return [Parameter(0, bytes((0, log.NO_TEMPERATURE)))]


def _start_stop(lu: LogicalUnit, control: int) -> list[Parameter]:
    return [Parameter(log.ACCUMULATED_CYCLES, bytes(4))]  # nothing ever turns


def _exceptions(lu: LogicalUnit, control: int) -> list[Parameter]:
    return [Parameter(0, bytes((0, 0, log.NO_TEMPERATURE, 0)))]  # none is pending


#: Page code -> its parameters; PAGE CONTROL has a meaning for counters only.
_PAGES: dict[int, Callable[[LogicalUnit, int], list[Parameter]]] = {
    log.WRITE_ERRORS: _write_errors,
    log.READ_ERRORS: _read_errors,
    log.TEMPERATURE: _temperature,
    log.START_STOP: _start_stop,
    log.INFORMATIONAL_EXCEPTIONS: _exceptions,
}


def log_sense(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """LOG SENSE: a log page, from a parameter on."""
    cdb = command.cdb
    control, code, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    thin = soft_threshold.reports_usage(lu)
    if not (code in _PAGES or code == log.SUPPORTED_PAGES or (code == log.PROVISIONING and thin)):
        raise CheckCondition(sense.invalid_field_in_cdb(2, 5))
    if subpage and (subpage, code) != (log.ALL_SUBPAGES, log.SUPPORTED_PAGES):
        raise CheckCondition(sense.invalid_field_in_cdb(3))
    if code == log.PROVISIONING:
        return _provisioning(lu, cdb)
    if code != log.SUPPORTED_PAGES:
        return _answer(cdb, _PAGES[code](lu, control))
    _check_pointer(cdb, 0)
    pages = sorted({log.SUPPORTED_PAGES, *_PAGES, *((log.PROVISIONING,) if thin else ())})
    return data_in(log.list_of(pages, subpages=bool(subpage)), _allocation(cdb))


def _provisioning(lu: LogicalUnit, cdb: bytes) -> Steps:
    usage = yield from soft_threshold.ask(lu)
    exponent = soft_threshold.exponent(lu)
    parameters = [
        log.resources(log.AVAILABLE, usage.available >> exponent),
        log.resources(log.USED, -(-usage.used >> exponent)),
    ]
    return _answer(cdb, parameters)


def _answer(cdb: bytes, parameters: list[Parameter]) -> Completion:
    first = _check_pointer(cdb, parameters[-1].code)
    chosen = [parameter for parameter in parameters if parameter.code >= first]
    return data_in(log.page(cdb[2] & 0x3F, chosen), _allocation(cdb))


def _check_pointer(cdb: bytes, last: int) -> int:
    """PARAMETER POINTER; raises CheckCondition if it is beyond the last parameter."""
    pointer = int.from_bytes(cdb[5:7], "big")
    if pointer > last:
        raise CheckCondition(sense.invalid_field_in_cdb(5))
    return pointer


def _allocation(cdb: bytes) -> int:
    return int.from_bytes(cdb[7:9], "big")
