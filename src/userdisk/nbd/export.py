"""An export: a unit under a name, and what clients are told of it (doc/proto.md: "Transmission
flags", "Block size constraints")."""

from __future__ import annotations

from dataclasses import dataclass

from userdisk.gate import Gate
from userdisk.nbd.wire import TransmissionFlag

MAX_PAYLOAD = 32 << 20  #: bytes of data that one READ or WRITE may move

_PREFERRED = 4096  # bytes: a page of most clients, and a block of most storage


@dataclass(frozen=True, slots=True)
class Export:
    """A unit that NBD clients can ask for.

    Args:
        name: as clients ask for it; UTF-8 of 4096 bytes at most.
        gate: the way into the unit.
        description: for people.
        read_only: refuse to change it, even if the unit could be written.
    """

    name: str
    gate: Gate
    description: str = ""
    read_only: bool = False


def transmission_flags(
    export: Export, *, structured: bool, extended: bool = False
) -> TransmissionFlag:
    """What the export is and can do, for a client that has agreed on such replies.

    `extended` (headers) includes `structured`.
    """
    parameters = export.gate.parameters
    # One unit has one gate: a flush covers the writes of every connection.
    flags = TransmissionFlag.HAS_FLAGS | TransmissionFlag.CAN_MULTI_CONN
    flags |= TransmissionFlag.SEND_CACHE
    if structured or extended:
        flags |= TransmissionFlag.SEND_DF
    if extended:
        flags |= TransmissionFlag.BLOCK_STATUS_PAYLOAD
    if export.read_only or parameters.write_protected:
        return flags | TransmissionFlag.READ_ONLY
    # Also without a volatile cache: then a flush costs nothing, and some clients refuse to do
    # without one.
    flags |= TransmissionFlag.SEND_FLUSH | TransmissionFlag.SEND_FUA
    flags |= TransmissionFlag.SEND_WRITE_ZEROES
    if parameters.unmap_supported:
        flags |= TransmissionFlag.SEND_TRIM
        if export.gate.unit.unmap_zeroes:
            flags |= TransmissionFlag.SEND_FAST_ZERO
    return flags


def block_sizes(export: Export) -> tuple[int, int, int]:
    """In bytes: the unit of all offsets and lengths, the preferred one, the longest payload."""
    parameters = export.gate.parameters
    preferred = max(_PREFERRED, parameters.physical_block_length)
    return parameters.block_length, preferred, MAX_PAYLOAD
