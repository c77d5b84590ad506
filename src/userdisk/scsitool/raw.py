"""Any CDB that a person writes; what might change the device only if they say so."""

from __future__ import annotations

from userdisk.errors import UsageError
from userdisk.scsi import cdb
from userdisk.scsi.opcodes import (
    MaintenanceIn,
    Opcode,
    ServiceActionIn16,
    ThirdPartyCopyIn,
)
from userdisk.scsi.reservation import In
from userdisk.scsitool.device import MAX_DATA

_MAX_CDB = 16
_LOG_SENSE_SAVES = 0x01  # SP

#: Commands that change neither blocks nor settings of any device; all others need `--write`.
SAFE: frozenset[tuple[int, int | None]] = frozenset(
    {
        (opcode, None)
        for opcode in (
            Opcode.TEST_UNIT_READY,
            Opcode.REQUEST_SENSE,
            Opcode.READ_6,
            Opcode.READ_10,
            Opcode.READ_12,
            Opcode.READ_16,
            Opcode.INQUIRY,
            Opcode.MODE_SENSE_6,
            Opcode.MODE_SENSE_10,
            Opcode.READ_CAPACITY_10,
            Opcode.VERIFY_10,
            Opcode.VERIFY_12,
            Opcode.VERIFY_16,
            Opcode.PRE_FETCH_10,
            Opcode.PRE_FETCH_16,
            Opcode.READ_DEFECT_DATA_10,
            Opcode.READ_DEFECT_DATA_12,
            Opcode.LOG_SENSE,
            Opcode.REPORT_LUNS,
        )
    }
    | {(Opcode.SERVICE_ACTION_IN_16, action) for action in ServiceActionIn16}
    | {(Opcode.MAINTENANCE_IN, action) for action in MaintenanceIn}
    | {(Opcode.PERSISTENT_RESERVE_IN, action) for action in In}
    | {(Opcode.THIRD_PARTY_COPY_IN, action) for action in ThirdPartyCopyIn}
)


def parse_hex(text: str) -> bytes:
    """Bytes from hexadecimal digits, with or without spaces, `0x` and commas between them.

    Raises `UsageError`.
    """
    digits = "".join(
        word.lower().removeprefix("0x").rjust(2, "0") for word in text.replace(",", " ").split()
    )
    try:
        return bytes.fromhex(digits)
    except ValueError:
        raise UsageError(f"{text[:60]!r}: not bytes in hexadecimal") from None


def may_write(command: bytes) -> bool:
    """Whether a CDB might change something: everything that is not known to be safe."""
    if command[0] == Opcode.LOG_SENSE and command[1] & _LOG_SENSE_SAVES:
        return True
    action = command[1] & 0x1F
    return (command[0], None) not in SAFE and (command[0], action) not in SAFE


def check(command: bytes, read_length: int, data_out: bytes, *, write: bool) -> None:
    """Raise `UsageError` unless the CDB is one, and may be sent."""
    if not 6 <= len(command) <= _MAX_CDB:
        raise UsageError(f"a CDB has 6 to {_MAX_CDB} bytes, not {len(command)}")
    expected = cdb.length_of(command[0])
    name = cdb.name_of(command[0])
    if expected is not None and len(command) != expected:
        raise UsageError(
            f"a CDB with operation code {command[0]:02X}h ({name}) has {expected} bytes,"
            f" not {len(command)}"
        )
    if not 0 <= read_length <= MAX_DATA or len(data_out) > MAX_DATA:
        raise UsageError(f"at most {MAX_DATA} bytes of data can be read or written")
    if read_length and data_out:
        raise UsageError("a command reads or writes data, not both")
    if may_write(command) and not write:
        found = cdb.find(command)
        raise UsageError(
            f"{name if found is None else found.name} may change the device; add --write if that"
            " is what you want"
        )
