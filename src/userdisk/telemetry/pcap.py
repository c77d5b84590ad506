"""A connection's bytes as packets that Wireshark reads: pcap with IP and TCP headers. Pure.

The headers are made up: the portal has streams, not packets, and inside TLS it has the plaintext.
The server's port is the protocol's own, whatever it is, so that the right dissector looks. RFC 791
3.1, RFC 8200 3 (IP), RFC 9293 3.1 (TCP).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from typing import Final

#: The server's port in a capture.
PORTS: Final = {"iscsi": 3260, "nbd": 10809}

#: Magic for microseconds, version 2.4, time zone, accuracy, longest packet, raw IP.
FILE_HEADER: Final = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 101)

_RECORD = struct.Struct("<IIII").pack  # seconds, microseconds, length, length on the wire
_IPV4 = struct.Struct(">BBHHHBBH4s4s").pack
_IPV6 = struct.Struct(">IHBB16s16s").pack
_TCP = struct.Struct(">HHIIBBHHH").pack
_PROTOCOL = 6
_LONGEST = 60000  # bytes of data in a packet: an IPv4 packet has 65535 at most
_DONT_FRAGMENT, _HOPS, _WINDOW = 0x4000, 64, 0xFFFF
_FIN, _SYN, _PUSH, _ACK = 0x01, 0x02, 0x08, 0x10
_LOOPBACK = "127.0.0.1"
_UNIX_PORT = 40000  # clients on Unix sockets have ports from here on


class _End:
    def __init__(self, host: str, port: int) -> None:
        self.address = ipaddress.ip_address(host).packed
        self.port = port
        self.sequence = 1


class Conversation:
    """One connection's packets.

    Args:
        protocol: one of `PORTS`.
        local, remote: the ends; of a Unix socket (path, 0).
        number: tells connections on Unix sockets apart.
    """

    def __init__(
        self, protocol: str, local: tuple[str, int], remote: tuple[str, int], number: int
    ) -> None:
        here, there = _host(local[0]), _host(remote[0])
        if (":" in here) != (":" in there):
            here = there
        self._server = _End(here, PORTS[protocol])
        self._client = _End(there, remote[1] or _UNIX_PORT + number % 20000)
        self._identification = 0

    def opened(self, now: float) -> bytes:
        """The three packets that open it; for a connection that is seen from its beginning."""
        self._client.sequence = self._server.sequence = 0
        first = self._packet(now, self._client, self._server, _SYN)
        self._client.sequence = 1
        second = self._packet(now, self._server, self._client, _SYN | _ACK)
        self._server.sequence = 1
        return first + second + self._packet(now, self._client, self._server, _ACK)

    def received(self, now: float, data: bytes) -> bytes:
        """The packets that brought this from the client."""
        return b"".join(self._data(now, self._client, self._server, data))

    def sent(self, now: float, data: bytes) -> bytes:
        """The packets that brought this to the client."""
        return b"".join(self._data(now, self._server, self._client, data))

    def closed(self, now: float) -> bytes:
        """The packets that close it."""
        packets = []
        for source, other in ((self._server, self._client), (self._client, self._server)):
            packets.append(self._packet(now, source, other, _FIN | _ACK))
            source.sequence += 1
        return b"".join([*packets, self._packet(now, self._server, self._client, _ACK)])

    def _data(self, now: float, source: _End, other: _End, data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), _LONGEST):
            piece = data[at : at + _LONGEST]
            yield self._packet(now, source, other, _PUSH | _ACK, piece)
            source.sequence += len(piece)

    def _packet(
        self, now: float, source: _End, other: _End, flags: int, data: bytes = b""
    ) -> bytes:
        length = 20 + len(data)
        acknowledged = other.sequence & 0xFFFFFFFF if flags & _ACK else 0
        numbers = source.port, other.port, source.sequence & 0xFFFFFFFF, acknowledged
        ends = source.address + other.address
        pseudo = ends + struct.pack(">II", length, _PROTOCOL)
        header = _TCP(*numbers, 5 << 4, flags, _WINDOW, 0, 0)
        checksum = _checksum(pseudo + header + data)
        header = _TCP(*numbers, 5 << 4, flags, _WINDOW, checksum, 0)
        packet = self._internet(source.address, other.address, length) + header + data
        seconds = int(now)
        return _RECORD(seconds, int((now - seconds) * 1e6), len(packet), len(packet)) + packet

    def _internet(self, source: bytes, other: bytes, length: int) -> bytes:
        if len(source) == 16:
            return _IPV6(6 << 28, length, _PROTOCOL, _HOPS, source, other)
        self._identification = (self._identification + 1) & 0xFFFF
        fields = 0x45, 0, 20 + length, self._identification, _DONT_FRAGMENT, _HOPS, _PROTOCOL
        checksum = _checksum(_IPV4(*fields, 0, source, other))
        return _IPV4(*fields, checksum, source, other)


def _host(text: str) -> str:
    """An IP address; loopback for a Unix socket's path."""
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return _LOOPBACK


def _checksum(data: bytes) -> int:
    """RFC 1071: the complement of the sum of 16-bit words in one's complement arithmetic."""
    if len(data) & 1:
        data += b"\0"
    total = int.from_bytes(data, "big") % 0xFFFF  # 2^16 is 1 modulo 2^16 - 1: that sum
    return 0xFFFF - total if total else (0 if any(data) else 0xFFFF)
