"""GET LBA STATUS data (SBC-4 5.7.2, 5.7.3)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from userdisk.scsi.fields import Field

HEADER_LENGTH = 8
HEADER: Sequence[Field] = (
    Field("PARAMETER DATA LENGTH", 0, 32),
    Field("COMPLETION CONDITION", 7, 3, 3),
    Field("RTP", 7, 1, 0),
)
DESCRIPTOR_LENGTH = 16
DESCRIPTOR: Sequence[Field] = (
    Field("LOGICAL BLOCK ADDRESS", 0, 64),
    Field("NUMBER OF LOGICAL BLOCKS", 8, 32),
    Field("PROVISIONING STATUS", 12, 4, 3),
    Field("ADDITIONAL STATUS", 13),
)

#: The same as structures, for answers with a thousand descriptors: data length and byte 7; lba,
#: blocks and state.
HEADER_STRUCT = struct.Struct(">I3xB")
DESCRIPTOR_STRUCT = struct.Struct(">QIB3x")
