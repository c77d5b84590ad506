"""THE operation table: every command that a logical unit runs, one row each (SPC-5 6.34).

`usage` is the CDB usage map: its length is the CDB's, and a bit is set that may be set. A bit set
in a CDB beyond the map is refused with a field pointer at it, before the handler runs; so
protection fields, NACA and everything reserved need no code. Vendor-specific bits of CONTROL pass.
"""

from __future__ import annotations

from userdisk.scsi import reservation, sense
from userdisk.scsi.opcodes import (
    MaintenanceIn,
    MaintenanceOut,
    Opcode,
    Sanitize,
    ServiceActionIn16,
    ThirdPartyCopyIn,
    ThirdPartyCopyOut,
)
from userdisk.scsi.sense import Sense
from userdisk.target import (
    atomic,
    copies,
    defects,
    extended_copy,
    inquiry,
    lba_status,
    log_pages,
    medium,
    modes,
    persistent_reserve,
    port_groups,
    provisioning,
    reserve,
    sanitize,
    sbc,
    spc,
    supported,
    tokens,
    verify,
    write_same,
)
from userdisk.target.command import CheckCondition
from userdisk.target.row import Access, Direction, Flags, Row

_NONE, _IN, _OUT = Direction.NONE, Direction.IN, Direction.OUT
_ALWAYS, _READING, _WRITING = Access.ALWAYS, Access.READING, Access.WRITING
_NO_FLAGS, _WRITES, _DESPITE = Flags.NONE, Flags.WRITES, Flags.DESPITE_ATTENTION
_WHO = Flags.ALWAYS | Flags.DESPITE_ATTENTION  # asked in any state, keeps what is to be told
_hex = bytes.fromhex

