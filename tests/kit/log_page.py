"""Log pages as their parameters: the other way round than `userdisk.scsi.log`."""

from __future__ import annotations

import struct

from userdisk.scsi.log import Parameter


def decode(data: bytes) -> list[Parameter]:
    """The parameters of a page; an incomplete one is left out."""
    body = data[4 : 4 + struct.unpack_from(">H", data, 2)[0]]
    found = []
    while len(body) >= 4 and len(body) >= 4 + body[3]:
        code, control, length = struct.unpack_from(">HBB", body)
        found.append(Parameter(code, body[4 : 4 + length], counter=not control & 0x03))
        body = body[4 + length :]
    return found
