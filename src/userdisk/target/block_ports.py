"""Ports that ask for blocks and know no commands: NBD, an attached disk (SPC-5 5.14).

All of them together are one nexus that nobody can register, in no target port group: access states
do not bind it, everything else does. Each kind of operation is refused as the command would be
that does the same, by the same rows of the operation table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from userdisk.errors import (
    HardwareError,
    MediumError,
    NoMedium,
    NotReady,
    SanitizeInProgress,
    StorageError,
    WriteProtected,
)
from userdisk.operation import Kind
from userdisk.scsi.opcodes import Opcode, ServiceActionIn16
from userdisk.scsi.sense import Sense, SenseKey
from userdisk.target.nexus import Nexus, Path

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit


def _cdb(opcode: int, service_action: int = 0) -> bytes:
    return bytes((opcode, service_action)).ljust(16, b"\0")


#: The command that does the same as an operation.
COMMANDS: Mapping[Kind, bytes] = {
    Kind.READ: _cdb(Opcode.READ_16),
    Kind.WRITE: _cdb(Opcode.WRITE_16),
    Kind.FLUSH: _cdb(Opcode.SYNCHRONIZE_CACHE_16),
    Kind.UNMAP: _cdb(Opcode.UNMAP),
    Kind.ZERO: _cdb(Opcode.WRITE_SAME_16),
    Kind.EXTENTS: _cdb(Opcode.SERVICE_ACTION_IN_16, ServiceActionIn16.GET_LBA_STATUS),
}

#: What a refusal is for those who get no sense data: the exact one, else that of its sense key.
_BY_SENSE: Mapping[tuple[int, int], type[StorageError]] = {
    (each.sense[0], each.sense[1] << 8 | each.sense[2]): each
    for each in (NoMedium, SanitizeInProgress, WriteProtected)
}
_BY_KEY: Mapping[int, type[StorageError]] = {
    SenseKey.NOT_READY: NotReady,
    SenseKey.MEDIUM_ERROR: MediumError,
    SenseKey.DATA_PROTECT: WriteProtected,
}


class BlockPorts(Nexus):
    """The nexus of all ports for blocks; it belongs to no target, and has no name of its own."""

    __slots__ = ()

    def __init__(self) -> None:
        self.initiator = ""  # no iSCSI name is empty, so this one is never registered
        self.isid = 0
        self.port = 0  # none: relative port identifiers begin at 1
        self.paths = {}
        self.tell = None


def path(lu: LogicalUnit) -> Path:
    """The way of such ports to the unit; it has no unit attentions, which nobody could be told."""
    return Path(BlockPorts(), lu, 0)


def error(why: Sense) -> StorageError:
    """The refusal of a command, for a port that has no sense data."""
    kind = _BY_SENSE.get((why.key, why.code)) or _BY_KEY.get(why.key, HardwareError)
    return kind(str(why))
