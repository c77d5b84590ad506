"""Numbers and layouts of the NBD protocol (the NBD project's doc/proto.md, "Values").

Everything is big-endian. A cookie is eight bytes that go back as they came.
"""

from __future__ import annotations

import enum
import struct

# -- negotiation -----------------------------------------------------------------------------------

NBD_MAGIC = 0x4E42444D41474943  #: "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  #: "IHAVEOPT"
OPTION_REPLY_MAGIC = 0x0003E889045565A9

GREETING = struct.Struct(">QQH")  #: NBD_MAGIC, OPTION_MAGIC, handshake flags
CLIENT_FLAGS = struct.Struct(">I")
OPTION = struct.Struct(">QII")  #: OPTION_MAGIC, option, length of data
OPTION_REPLY = struct.Struct(">QIII")  #: OPTION_REPLY_MAGIC, option, reply type, length of data
EXPORT_NAME_REPLY = struct.Struct(">QH")  #: size in bytes, transmission flags; then the padding
EXPORT_NAME_PADDING = bytes(124)  #: unless NO_ZEROES was agreed on

INFO_EXPORT = struct.Struct(">HQH")  #: Info.EXPORT, size in bytes, transmission flags
INFO_TEXT = struct.Struct(">H")  #: Info.NAME or Info.DESCRIPTION; then text
INFO_BLOCK_SIZE = struct.Struct(">HIII")  #: Info.BLOCK_SIZE, minimum, preferred, maximum payload
CONTEXT_ID = struct.Struct(">I")  #: in OptionReply.META_CONTEXT; then the context's name

MAX_STRING = 4096  #: bytes of a name, a query or a description


class HandshakeFlag(enum.IntFlag):
    """Of the greeting, and with the same numbers of the client's answer."""

    FIXED_NEWSTYLE = 1 << 0
    NO_ZEROES = 1 << 1


class Option(enum.IntEnum):
    """What a client asks for before transmission."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    PEEK_EXPORT = 4  # withdrawn
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


_FAILED = 1 << 31


class OptionReply(enum.IntEnum):
    """Types of option replies; those from 2^31 on are errors."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = _FAILED + 1
    ERR_POLICY = _FAILED + 2
    ERR_INVALID = _FAILED + 3
    ERR_PLATFORM = _FAILED + 4
    ERR_TLS_REQD = _FAILED + 5
    ERR_UNKNOWN = _FAILED + 6
    ERR_SHUTDOWN = _FAILED + 7
    ERR_BLOCK_SIZE_REQD = _FAILED + 8
    ERR_TOO_BIG = _FAILED + 9
    ERR_EXT_HEADER_REQD = _FAILED + 10


class Info(enum.IntEnum):
    """Items of information about an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class TransmissionFlag(enum.IntFlag):
    """What an export is and can do."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_RESIZE = 1 << 9
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11
    BLOCK_STATUS_PAYLOAD = 1 << 12


# -- transmission ----------------------------------------------------------------------------------

REQUEST_MAGIC = 0x25609513
EXTENDED_REQUEST_MAGIC = 0x21E41C71
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
EXTENDED_REPLY_MAGIC = 0x6E8A278C

REQUEST = struct.Struct(">IHH8sQI")  #: magic, flags, command, cookie, offset, length
EXTENDED_REQUEST = struct.Struct(">IHH8sQQ")  #: the same with a longer length
SIMPLE_REPLY = struct.Struct(">II8s")  #: magic, error, cookie
STRUCTURED_REPLY = struct.Struct(">IHH8sI")  #: magic, flags, type, cookie, length of the payload
#: magic, flags, type, cookie, offset of the request, length of the payload
EXTENDED_REPLY = struct.Struct(">IHH8sQQ")

OFFSET = struct.Struct(">Q")  #: at the start of OFFSET_DATA, at the end of ERROR_OFFSET
HOLE = struct.Struct(">QI")  #: offset, length
ERROR = struct.Struct(">IH")  #: error, length of the message that follows
EXTENT = struct.Struct(">II")  #: length, status flags; after the context's id
EXTENDED_STATUS = struct.Struct(">II")  #: context id, number of descriptors
EXTENDED_EXTENT = struct.Struct(">QQ")  #: length, status flags
CONTEXTS_PAYLOAD = struct.Struct(">Q")  #: effect length of a BLOCK_STATUS with payload; then ids


class Command(enum.IntEnum):
    """What a client asks for in transmission."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7
    RESIZE = 8


class CommandFlag(enum.IntFlag):
    """How it is to be done."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4
    PAYLOAD_LEN = 1 << 5


DONE = 1 << 0  #: reply flag: the last chunk


class Chunk(enum.IntEnum):
    """Types of structured and extended replies."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    BLOCK_STATUS_EXT = 6
    ERROR = (1 << 15) + 1
    ERROR_OFFSET = (1 << 15) + 2


class Error(enum.IntEnum):
    """Error values; the same numbers as Linux's errno."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


ALLOCATION = "base:allocation"


class Allocation(enum.IntFlag):
    """Status flags of `base:allocation`."""

    HOLE = 1 << 0
    ZERO = 1 << 1
