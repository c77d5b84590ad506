"""Primary commands: TEST UNIT READY, REQUEST SENSE, INQUIRY, MODE SENSE, REPORT LUNS (SPC-5 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.scsi import inquiry as pages
from userdisk.scsi import luns as lun_list
from userdisk.scsi import mode, sense
from userdisk.scsi.opcodes import Opcode
from userdisk.scsi.sense import Sense
from userdisk.target import provisioning
from userdisk.target.command import GOOD, CheckCondition, Command, Completion

if TYPE_CHECKING:
    from userdisk.scsi.fields import Value
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.target import Target

_UNMAP_GRANULARITY = 4096  # bytes: a page, and a block of nearly every file system with images
_OPTIMAL_TRANSFER = 1 << 20  # bytes


def data_in(data: bytes, allocation_length: int) -> Completion:
    """GOOD, with at most `allocation_length` bytes of data."""
    return Completion(0, (data[:allocation_length],) if allocation_length else ())


def test_unit_ready(lu: LogicalUnit, command: Command) -> Completion:
    """The unit is ready."""
    return GOOD


def sense_data(cdb: bytes, what: Sense) -> Completion:
    """REQUEST SENSE data, in the format that the DESC bit asks for."""
    return data_in(what.encode(descriptor=bool(cdb[1] & 1)), cdb[4])


def request_sense(lu: LogicalUnit, command: Command) -> Completion:
    """The most urgent unit attention as data, which clears it; else NO SENSE."""
    attention = None if command.path.ready else lu.take_attention(command.path)
    what = sense.NO_SENSE if attention is None else sense.unit_attention(attention)
    return sense_data(command.cdb, what)


def report_luns(lu: LogicalUnit, command: Command) -> Completion:
    """The logical units of the target."""
    return luns(command.path.nexus.target, command.cdb)


def luns(target: Target, cdb: bytes) -> Completion:
    """REPORT LUNS to any LUN of the target; there are no well-known logical units."""
    if cdb[2] not in lun_list.SELECT_REPORTS:
        raise CheckCondition(sense.invalid_field_in_cdb(2))
    listed = () if cdb[2] == 1 else target.luns
    return data_in(lun_list.encode(listed), int.from_bytes(cdb[6:10], "big"))


# -- INQUIRY -----------------------------------------------------------------------------------


def _allocation(cdb: bytes) -> int:
    return int.from_bytes(cdb[3:5], "big")


def inquiry_absent(cdb: bytes) -> Completion:
    """INQUIRY to a LUN that has no logical unit; it has no pages."""
    if cdb[1] & 1 or cdb[2]:
        raise CheckCondition(sense.invalid_field_in_cdb(2 if cdb[2] else 1))
    return data_in(pages.absent(), _allocation(cdb))


def inquiry(lu: LogicalUnit, command: Command) -> Completion:
    """Standard data, or a vital product data page."""
    cdb = command.cdb
    if not cdb[1] & 1:
        if cdb[2]:
            raise CheckCondition(sense.invalid_field_in_cdb(2))
        what = lu.parameters
        data = pages.standard(what.product_id, what.product_revision)
    else:
        page = _PAGES.get(cdb[2])
        if page is None:
            raise CheckCondition(sense.invalid_field_in_cdb(2))
        data = page(lu, command)
    return data_in(data, _allocation(cdb))


def _supported_pages(lu: LogicalUnit, command: Command) -> bytes:
    return pages.vpd(pages.SUPPORTED_PAGES, bytes(sorted(_PAGES)))


def _serial_number(lu: LogicalUnit, command: Command) -> bytes:
    return pages.vpd(pages.SERIAL_NUMBER, str(lu.parameters.guid).encode("ascii"))


def _identification(lu: LogicalUnit, command: Command) -> bytes:
    what, target = lu.parameters, command.path.nexus.target
    names = pages.designators(what.guid, what.product_id, target.name)
    return pages.vpd(pages.IDENTIFICATION, b"".join(name.encode() for name in names))


def _block_limits(lu: LogicalUnit, command: Command) -> bytes:
    physical = lu.parameters.physical_block_length // lu.block_length
    values: dict[str, Value] = {
        "OPTIMAL TRANSFER LENGTH GRANULARITY": physical,
        "MAXIMUM TRANSFER LENGTH": lu.max_blocks,
        "OPTIMAL TRANSFER LENGTH": _OPTIMAL_TRANSFER // lu.block_length,
    }
    if provisioning.offered(lu):
        values |= {
            "MAXIMUM UNMAP LBA COUNT": provisioning.MAX_BLOCKS,
            "MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT": provisioning.MAX_DESCRIPTORS,
            "OPTIMAL UNMAP GRANULARITY": max(physical, _UNMAP_GRANULARITY // lu.block_length),
            "UGAVALID": 1,
        }
    return pages.fixed_page(pages.BLOCK_LIMITS_PAGE, values)


def _characteristics(lu: LogicalUnit, command: Command) -> bytes:
    return pages.fixed_page(pages.CHARACTERISTICS_PAGE, {"MEDIUM ROTATION RATE": 1})


def _provisioning(lu: LogicalUnit, command: Command) -> bytes:
    values: dict[str, Value] = {}
    if provisioning.offered(lu):
        zeroes = int(lu.gate.unit.unmap_zeroes)
        values = {"LBPU": 1, "LBPRZ": zeroes, "PROVISIONING TYPE": 2}
    return pages.fixed_page(pages.PROVISIONING_PAGE, values)


_PAGES = {
    pages.SUPPORTED_PAGES: _supported_pages,
    pages.SERIAL_NUMBER: _serial_number,
    pages.IDENTIFICATION: _identification,
    pages.BLOCK_LIMITS_PAGE: _block_limits,
    pages.CHARACTERISTICS_PAGE: _characteristics,
    pages.PROVISIONING_PAGE: _provisioning,
}


# -- MODE SENSE --------------------------------------------------------------------------------


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
