"""Mode parameters on the wire: headers, block descriptors and pages (SPC-5 7.5; SBC-4 6.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from userdisk.scsi import fields
from userdisk.scsi.fields import Field, Value

_MAX_U32 = (1 << 32) - 1

ALL_PAGES, ALL_SUBPAGES = 0x3F, 0xFF

#: PAGE CONTROL
CURRENT, CHANGEABLE, DEFAULT, SAVED = range(4)

HEADER_6_LENGTH, HEADER_10_LENGTH = 4, 8
#: The mode parameter header of MODE SENSE(6), and that of MODE SENSE(10).
HEADER_6: Sequence[Field] = (
    Field("MODE DATA LENGTH", 0),
    Field("MEDIUM TYPE", 1),
    Field("WP", 2, 1, 7),
    Field("DPOFUA", 2, 1, 4),
    Field("BLOCK DESCRIPTOR LENGTH", 3),
)
HEADER_10: Sequence[Field] = (
    Field("MODE DATA LENGTH", 0, 16),
    Field("MEDIUM TYPE", 2),
    Field("WP", 3, 1, 7),
    Field("DPOFUA", 3, 1, 4),
    Field("LONGLBA", 4, 1, 0),
    Field("BLOCK DESCRIPTOR LENGTH", 6, 16),
)

DESCRIPTOR_LENGTH, LONG_DESCRIPTOR_LENGTH = 8, 16
#: The short and the long LBA block descriptor of a direct access device.
DESCRIPTOR: Sequence[Field] = (
    Field("NUMBER OF LOGICAL BLOCKS", 0, 32),
    Field("LOGICAL BLOCK LENGTH", 5, 24),
)
LONG_DESCRIPTOR: Sequence[Field] = (
    Field("NUMBER OF LOGICAL BLOCKS", 0, 64),
    Field("LOGICAL BLOCK LENGTH", 12, 32),
)

PAGE_HEADER: Sequence[Field] = (
    Field("PS", 0, 1, 7),
    Field("SPF", 0, 1, 6),
    Field("PAGE CODE", 0, 6, 5),
    Field("PAGE LENGTH", 1),
)
SUBPAGE_HEADER: Sequence[Field] = (
    *PAGE_HEADER[:3],
    Field("SUBPAGE CODE", 1),
    Field("PAGE LENGTH", 2, 16),
)


class Page(NamedTuple):
    """The layout of a mode page; `length` with its header. Subpage 0 has a shorter header."""

    name: str
    code: int
    length: int
    fields: Sequence[Field]
    subpage: int = 0

    @property
    def header_length(self) -> int:
        """Bytes before the page's own fields; PAGE LENGTH is the last of the header."""
        return 4 if self.subpage else 2

    def encode(self, values: Mapping[str, Value]) -> bytes:
        """The page with these values."""
        header: dict[str, Value] = {
            "PAGE CODE": self.code,
            "PAGE LENGTH": self.length - self.header_length,
        }
        if self.subpage:
            header |= {"SPF": 1, "SUBPAGE CODE": self.subpage}
        return fields.encode(self.length, self.fields, header | dict(values))


