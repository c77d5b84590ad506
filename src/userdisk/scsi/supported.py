"""What commands and task management functions there are, as data (SPC-5 6.35, 6.36)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from userdisk.scsi import fields
from userdisk.scsi.fields import Field, Value

#: REPORTING OPTIONS of REPORT SUPPORTED OPERATION CODES; EITHER is newer than SPC-4.
ALL, OPCODE, SERVICE_ACTION, EITHER = range(4)

_NOT_SUPPORTED, _STANDARD = 1, 3  # SUPPORT
#: Command timeouts descriptor: how long a unit takes is not known, so no time is indicated.
_TIMEOUTS = struct.pack(">HxxII", 10, 0, 0)
_CTDP = 0x80


class Supported(NamedTuple):
    """A command; `usage` is its CDB usage data."""

    service_action: int | None
    usage: bytes


def all_commands(commands: Iterable[Supported], *, timeouts: bool) -> bytes:
    """The all_commands parameter data."""
    body = b""
    for action, usage in commands:
        flags = (0x02 if timeouts else 0) | (0x01 if action is not None else 0)
        body += struct.pack(">BxHxBH", usage[0], action or 0, flags, len(usage))
        body += _TIMEOUTS if timeouts else b""
    return struct.pack(">I", len(body)) + body


def one_command(command: Supported | None, *, timeouts: bool) -> bytes:
    """The one_command parameter data; None: the command is not supported."""
    if command is None:
        return bytes((0, _NOT_SUPPORTED, 0, 0))
    usage = command.usage
    flags = _CTDP if timeouts else 0
    header = struct.pack(">xBH", flags | _STANDARD, len(usage))
    return header + usage + (_TIMEOUTS if timeouts else b"")


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
