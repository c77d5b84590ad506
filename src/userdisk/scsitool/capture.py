"""A captured session as pieces of TCP streams: pcap and pcapng files, and lines in hexadecimal.

Whatever the file holds, what is kept of it is bounded: a file has `MAX_FILE` bytes at most, and of
a stream only what came out of order is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from userdisk.errors import UsageError

MAX_FILE = 256 << 20  #: bytes
_MAX_PACKET = 1 << 18
_MAX_HELD = 256  # segments that came out of order, of one stream

_ISCSI_PORT = 3260
_PCAP = {b"\xd4\xc3\xb2\xa1": ("<", 1e-6), b"\xa1\xb2\xc3\xd4": (">", 1e-6),
         b"\x4d\x3c\xb2\xa1": ("<", 1e-9), b"\xa1\xb2\x3c\x4d": (">", 1e-9)}  # fmt: skip
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_SECTION, _INTERFACE, _PACKET, _SIMPLE = 0x0A0D0D0A, 1, 6, 3
_BYTE_ORDER = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}

#: link type -> bytes before the IP header, and where in them the protocol is; None: none is said
_LINKS: dict[int, tuple[int, int | None]] = {
    0: (4, None),  # BSD loopback
    1: (14, 12),  # Ethernet
    12: (0, None),  # IP
    101: (0, None),
    113: (16, 14),  # Linux cooked
    228: (0, None),
    229: (0, None),
    276: (20, 0),  # Linux cooked, version 2
}
_IPV4, _IPV6, _VLAN = 0x0800, 0x86DD, frozenset({0x8100, 0x88A8})
_TCP = 6
_SYN = 0x02


class Piece(NamedTuple):
    """Bytes of one direction of a connection, in their order."""

    time: float  #: seconds since the first packet
    source: str
    destination: str
    data: bytes
    #: bytes before these were not captured
    gap: bool = False


class _Segment(NamedTuple):
    time: float
    source: str
    destination: str
    sequence: int
    syn: bool
    data: bytes


def pieces(data: bytes) -> Iterator[Piece]:
    """What a file holds of iSCSI: streams with port 3260, or all if there is none.

    Raises `UsageError` if it is no file of a form that is known.
    """
    if data[:4] in _PCAP:
        packets = _pcap(data)
    elif data[:4] == _PCAPNG:
        packets = _pcapng(data)
    else:
        yield from _lines(data)
        return
    segments = [found for time, link, packet in packets if (found := _segment(time, link, packet))]
    port = f":{_ISCSI_PORT}"
    iscsi = [one for one in segments if port in (one.source[-5:], one.destination[-5:])]
    streams: dict[tuple[str, str], _Stream] = {}
    for one in iscsi or segments:
        stream = streams.setdefault((one.source, one.destination), _Stream())
        for part, gap in stream.add(one):
            yield Piece(one.time, one.source, one.destination, part, gap)


# -- files -------------------------------------------------------------------------------------


def _pcap(data: bytes) -> Iterator[tuple[float, int, bytes]]:
    """Time, link type and bytes of each packet."""
    order, unit = _PCAP[data[:4]]
    if len(data) < 24:
        raise UsageError("the pcap file ends in its header")
    link = struct.unpack_from(f"{order}I", data, 20)[0] & 0xFFFF
    at, first = 24, None
    while at + 16 <= len(data):
        seconds, fraction, length, _ = struct.unpack_from(f"{order}IIII", data, at)
        if length > _MAX_PACKET:
            raise UsageError(f"the pcap file has a packet of {length} bytes at byte {at}")
        now = seconds + fraction * unit
        first = now if first is None else first
        yield now - first, link, data[at + 16 : at + 16 + length]
        at += 16 + length


def _pcapng(data: bytes) -> Iterator[tuple[float, int, bytes]]:
    """The same of a pcapng file; all times count in microseconds."""
    order, links = "<", list[int]()
    at, first = 0, None
    while at + 12 <= len(data):
        kind = struct.unpack_from(f"{order}I", data, at)[0]
        if data[at : at + 4] == _PCAPNG:
            order, links, kind = _BYTE_ORDER.get(data[at + 8 : at + 12], "<"), [], _SECTION
        length = struct.unpack_from(f"{order}I", data, at + 4)[0]
        if length < 12 or length % 4:
            raise UsageError(f"the pcapng file has a block of {length} bytes at byte {at}")
        body = data[at + 8 : at + length - 4]
        at += length
        if kind == _INTERFACE and len(body) >= 2:
            links.append(struct.unpack_from(f"{order}H", body)[0])
        elif kind == _PACKET and len(body) >= 20:
            interface, high, low, size = struct.unpack_from(f"{order}IIII", body)
            now = (high << 32 | low) * 1e-6
            first = now if first is None else first
            if interface < len(links) and size <= _MAX_PACKET:
                yield now - first, links[interface], body[20 : 20 + size]
        elif kind == _SIMPLE and links:
            yield 0.0, links[0], body[4:]


_MARKS = {">": ("initiator", "target"), "<": ("target", "initiator")}


def _lines(data: bytes) -> Iterator[Piece]:
    """Lines with '>' (from the initiator) or '<' and hexadecimal; '#' begins a comment."""
    ends: tuple[str, str] | None = None
    for number, raw in enumerate(data.decode("latin-1").splitlines(), 1):
        line = raw.partition("#")[0].strip()
        if line[:1] in _MARKS:
            ends, line = _MARKS[line[0]], line[1:]
        if not line:
            continue
        try:
            found = bytes.fromhex(line)
        except ValueError:
            ends = None
        if ends is None:
            raise UsageError(
                f"line {number}: neither pcap nor pcapng, nor lines with '>' or '<' and hexadecimal"
            )
        yield Piece(0.0, *ends, found)


# -- packets -----------------------------------------------------------------------------------


def _segment(time: float, link: int, packet: bytes) -> _Segment | None:
    """The TCP segment in a packet; None if there is none."""
    if link not in _LINKS:
        return None
    length, at = _LINKS[link]
    if at is not None and len(packet) >= at + 2:
        protocol = int.from_bytes(packet[at : at + 2], "big")
        while protocol in _VLAN and len(packet) >= length + 4:
            protocol = int.from_bytes(packet[length + 2 : length + 4], "big")
            length += 4
        if protocol not in (_IPV4, _IPV6):
            return None
    packet = packet[length:]
    if not packet:
        return None
    version = packet[0] >> 4
    found = _ipv4(packet) if version == 4 else _ipv6(packet) if version == 6 else None
    if found is None:
        return None
    source, destination, tcp = found
    if len(tcp) < 20:
        return None
    first, second, sequence = struct.unpack_from(">HHI", tcp)
    header, flags = (tcp[12] >> 4) * 4, tcp[13]
    if header < 20:
        return None
    return _Segment(
        time,
        f"{source}:{first}",
        f"{destination}:{second}",
        sequence,
        bool(flags & _SYN),
        tcp[header:],
    )


def _ipv4(packet: bytes) -> tuple[str, str, bytes] | None:
    header = (packet[0] & 0xF) * 4
    if len(packet) < 20 or header < 20 or packet[9] != _TCP:
        return None
    if int.from_bytes(packet[6:8], "big") & 0x1FFF:  # a fragment
        return None
    total = int.from_bytes(packet[2:4], "big") or len(packet)  # 0: segmented by the adapter
    ends = [".".join(str(byte) for byte in packet[at : at + 4]) for at in (12, 16)]
    return ends[0], ends[1], packet[header:total]


def _ipv6(packet: bytes) -> tuple[str, str, bytes] | None:
    if len(packet) < 40 or packet[6] != _TCP:  # with extension headers it is left out
        return None
    total = 40 + int.from_bytes(packet[4:6], "big") if any(packet[4:6]) else len(packet)
    ends = [f"[{packet[at : at + 16].hex(':', 2)}]" for at in (8, 24)]
    return ends[0], ends[1], packet[40:total]


class _Stream:
    """Puts the segments of one direction into their order, each byte once."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._held: dict[int, bytes] = {}

    def add(self, segment: _Segment) -> Iterator[tuple[bytes, bool]]:
        """What is in order now, and whether bytes before it are missing."""
        if segment.syn:
            self._next = segment.sequence + 1 & 0xFFFFFFFF
            self._held.clear()
            return
        if not segment.data:
            return
        if self._next is None:
            self._next = segment.sequence
        self._held[segment.sequence] = max(
            segment.data, self._held.get(segment.sequence, b""), key=len
        )
        yield from ((data, False) for data in self._ready())
        if len(self._held) > _MAX_HELD:
            self._next = min(self._held, key=self._ahead)
            yield from ((data, index == 0) for index, data in enumerate(list(self._ready())))

    def _ahead(self, sequence: int) -> int:
        """How far behind the next expected byte; negative: it was there already."""
        assert self._next is not None
        distance = sequence - self._next & 0xFFFFFFFF
        return distance - (1 << 32) if distance >= 1 << 31 else distance

    def _ready(self) -> Iterator[bytes]:
        while self._held:
            sequence = min(self._held, key=self._ahead)
            ahead = self._ahead(sequence)
            if ahead > 0:
                return
            data = self._held.pop(sequence)[-ahead if ahead else 0 :]
            if data:
                assert self._next is not None
                self._next = self._next + len(data) & 0xFFFFFFFF
                yield data
