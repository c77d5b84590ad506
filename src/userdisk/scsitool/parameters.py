"""Which layout an answer has: mode pages, log pages, sense data, reservations (SPC-5 7.3, 7.5)."""

from __future__ import annotations

from userdisk.scsi import log, mode, reservation, sense
from userdisk.scsi.fields import Form
from userdisk.scsi.reservation import decode_transport_id
from userdisk.scsitool.items import Item, Reader, Section

_MODE_PAGES = {(page.code, page.subpage): page for page in mode.PAGES}
_MOST_PAGES = 4096
_SPF = 0x40
_MODE_LABELS = {"PAGE LENGTH": "PAGE LENGTH (n-1)"}
_SUBPAGE_LABELS = {"PAGE LENGTH": "PAGE LENGTH (n-3)"}

#: Mode pages that are known by name alone.
_MODE_NAMES: dict[int, str] = {
    0x00: "vendor specific",
    0x02: "disconnect-reconnect",
    0x03: "format device",
    0x04: "rigid disk geometry",
    0x07: "verify error recovery",
    0x0A: "control",
    0x18: "protocol specific logical unit",
    0x19: "protocol specific port",
}
_LOG_NAMES: dict[int, str] = {
    log.SUPPORTED_PAGES: "supported log pages",
    0x01: "buffer over-run/under-run",
    log.WRITE_ERRORS: "write error counters",
    log.READ_ERRORS: "read error counters",
    0x05: "verify error counters",
    0x06: "non-medium errors",
    0x08: "format status",
    log.PROVISIONING: "logical block provisioning",
    log.TEMPERATURE: "temperature",
    log.START_STOP: "start-stop cycle counter",
    0x10: "self-test results",
    0x11: "solid state media",
    0x15: "background scan",
    0x18: "protocol specific port",
    0x1A: "power condition transitions",
    log.INFORMATIONAL_EXCEPTIONS: "informational exceptions",
}
_COUNTER_BYTES = 8


def mode_data(data: bytes, *, short: bool) -> list[Section]:
    """Mode data: header and block descriptor in one section, and one for each page."""
    table = mode.HEADER_6 if short else mode.HEADER_10
    length, size = (mode.HEADER_6_LENGTH, 1) if short else (mode.HEADER_10_LENGTH, 2)
    reader = Reader(data, {"MODE DATA LENGTH": f"MODE DATA LENGTH (n-{size - 1})"})
    header = reader.fields(table, length)
    if "MODE DATA LENGTH" in header:
        reader.limit("MODE DATA LENGTH", header["MODE DATA LENGTH"] + size)
    described = header.get("BLOCK DESCRIPTOR LENGTH", 0)
    if described:
        long_lba = bool(header.get("LONGLBA"))
        size = mode.LONG_DESCRIPTOR_LENGTH if long_lba else mode.DESCRIPTOR_LENGTH
        if described >= size:
            reader.fields(mode.LONG_DESCRIPTOR if long_lba else mode.DESCRIPTOR, size)
        if described % size:
            reader.warnings.append(f"BLOCK DESCRIPTOR LENGTH {described} is no multiple of {size}")
        if described > size or described % size:
            reader.raw("BLOCK DESCRIPTORS", described - (size if described >= size else 0))
    found = [reader.section("Mode parameter header")]
    rest = reader.data[reader.at :]
    while rest and len(found) < _MOST_PAGES:
        section, used = _mode_page(rest)
        found.append(section)
        rest = rest[used:]
    return found


def _mode_page(data: bytes) -> tuple[Section, int]:
    """The page at the beginning of `data`, and its length."""
    code, long_header = data[0] & 0x3F, bool(data[0] & _SPF)
    header_length = 4 if long_header else 2
    subpage = data[1] if long_header and len(data) > 1 else 0
    total = header_length + int.from_bytes(data[2:4] if long_header else data[1:2], "big")
    reader = Reader(data[:total], _SUBPAGE_LABELS if long_header else _MODE_LABELS)
    known = _MODE_PAGES.get((code, subpage))
    if known is not None:
        name = known.name
        reader.fields(known.fields, min(total, len(reader.data)))
    else:
        name = _MODE_NAMES.get(code, "") if not subpage else ""
        table = mode.SUBPAGE_HEADER if long_header else mode.PAGE_HEADER
        reader.fields(table, header_length)
        reader.rest("MODE PARAMETERS")
    if total > len(data):
        reader.warnings.append(f"cut off: {len(data)} of {total} bytes")
    number = f"{code:02X}h" + (f"/{subpage:02X}h" if long_header else "")
    return reader.section(f"{name or 'unknown'} mode page ({number})"), max(total, 2)


