"""READ DEFECT DATA: the lists of defects, which are empty (SBC-4 5.22, 5.23).

Bad blocks are the business of what the unit is made of, and errors of its reads and writes here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from userdisk.scsi import sense
from userdisk.target.command import CheckCondition, Command, Completion
from userdisk.target.data_in import data_in

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit

_LISTS, _FORMAT = 0x18, 0x07  # REQ_PLIST and REQ_GLIST; DEFECT LIST FORMAT
_VENDOR_SPECIFIC = 6  # formats from here on do not exist


def _described(cdb: bytes, byte: int) -> int:
    """The second byte of the header: which lists follow, and in which format."""
    if cdb[byte] & _FORMAT >= _VENDOR_SPECIFIC:
        raise CheckCondition(sense.invalid_field_in_cdb(byte, 2))
    return cdb[byte] & (_LISTS | _FORMAT)


def read_defect_data_10(lu: LogicalUnit, command: Command) -> Completion:
    """The header of an empty list in the requested format."""
    cdb = command.cdb
    header = struct.pack(">xBxx", _described(cdb, 2))
    return data_in(header, int.from_bytes(cdb[7:9], "big"))


def read_defect_data_12(lu: LogicalUnit, command: Command) -> Completion:
    """The longer header of an empty list; from whatever ADDRESS DESCRIPTOR INDEX on."""
    cdb = command.cdb
    header = struct.pack(">xBxxxxxx", _described(cdb, 1))
    return data_in(header, int.from_bytes(cdb[6:10], "big"))
