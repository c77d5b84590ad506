"""What commands and task management functions there are, as data (SPC-5 6.35, 6.36)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from userdisk.scsi import fields
from userdisk.scsi.fields import Field, Value

#: REPORTING OPTIONS of REPORT SUPPORTED OPERATION CODES; EITHER is newer than SPC-4.
ALL, OPCODE, SERVICE_ACTION, EITHER = range(4)

_NOT_SUPPORTED, _STANDARD = 1, 3  # SUPPORT

#: The all_commands data begins with COMMAND DATA LENGTH; of each command there is one of these.
ALL_HEADER_LENGTH = 4
ALL_HEADER: Sequence[Field] = (Field("COMMAND DATA LENGTH", 0, 32),)
COMMAND_LENGTH = 8
COMMAND: Sequence[Field] = (
    Field("OPERATION CODE", 0),
    Field("SERVICE ACTION", 2, 16),
    Field("CTDP", 5, 1, 1),
    Field("SERVACTV", 5, 1, 0),
    Field("CDB LENGTH", 6, 16),
)
#: The one_command data, before the CDB usage data.
ONE_LENGTH = 4
ONE: Sequence[Field] = (
    Field("CTDP", 1, 1, 7),
    Field("SUPPORT", 1, 3, 2),
    Field("CDB SIZE", 2, 16),
)
TIMEOUTS_LENGTH = 12
TIMEOUTS: Sequence[Field] = (
    Field("DESCRIPTOR LENGTH", 0, 16),
    Field("COMMAND SPECIFIC", 3),
    Field("NOMINAL COMMAND PROCESSING TIMEOUT", 4, 32),
    Field("RECOMMENDED COMMAND TIMEOUT", 8, 32),
)
#: How long a unit takes is not known, so no time is indicated.
_TIMEOUTS = fields.encode(TIMEOUTS_LENGTH, TIMEOUTS, {"DESCRIPTOR LENGTH": TIMEOUTS_LENGTH - 2})


class Supported(NamedTuple):
    """A command; `usage` is its CDB usage data."""

    service_action: int | None
    usage: bytes


def all_commands(commands: Iterable[Supported], *, timeouts: bool) -> bytes:
    """The all_commands parameter data."""
    body = b""
    for action, usage in commands:
        values = {
            "OPERATION CODE": usage[0],
            "SERVICE ACTION": action or 0,
            "CTDP": int(timeouts),
            "SERVACTV": int(action is not None),
            "CDB LENGTH": len(usage),
        }
        body += fields.encode(COMMAND_LENGTH, COMMAND, values)
        body += _TIMEOUTS if timeouts else b""
    return fields.encode(ALL_HEADER_LENGTH, ALL_HEADER, {"COMMAND DATA LENGTH": len(body)}) + body


def one_command(command: Supported | None, *, timeouts: bool) -> bytes:
    """The one_command parameter data; None: the command is not supported."""
    if command is None:
        return fields.encode(ONE_LENGTH, ONE, {"SUPPORT": _NOT_SUPPORTED})
    usage = command.usage
    values = {"CTDP": int(timeouts), "SUPPORT": _STANDARD, "CDB SIZE": len(usage)}
    return fields.encode(ONE_LENGTH, ONE, values) + usage + (_TIMEOUTS if timeouts else b"")


FUNCTIONS: Sequence[Field] = (
    Field("ATS", 0, 1, 7),
    Field("ATSS", 0, 1, 6),
    Field("CACAS", 0, 1, 5),
    Field("CTSS", 0, 1, 4),
    Field("LURS", 0, 1, 3),
    Field("QTS", 0, 1, 2),
    Field("TRS", 0, 1, 1),
    Field("QAES", 1, 1, 2),
    Field("QTSS", 1, 1, 1),
    Field("ITNRS", 1, 1, 0),
    Field("ADDITIONAL DATA LENGTH", 3),
    Field("TMFTMOV", 4, 1, 0),
    Field("LONG TIMEOUT", 8, 32),
    Field("SHORT TIMEOUT", 12, 32),
)
_BASIC, _EXTENDED = 4, 16  # bytes


def functions(supported: Iterable[str], *, extended: bool) -> bytes:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS data.

    Args:
        supported: names of bits in `FUNCTIONS`.
        extended: with room for timeouts, of which none is indicated.
    """
    length = _EXTENDED if extended else _BASIC
    values: dict[str, Value] = dict.fromkeys(supported, 1)
    return fields.encode(length, FUNCTIONS, values | {"ADDITIONAL DATA LENGTH": length - 4})
