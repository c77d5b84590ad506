"""MODE SENSE and MODE SELECT (SPC-5 6.12 to 6.15, SBC-4 6.5)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from userdisk.operation import Exclusive
from userdisk.scsi import fields, mode, sense
from userdisk.scsi.mode import Page
from userdisk.scsi.opcodes import Opcode
from userdisk.target import mode_pages
from userdisk.target.command import GOOD, CheckCondition, Command, Completion, Steps
from userdisk.target.data_in import data_in
from userdisk.target.data_out import receive_all
from userdisk.target.mode_pages import ModePage

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.mode_parameters import Values

_DBD, _LLBAA = 0x08, 0x10  # MODE SENSE
_PF, _SP = 0x10, 0x01  # MODE SELECT
_LONGLBA, _SPF = 0x01, 0x40
_WP_DPOFUA = 0x90  # of no meaning in MODE SELECT; some initiators send what they have sensed


def mode_sense(lu: LogicalUnit, command: Command) -> Completion:
    """MODE SENSE(6) and (10): a page, its subpages, or all."""
    cdb = command.cdb
    short = cdb[0] == Opcode.MODE_SENSE_6
    control = cdb[2] >> 6
    chosen = _chosen(lu, cdb[2] & 0x3F, cdb[3])
    if control == mode.SAVED and not lu.mode_parameters.durable:
        raise CheckCondition(sense.saving_not_supported())
    body = b"".join(lu.mode_parameters.encode(page, control) for page in chosen)
    long_lba = not short and bool(cdb[1] & _LLBAA)
    descriptor = b""
    if not cdb[1] & _DBD:
        descriptor = mode.block_descriptor(lu.block_count, lu.block_length, long_lba=long_lba)
    data = mode.encode(
        body,
        descriptor,
        short=short,
        write_protected=lu.write_protected,
        long_lba=long_lba and bool(descriptor),
    )
    return data_in(data, cdb[4] if short else int.from_bytes(cdb[7:9], "big"))


def _chosen(lu: LogicalUnit, code: int, subpage: int) -> list[ModePage]:
    pages = mode_pages.offered(lu)
    if code != mode.ALL_PAGES:
        pages = [page for page in pages if page.layout.code == code]
        if not pages:
            raise CheckCondition(sense.invalid_field_in_cdb(2, 5))
    if subpage != mode.ALL_SUBPAGES:
        pages = [page for page in pages if page.layout.subpage == subpage]
        if not pages or (code == mode.ALL_PAGES and subpage):
            raise CheckCondition(sense.invalid_field_in_cdb(3))
    return pages


# -- MODE SELECT -------------------------------------------------------------------------------


def mode_select(lu: LogicalUnit, command: Command) -> Completion | Steps:
    """MODE SELECT(6) and (10): all of the parameter list is valid, or nothing changes."""
    cdb = command.cdb
    short = cdb[0] == Opcode.MODE_SELECT_6
    length = cdb[4] if short else int.from_bytes(cdb[7:9], "big")
    save = bool(cdb[1] & _SP)
    if length and not cdb[1] & _PF:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 4))
    if save and not lu.mode_parameters.durable:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 0))
    return _mode_select(lu, command, length, short, save) if length or save else GOOD


def _mode_select(lu: LogicalUnit, command: Command, length: int, short: bool, save: bool) -> Steps:
    data = yield from receive_all(command, length)
    wanted = _decode(lu, data, short) if data else {}
    parameters, nexus = lu.mode_parameters, command.path.nexus
    if save or parameters.differ(wanted):
        yield Exclusive(lambda: parameters.change(wanted, nexus, save=save))
    return Completion(wanted=length)


def _decode(lu: LogicalUnit, data: bytes, short: bool) -> Values:
    """The values of changeable fields; raises CheckCondition for what is wrong in the list.

    MODE DATA LENGTH and PS are reserved and not looked at.
    """
    at = 4 if short else 8
    _need(data, at)
    medium_type, length_byte = (1, 3) if short else (2, 6)
    long_lba = not short and bool(data[4] & _LONGLBA)
    _need_zero(data, medium_type)
    _need_zero(data, medium_type + 1, 0xFF & ~_WP_DPOFUA)
    if not short:
        _need_zero(data, 4, 0xFF & ~_LONGLBA)
        _need_zero(data, 5)
    length = int.from_bytes(data[length_byte:at], "big")
    if length not in (0, 16 if long_lba else 8):
        raise _wrong(length_byte)
    _need(data, at + length)
    if length:
        _check_descriptor(lu, data, at, long_lba=long_lba)
    at += length
    wanted: dict[str, dict[str, int]] = {}
    while at < len(data):
        page = _page_at(lu, data, at)
        if page.layout.name in wanted:  # twice: which one is meant?
            raise _wrong(at, 5)
        wanted[page.layout.name] = _changes(lu, page, data[at : at + page.layout.length], at)
        at += page.layout.length
    return wanted


def _check_descriptor(lu: LogicalUnit, data: bytes, at: int, *, long_lba: bool) -> None:
    """Raise CheckCondition unless it says what is so; 0 blocks and the most possible do as well."""
    layout, length_byte = (">QII", at + 12) if long_lba else (">IB3s", at + 5)
    blocks, reserved, length = struct.unpack_from(layout, data, at)
    most = (1 << (64 if long_lba else 32)) - 1
    if blocks not in (0, most, min(lu.block_count, most)):
        raise _wrong(at)
    if reserved:
        raise _wrong(at + (8 if long_lba else 4))
    if (length if long_lba else int.from_bytes(length, "big")) != lu.block_length:
        raise _wrong(length_byte)


def _page_at(lu: LogicalUnit, data: bytes, at: int) -> ModePage:
    """The page whose header is at `at`, and all of which is there."""
    code = data[at] & 0x3F
    pages = {page.layout.subpage: page for page in _pages_of(lu, code)}
    if not pages:
        raise _wrong(at, 5)
    _need(data, at + (4 if data[at] & _SPF else 2))
    subpage = data[at + 1] if data[at] & _SPF else 0
    if subpage not in pages or (data[at] & _SPF and not subpage):
        raise _wrong(at + 1)
    layout = pages[subpage].layout
    start, end = at + (2 if subpage else 1), at + layout.header_length
    if int.from_bytes(data[start:end], "big") != layout.length - layout.header_length:
        raise _wrong(start)
    _need(data, at + layout.length)
    return pages[subpage]


def _pages_of(lu: LogicalUnit, code: int) -> list[ModePage]:
    return [page for page in mode_pages.offered(lu) if page.layout.code == code]


def _changes(lu: LogicalUnit, page: ModePage, received: bytes, at: int) -> dict[str, int]:
    """The changeable fields' values; raises CheckCondition if another one is not as it is."""
    layout = page.layout
    current = lu.mode_parameters.encode(page, mode.CURRENT)
    mask = lu.mode_parameters.encode(page, mode.CHANGEABLE)
    header = layout.header_length
    for byte in range(header, layout.length):
        wrong = (received[byte] ^ current[byte]) & ~mask[byte]
        if wrong:
            raise _wrong_field(layout, at, byte, wrong.bit_length() - 1)
    values = fields.decode(received, layout.fields)
    return {name: int(values[name]) for name in lu.mode_parameters.default[layout.name]}


def _wrong_field(layout: Page, at: int, byte: int, bit: int) -> CheckCondition:
    """A pointer to the field that this bit is of, or to the bit if it is of none."""
    place = 8 * byte + 7 - bit
    for field in layout.fields:
        start = 8 * field.byte + 7 - field.bit
        if start <= place < start + field.bits:
            return _wrong(at + field.byte, None if field.bits % 8 == 0 else field.bit)
    return _wrong(at + byte, bit)


def _need(data: bytes, length: int) -> None:
    if len(data) < length:
        raise CheckCondition(sense.parameter_list_length_error())


def _need_zero(data: bytes, byte: int, mask: int = 0xFF) -> None:
    wrong = data[byte] & mask
    if wrong:
        raise _wrong(byte, None if mask == 0xFF else wrong.bit_length() - 1)


def _wrong(byte: int, bit: int | None = None) -> CheckCondition:
    return CheckCondition(sense.invalid_field_in_parameter_list(byte, bit))
