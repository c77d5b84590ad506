"""Messages of WinSpd's pipe protocol (transact messages), little endian, and their frame.

On a stream each message has its length in front, as four bytes. The device begins with its
parameters; then each request of the client is one message, and so is each response.
"""

from __future__ import annotations

import enum
import struct
import uuid
from typing import NamedTuple

from userdisk.errors import UserdiskError

LENGTH = struct.Struct("<I")  #: in front of each message
HEADER = 48  #: bytes of a request or response without its payload

_PARAMETERS = struct.Struct("<16sQI16s4sB3xII4x64s")
PARAMETERS_SIZE = _PARAMETERS.size

#: hint, kind, address, count, flags
REQUEST = struct.Struct("<QB7xQII16x")
#: hint, kind, number of descriptors
UNMAP_REQUEST = struct.Struct("<QB7xI28x")
#: hint, kind, SCSI status, sense key, ASC, ASCQ, information, reserved, reserved, flags
_RESPONSE = struct.Struct("<QB7x4B4xQQII")
#: address, count, reserved
DESCRIPTOR = struct.Struct("<QII")

FUA = 1  #: bit of a request's flags
_INFORMATION_VALID = 0x100
CHECK_CONDITION = 2
MOST_BLOCKS = (1 << 32) - 1  #: in one request

_LEAST_BLOCK = 16
#: Bytes; a device that announces more is not believed.
MAX_TRANSFER = 64 << 20


class Kind(enum.IntEnum):
    """What a request asks for."""

    READ = 1
    WRITE = 2
    FLUSH = 3
    UNMAP = 4


class Flag(enum.IntFlag):
    """What a device is and can do."""

    WRITE_PROTECTED = 1
    CACHE_SUPPORTED = 2
    UNMAP_SUPPORTED = 4
    EJECT_DISABLED = 8


class ProtocolError(UserdiskError):
    """The other end does not speak the protocol."""


class Parameters(NamedTuple):
    """What a device says of itself at the beginning. Lengths are in bytes."""

    guid: uuid.UUID
    block_count: int
    block_length: int
    product_id: str
    product_revision: str
    flags: Flag
    max_transfer_length: int

    def encode(self) -> bytes:
        """The message."""
        return _PARAMETERS.pack(
            self.guid.bytes_le,
            self.block_count,
            self.block_length,
            self.product_id.encode("ascii"),
            self.product_revision.encode("ascii"),
            0,
            self.flags,
            self.max_transfer_length,
            b"",
        )


def decode_parameters(message: bytes | bytearray | memoryview) -> Parameters:
    """The parameters in a device's first message. Raises `ProtocolError` if they cannot be."""
    if len(message) < PARAMETERS_SIZE:
        raise ProtocolError(
            f"the device's first message has {len(message)} bytes instead of {PARAMETERS_SIZE}"
        )
    guid, count, length, product, revision, kind, flags, transfer, _ = _PARAMETERS.unpack_from(
        message
    )
    for wrong, what in (
        (kind != 0, f"device type {kind}, which is no disk"),
        (count == 0, "no blocks"),
        (length < _LEAST_BLOCK, f"blocks of {length} bytes"),
        (transfer == 0 or (length and transfer % length), f"transfers of up to {transfer} bytes"),
        (transfer > MAX_TRANSFER, f"transfers of up to {transfer} bytes"),
        (count * length >= 1 << 63, "2^63 bytes or more"),
    ):
        if wrong:
            raise ProtocolError(f"the device says that it has {what}")
    known = Flag(flags & 0xF)
    return Parameters(
        uuid.UUID(bytes_le=guid), count, length, _text(product), _text(revision), known, transfer
    )


def _text(field: bytes) -> str:
    """A padded field; what is not printable is a space, as it is for WinSpd's driver."""
    field = field.split(b"\0", 1)[0]
    return "".join(chr(c) if 0x20 <= c < 0x7F else " " for c in field).rstrip()


class Status(NamedTuple):
    """How a request ended."""

    scsi: int = 0
    key: int = 0
    asc: int = 0
    ascq: int = 0
    information: int | None = None


GOOD = Status()


class Response(NamedTuple):
    """The answer to a request, without its payload."""

    hint: int
    kind: int
    status: Status = GOOD

    def encode(self) -> bytes:
        """The head of the message."""
        scsi, key, asc, ascq, information = self.status
        flags = 0 if information is None else _INFORMATION_VALID
        return _RESPONSE.pack(
            self.hint, self.kind, scsi, key, asc, ascq, information or 0, 0, 0, flags
        )


def decode_response(message: bytes | bytearray | memoryview) -> Response:
    """The head of a response, of at least `HEADER` bytes."""
    hint, kind, scsi, key, asc, ascq, information, _, _, flags = _RESPONSE.unpack_from(message)
    where = information if flags & _INFORMATION_VALID else None
    return Response(hint, kind, Status(scsi, key, asc, ascq, where))
