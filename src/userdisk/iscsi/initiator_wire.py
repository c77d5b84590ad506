"""PDUs to and from a byte stream, initiator's side (RFC 7143 11.1, 13.1): framing, digests.

Digests and the size of segments that is accepted change once, when login is over.
"""

from __future__ import annotations

from collections.abc import Iterator

from userdisk.errors import UserdiskError
from userdisk.iscsi import pdu
from userdisk.iscsi.digest import digest
from userdisk.unit import Buffer

_LOGIN_SEGMENT = 8192


class InitiatorError(UserdiskError):
    """The session failed: refused login, broken protocol, lost connection."""


class PduStream:
    """One connection's bytes in both directions. Not thread-safe; never blocks."""

    def __init__(self) -> None:
        self.header_digest = False
        self.data_digest = False
        self.max_segment = _LOGIN_SEGMENT
        self.output: list[Buffer] = []
        self._input = bytearray()

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

    def received(self, data: Buffer) -> Iterator[tuple[bytes, bytes]]:
        """Yield (header, data segment) of each PDU that is complete.

        Raises `InitiatorError` for a segment that is too long or a digest that is wrong.
        """
        self._input += data
        offset = 0
        try:
            while (following := self._next(offset)) is not None:
                header, segment, offset = following
                yield header, segment
        finally:
            del self._input[:offset]

    def _next(self, offset: int) -> tuple[bytes, bytes, int] | None:
        if len(self._input) - offset < pdu.BHS_LENGTH:
            return None
        header = bytes(self._input[offset : offset + pdu.BHS_LENGTH])
        length = int.from_bytes(header[5:8])
        if length > self.max_segment:
            raise InitiatorError(
                f"iscsi: the target sent a segment of {length} bytes (> {self.max_segment})"
            )
        start = offset + pdu.BHS_LENGTH + 4 * header[4]
        data = start + 4 * self.header_digest
        padded = data + pdu.padded(length)
        data_digest = self.data_digest and length > 0
        end = padded + 4 * data_digest
        if len(self._input) < end:
            return None
        if self.header_digest:
            self._check("header", offset, start)
        if data_digest:
            self._check("data", data, padded)
        return header, bytes(self._input[data : data + length]), end

    def _check(self, name: str, first: int, last: int) -> None:
        if digest(self._input[first:last]) != self._input[last : last + 4]:
            raise InitiatorError(f"iscsi: {name} digest error from the target")
