"""Target port groups on the wire: what is reported of them, and asked for (SPC-5 6.36, 6.46)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

from userdisk.scsi import fields
from userdisk.scsi.fields import Field


class AccessState(enum.IntEnum):
    """How a logical unit can be reached through the ports of a group (SPC-5 5.16.2)."""

    ACTIVE_OPTIMIZED = 0x0
    ACTIVE_NON_OPTIMIZED = 0x1
    STANDBY = 0x2
    UNAVAILABLE = 0x3
    TRANSITIONING = 0xF


class Cause(enum.IntEnum):
    """STATUS CODE: who brought a group into its state last."""

    NONE = 0
    EXPLICIT = 1  #: an initiator, with SET TARGET PORT GROUPS
    IMPLICIT = 2  #: the target device itself


class PortGroup(NamedTuple):
    """A target port group as a logical unit sees it; `ports` are relative identifiers."""

    tag: int
    ports: Sequence[int]
    state: AccessState = AccessState.ACTIVE_OPTIMIZED
    cause: Cause = Cause.NONE


class Wanted(NamedTuple):
    """One descriptor of SET TARGET PORT GROUPS, as it was sent."""

    state: int
    tag: int
    #: bits that must be zero: those of bytes 0 and 1
    reserved: int


EXTENDED_HEADER = 0x20  #: PARAMETER DATA FORMAT 001b, in byte 1 of the CDB

HEADER_LENGTH = 4  #: of the list of SET TARGET PORT GROUPS
DESCRIPTOR_LENGTH = 4

LIST_LENGTH = 4
GROUP_LENGTH = 8
GROUP: Sequence[Field] = (
    Field("PREF", 0, 1, 7),
    Field("ASYMMETRIC ACCESS STATE", 0, 4, 3),
    Field("T_SUP", 1, 1, 7),
    Field("O_SUP", 1, 1, 6),
    Field("LBD_SUP", 1, 1, 4),
    Field("U_SUP", 1, 1, 3),
    Field("S_SUP", 1, 1, 2),
    Field("AN_SUP", 1, 1, 1),
    Field("AO_SUP", 1, 1, 0),
    Field("TARGET PORT GROUP", 2, 16),
    Field("STATUS CODE", 5),
    Field("VENDOR SPECIFIC", 6),
    Field("TARGET PORT COUNT", 7),
)
PORT_LENGTH = 4
PORT: Sequence[Field] = (Field("RELATIVE TARGET PORT IDENTIFIER", 2, 16),)

#: the states that there are
_SUPPORTED = dict.fromkeys(("T_SUP", "U_SUP", "S_SUP", "AN_SUP", "AO_SUP"), 1)
_WANTED = struct.Struct(">BBH")


def encode(groups: Sequence[PortGroup], *, extended: bool) -> bytes:
    """REPORT TARGET PORT GROUPS data; no implicit transition time is recommended."""
    body = b"\x10\0\0\0" if extended else b""
    for group in groups:
        values = {
            "ASYMMETRIC ACCESS STATE": int(group.state),
            "TARGET PORT GROUP": group.tag,
            "STATUS CODE": int(group.cause),
            "TARGET PORT COUNT": len(group.ports),
        }
        body += fields.encode(GROUP_LENGTH, GROUP, _SUPPORTED | values)
        for port in group.ports:
            body += fields.encode(PORT_LENGTH, PORT, {"RELATIVE TARGET PORT IDENTIFIER": port})
    return struct.pack(">I", len(body)) + body


def decode_wanted(data: bytes) -> list[Wanted]:
    """The descriptors of a SET TARGET PORT GROUPS list, which has whole ones only."""
    found = []
    for first, second, tag in _WANTED.iter_unpack(data[HEADER_LENGTH:]):
        found.append(Wanted(first & 0xF, tag, (first & 0xF0) << 8 | second))
    return found
