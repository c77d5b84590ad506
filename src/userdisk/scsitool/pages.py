"""Which layout an answer has: INQUIRY, VPD pages, capacities, LUNs (SPC-5 6.6, 7.7; SBC-4).

Every decoder takes any bytes: what is there is shown, what is odd is a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from userdisk.errors import UsageError
from userdisk.scsi import capacity, inquiry, luns, third_party_copy
from userdisk.scsi.fields import Field, Form
from userdisk.scsitool.items import Reader, Section

_ASCII, _UTF8 = 2, 3  # CODE SET


class Vpd(NamedTuple):
    """A vital product data page: what it is called, and how its body is read."""

    code: int
    name: str
    title: str
    read: Callable[[Reader], None]


def _list(reader: Reader) -> None:
    reader.raw("SUPPORTED VPD PAGE LIST", reader.left)


def _serial(reader: Reader) -> None:
    reader.raw("PRODUCT SERIAL NUMBER", reader.left, Form.TEXT)


def _identification(reader: Reader) -> None:
    while reader.going:
        header = reader.fields(inquiry.DESIGNATOR, inquiry.DESIGNATOR_LENGTH)
        text = header.get("CODE SET") in (_ASCII, _UTF8)
        length = header.get("IDENTIFIER LENGTH", 0)
        if length:
            reader.raw("IDENTIFIER", length, Form.TEXT if text else Form.BYTES)


_COPY_DESCRIPTOR = (
    Field("THIRD-PARTY COPY DESCRIPTOR TYPE", 0, 16),
    Field("THIRD-PARTY COPY DESCRIPTOR LENGTH", 2, 16),
)


def _third_party_copy(reader: Reader) -> None:
    while reader.going:
        header = reader.fields(_COPY_DESCRIPTOR, 4)
        if length := header.get("THIRD-PARTY COPY DESCRIPTOR LENGTH", 0):
            reader.raw("THIRD-PARTY COPY DESCRIPTOR", length)


def _fixed(code: int) -> Callable[[Reader], None]:
    """The rest of a page of which the engine has the table."""
    length, table = inquiry.PAGES[code]
    body = [
        field._replace(byte=field.byte - inquiry.HEADER_LENGTH)
        for field in table
        if field.byte >= inquiry.HEADER_LENGTH
    ]

    def read(reader: Reader) -> None:
        reader.fields(body, min(length - inquiry.HEADER_LENGTH, reader.left))
        reader.rest("PROVISIONING GROUP DESCRIPTOR" if code == 0xB2 else "more")

    return read


_P = inquiry
VPD_PAGES: tuple[Vpd, ...] = (
    Vpd(_P.SUPPORTED_PAGES, "supported", "Supported VPD pages", _list),
    Vpd(_P.SERIAL_NUMBER, "serial", "Unit serial number", _serial),
    Vpd(_P.IDENTIFICATION, "identification", "Device identification", _identification),
    Vpd(_P.EXTENDED_PAGE, "extended", "Extended INQUIRY data", _fixed(_P.EXTENDED_PAGE)),
    Vpd(third_party_copy.PAGE, "third-party-copy", "Third-party copy", _third_party_copy),
    Vpd(_P.BLOCK_LIMITS_PAGE, "limits", "Block limits", _fixed(_P.BLOCK_LIMITS_PAGE)),
    Vpd(_P.CHARACTERISTICS_PAGE, "characteristics", "Block device characteristics",
        _fixed(_P.CHARACTERISTICS_PAGE)),
    Vpd(_P.PROVISIONING_PAGE, "provisioning", "Logical block provisioning",
        _fixed(_P.PROVISIONING_PAGE)),
)  # fmt: skip
_BY_CODE = {page.code: page for page in VPD_PAGES}
#: Pages that are known by name alone.
_OTHERS: dict[int, str] = {
    0x81: "Implemented operating definition",
    0x82: "ASCII implemented operating definition",
    0x84: "Software interface identification",
    0x85: "Management network addresses",
    0x87: "Mode page policy",
    0x88: "SCSI ports",
    0x89: "ATA information",
    0x8A: "Power condition",
    0x8B: "Device constituents",
    0x8C: "CFA profile information",
    0x8D: "Power consumption",
    0x90: "Protocol specific logical unit information",
    0x91: "Protocol specific port information",
    0x92: "SCSI feature sets",
    0xB3: "Referrals",
    0xB4: "Supported block lengths and protection types",
    0xB5: "Block device characteristics extension",
    0xB6: "Zoned block device characteristics",
    0xB7: "Block limits extension",
    0xB8: "Format presets",
    0xB9: "Concurrent positioning ranges",
}


def page_code(text: str) -> int:
    """A VPD page by its name or its number, which is hexadecimal: b0, 0xb0, B0h.

    Raises `UsageError`, which says what names there are.
    """
    for page in VPD_PAGES:
        if page.name == text.lower():
            return page.code
    digits = text.lower().removeprefix("0x").removesuffix("h")
    if 1 <= len(digits) <= 2 and all(digit in "0123456789abcdef" for digit in digits):
        return int(digits, 16)
    names = ", ".join(page.name for page in VPD_PAGES)
    raise UsageError(f"{text}: a page is a hexadecimal number such as b0, or one of {names}")


def vpd_title(code: int) -> str:
    """What a page is called."""
    known = _BY_CODE.get(code)
    if known is not None:
        return known.title
    return _OTHERS.get(code, "Vendor specific page" if code >= 0xC0 else "Unknown page")


def vpd(code: int, data: bytes) -> list[Section]:
    """The page `code`, as it was answered."""
    shown = data[1] if len(data) > 1 else code
    labels = {"PAGE CODE": f"PAGE CODE ({shown:02X}h)", "PAGE LENGTH": "PAGE LENGTH (n-3)"}
    reader = Reader(data, labels)
    header = reader.fields(inquiry.HEADER, inquiry.HEADER_LENGTH)
    if shown != code:
        reader.warnings.append(f"page {code:02X}h was asked for, {shown:02X}h came")
    if "PAGE LENGTH" in header:
        reader.limit("PAGE LENGTH", inquiry.HEADER_LENGTH + header["PAGE LENGTH"])
    known = _BY_CODE.get(shown)
    if known is None:
        reader.rest("PAGE DATA")
    else:
        known.read(reader)
    return [reader.section(f"{vpd_title(shown)} ({shown:02X}h)")]


def standard_inquiry(data: bytes) -> list[Section]:
    """Standard INQUIRY data."""
    total = data[4] + 5 if len(data) > 4 else len(data)
    reader = Reader(data[:total], {"ADDITIONAL LENGTH": "ADDITIONAL LENGTH (n-4)"})
    reader.fields(inquiry.STANDARD, min(len(reader.data), inquiry.STANDARD_LENGTH))
    reader.limit("ADDITIONAL LENGTH", total)
    if total < len(data):
        reader.warnings.append(f"{len(data) - total} bytes came beyond the length")
    reader.rest("VENDOR SPECIFIC PARAMETERS")
    return [reader.section("Standard INQUIRY data")]


def _plain(title: str, data: bytes, table: Sequence[Field], length: int) -> list[Section]:
    reader = Reader(data)
    reader.fields(table, length)
    reader.rest("more")
    return [reader.section(title)]


def short_capacity(data: bytes) -> list[Section]:
    """READ CAPACITY(10) data."""
    return _plain("READ CAPACITY(10)", data, capacity.SHORT, capacity.SHORT_LENGTH)


def long_capacity(data: bytes) -> list[Section]:
    """READ CAPACITY(16) data."""
    return _plain("READ CAPACITY(16)", data, capacity.LONG, capacity.LONG_LENGTH)


def lun_list(data: bytes) -> list[Section]:
    """REPORT LUNS data."""
    reader = Reader(data, {"LUN LIST LENGTH": "LUN LIST LENGTH (n-7)"})
    header = reader.fields(luns.HEADER, luns.HEADER_LENGTH)
    if "LUN LIST LENGTH" in header:
        reader.limit("LUN LIST LENGTH", luns.HEADER_LENGTH + header["LUN LIST LENGTH"])
    while reader.going:
        reader.fields(luns.LUN, luns.LUN_LENGTH)
    return [reader.section("LUNs")]
