"""A target: a name, its logical units, and the nexuses that use them (SAM-6 4.6).

LUNs are written in peripheral device addressing up to 255 and flat space addressing above
(SAM-6 4.7); either form finds the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from userdisk.errors import UsageError
from userdisk.scsi import sense
from userdisk.scsi.opcodes import Opcode
from userdisk.scsi.sense import Asc
from userdisk.target import inquiry, operations, spc
from userdisk.target.command import (
    CHECK_CONDITION,
    Abortable,
    CheckCondition,
    Command,
    Completion,
    Steps,
)
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.nexus import Nexus, Path

_MAX_UNITS = 1 << 14


def lun_field(number: int) -> int:
    """The 8-byte LUN field of a logical unit, as a big-endian number."""
    return (number if number < 256 else 0x4000 | number) << 48


def _number(field: int) -> int:
    """The logical unit number in a LUN field; -1 if it names none of ours."""
    method, number = field >> 62, field >> 48 & 0x3FFF
    if field & 0xFFFFFFFFFFFF or method > 1 or (method == 0 and number > 255):
        return -1
    return number


class Target:
    """Logical units under one name. All methods may be called from any thread.

    Args:
        name: the iSCSI name.
        units: in the order of their numbers, from 0 on.
        alias: for people.
    """

    def __init__(self, name: str, units: Sequence[LogicalUnit], alias: str = "") -> None:
        if len(units) > _MAX_UNITS:
            raise UsageError(f"{name}: {len(units)} units are more than {_MAX_UNITS}")
        self.name = name
        self.alias = alias
        self.units = tuple(units)
        self.nexuses: set[Nexus] = set()
        self.luns = tuple(lun_field(number) for number in range(len(units)))
        #: Relative identifiers of its target ports.
        self.ports: tuple[int, ...] = (1,)

    def define_groups(self, tags: Iterable[int]) -> None:
        """The portal groups, each a target port and a target port group; before any nexus."""
        self.ports = tuple(sorted(set(tags)))
        for lu in self.units:
            lu.port_groups.define(self.ports)

    def attach(self, initiator: str, isid: int = 0, port: int = 1) -> Nexus:
        """A new nexus; its first command to each unit is told 29/00, as after power on.

        Args:
            port: relative identifier of the target port: the tag of its portal group.
        """
        nexus = Nexus(self, initiator, isid, port)
        for lun, lu in zip(self.luns, self.units, strict=True):
            path = nexus.paths[lun] = Path(nexus, lu, lun)
            lu.connect(path, Asc.POWER_ON_OR_RESET)
        self.nexuses.add(nexus)
        return nexus

    def detach(self, nexus: Nexus) -> None:
        """The nexus is gone; its port has ended or aborted its tasks."""
        self.nexuses.discard(nexus)
        for path in nexus.paths.values():
            path.lu.disconnect(path)

    def path(self, nexus: Nexus, lun: int) -> Path | None:
        """The nexus' way to the unit that an 8-byte LUN field names."""
        found = nexus.paths.get(lun)
        if found is None:
            number = _number(lun)
            if 0 <= number < len(self.luns):
                found = nexus.paths.get(self.luns[number])
        return found

    def execute(
        self,
        nexus: Nexus,
        lun: int,
        cdb: bytes,
        data_out_length: int = 0,
        data_in_length: int = 0,
        task: Abortable | None = None,
    ) -> Completion | Steps:
        """Run a command, or start it; `lun` is the 8-byte field. Does not block.

        Args:
            cdb: 16 bytes or more, zero-padded.
            data_out_length: bytes that the initiator announced to send.
            data_in_length: bytes that it expects.
            task: the command, if task management may see it.
        """
        path = self.path(nexus, lun)
        if path is None:
            return self._absent(cdb)
        return path.lu.execute(Command(cdb, path, data_out_length, data_in_length, task))

    def _absent(self, cdb: bytes) -> Completion:
        """What a LUN without a logical unit answers (SPC-6 4.2.2, 6.7, 6.39)."""
        row = operations.find(cdb)
        answer = _ABSENT.get(cdb[0])
        try:
            if row is None or answer is None:
                raise CheckCondition(sense.logical_unit_not_supported())
            operations.check(row, cdb)
            return answer(self, cdb)
        except CheckCondition as error:
            return Completion(CHECK_CONDITION, (), error.sense.encode())


_ABSENT: dict[int, Callable[[Target, bytes], Completion]] = {
    Opcode.INQUIRY: lambda target, cdb: inquiry.absent(cdb),
    Opcode.REQUEST_SENSE: lambda target, cdb: spc.sense_data(
        cdb, sense.logical_unit_not_supported()
    ),
    Opcode.REPORT_LUNS: lambda target, cdb: spc.luns(target, cdb),
}
