"""MODE SENSE (SPC-5 6.14, 6.15)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.scsi import mode, sense
from userdisk.scsi.opcodes import Opcode
from userdisk.target.command import CheckCondition, Command, Completion
from userdisk.target.data_in import data_in

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit


def mode_sense(lu: LogicalUnit, command: Command) -> Completion:
    """MODE SENSE(6) and (10): one page, or all of them."""
    cdb = command.cdb
    short = cdb[0] == Opcode.MODE_SENSE_6
    control, code, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    if code != mode.ALL_PAGES and code not in mode.PAGES:
        raise CheckCondition(sense.invalid_field_in_cdb(2, 5))
    if subpage not in (0, mode.ALL_SUBPAGES):
        raise CheckCondition(sense.invalid_field_in_cdb(3))
    if control == mode.SAVED:
        raise CheckCondition(sense.saving_not_supported())
    chosen = mode.PAGES.values() if code == mode.ALL_PAGES else (mode.PAGES[code],)
    cache = lu.parameters.cache_supported
    body = b"".join(
        page.encode({} if control == mode.CHANGEABLE else mode.values(page.code, write_cache=cache))
        for page in chosen
    )
    long_lba = not short and bool(cdb[1] & 0x10)
    descriptor = b""
    if not cdb[1] & 0x08:
        descriptor = mode.block_descriptor(lu.block_count, lu.block_length, long_lba=long_lba)
    data = mode.encode(
        body,
        descriptor,
        short=short,
        write_protected=lu.parameters.write_protected,
        long_lba=long_lba and bool(descriptor),
    )
    return data_in(data, cdb[4] if short else int.from_bytes(cdb[7:9], "big"))
