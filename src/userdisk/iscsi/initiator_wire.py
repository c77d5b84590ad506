"""PDUs to and from a byte stream, initiator's side (RFC 7143 11.1, 13.1): framing, digests.

Theory of operation. The owner receives into `buffer()`. `header` gives the next header as soon as
it is whole; `segment` then its data, once that is. Short data waits in the staging buffer; long
data goes to the `place` that its task has for it, so that nothing larger than the staging buffer
is ever held that was not asked for. Digests and the length of segments that is accepted change
once, when login is over.
"""

from __future__ import annotations

from userdisk.errors import UserdiskError
from userdisk.iscsi import pdu
from userdisk.iscsi.digest import digest
from userdisk.unit import Buffer

_LOGIN_SEGMENT = 8192
_STAGING = 1 << 18  # bytes received at once, at least
_HEADERS = 2048  # bytes: more than a header with all it may have, and padding
LANDING = 1 << 15  #: bytes from which on data goes to its place, and not through the staging buffer


class InitiatorError(UserdiskError):
    """The session failed: refused login, broken protocol, lost connection."""


class PduStream:
    """One connection's bytes in both directions. Not thread-safe; never blocks."""

    def __init__(self, largest_segment: int) -> None:
        self.header_digest = False
        self.data_digest = False
        self.max_segment = _LOGIN_SEGMENT
        self.output: list[Buffer] = []
        self.staging = bytearray(max(_STAGING, largest_segment) + _HEADERS)
        self.start = self.end = 0  #: what is in the staging buffer
        self._view = memoryview(self.staging)
        self._length = 0  # of the current data segment
        self._place: memoryview | None = None  # where it goes
        self._filled = 0

    # -- sending ---------------------------------------------------------------------------------

    def emit(self, header: bytes, data: Buffer = b"") -> None:
        """Queue one PDU for sending."""
        self.output.append(header)
        if self.header_digest:
            self.output.append(digest(header))
        if not len(data):
            return
        padding = pdu.PADDING[len(data) % 4]
        self.output += (data, padding) if padding else (data,)
        if self.data_digest:
            self.output.append(digest(data, padding))

    # -- receiving -------------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Where to receive next; never empty."""
        if self._place is not None and self._filled < self._length:
            return self._place[self._filled :]
        return self._view[self.end :]

    def advance(self, size: int) -> None:
        """So many bytes have come into `buffer()`."""
        if self._place is not None and self._filled < self._length:
            self._filled += size
        else:
            self.end += size

    def header(self) -> bytes | None:
        """The next header, checked; None if it is not all here. Raises `InitiatorError`."""
        start = self.start
        here = self.end - start
        if here < pdu.BHS_LENGTH:
            return None
        staging = self.staging
        last = (
            pdu.BHS_LENGTH + 4 * staging[start + 4]
        )  # with additional headers, which mean nothing
        end = last + 4 * self.header_digest
        length = int.from_bytes(staging[start + 5 : start + 8], "big")
        if length > self.max_segment:
            raise InitiatorError(
                f"iscsi: the target sent a segment of {length} bytes (> {self.max_segment})"
            )
        if here < end:
            return None
        if self.header_digest and digest(self._view[start : start + last]) != bytes(
            staging[start + last : start + end]
        ):
            raise InitiatorError("iscsi: header digest error from the target")
        self.start += end
        self._length = length
        return bytes(staging[start : start + pdu.BHS_LENGTH])

    def land(self, place: memoryview) -> None:
        """The data of this header goes there; it has the length that the header says."""
        self._place, self._filled = place, 0

    def segment(self) -> bytes | None:
        """The data of the last header; None if it is not all here.

        Empty if it went to its place. Raises `InitiatorError` if its digest is wrong.
        """
        length, place = self._length, self._place
        padding = -length & 3
        trailer = padding + (4 if self.data_digest and length else 0)
        here = self.end - self.start
        if place is not None:
            if self._filled < length:
                size = min(length - self._filled, here)
                place[self._filled : self._filled + size] = self._view[
                    self.start : self.start + size
                ]
                self.start += size
                self._filled += size
                here -= size
            if self._filled < length or here < trailer:
                return None
            segment, data = b"", place
        else:
            if here < length + trailer:
                return None
            data = self._view[self.start : self.start + length]
            segment = bytes(data)
            self.start += length
        if self.data_digest and length:
            rest = self._view[self.start : self.start + trailer]
            if digest(data, rest[:padding]) != bytes(rest[padding:]):
                raise InitiatorError("iscsi: data digest error from the target")
        self.start += trailer
        self._place = None
        return segment

    def settle(self) -> None:
        """Make room at the end of the staging buffer for what comes next."""
        left = self.end - self.start
        if left and self.start:
            self.staging[:left] = self.staging[self.start : self.end]
        self.start, self.end = 0, left
