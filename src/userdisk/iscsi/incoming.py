"""What a connection receives: bytes become PDUs (RFC 7143 11.2, 13.1).

Small PDUs are taken out of one receive buffer. A large data segment that is not complete *lands*:
the rest of it is received straight into a buffer of its own, which for a Data-Out is the command's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from userdisk.iscsi import pdu
from userdisk.iscsi.digest import digest

_LANDING = 16 << 10  # a data segment of this size on may land
_APPROACH = pdu.BHS_LENGTH + (4 << 10)  # received at once when segments are about to land
_LARGEST_HEADER = pdu.BHS_LENGTH + 4 * 255 + 4  # with additional header segments and digest


class ProtocolError(Exception):
    """The peer broke a rule that ends its connection; the text is for the log."""


class SegmentError(ProtocolError):
    """A data segment is longer than was agreed on; `header` is its PDU's."""

    def __init__(self, length: int, header: bytes) -> None:
        super().__init__(f"a data segment of {length} bytes was not agreed on")
        self.header = header


class Pdu(NamedTuple):
    """A request: the fields of its header (pdu.GENERIC), the header, and the data segment.

    `data` may be a view of the receive buffer: it is valid until the batch ends.
    """

    opcode: int
    flags: int
    lengths: int
    lun: int
    itt: int
    word20: int
    cmd_sn: int
    exp_stat_sn: int
    cdb: bytes
    header: bytes
    data: memoryview
    digest_error: bool  #: the data digest is wrong
    landed: bool  #: the data segment is in the command's own buffer already

    @property
    def immediate(self) -> bool:
        """Whether the request is outside the CmdSN order."""
        return bool(self.opcode & pdu.IMMEDIATE)


class _Landing(NamedTuple):
    header: bytes
    destination: memoryview
    data_length: int
    in_place: bool  # the destination is the command's own buffer


class Incoming:
    """The receive side of one connection.

    The fast path reads `buffer`, `view`, `start` and `end`, and moves `start` on.

    Args:
        size: of the receive buffer, in bytes.
        max_segment: the longest data segment that is accepted, in bytes.
        destination: where the data segment of this header, of this length, may land.
    """

    def __init__(
        self,
        size: int,
        max_segment: int,
        destination: Callable[[bytes, int], memoryview | None],
    ) -> None:
        self.max_segment = max_segment
        self.header_digest = self.data_digest = False
        self.start = self.end = 0  #: what is received and not handled: buffer[start:end]
        #: large Data-Outs were asked for: receive little at once, so that most of each lands
        self.approaching = False
        self._destination = destination
        self._landing: _Landing | None = None
        self._landed = 0
        self._writable = memoryview(bytearray())
        self.resize(size)

    def resize(self, size: int) -> None:
        """Take a receive buffer of another size, with what is in the old one."""
        rest = bytes(self._writable[self.start : self.end])
        self.buffer = bytearray(size)
        self._writable = memoryview(self.buffer)
        self.view = self._writable.toreadonly()
        self._writable[: len(rest)] = rest
        self.start, self.end = 0, len(rest)

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        if self._landing is not None:
            return self._landing.destination[self._landed :]
        start, end = self.start, self.end
        if start == end:
            self.start = self.end = 0
            if not self.approaching:
                return self._writable
        elif start and len(self.buffer) - end < _LANDING + _LARGEST_HEADER:
            rest = end - start
            self._writable[:rest] = bytes(self._writable[start:end])
            self.start, self.end = 0, rest
        if self.approaching:
            return self._writable[self.end : self.end + _APPROACH]
        return self._writable[self.end :]

    def received(self, count: int) -> None:
        """`count` bytes are in `room()`."""
        if self._landing is None:
            self.end += count
        else:
            self._landed += count

    @property
    def landing(self) -> bool:
        """Whether a data segment is landing: the receive buffer is empty meanwhile."""
        return self._landing is not None

    def next(self) -> Pdu | None:
        """The next complete PDU. Raises ProtocolError; the connection is then of no more use."""
        if self._landing is not None:
            landing = self._landing
            if self._landed < len(landing.destination):
                return None
            self._landing = None
            return self._pdu(
                landing.header, landing.destination, landing.data_length, landing.in_place
            )
        start, end = self.start, self.end
        if end - start < pdu.BHS_LENGTH:
            return None
        buffer = self.buffer
        lengths = int.from_bytes(buffer[start + 4 : start + 8], "big")
        header_end = start + pdu.BHS_LENGTH + 4 * (lengths >> 24)
        data_length = lengths & 0xFFFFFF
        if data_length > self.max_segment:
            raise SegmentError(data_length, bytes(buffer[start : start + pdu.BHS_LENGTH]))
        data_start = header_end + (4 if self.header_digest else 0)
        if end < data_start:
            return None
        header = bytes(buffer[start:header_end])
        if self.header_digest and digest(header) != buffer[header_end:data_start]:
            raise ProtocolError("header digest error")
        rest = pdu.padded(data_length)
        if self.data_digest and data_length:
            rest += 4
        if end < data_start + rest:
            if data_length >= _LANDING:
                self._land(header, data_start, data_length, rest)
            return None
        self.start = data_start + rest
        return self._pdu(header, self.view[data_start : data_start + rest], data_length, False)

    def _land(self, header: bytes, data_start: int, data_length: int, rest: int) -> None:
        """Give an incomplete large data segment its destination."""
        own = self._destination(header, data_length) if rest == data_length else None
        destination = memoryview(bytearray(rest)) if own is None else own
        self._landed = self.end - data_start
        destination[: self._landed] = self._writable[data_start : self.end]
        self._landing = _Landing(header, destination, data_length, own is not None)
        self.start = self.end = 0

    def _pdu(self, header: bytes, segment: memoryview, length: int, in_place: bool) -> Pdu:
        wrong = False
        if self.data_digest and length:
            end = pdu.padded(length)
            wrong = digest(segment[:end]) != segment[end : end + 4]
        fields = pdu.GENERIC.unpack_from(header)
        return Pdu._make((*fields, header, segment[:length].toreadonly(), wrong, in_place))