# fmt: off
ROWS: tuple[Row, ...] = (
    Row("TEST UNIT READY", Opcode.TEST_UNIT_READY, spc.test_unit_ready,
        _hex("00 00 00 00 00 c0")),
    Row("REQUEST SENSE", Opcode.REQUEST_SENSE, spc.request_sense,
        _hex("03 01 00 00 ff c0"), _IN, _ALWAYS, _WHO),
    Row("READ(6)", Opcode.READ_6, sbc.read,
        _hex("08 1f ff ff ff c0"), _IN, _READING),
    Row("WRITE(6)", Opcode.WRITE_6, sbc.write,
        _hex("0a 1f ff ff ff c0"), _OUT, _WRITING, _WRITES),
    Row("INQUIRY", Opcode.INQUIRY, inquiry.inquiry,
        _hex("12 01 ff ff ff c0"), _IN, _ALWAYS, _WHO),
    Row("MODE SELECT(6)", Opcode.MODE_SELECT_6, modes.mode_select,
        _hex("15 11 00 00 ff c0"), _OUT, _WRITING, Flags.IN_STANDBY),
    Row("RESERVE(6)", Opcode.RESERVE_6, reserve.reserve,
        _hex("16 00 00 00 00 c0"), flags=Flags.WITHOUT_MEDIUM),
    Row("RELEASE(6)", Opcode.RELEASE_6, reserve.release,
        _hex("17 00 00 00 00 c0"), flags=Flags.WITHOUT_MEDIUM | Flags.DESPITE_RESERVE),
    Row("MODE SENSE(6)", Opcode.MODE_SENSE_6, modes.mode_sense,
        _hex("1a 08 ff ff ff c0"), _IN, _READING, Flags.WITHOUT_MEDIUM | Flags.IN_STANDBY),
    Row("START STOP UNIT", Opcode.START_STOP_UNIT, medium.start_stop_unit,
        _hex("1b 01 00 00 f7 c0"), _NONE, medium.start_stop_access,
        Flags.WITHOUT_MEDIUM | Flags.DESPITE_RESERVE),
    Row("PREVENT ALLOW MEDIUM REMOVAL", Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL, medium.prevent_allow,
        _hex("1e 00 00 00 01 c0"), _NONE, medium.prevent_access,
        Flags.WITHOUT_MEDIUM | Flags.DESPITE_RESERVE,
        medium.offered),
    Row("READ CAPACITY(10)", Opcode.READ_CAPACITY_10, sbc.read_capacity_10,
        _hex("25 00 ffffffff 0000 01 c0"), _IN, flags=Flags.DESPITE_RESERVE | Flags.IN_STANDBY),
    Row("READ(10)", Opcode.READ_10, sbc.read,
        _hex("28 18 ffffffff 3f ffff c0"), _IN, _READING),
    Row("WRITE(10)", Opcode.WRITE_10, sbc.write,
        _hex("2a 18 ffffffff 3f ffff c0"), _OUT, _WRITING, _WRITES),
    Row("WRITE AND VERIFY(10)", Opcode.WRITE_AND_VERIFY_10, verify.write_and_verify,
        _hex("2e 12 ffffffff 3f ffff c0"), _OUT, _WRITING, _WRITES),
    Row("VERIFY(10)", Opcode.VERIFY_10, verify.verify,
        _hex("2f 16 ffffffff 3f ffff c0"), _OUT, _READING),
    Row("PRE-FETCH(10)", Opcode.PRE_FETCH_10, sbc.pre_fetch,
        _hex("34 02 ffffffff 3f ffff c0"), _NONE, _READING),
    Row("SYNCHRONIZE CACHE(10)", Opcode.SYNCHRONIZE_CACHE_10, sbc.synchronize_cache,
        _hex("35 06 ffffffff 3f ffff c0"), _NONE, _WRITING),
    Row("READ DEFECT DATA(10)", Opcode.READ_DEFECT_DATA_10, defects.read_defect_data_10,
        _hex("37 00 1f 00000000 ffff c0"), _IN, _READING),
    Row("WRITE SAME(10)", Opcode.WRITE_SAME_10, write_same.write_same,
        _hex("41 08 ffffffff 3f ffff c0"), _OUT, _WRITING, _WRITES),
    Row("UNMAP", Opcode.UNMAP, provisioning.unmap,
        _hex("42 00 00000000 3f ffff c0"), _OUT, _WRITING, _WRITES, provisioning.offered),
    Row("SANITIZE (OVERWRITE)", Opcode.SANITIZE, sanitize.overwrite,
        _hex("48 a1 0000000000 ffff c0"), _OUT, _WRITING, _WRITES,
        service_action=Sanitize.OVERWRITE),
    Row("SANITIZE (BLOCK ERASE)", Opcode.SANITIZE, sanitize.block_erase,
        _hex("48 a2 0000000000 0000 c0"), _NONE, _WRITING, _WRITES, sanitize.erases,
        Sanitize.BLOCK_ERASE),
    Row("SANITIZE (CRYPTOGRAPHIC ERASE)", Opcode.SANITIZE, sanitize.cryptographic_erase,
        _hex("48 a3 0000000000 0000 c0"), _NONE, _WRITING, _WRITES, sanitize.crypto_erases,
        Sanitize.CRYPTOGRAPHIC_ERASE),
    Row("SANITIZE (EXIT FAILURE MODE)", Opcode.SANITIZE, sanitize.exit_failure_mode,
        _hex("48 bf 0000000000 0000 c0"), _NONE, _WRITING,
        service_action=Sanitize.EXIT_FAILURE_MODE),
    Row("LOG SENSE", Opcode.LOG_SENSE, log_pages.log_sense,
        _hex("4d 00 ff ff 00 ffff ffff c0"), _IN, _ALWAYS,
        Flags.DESPITE_RESERVE | Flags.WITHOUT_MEDIUM | Flags.IN_STANDBY),
    Row("MODE SELECT(10)", Opcode.MODE_SELECT_10, modes.mode_select,
        _hex("55 11 0000000000 ffff c0"), _OUT, _WRITING, Flags.IN_STANDBY),
    Row("RESERVE(10)", Opcode.RESERVE_10, reserve.reserve,
        _hex("56 00 00 00 000000 0000 c0"), flags=Flags.WITHOUT_MEDIUM),
    Row("RELEASE(10)", Opcode.RELEASE_10, reserve.release,
        _hex("57 00 00 00 000000 0000 c0"), flags=Flags.WITHOUT_MEDIUM | Flags.DESPITE_RESERVE),
    Row("MODE SENSE(10)", Opcode.MODE_SENSE_10, modes.mode_sense,
        _hex("5a 18 ff ff 000000 ffff c0"), _IN, _READING,
        Flags.WITHOUT_MEDIUM | Flags.IN_STANDBY),
    *(Row(f"PERSISTENT RESERVE IN ({action.name.replace('_', ' ')})",
        Opcode.PERSISTENT_RESERVE_IN, persistent_reserve.reserve_in,
        bytes([0x5E, action]) + _hex("00 00000000 ffff c0"), _IN, _ALWAYS,
        Flags.WITHOUT_MEDIUM | Flags.IN_STANDBY, service_action=action)
      for action in reservation.In),
    *(Row(f"PERSISTENT RESERVE OUT ({action.name.replace('_', ' ')})",
        Opcode.PERSISTENT_RESERVE_OUT, persistent_reserve.reserve_out,
        bytes([0x5F, action]) + _hex("ff 0000 ffffffff c0"), _OUT, _ALWAYS,
        Flags.WITHOUT_MEDIUM | Flags.IN_STANDBY, service_action=action)
      for action in reservation.Out),
    Row("EXTENDED COPY(LID1)", Opcode.THIRD_PARTY_COPY_OUT, extended_copy.extended_copy,
        _hex("83 00 0000000000000000 ffffffff 00 c0"), _OUT, _WRITING,
        service_action=ThirdPartyCopyOut.EXTENDED_COPY_LID1),
    Row("POPULATE TOKEN", Opcode.THIRD_PARTY_COPY_OUT, tokens.populate_token,
        _hex("83 10 00000000 ffffffff ffffffff 3f c0"), _OUT, _READING,
        service_action=ThirdPartyCopyOut.POPULATE_TOKEN),
    Row("WRITE USING TOKEN", Opcode.THIRD_PARTY_COPY_OUT, tokens.write_using_token,
        _hex("83 11 00000000 ffffffff ffffffff 3f c0"), _OUT, _WRITING, _WRITES,
        service_action=ThirdPartyCopyOut.WRITE_USING_TOKEN),
    Row("RECEIVE COPY STATUS(LID1)", Opcode.THIRD_PARTY_COPY_IN, copies.status_lid1,
        _hex("84 00 ff 00000000000000 ffffffff 00 c0"), _IN, _ALWAYS, Flags.WITHOUT_MEDIUM,
        service_action=ThirdPartyCopyIn.RECEIVE_COPY_STATUS_LID1),
    Row("RECEIVE COPY OPERATING PARAMETERS", Opcode.THIRD_PARTY_COPY_IN,
        copies.operating_parameters,
        _hex("84 03 0000000000000000 ffffffff 00 c0"), _IN, _ALWAYS, Flags.WITHOUT_MEDIUM,
        service_action=ThirdPartyCopyIn.RECEIVE_COPY_OPERATING_PARAMETERS),
    Row("RECEIVE COPY FAILURE DETAILS(LID1)", Opcode.THIRD_PARTY_COPY_IN,
        copies.failure_details_lid1,
        _hex("84 04 ff 00000000000000 ffffffff 00 c0"), _IN, _ALWAYS, Flags.WITHOUT_MEDIUM,
        service_action=ThirdPartyCopyIn.RECEIVE_COPY_FAILURE_DETAILS_LID1),
    Row("RECEIVE COPY STATUS(LID4)", Opcode.THIRD_PARTY_COPY_IN, copies.status_lid4,
        _hex("84 05 ffffffff 00000000 ffffffff 00 c0"), _IN, _ALWAYS, Flags.WITHOUT_MEDIUM,
        service_action=ThirdPartyCopyIn.RECEIVE_COPY_STATUS_LID4),
    Row("RECEIVE ROD TOKEN INFORMATION", Opcode.THIRD_PARTY_COPY_IN,
        copies.rod_token_information,
        _hex("84 07 ffffffff 00000000 ffffffff 00 c0"), _IN, _ALWAYS, Flags.WITHOUT_MEDIUM,
        service_action=ThirdPartyCopyIn.RECEIVE_ROD_TOKEN_INFORMATION),
    Row("READ(16)", Opcode.READ_16, sbc.read,
        _hex("88 18 ffffffffffffffff ffffffff 3f c0"), _IN, _READING),
    Row("COMPARE AND WRITE", Opcode.COMPARE_AND_WRITE, atomic.compare_and_write,
        _hex("89 18 ffffffffffffffff 000000ff 3f c0"), _OUT, _WRITING, _WRITES),
    Row("WRITE(16)", Opcode.WRITE_16, sbc.write,
        _hex("8a 18 ffffffffffffffff ffffffff 3f c0"), _OUT, _WRITING, _WRITES),
    Row("ORWRITE(16)", Opcode.ORWRITE_16, atomic.orwrite,
        _hex("8b 18 ffffffffffffffff ffffffff 3f c0"), _OUT, _WRITING, _WRITES),
    Row("WRITE AND VERIFY(16)", Opcode.WRITE_AND_VERIFY_16, verify.write_and_verify,
        _hex("8e 12 ffffffffffffffff ffffffff 3f c0"), _OUT, _WRITING, _WRITES),
    Row("VERIFY(16)", Opcode.VERIFY_16, verify.verify,
        _hex("8f 16 ffffffffffffffff ffffffff 3f c0"), _OUT, _READING),
    Row("PRE-FETCH(16)", Opcode.PRE_FETCH_16, sbc.pre_fetch,
        _hex("90 02 ffffffffffffffff ffffffff 3f c0"), _NONE, _READING),
    Row("SYNCHRONIZE CACHE(16)", Opcode.SYNCHRONIZE_CACHE_16, sbc.synchronize_cache,
        _hex("91 06 ffffffffffffffff ffffffff 3f c0"), _NONE, _WRITING),
    Row("WRITE SAME(16)", Opcode.WRITE_SAME_16, write_same.write_same,
        _hex("93 09 ffffffffffffffff ffffffff 3f c0"), _OUT, _WRITING, _WRITES),
    Row("WRITE ATOMIC(16)", Opcode.WRITE_ATOMIC_16, atomic.write_atomic,
        _hex("9c 18 ffffffffffffffff 0000ffff 3f c0"), _OUT, _WRITING, _WRITES, atomic.offered),
    Row("READ CAPACITY(16)", Opcode.SERVICE_ACTION_IN_16, sbc.read_capacity_16,
        _hex("9e 10 ffffffffffffffff ffffffff 01 c0"), _IN,
        flags=Flags.DESPITE_RESERVE | Flags.IN_STANDBY,
        service_action=ServiceActionIn16.READ_CAPACITY_16),
    Row("GET LBA STATUS", Opcode.SERVICE_ACTION_IN_16, lba_status.get_lba_status,
        _hex("9e 12 ffffffffffffffff ffffffff ff c0"), _IN, _READING,
        service_action=ServiceActionIn16.GET_LBA_STATUS),
    Row("REPORT LUNS", Opcode.REPORT_LUNS, spc.report_luns,
        _hex("a0 00 ff 000000 ffffffff 00 c0"), _IN, _ALWAYS, _WHO),
    Row("REPORT TARGET PORT GROUPS", Opcode.MAINTENANCE_IN,
        port_groups.report_target_port_groups,
        _hex("a3 2a 00000000 ffffffff 00 c0"), _IN, _ALWAYS, Flags.ALWAYS, port_groups.offered,
        MaintenanceIn.REPORT_TARGET_PORT_GROUPS),
    Row("REPORT SUPPORTED OPERATION CODES", Opcode.MAINTENANCE_IN,
        lambda lu, command: supported.operation_codes(lu, command, ROWS),
        _hex("a3 0c 87 ff ffff ffffffff 00 c0"), _IN, _READING,
        Flags.WITHOUT_MEDIUM | Flags.WHILE_SANITIZING | Flags.IN_STANDBY,
        service_action=MaintenanceIn.REPORT_SUPPORTED_OPERATION_CODES),
    Row("REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", Opcode.MAINTENANCE_IN,
        supported.task_management_functions,
        _hex("a3 0d 80 00 0000 ffffffff 00 c0"), _IN, _READING,
        Flags.WITHOUT_MEDIUM | Flags.WHILE_SANITIZING | Flags.IN_STANDBY,
        service_action=MaintenanceIn.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS),
    Row("SET TARGET PORT GROUPS", Opcode.MAINTENANCE_OUT, port_groups.set_target_port_groups,
        _hex("a4 0a 00000000 ffffffff 00 c0"), _OUT, _WRITING,
        Flags.WITHOUT_MEDIUM | Flags.IN_STANDBY | Flags.WHILE_UNAVAILABLE, port_groups.offered,
        MaintenanceOut.SET_TARGET_PORT_GROUPS),
    Row("READ(12)", Opcode.READ_12, sbc.read,
        _hex("a8 18 ffffffff ffffffff 3f c0"), _IN, _READING),
    Row("WRITE(12)", Opcode.WRITE_12, sbc.write,
        _hex("aa 18 ffffffff ffffffff 3f c0"), _OUT, _WRITING, _WRITES),
    Row("WRITE AND VERIFY(12)", Opcode.WRITE_AND_VERIFY_12, verify.write_and_verify,
        _hex("ae 12 ffffffff ffffffff 3f c0"), _OUT, _WRITING, _WRITES),
    Row("VERIFY(12)", Opcode.VERIFY_12, verify.verify,
        _hex("af 16 ffffffff ffffffff 3f c0"), _OUT, _READING),
    Row("READ DEFECT DATA(12)", Opcode.READ_DEFECT_DATA_12, defects.read_defect_data_12,
        _hex("b7 1f ffffffff ffffffff 00 c0"), _IN, _READING),
)
# fmt: on