def log_page(data: bytes) -> list[Section]:
    """A log page."""
    reader = Reader(data, _SUBPAGE_LABELS)
    header = reader.fields(log.HEADER, log.HEADER_LENGTH)
    code, subpage = header.get("PAGE CODE", 0), header.get("SUBPAGE CODE", 0)
    if "PAGE LENGTH" in header:
        reader.limit("PAGE LENGTH", log.HEADER_LENGTH + header["PAGE LENGTH"])
    if code == log.SUPPORTED_PAGES:
        reader.rest("SUPPORTED PAGE LIST")
    while reader.going:
        parameter = reader.fields(log.PARAMETER, log.PARAMETER_LENGTH)
        length = parameter.get("PARAMETER LENGTH", 0)
        is_list = parameter.get("FORMAT AND LINKING", 0) & 1
        if not is_list and 0 < length <= _COUNTER_BYTES and length <= reader.left:
            value = int.from_bytes(reader.data[reader.at : reader.at + length], "big")
            reader.at += length
            reader.items.append(Item("COUNTER", 8 * length, value))
        elif length:
            ascii_list = parameter.get("FORMAT AND LINKING") == 1
            reader.raw("PARAMETER VALUE", length, Form.TEXT if ascii_list else Form.BYTES)
    number = f"{code:02X}h" + (f"/{subpage:02X}h" if subpage else "")
    return [reader.section(f"{_LOG_NAMES.get(code, 'unknown')} log page ({number})")]


def sense_data(data: bytes) -> list[Section]:
    """Sense data in either format."""
    reader = Reader(data)
    if data and data[0] & 0x02:
        header = reader.fields(sense.DESCRIPTOR_HEADER, sense.DESCRIPTOR_HEADER_LENGTH)
        claimed = header.get("ADDITIONAL SENSE LENGTH")
        total = len(data) if claimed is None else sense.DESCRIPTOR_HEADER_LENGTH + claimed
        reader.limit("ADDITIONAL SENSE LENGTH", total)
        while reader.going:
            length = reader.data[reader.at + 1] if reader.left > 1 else 0
            reader.raw("SENSE DATA DESCRIPTOR", min(2 + length, reader.left))
        return [reader.section("Sense data, descriptor format")]
    header = reader.fields(sense.FIXED, min(len(data), 18))
    if "ADDITIONAL SENSE LENGTH" in header:
        reader.limit("ADDITIONAL SENSE LENGTH", 8 + header["ADDITIONAL SENSE LENGTH"])
    reader.rest("ADDITIONAL SENSE BYTES")
    return [reader.section("Sense data, fixed format")]


# -- persistent reservations -------------------------------------------------------------------


def _reservation_header(data: bytes) -> Reader:
    reader = Reader(data, {"ADDITIONAL LENGTH": "ADDITIONAL LENGTH (n-7)"})
    header = reader.fields(reservation.HEADER, reservation.HEADER_LENGTH)
    if "ADDITIONAL LENGTH" in header:
        reader.limit("ADDITIONAL LENGTH", reservation.HEADER_LENGTH + header["ADDITIONAL LENGTH"])
    return reader


def reservation_keys(data: bytes) -> list[Section]:
    """READ KEYS data."""
    reader = _reservation_header(data)
    while reader.going:
        reader.fields(reservation.KEY, reservation.KEY_LENGTH)
    return [reader.section("Registered keys")]


def current_reservation(data: bytes) -> list[Section]:
    """READ RESERVATION data."""
    reader = _reservation_header(data)
    while reader.going:
        reader.fields(reservation.RESERVATION, reservation.RESERVATION_LENGTH)
    return [reader.section("Reservation")]


def full_status(data: bytes) -> list[Section]:
    """READ FULL STATUS data; an iSCSI TransportID is a name, any other bytes."""
    reader = _reservation_header(data)
    while reader.going:
        header = reader.fields(reservation.FULL_STATUS, reservation.FULL_STATUS_LENGTH)
        length = header.get("ADDITIONAL DESCRIPTOR LENGTH", 0)
        if not length:
            continue
        try:
            name = decode_transport_id(reader.data[reader.at : reader.at + length])
        except (ValueError, IndexError):
            reader.raw("TRANSPORTID", length)
            continue
        isid = "" if name.isid is None else f",i,0x{name.isid:012x}"
        reader.at += length
        text = f"{name.initiator}{isid}".encode("ascii", "replace")
        reader.items.append(Item("TRANSPORTID", 8 * length, text, Form.TEXT))
    return [reader.section("Full status")]


def capabilities(data: bytes) -> list[Section]:
    """REPORT CAPABILITIES data."""
    reader = Reader(data, {"LENGTH": "LENGTH (n)"})
    header = reader.fields(reservation.CAPABILITIES, reservation.CAPABILITIES_LENGTH)
    if "LENGTH" in header:
        reader.limit("LENGTH", header["LENGTH"])
    reader.rest("more")
    return [reader.section("Capabilities")]
