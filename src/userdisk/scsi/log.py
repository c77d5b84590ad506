"""Log pages: their parameters, encoded (SPC-5 7.3, SBC-4 6.4).

Nothing of them is saved, not by command (DS = 1) and not by itself (TSD = 1).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from userdisk.scsi import fields
from userdisk.scsi.fields import Field

SUPPORTED_PAGES = 0x00
WRITE_ERRORS = 0x02
READ_ERRORS = 0x03
PROVISIONING = 0x0C
TEMPERATURE = 0x0D
START_STOP = 0x0E
INFORMATIONAL_EXCEPTIONS = 0x2F

ALL_SUBPAGES = 0xFF

#: PAGE CONTROL, which has a meaning for counters only.
THRESHOLD, CUMULATIVE, DEFAULT_THRESHOLD, DEFAULT_CUMULATIVE = range(4)

NO_TEMPERATURE = 0xFF  # none can be measured

HEADER_LENGTH = 4
HEADER: Sequence[Field] = (
    Field("DS", 0, 1, 7),
    Field("SPF", 0, 1, 6),
    Field("PAGE CODE", 0, 6, 5),
    Field("SUBPAGE CODE", 1),
    Field("PAGE LENGTH", 2, 16),
)
PARAMETER_LENGTH = 4  #: of its header
PARAMETER: Sequence[Field] = (
    Field("PARAMETER CODE", 0, 16),
    Field("DU", 2, 1, 7),
    Field("TSD", 2, 1, 5),
    Field("ETC", 2, 1, 4),
    Field("TMC", 2, 2, 3),
    Field("FORMAT AND LINKING", 2, 2, 1),
    Field("PARAMETER LENGTH", 3),
)
_COUNTER, _LIST = 0x00, 0x03  # FORMAT AND LINKING: bounded data counter, binary list
_MAX_COUNTER = (1 << 64) - 1


class Parameter(NamedTuple):
    """A log parameter; a counter has a number that stays at its largest value."""

    code: int
    value: bytes
    counter: bool = False

    def encode(self) -> bytes:
        """The parameter with its header."""
        header = {
            "PARAMETER CODE": self.code,
            "TSD": 1,
            "FORMAT AND LINKING": _COUNTER if self.counter else _LIST,
            "PARAMETER LENGTH": len(self.value),
        }
        return fields.encode(PARAMETER_LENGTH, PARAMETER, header) + self.value


def counter(code: int, value: int, control: int) -> Parameter:
    """A counter, or its default, or its threshold; there is none, so that is never reached."""
    if control in (THRESHOLD, DEFAULT_THRESHOLD):
        value = _MAX_COUNTER
    elif control == DEFAULT_CUMULATIVE:
        value = 0
    return Parameter(code, min(value, _MAX_COUNTER).to_bytes(8, "big"), counter=True)


#: Parameter codes of the error counter pages.
CORRECTED = 0x0003
BYTES_PROCESSED = 0x0005
UNCORRECTED = 0x0006

ACCUMULATED_CYCLES = 0x0004  #: parameter code of the start-stop cycle counter page

#: Parameter codes of the provisioning page, which are THRESHOLD RESOURCE values as well.
AVAILABLE, USED = 0x0001, 0x0002

_PERHAPS_SHARED = 2  # SCOPE: what other logical units use may change the count
_MAX_COUNT = (1 << 32) - 1


def resources(code: int, threshold_sets: int) -> Parameter:
    """A count of LBA mapping resources."""
    value = struct.pack(">IBxxx", min(threshold_sets, _MAX_COUNT), _PERHAPS_SHARED)
    return Parameter(code, value)


def page(code: int, parameters: Iterable[Parameter]) -> bytes:
    """A log page of parameters, in the order of their codes."""
    return _page(code, 0, b"".join(parameter.encode() for parameter in parameters))


def list_of(pages: Sequence[int], *, subpages: bool) -> bytes:
    """The page that lists the pages, and with `subpages` itself as a subpage as well."""
    if not subpages:
        return _page(SUPPORTED_PAGES, 0, bytes(pages))
    pairs = sorted([*((code, 0) for code in pages), (SUPPORTED_PAGES, ALL_SUBPAGES)])
    return _page(SUPPORTED_PAGES, ALL_SUBPAGES, b"".join(bytes(pair) for pair in pairs))


def _page(code: int, subpage: int, body: bytes) -> bytes:
    # the pages that only list others have nothing to save, and DS is zero there
    header = {
        "DS": int(code != 0),
        "SPF": int(subpage != 0),
        "PAGE CODE": code,
        "SUBPAGE CODE": subpage,
        "PAGE LENGTH": len(body),
    }
    return fields.encode(HEADER_LENGTH, HEADER, header) + body
