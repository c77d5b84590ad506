"""The fields of every CDB, for making commands and for reading them (SPC-6, SBC-4 5).

The operation table of the engine says which commands a unit has; here is what their bytes mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from userdisk.scsi import fields, reservation
from userdisk.scsi.cdb_fields import (
    SERVICE_ACTION,
    allocation,
    control,
    flags,
    parameters,
    range_6,
    range_10,
    range_12,
    range_16,
)
from userdisk.scsi.fields import Field, Value
from userdisk.scsi.opcodes import (
    MaintenanceIn,
    MaintenanceOut,
    Opcode,
    Sanitize,
    ServiceActionIn16,
    ThirdPartyCopyIn,
    ThirdPartyCopyOut,
)


class Cdb(NamedTuple):
    """One command: its bytes and the fields in them, without OPERATION CODE."""

    name: str
    opcode: int
    length: int
    fields: Sequence[Field]
    service_action: int | None = None

    def encode(self, values: Mapping[str, Value] | None = None) -> bytes:
        """The CDB with these values. Raises ValueError and KeyError as `fields.encode` does."""
        given = dict(values or {})
        if self.service_action is not None:
            given["SERVICE ACTION"] = self.service_action
        table = (Field("OPERATION CODE", 0), *self.fields)
        return fields.encode(self.length, table, {"OPERATION CODE": self.opcode} | given)


_PAGE = (Field("PAGE CODE", 2, 6, 5), Field("SUBPAGE CODE", 3))
_RANGES = {10: range_10, 12: range_12, 16: range_16}
_LID1, _LID4 = Field("LIST IDENTIFIER", 2), Field("LIST IDENTIFIER", 2, 32)


def _block(
    opcode: int, name: str, length: int, *bits: Field, count: str = "TRANSFER LENGTH"
) -> Cdb:
    return Cdb(f"{name}({length})", opcode, length, (*bits, *_RANGES[length](count)))


def _service(opcode: int, action: int, name: str, length: int, rest: Iterable[Field]) -> Cdb:
    return Cdb(name, opcode, length, (SERVICE_ACTION, *rest), action)


_READ, _WRITE = flags("R", "DPO", "FUA", "RARC"), flags("W", "DPO", "FUA")
_CHECK = flags("W", "DPO", "BYTCHK")
_VERIFY = flags("V", "DPO", "BYTCHK")
_SYNC = flags("", "SYNC_NV", "IMMED")
_DEFECTS = (Field("REQ_PLIST", 2, 1, 4), Field("REQ_GLIST", 2, 1, 3),
            Field("DEFECT LIST FORMAT", 2, 3, 2))  # fmt: skip

_PLAIN: tuple[Cdb, ...] = (
    Cdb("TEST UNIT READY", Opcode.TEST_UNIT_READY, 6, control(5)),
    Cdb("REQUEST SENSE", Opcode.REQUEST_SENSE, 6,
        (Field("DESC", 1, 1, 0), *allocation(4, 8, 5))),
    Cdb("READ(6)", Opcode.READ_6, 6, range_6()),
    Cdb("WRITE(6)", Opcode.WRITE_6, 6, range_6()),
    Cdb("INQUIRY", Opcode.INQUIRY, 6,
        (Field("EVPD", 1, 1, 0), Field("PAGE CODE", 2), *allocation(3, 16, 5))),
    Cdb("MODE SELECT(6)", Opcode.MODE_SELECT_6, 6,
        (Field("PF", 1, 1, 4), Field("RTD", 1, 1, 1), Field("SP", 1, 1, 0), *parameters(4, 8, 5))),
    Cdb("RESERVE(6)", Opcode.RESERVE_6, 6, control(5)),
    Cdb("RELEASE(6)", Opcode.RELEASE_6, 6, control(5)),
    Cdb("MODE SENSE(6)", Opcode.MODE_SENSE_6, 6,
        (Field("DBD", 1, 1, 3), Field("PC", 2, 2), *_PAGE, *allocation(4, 8, 5))),
    Cdb("START STOP UNIT", Opcode.START_STOP_UNIT, 6,
        (Field("IMMED", 1, 1, 0), Field("POWER CONDITION MODIFIER", 3, 4, 3),
         Field("POWER CONDITION", 4, 4), Field("NO_FLUSH", 4, 1, 2), Field("LOEJ", 4, 1, 1),
         Field("START", 4, 1, 0), *control(5))),
    Cdb("PREVENT ALLOW MEDIUM REMOVAL", Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL, 6,
        (Field("PREVENT", 4, 2, 1), *control(5))),
    Cdb("READ CAPACITY(10)", Opcode.READ_CAPACITY_10, 10,
        (Field("LOGICAL BLOCK ADDRESS", 2, 32), Field("PMI", 8, 1, 0), *control(9))),
    _block(Opcode.READ_10, "READ", 10, *_READ),
    _block(Opcode.WRITE_10, "WRITE", 10, *_WRITE),
    _block(Opcode.WRITE_AND_VERIFY_10, "WRITE AND VERIFY", 10, *_CHECK),
    _block(Opcode.VERIFY_10, "VERIFY", 10, *_VERIFY, count="VERIFICATION LENGTH"),
    _block(Opcode.PRE_FETCH_10, "PRE-FETCH", 10, *flags("", "IMMED"), count="PREFETCH LENGTH"),
    _block(Opcode.SYNCHRONIZE_CACHE_10, "SYNCHRONIZE CACHE", 10, *_SYNC,
           count="NUMBER OF LOGICAL BLOCKS"),
    Cdb("READ DEFECT DATA(10)", Opcode.READ_DEFECT_DATA_10, 10, (*_DEFECTS, *allocation(7, 16, 9))),
    _block(Opcode.WRITE_SAME_10, "WRITE SAME", 10, *flags("W", "ANCHOR", "UNMAP"),
           count="NUMBER OF LOGICAL BLOCKS"),
    Cdb("UNMAP", Opcode.UNMAP, 10,
        (Field("ANCHOR", 1, 1, 0), Field("GROUP NUMBER", 6, 6, 5), *parameters(7, 16, 9))),
    Cdb("LOG SENSE", Opcode.LOG_SENSE, 10,
        (Field("PPC", 1, 1, 1), Field("SP", 1, 1, 0), Field("PC", 2, 2), *_PAGE,
         Field("PARAMETER POINTER", 5, 16), *allocation(7, 16, 9))),
    Cdb("MODE SELECT(10)", Opcode.MODE_SELECT_10, 10,
        (Field("PF", 1, 1, 4), Field("RTD", 1, 1, 1), Field("SP", 1, 1, 0), *parameters(7, 16, 9))),
    Cdb("RESERVE(10)", Opcode.RESERVE_10, 10, control(9)),
    Cdb("RELEASE(10)", Opcode.RELEASE_10, 10, control(9)),
    Cdb("MODE SENSE(10)", Opcode.MODE_SENSE_10, 10,
        (Field("LLBAA", 1, 1, 4), Field("DBD", 1, 1, 3), Field("PC", 2, 2), *_PAGE,
         *allocation(7, 16, 9))),
    _block(Opcode.READ_16, "READ", 16, *_READ),
    Cdb("COMPARE AND WRITE", Opcode.COMPARE_AND_WRITE, 16,
        (*_WRITE, Field("LOGICAL BLOCK ADDRESS", 2, 64), Field("NUMBER OF LOGICAL BLOCKS", 13),
         Field("GROUP NUMBER", 14, 6, 5), *control(15))),
    _block(Opcode.WRITE_16, "WRITE", 16, *_WRITE),
    _block(Opcode.ORWRITE_16, "ORWRITE", 16, *flags("O", "DPO", "FUA")),
    _block(Opcode.WRITE_AND_VERIFY_16, "WRITE AND VERIFY", 16, *_CHECK),
    _block(Opcode.VERIFY_16, "VERIFY", 16, *_VERIFY, count="VERIFICATION LENGTH"),
    _block(Opcode.PRE_FETCH_16, "PRE-FETCH", 16, *flags("", "IMMED"), count="PREFETCH LENGTH"),
    _block(Opcode.SYNCHRONIZE_CACHE_16, "SYNCHRONIZE CACHE", 16, *_SYNC,
           count="NUMBER OF LOGICAL BLOCKS"),
    _block(Opcode.WRITE_SAME_16, "WRITE SAME", 16, *flags("W", "ANCHOR", "UNMAP", "NDOB"),
           count="NUMBER OF LOGICAL BLOCKS"),
    Cdb("WRITE ATOMIC(16)", Opcode.WRITE_ATOMIC_16, 16,
        (*_WRITE, Field("LOGICAL BLOCK ADDRESS", 2, 64), Field("ATOMIC BOUNDARY", 10, 16),
         Field("TRANSFER LENGTH", 12, 16), Field("GROUP NUMBER", 14, 6, 5), *control(15))),
    Cdb("REPORT LUNS", Opcode.REPORT_LUNS, 12,
        (Field("SELECT REPORT", 2), *allocation(6, 32, 11))),
    _block(Opcode.READ_12, "READ", 12, *_READ),
    _block(Opcode.WRITE_12, "WRITE", 12, *_WRITE),
    _block(Opcode.WRITE_AND_VERIFY_12, "WRITE AND VERIFY", 12, *_CHECK),
    _block(Opcode.VERIFY_12, "VERIFY", 12, *_VERIFY, count="VERIFICATION LENGTH"),
    Cdb("READ DEFECT DATA(12)", Opcode.READ_DEFECT_DATA_12, 12,
        (*(field._replace(byte=1) for field in _DEFECTS),
         Field("ADDRESS DESCRIPTOR INDEX", 2, 32), *allocation(6, 32, 11))),
)  # fmt: skip

_IN_COPY, _OUT_COPY = Opcode.THIRD_PARTY_COPY_IN, Opcode.THIRD_PARTY_COPY_OUT
_IN_MAINTENANCE, _IN_16 = Opcode.MAINTENANCE_IN, Opcode.SERVICE_ACTION_IN_16
_SANITIZE = (Field("IMMED", 1, 1, 7), Field("AUSE", 1, 1, 5))
_TOKEN = (Field("LIST IDENTIFIER", 6, 32), Field("PARAMETER LIST LENGTH", 10, 32),
          Field("GROUP NUMBER", 14, 6, 5), *control(15))  # fmt: skip

_SERVICES: tuple[Cdb, ...] = (
    *(_service(Opcode.SANITIZE, action, f"SANITIZE ({action.name.replace('_', ' ')})", 10,
               (*_SANITIZE, *parameters(7, 16, 9)))
      for action in Sanitize),
    *(_service(Opcode.PERSISTENT_RESERVE_IN, action,
               f"PERSISTENT RESERVE IN ({action.name.replace('_', ' ')})", 10,
               allocation(7, 16, 9))
      for action in reservation.In),
    *(_service(Opcode.PERSISTENT_RESERVE_OUT, out,
               f"PERSISTENT RESERVE OUT ({out.name.replace('_', ' ')})", 10,
               (Field("SCOPE", 2, 4), Field("TYPE", 2, 4, 3), *parameters(5, 32, 9)))
      for out in reservation.Out),
    _service(_OUT_COPY, ThirdPartyCopyOut.EXTENDED_COPY_LID1, "EXTENDED COPY(LID1)", 16,
             parameters(10, 32, 15)),
    _service(_OUT_COPY, ThirdPartyCopyOut.POPULATE_TOKEN, "POPULATE TOKEN", 16, _TOKEN),
    _service(_OUT_COPY, ThirdPartyCopyOut.WRITE_USING_TOKEN, "WRITE USING TOKEN", 16, _TOKEN),
    _service(_IN_COPY, ThirdPartyCopyIn.RECEIVE_COPY_STATUS_LID1, "RECEIVE COPY STATUS(LID1)", 16,
             (_LID1, *allocation(10, 32, 15))),
    _service(_IN_COPY, ThirdPartyCopyIn.RECEIVE_COPY_OPERATING_PARAMETERS,
             "RECEIVE COPY OPERATING PARAMETERS", 16, allocation(10, 32, 15)),
    _service(_IN_COPY, ThirdPartyCopyIn.RECEIVE_COPY_FAILURE_DETAILS_LID1,
             "RECEIVE COPY FAILURE DETAILS(LID1)", 16, (_LID1, *allocation(10, 32, 15))),
    _service(_IN_COPY, ThirdPartyCopyIn.RECEIVE_COPY_STATUS_LID4, "RECEIVE COPY STATUS(LID4)", 16,
             (_LID4, *allocation(10, 32, 15))),
    _service(_IN_COPY, ThirdPartyCopyIn.RECEIVE_ROD_TOKEN_INFORMATION,
             "RECEIVE ROD TOKEN INFORMATION", 16, (_LID4, *allocation(10, 32, 15))),
    _service(_IN_16, ServiceActionIn16.READ_CAPACITY_16, "READ CAPACITY(16)", 16,
             (Field("LOGICAL BLOCK ADDRESS", 2, 64), Field("PMI", 14, 1, 0),
              *allocation(10, 32, 15))),
    _service(_IN_16, ServiceActionIn16.GET_LBA_STATUS, "GET LBA STATUS", 16,
             (Field("STARTING LOGICAL BLOCK ADDRESS", 2, 64), Field("REPORT TYPE", 14),
              *allocation(10, 32, 15))),
    _service(_IN_MAINTENANCE, MaintenanceIn.REPORT_TARGET_PORT_GROUPS,
             "REPORT TARGET PORT GROUPS", 12,
             (Field("PARAMETER DATA FORMAT", 1, 3), *allocation(6, 32, 11))),
    _service(_IN_MAINTENANCE, MaintenanceIn.REPORT_SUPPORTED_OPERATION_CODES,
             "REPORT SUPPORTED OPERATION CODES", 12,
             (Field("RCTD", 2, 1), Field("REPORTING OPTIONS", 2, 3, 2),
              Field("REQUESTED OPERATION CODE", 3), Field("REQUESTED SERVICE ACTION", 4, 16),
              *allocation(6, 32, 11))),
    _service(_IN_MAINTENANCE, MaintenanceIn.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS,
             "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", 12,
             (Field("REPD", 2, 1), *allocation(6, 32, 11))),
    _service(Opcode.MAINTENANCE_OUT, MaintenanceOut.SET_TARGET_PORT_GROUPS,
             "SET TARGET PORT GROUPS", 12, parameters(6, 32, 11)),
)  # fmt: skip

CDBS: tuple[Cdb, ...] = (*_PLAIN, *_SERVICES)

_BY_OPCODE = {cdb.opcode: cdb for cdb in _PLAIN}
_BY_SERVICE = {(cdb.opcode, cdb.service_action): cdb for cdb in _SERVICES}
_BY_NAME = {cdb.name: cdb for cdb in CDBS}

#: Operation codes of other commands that disks have, or are asked for.
OTHERS: dict[int, str] = {
    0x01: "REZERO UNIT",
    0x04: "FORMAT UNIT",
    0x07: "REASSIGN BLOCKS",
    0x1C: "RECEIVE DIAGNOSTIC RESULTS",
    0x1D: "SEND DIAGNOSTIC",
    0x2B: "SEEK(10)",
    0x3B: "WRITE BUFFER",
    0x3C: "READ BUFFER(10)",
    0x3E: "READ LONG(10)",
    0x3F: "WRITE LONG(10)",
    0x4C: "LOG SELECT",
    0x50: "XDWRITE(10)",
    0x53: "XDWRITEREAD(10)",
    0x7F: "variable length command",
    0x85: "ATA PASS-THROUGH(16)",
    0x94: "ZBC OUT",
    0x95: "ZBC IN",
    0x9B: "READ BUFFER(16)",
    0x9E: "SERVICE ACTION IN(16)",
    0x9F: "SERVICE ACTION OUT(16)",
    0xA1: "ATA PASS-THROUGH(12)",
    0xA2: "SECURITY PROTOCOL IN",
    0xA9: "SERVICE ACTION OUT(12)",
    0xAB: "SERVICE ACTION IN(12)",
    0xB5: "SECURITY PROTOCOL OUT",
}
_GROUPS: dict[int, str] = {
    Opcode.SANITIZE: "SANITIZE",
    Opcode.PERSISTENT_RESERVE_IN: "PERSISTENT RESERVE IN",
    Opcode.PERSISTENT_RESERVE_OUT: "PERSISTENT RESERVE OUT",
    Opcode.THIRD_PARTY_COPY_OUT: "THIRD-PARTY COPY OUT",
    Opcode.THIRD_PARTY_COPY_IN: "THIRD-PARTY COPY IN",
    Opcode.MAINTENANCE_IN: "MAINTENANCE IN",
    Opcode.MAINTENANCE_OUT: "MAINTENANCE OUT",
}
#: operation code >> 5 -> bytes of a CDB (SPC-6 4.2.5.1); the others are not fixed
_LENGTHS = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}


def find(data: bytes) -> Cdb | None:
    """The command that a CDB of two bytes or more is; None: it is not in the table."""
    return _BY_OPCODE.get(data[0]) or _BY_SERVICE.get((data[0], data[1] & 0x1F))


def of(name: str) -> Cdb:
    """The command of that name. Raises KeyError."""
    return _BY_NAME[name]


def name_of(opcode: int, service_action: int | None = None) -> str:
    """What a command is called, as far as it is known."""
    known = _BY_OPCODE.get(opcode)
    if service_action is not None or known is None:
        known = _BY_SERVICE.get((opcode, service_action), known)
    if known is not None:
        return known.name
    general = _GROUPS.get(opcode) or OTHERS.get(opcode)
    if general is None:
        return "vendor specific command" if opcode >= 0xC0 else "unknown command"
    if service_action is None:
        return general
    return f"{general} (service action {service_action:02X}h)"


def length_of(opcode: int) -> int | None:
    """Bytes of a CDB with this operation code; None where that is not fixed."""
    return _LENGTHS.get(opcode >> 5)