_PLAIN = {row.opcode: row for row in ROWS if row.service_action is None}
_SERVICE = {(row.opcode, row.service_action): row for row in ROWS if row.service_action is not None}
_WITH_SERVICE_ACTIONS = frozenset(opcode for opcode, _ in _SERVICE)
#: usage map -> the bits that must be zero, as a number
_RESERVED = {
    row.usage: ((1 << 8 * len(row.usage) - 8) - 1) & ~int.from_bytes(row.usage[1:], "big")
    for row in ROWS
}


def find(cdb: bytes) -> Row | None:
    """The row of a CDB; None if the command is not implemented."""
    return _PLAIN.get(cdb[0]) or _SERVICE.get((cdb[0], cdb[1] & 0x1F))


def refusal(cdb: bytes) -> Sense:
    """Why there is no row: the opcode, or only its service action."""
    if cdb[0] in _WITH_SERVICE_ACTIONS:
        return sense.invalid_field_in_cdb(1, 4)
    return sense.invalid_opcode()


def check(row: Row, cdb: bytes) -> None:
    """Raise CheckCondition at the first bit that is set and must not be."""
    length = len(row.usage)
    wrong = int.from_bytes(cdb[1:length], "big") & _RESERVED[row.usage]
    if wrong:
        last = 8 * (length - 1) - 1
        place = last - (wrong.bit_length() - 1)
        raise CheckCondition(sense.invalid_field_in_cdb(1 + place // 8, 7 - place % 8))
