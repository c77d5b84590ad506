"""Standard INQUIRY data and vital product data pages (SPC-5 6.6, 7.7; SBC-4 6.6).

Version is 6 (SPC-4): 7 would have initiators probe features of SPC-5. The 64-byte block limits
page requires the SBC-3 version descriptor.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from userdisk.scsi import fields
from userdisk.scsi.fields import Field, Form, Value

VENDOR = "userdisk"

#: SAM-5, SPC-4, SBC-3, iSCSI; none with a version claimed.
VERSION_DESCRIPTORS = (0x00A0, 0x0460, 0x04C0, 0x0960)

STANDARD_LENGTH = 96
STANDARD: Sequence[Field] = (
    Field("PERIPHERAL QUALIFIER", 0, 3),
    Field("PERIPHERAL DEVICE TYPE", 0, 5, 4),
    Field("RMB", 1, 1, 7),
    Field("LU_CONG", 1, 1, 6),
    Field("HOT_PLUGGABLE", 1, 2, 5),
    Field("VERSION", 2),
    Field("AERC", 3, 1, 7),
    Field("TRMTSK", 3, 1, 6),
    Field("NORMACA", 3, 1, 5),
    Field("HISUP", 3, 1, 4),
    Field("RESPONSE DATA FORMAT", 3, 4, 3),
    Field("ADDITIONAL LENGTH", 4),
    Field("SCCS", 5, 1, 7),
    Field("ACC", 5, 1, 6),
    Field("TPGS", 5, 2, 5),
    Field("3PC", 5, 1, 3),
    Field("PROTECT", 5, 1, 0),
    Field("BQUE", 6, 1, 7),
    Field("ENCSERV", 6, 1, 6),
    Field("MULTIP", 6, 1, 4),
    Field("MCHNGR", 6, 1, 3),
    Field("ACKREQQ", 6, 1, 2),
    Field("ADDR16", 6, 1, 0),
    Field("RELADR", 7, 1, 7),
    Field("WBUS16", 7, 1, 5),
    Field("SYNC", 7, 1, 4),
    Field("LINKED", 7, 1, 3),
    Field("TRANDIS", 7, 1, 2),
    Field("CMDQUE", 7, 1, 1),
    Field("T10 VENDOR IDENTIFICATION", 8, 64, form=Form.TEXT),
    Field("PRODUCT IDENTIFICATION", 16, 128, form=Form.TEXT),
    Field("PRODUCT REVISION LEVEL", 32, 32, form=Form.TEXT),
    Field("VENDOR SPECIFIC", 36, 160, form=Form.BYTES),
    Field("CLOCKING", 56, 2, 3),
    Field("QAS", 56, 1, 1),
    Field("IUS", 56, 1, 0),
    *(Field(f"VERSION DESCRIPTOR {n + 1}", 58 + 2 * n, 16) for n in range(8)),
)

HEADER_LENGTH = 4
HEADER: Sequence[Field] = (
    Field("PERIPHERAL QUALIFIER", 0, 3),
    Field("PERIPHERAL DEVICE TYPE", 0, 5, 4),
    Field("PAGE CODE", 1),
    Field("PAGE LENGTH", 2, 16),
)

EXTENDED_LENGTH = 64
EXTENDED: Sequence[Field] = (
    *HEADER,
    Field("ACTIVATE_MICROCODE", 4, 2),
    Field("SPT", 4, 3, 5),
    Field("GRD_CHK", 4, 1, 2),
    Field("APP_CHK", 4, 1, 1),
    Field("REF_CHK", 4, 1, 0),
    Field("UASK_SUP", 5, 1, 5),
    Field("GROUP_SUP", 5, 1, 4),
    Field("PRIOR_SUP", 5, 1, 3),
    Field("HEADSUP", 5, 1, 2),
    Field("ORDSUP", 5, 1, 1),
    Field("SIMPSUP", 5, 1, 0),
    Field("WU_SUP", 6, 1, 3),
    Field("CRD_SUP", 6, 1, 2),
    Field("NV_SUP", 6, 1, 1),
    Field("V_SUP", 6, 1, 0),
    Field("NO_PI_CHK", 7, 1, 5),
    Field("P_I_I_SUP", 7, 1, 4),
    Field("LUICLR", 7, 1, 0),
    Field("LU_COLLECTION_TYPE", 8, 3, 7),
    Field("R_SUP", 8, 1, 4),
    Field("RTD_SUP", 8, 1, 3),
    Field("HSSRELEF", 8, 1, 1),
    Field("CBCS", 8, 1, 0),
    Field("MULTI I_T NEXUS MICROCODE DOWNLOAD", 9, 4, 3),
    Field("EXTENDED SELF-TEST COMPLETION MINUTES", 10, 16),
    Field("POA_SUP", 12, 1, 7),
    Field("HRA_SUP", 12, 1, 6),
    Field("VSA_SUP", 12, 1, 5),
    Field("DMS_VALID", 12, 1, 4),
    Field("MAXIMUM SUPPORTED SENSE DATA LENGTH", 13),
    Field("IBS", 14, 1, 7),
    Field("IAS", 14, 1, 6),
    Field("SAC", 14, 1, 2),
    Field("NRD1", 14, 1, 1),
    Field("NRD0", 14, 1, 0),
    Field("MAXIMUM INQUIRY CHANGE LOGS", 15, 16),
    Field("MAXIMUM MODE PAGE CHANGE LOGS", 17, 16),
    *(Field(f"DM_MD_{mode}", 19, 1, 7 - at) for at, mode in enumerate("4567DEF")),
)

BLOCK_LIMITS_LENGTH = 64
BLOCK_LIMITS: Sequence[Field] = (
    *HEADER,
    Field("WSNZ", 4, 1, 0),
    Field("MAXIMUM COMPARE AND WRITE LENGTH", 5),
    Field("OPTIMAL TRANSFER LENGTH GRANULARITY", 6, 16),
    Field("MAXIMUM TRANSFER LENGTH", 8, 32),
    Field("OPTIMAL TRANSFER LENGTH", 12, 32),
    Field("MAXIMUM PREFETCH LENGTH", 16, 32),
    Field("MAXIMUM UNMAP LBA COUNT", 20, 32),
    Field("MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT", 24, 32),
    Field("OPTIMAL UNMAP GRANULARITY", 28, 32),
    Field("UGAVALID", 32, 1),
    Field("UNMAP GRANULARITY ALIGNMENT", 32, 31, 6),
    Field("MAXIMUM WRITE SAME LENGTH", 36, 64),
    Field("MAXIMUM ATOMIC TRANSFER LENGTH", 44, 32),
    Field("ATOMIC ALIGNMENT", 48, 32),
    Field("ATOMIC TRANSFER LENGTH GRANULARITY", 52, 32),
    Field("MAXIMUM ATOMIC TRANSFER LENGTH WITH ATOMIC BOUNDARY", 56, 32),
    Field("MAXIMUM ATOMIC BOUNDARY SIZE", 60, 32),
)

CHARACTERISTICS_LENGTH = 64
CHARACTERISTICS: Sequence[Field] = (
    *HEADER,
    Field("MEDIUM ROTATION RATE", 4, 16),
    Field("PRODUCT TYPE", 6),
    Field("WABEREQ", 7, 2, 7),
    Field("WACEREQ", 7, 2, 5),
    Field("NOMINAL FORM FACTOR", 7, 4, 3),
    Field("ZONED", 8, 2, 5),
    Field("RBWZ", 8, 1, 3),
    Field("BOCS", 8, 1, 2),
    Field("FUAB", 8, 1, 1),
    Field("VBULS", 8, 1, 0),
    Field("DEPOPULATION TIME", 12, 32),
)

PROVISIONING_LENGTH = 8
PROVISIONING: Sequence[Field] = (
    *HEADER,
    Field("THRESHOLD EXPONENT", 4),
    Field("LBPU", 5, 1, 7),
    Field("LBPWS", 5, 1, 6),
    Field("LBPWS10", 5, 1, 5),
    Field("LBPRZ", 5, 3, 4),
    Field("ANC_SUP", 5, 1, 1),
    Field("DP", 5, 1, 0),
    Field("PROVISIONING TYPE", 6, 3, 2),
)

SUPPORTED_PAGES, SERIAL_NUMBER, IDENTIFICATION, EXTENDED_PAGE = 0x00, 0x80, 0x83, 0x86
BLOCK_LIMITS_PAGE, CHARACTERISTICS_PAGE, PROVISIONING_PAGE = 0xB0, 0xB1, 0xB2

#: Page code -> (length, fields), of the pages that have a fixed layout.
PAGES: dict[int, tuple[int, Sequence[Field]]] = {
    EXTENDED_PAGE: (EXTENDED_LENGTH, EXTENDED),
    BLOCK_LIMITS_PAGE: (BLOCK_LIMITS_LENGTH, BLOCK_LIMITS),
    CHARACTERISTICS_PAGE: (CHARACTERISTICS_LENGTH, CHARACTERISTICS),
    PROVISIONING_PAGE: (PROVISIONING_LENGTH, PROVISIONING),
}


def standard(product_id: str, revision: str, abilities: dict[str, Value]) -> bytes:
    """Standard INQUIRY data of a direct access block device.

    Args:
        abilities: fields of `STANDARD` that not every unit has.
    """
    values: dict[str, Value] = {
        "VERSION": 6,
        "HISUP": 1,
        "RESPONSE DATA FORMAT": 2,
        "ADDITIONAL LENGTH": STANDARD_LENGTH - 5,
        "3PC": 1,
        "CMDQUE": 1,
        "T10 VENDOR IDENTIFICATION": VENDOR,
        "PRODUCT IDENTIFICATION": product_id,
        "PRODUCT REVISION LEVEL": revision,
    }
    for n, descriptor in enumerate(VERSION_DESCRIPTORS):
        values[f"VERSION DESCRIPTOR {n + 1}"] = descriptor
    return fields.encode(STANDARD_LENGTH, STANDARD, values | abilities)


def absent() -> bytes:
    """Standard INQUIRY data of a LUN with no logical unit: qualifier 3, device type 1Fh."""
    return b"\x7f\x00\x06\x02" + bytes([36 - 5]).ljust(4, b"\0") + b" " * 28


def vpd(page: int, body: bytes) -> bytes:
    """A page: its header and `body`."""
    return struct.pack(">BBH", 0, page, len(body)) + body


def fixed_page(page: int, values: dict[str, Value]) -> bytes:
    """A page of `PAGES` with the given values."""
    length, table = PAGES[page]
    return fields.encode(length, table, {"PAGE CODE": page, "PAGE LENGTH": length - 4} | values)


# -- device identification ---------------------------------------------------------------------

_ISCSI = 5  # PROTOCOL IDENTIFIER

DESIGNATOR_LENGTH = 4  #: of its header
DESIGNATOR: Sequence[Field] = (
    Field("PROTOCOL IDENTIFIER", 0, 4),
    Field("CODE SET", 0, 4, 3),
    Field("PIV", 1, 1, 7),
    Field("ASSOCIATION", 1, 2, 5),
    Field("IDENTIFIER TYPE", 1, 4, 3),
    Field("IDENTIFIER LENGTH", 3),
)


class Designator(NamedTuple):
    """One name of a logical unit, target port or target device (SPC-5 7.7.6)."""

    association: int  #: 0 logical unit, 1 target port, 2 target device
    kind: int  #: 1 T10 vendor id, 3 NAA, 4 relative port, 5 port group, 8 SCSI name string
    code_set: int  #: 1 binary, 2 ASCII, 3 UTF-8
    value: bytes

    def encode(self) -> bytes:
        """The designation descriptor; ports and devices carry iSCSI as their protocol."""
        values: dict[str, Value] = {
            "CODE SET": self.code_set,
            "ASSOCIATION": self.association,
            "IDENTIFIER TYPE": self.kind,
            "IDENTIFIER LENGTH": len(self.value),
        }
        if self.association:
            values |= {"PROTOCOL IDENTIFIER": _ISCSI, "PIV": 1}
        return fields.encode(DESIGNATOR_LENGTH, DESIGNATOR, values) + self.value

    @classmethod
    def decode_all(cls, body: bytes) -> list[Designator]:
        """The descriptors of a page 83h without its header; an incomplete one is left out."""
        found = []
        while len(body) >= 4 and len(body) >= 4 + body[3]:
            value, length = body[4 : 4 + body[3]], 4 + body[3]
            found.append(cls(body[1] >> 4 & 3, body[1] & 0xF, body[0] & 0xF, value))
            body = body[length:]
        return found


def naa(guid: uuid.UUID) -> bytes:
    """A locally assigned NAA name: 60 bits of the GUID, folded so that all of it counts."""
    folded = (guid.int ^ guid.int >> 64) & (1 << 60) - 1
    return (3 << 60 | folded).to_bytes(8, "big")


def _name_string(text: str) -> bytes:
    name = text.encode() + b"\0"
    return name + bytes(-len(name) % 4)


def designators(
    guid: uuid.UUID, product_id: str, target: str | None, port: int = 1
) -> list[Designator]:
    """The names of a logical unit, NAA first, and of the iSCSI target port that it is seen by.

    `port` is relative identifier, target port group and portal group tag in one.
    """
    name = naa(guid)
    found = [
        Designator(0, 3, 1, name),
        Designator(0, 1, 2, f"{VENDOR:8}{product_id:16}{guid}".encode("ascii")),
        Designator(0, 8, 3, _name_string(f"naa.{name.hex().upper()}")),
    ]
    if target is not None:
        found += [
            Designator(1, 4, 1, struct.pack(">xxH", port)),
            Designator(1, 5, 1, struct.pack(">xxH", port)),
            Designator(1, 8, 3, _name_string(f"{target},t,0x{port:04x}")),
            Designator(2, 8, 3, _name_string(target)),
        ]
    return found
