"""INQUIRY: standard data and vital product data pages (SPC-5 6.6, 7.7; SBC-4 6.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.scsi import inquiry as pages
from userdisk.scsi import sense, third_party_copy
from userdisk.target import atomic, port_groups, provisioning, soft_threshold, write_same
from userdisk.target.command import CheckCondition, Command, Completion
from userdisk.target.data_in import data_in
from userdisk.unit import overrides

if TYPE_CHECKING:
    from userdisk.scsi.fields import Value
    from userdisk.target.logical_unit import LogicalUnit

_UNMAP_GRANULARITY = 4096  # bytes: a page, and a block of nearly every file system with images
_OPTIMAL_TRANSFER = 1 << 20  # bytes


def _allocation(cdb: bytes) -> int:
    return int.from_bytes(cdb[3:5], "big")


def absent(cdb: bytes) -> Completion:
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
        data = _standard(lu, command)
    else:
        page = _PAGES.get(cdb[2])
        if page is None:
            raise CheckCondition(sense.invalid_field_in_cdb(2))
        data = page(lu, command)
    return data_in(data, _allocation(cdb))


def _standard(lu: LogicalUnit, command: Command) -> bytes:
    what = lu.parameters
    abilities: dict[str, Value] = {"RMB": int(what.removable)}
    if port_groups.offered(lu):
        abilities |= {"TPGS": 3, "MULTIP": 1}  # implicit and explicit
    return pages.standard(what.product_id, what.product_revision, abilities)


def _supported_pages(lu: LogicalUnit, command: Command) -> bytes:
    return pages.vpd(pages.SUPPORTED_PAGES, bytes(sorted(_PAGES)))


def _serial_number(lu: LogicalUnit, command: Command) -> bytes:
    return pages.vpd(pages.SERIAL_NUMBER, str(lu.parameters.guid).encode("ascii"))


def _identification(lu: LogicalUnit, command: Command) -> bytes:
    what, nexus = lu.parameters, command.path.nexus
    names = pages.designators(what.guid, what.product_id, nexus.target.name, nexus.port)
    return pages.vpd(pages.IDENTIFICATION, b"".join(name.encode() for name in names))


def _extended(lu: LogicalUnit, command: Command) -> bytes:
    """Task attributes are honoured, and a nexus that is lost leaves no unit attentions."""
    values: dict[str, Value] = {
        "HEADSUP": 1,
        "ORDSUP": 1,
        "SIMPSUP": 1,
        "LUICLR": 1,
        "V_SUP": int(lu.parameters.cache_supported),
    }
    return pages.fixed_page(pages.EXTENDED_PAGE, values)


def _block_limits(lu: LogicalUnit, command: Command) -> bytes:
    physical = lu.parameters.physical_block_length // lu.block_length
    values: dict[str, Value] = {
        "OPTIMAL TRANSFER LENGTH GRANULARITY": physical,
        "MAXIMUM TRANSFER LENGTH": lu.max_blocks,
        "OPTIMAL TRANSFER LENGTH": _OPTIMAL_TRANSFER // lu.block_length,
        "MAXIMUM COMPARE AND WRITE LENGTH": atomic.MAX_COMPARED,
        "MAXIMUM WRITE SAME LENGTH": write_same.MAX_BLOCKS,
        "MAXIMUM ATOMIC TRANSFER LENGTH": atomic.max_atomic(lu),
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
    unit = lu.gate.unit
    values: dict[str, Value] = {
        "MEDIUM ROTATION RATE": 1,
        # after SANITIZE, blocks that were not written since are read without an error
        "WABEREQ": int(overrides(unit, "erase")),
        "WACEREQ": int(overrides(unit, "crypto_erase")),
    }
    return pages.fixed_page(pages.CHARACTERISTICS_PAGE, values)


def _provisioning(lu: LogicalUnit, command: Command) -> bytes:
    values: dict[str, Value] = {}
    if provisioning.offered(lu):
        zeroes = int(lu.gate.unit.unmap_zeroes)
        values = {
            "THRESHOLD EXPONENT": soft_threshold.exponent(lu),
            "LBPU": 1,
            "LBPWS": 1,
            "LBPWS10": 1,
            "LBPRZ": zeroes,
            "PROVISIONING TYPE": 2,
        }
    return pages.fixed_page(pages.PROVISIONING_PAGE, values)


def _third_party_copy(lu: LogicalUnit, command: Command) -> bytes:
    return pages.vpd(third_party_copy.PAGE, third_party_copy.page_body(lu.block_length))


_PAGES = {
    pages.SUPPORTED_PAGES: _supported_pages,
    pages.SERIAL_NUMBER: _serial_number,
    pages.IDENTIFICATION: _identification,
    pages.EXTENDED_PAGE: _extended,
    third_party_copy.PAGE: _third_party_copy,
    pages.BLOCK_LIMITS_PAGE: _block_limits,
    pages.CHARACTERISTICS_PAGE: _characteristics,
    pages.PROVISIONING_PAGE: _provisioning,
}