READ_WRITE_ERROR_RECOVERY = Page(
    "read-write error recovery",
    0x01,
    12,
    (
        *PAGE_HEADER,
        Field("AWRE", 2, 1, 7),
        Field("ARRE", 2, 1, 6),
        Field("TB", 2, 1, 5),
        Field("RC", 2, 1, 4),
        Field("EER", 2, 1, 3),
        Field("PER", 2, 1, 2),
        Field("DTE", 2, 1, 1),
        Field("READ RETRY COUNT", 3),
        Field("LBPERE", 7, 1, 7),
        Field("WRITE RETRY COUNT", 8),
        Field("RECOVERY TIME LIMIT", 10, 16),
    ),
)
CACHING = Page(
    "caching",
    0x08,
    20,
    (
        *PAGE_HEADER,
        Field("IC", 2, 1, 7),
        Field("ABPF", 2, 1, 6),
        Field("CAP", 2, 1, 5),
        Field("DISC", 2, 1, 4),
        Field("SIZE", 2, 1, 3),
        Field("WCE", 2, 1, 2),
        Field("MF", 2, 1, 1),
        Field("RCD", 2, 1, 0),
        Field("DEMAND READ RETENTION PRIORITY", 3, 4),
        Field("WRITE RETENTION PRIORITY", 3, 4, 3),
        Field("DISABLE PREFETCH TRANSFER LENGTH", 4, 16),
        Field("MINIMUM PREFETCH", 6, 16),
        Field("MAXIMUM PREFETCH", 8, 16),
        Field("MAXIMUM PREFETCH CEILING", 10, 16),
        Field("FSW", 12, 1, 7),
        Field("LBCSS", 12, 1, 6),
        Field("DRA", 12, 1, 5),
        Field("NV_DIS", 12, 1, 0),
        Field("NUMBER OF CACHE SEGMENTS", 13),
        Field("CACHE SEGMENT SIZE", 14, 16),
    ),
)
CONTROL = Page(
    "control",
    0x0A,
    12,
    (
        *PAGE_HEADER,
        Field("TST", 2, 3, 7),
        Field("TMF_ONLY", 2, 1, 4),
        Field("DPICZ", 2, 1, 3),
        Field("D_SENSE", 2, 1, 2),
        Field("GLTSD", 2, 1, 1),
        Field("RLEC", 2, 1, 0),
        Field("QUEUE ALGORITHM MODIFIER", 3, 4),
        Field("NUAR", 3, 1, 3),
        Field("QERR", 3, 2, 2),
        Field("RAC", 4, 1, 6),
        Field("UA_INTLCK_CTRL", 4, 2, 5),
        Field("SWP", 4, 1, 3),
        Field("ATO", 5, 1, 7),
        Field("TAS", 5, 1, 6),
        Field("ATMPE", 5, 1, 5),
        Field("RWWP", 5, 1, 4),
        Field("AUTOLOAD MODE", 5, 3, 2),
        Field("BUSY TIMEOUT PERIOD", 8, 16),
        Field("EXTENDED SELF-TEST COMPLETION TIME", 10, 16),
    ),
)
CONTROL_EXTENSION = Page(
    "control extension",
    0x0A,
    32,
    (
        *SUBPAGE_HEADER,
        Field("DLC", 4, 1, 3),
        Field("TCMOS", 4, 1, 2),
        Field("SCSIP", 4, 1, 1),
        Field("IALUAE", 4, 1, 0),
        Field("INITIAL COMMAND PRIORITY", 5, 4, 3),
        Field("MAXIMUM SENSE DATA LENGTH", 6),
    ),
    subpage=0x01,
)
POWER_CONDITION = Page(
    "power condition",
    0x1A,
    40,
    (
        *PAGE_HEADER,
        Field("PM_BG_PRECEDENCE", 2, 2, 7),
        Field("STANDBY_Y", 2, 1, 0),
        Field("IDLE_C", 3, 1, 3),
        Field("IDLE_B", 3, 1, 2),
        Field("IDLE_A", 3, 1, 1),
        Field("STANDBY_Z", 3, 1, 0),
        Field("IDLE_A CONDITION TIMER", 4, 32),
        Field("STANDBY_Z CONDITION TIMER", 8, 32),
        Field("IDLE_B CONDITION TIMER", 12, 32),
        Field("IDLE_C CONDITION TIMER", 16, 32),
        Field("STANDBY_Y CONDITION TIMER", 20, 32),
    ),
)
INFORMATIONAL_EXCEPTIONS = Page(
    "informational exceptions control",
    0x1C,
    12,
    (
        *PAGE_HEADER,
        Field("PERF", 2, 1, 7),
        Field("EBF", 2, 1, 5),
        Field("EWASC", 2, 1, 4),
        Field("DEXCPT", 2, 1, 3),
        Field("TEST", 2, 1, 2),
        Field("EBACKERR", 2, 1, 1),
        Field("LOGERR", 2, 1, 0),
        Field("MRIE", 3, 4, 3),
        Field("INTERVAL TIMER", 4, 32),
        Field("REPORT COUNT", 8, 32),
    ),
)

#: Of this page: its header and one threshold descriptor.
LOGICAL_BLOCK_PROVISIONING = Page(
    "logical block provisioning",
    0x1C,
    24,
    (
        *SUBPAGE_HEADER,
        Field("SITUA", 4, 1, 0),
        Field("ENABLED", 16, 1, 7),
        Field("THRESHOLD TYPE", 16, 3, 5),
        Field("THRESHOLD ARMING", 16, 3, 2),
        Field("THRESHOLD RESOURCE", 17),
        Field("THRESHOLD COUNT", 20, 32),
    ),
    subpage=0x02,
)

#: In the order in which page 3Fh returns them.
PAGES: tuple[Page, ...] = (
    READ_WRITE_ERROR_RECOVERY,
    CACHING,
    CONTROL,
    CONTROL_EXTENSION,
    POWER_CONDITION,
    INFORMATIONAL_EXCEPTIONS,
    LOGICAL_BLOCK_PROVISIONING,
)


def block_descriptor(block_count: int, block_length: int, *, long_lba: bool) -> bytes:
    """The short (8 bytes) or long LBA (16 bytes) block descriptor."""
    if long_lba:
        values = {"NUMBER OF LOGICAL BLOCKS": block_count, "LOGICAL BLOCK LENGTH": block_length}
        return fields.encode(LONG_DESCRIPTOR_LENGTH, LONG_DESCRIPTOR, values)
    count = min(block_count, _MAX_U32)
    values = {"NUMBER OF LOGICAL BLOCKS": count, "LOGICAL BLOCK LENGTH": block_length}
    return fields.encode(DESCRIPTOR_LENGTH, DESCRIPTOR, values)


def encode(
    pages: bytes, descriptor: bytes, *, short: bool, write_protected: bool, long_lba: bool
) -> bytes:
    """Mode data with the header of MODE SENSE(6) (`short`) or MODE SENSE(10).

    DPOFUA is always 1: DPO and FUA are accepted.
    """
    length = len(descriptor) + len(pages)
    values: dict[str, Value] = {
        "WP": int(write_protected),
        "DPOFUA": 1,
        "BLOCK DESCRIPTOR LENGTH": len(descriptor),
    }
    if short:
        header = fields.encode(HEADER_6_LENGTH, HEADER_6, values | {"MODE DATA LENGTH": 3 + length})
    else:
        values |= {"MODE DATA LENGTH": 6 + length, "LONGLBA": int(long_lba)}
        header = fields.encode(HEADER_10_LENGTH, HEADER_10, values)
    return header + descriptor + pages
