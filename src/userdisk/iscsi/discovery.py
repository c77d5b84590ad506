"""Text requests in full feature phase: SendTargets, and the addresses it answers with.

RFC 7143 11.10, 11.11 (Text Request and Response), 6.2 (C bit), 13.3 and appendix C (SendTargets).

Theory of operation. IDLE -> COLLECTING (the request's text has a C bit) -> ANSWERING (our answer is
longer than a data segment, or the initiator has not said F) -> IDLE. Outside IDLE each response has
a Target Transfer Tag, and the next request must carry it; a request without a tag starts again.
Only what full feature phase allows is answered; the rest is refused with a Reject PDU, because that
is what tells an initiator that it asked something senseless.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from userdisk.errors import UsageError
from userdisk.iscsi.keys import KEYS, NOT_UNDERSTOOD, RESERVED_VALUES, Phase, negotiate
from userdisk.iscsi.pdu import CONTINUE, FINAL, RESERVED_TAG, RejectReason
from userdisk.iscsi.text import Pair, TextBuffer, TextError, decode_name, encode_pairs
from userdisk.unit import Buffer


class Portal(NamedTuple):
    """An address of the server, and the tag of the portal group that it is in (4.1.1)."""

    host: str
    port: int
    tag: int = 1


_MAX_SEGMENT = "MaxRecvDataSegmentLength"


class Record(NamedTuple):
    """A target as discovery shows it; `addresses` as `target_address` makes them."""

    name: str
    addresses: Sequence[str]


class TextAnswer(NamedTuple):
    """What a Text Response carries: byte 1, Target Transfer Tag, data segment (not padded)."""

    flags: int
    ttt: int
    data: bytes


class TextNegotiation:
    """The text requests of one connection. Not thread-safe; never blocks by itself.

    Args:
        records: the targets that this initiator may see, at the addresses that it can reach.
        own: the name of the session's target; None in a discovery session.
        max_recv_data_segment_length: the initiator's, in bytes. It may declare a new one, which
            this attribute then has.
    """

    def __init__(
        self,
        records: Callable[[], Sequence[Record]],
        own: str | None,
        max_recv_data_segment_length: int,
    ) -> None:
        self.max_recv_data_segment_length = max_recv_data_segment_length
        self._records = records
        self._own = own
        self._text = TextBuffer()
        self._outgoing = b""
        self._itt = self._ttt = RESERVED_TAG
        self._last_ttt = 0
        self._declared = 0

    def request(self, flags: int, itt: int, ttt: int, data: Buffer) -> TextAnswer | RejectReason:
        """Answer a Text Request: its byte 1, the two tags and the data segment without padding.

        A peer cannot make it raise. After a reject the negotiation is forgotten.
        """
        try:
            return self._request(flags, itt, ttt, bytes(data))
        except TextError:
            self._reset()
            return RejectReason.PROTOCOL_ERROR

    def _request(self, flags: int, itt: int, ttt: int, data: bytes) -> TextAnswer:
        if ttt == RESERVED_TAG:
            self._reset()
            self._itt = itt
        elif (itt, ttt) != (self._itt, self._ttt):
            raise TextError("the tags are not those of the negotiation")
        if flags & FINAL and flags & CONTINUE:
            raise TextError("F and C bit together")
        if self._outgoing:
            if data:
                raise TextError("text before our own was complete")
        else:
            pairs = self._text.add(data, more=bool(flags & CONTINUE))
            if pairs is None:
                return self._more(0, b"")
            self._outgoing = encode_pairs(self._answers(pairs))
        length = self.max_recv_data_segment_length
        chunk, self._outgoing = self._outgoing[:length], self._outgoing[length:]
        if self._outgoing:
            return self._more(CONTINUE, chunk)
        if not flags & FINAL:
            return self._more(0, chunk)
        if self._declared:
            self.max_recv_data_segment_length = self._declared
        self._reset()
        return TextAnswer(FINAL, RESERVED_TAG, chunk)

    def _more(self, flags: int, data: bytes) -> TextAnswer:
        """A response that another request has to follow."""
        if self._ttt == RESERVED_TAG:
            self._last_ttt = (self._last_ttt + 1) % RESERVED_TAG
            self._ttt = self._last_ttt
        return TextAnswer(flags, self._ttt, data)

    def _reset(self) -> None:
        self._text.reset()
        self._outgoing = b""
        self._ttt = RESERVED_TAG
        self._declared = 0

    def _answers(self, pairs: Sequence[Pair]) -> list[Pair]:
        answers: list[Pair] = []
        for name, value in pairs:
            key = KEYS.get(name)
            if key is None and name.startswith(("X-", "X#")):
                if value not in RESERVED_VALUES:
                    answers.append((name, NOT_UNDERSTOOD))
            elif key is None or not key.phase & Phase.FULL:
                raise TextError(f"{name} is not for full feature phase")
            elif name == "SendTargets":
                answers += self._send_targets(value)
            elif name == _MAX_SEGMENT:
                declared = negotiate(key, value, 0).value
                assert isinstance(declared, int)
                self._declared = declared
        return answers

    def _send_targets(self, value: str) -> list[Pair]:
        """Appendix C; in a normal session All, too, shows the session's own target only."""
        own = None if self._own is None else decode_name(self._own)
        everything = value == "All" and own is None
        if value not in ("All", ""):
            wanted: str | None = decode_name(value)
            if own is not None and wanted != own:
                raise TextError("another target in a normal session")
        else:
            wanted = own  # a discovery session has none: nothing is no target there
        answers: list[Pair] = []
        for record in self._records():
            if everything or decode_name(record.name) == wanted:
                answers.append(("TargetName", record.name))
                answers += [("TargetAddress", address) for address in record.addresses]
        return answers


def target_address(host: str, port: int, portal_group_tag: int = 1) -> str:
    """A TargetAddress (13.8): brackets for IPv6, no scope, IPv4 in its own form."""
    return f"{_bracketed(host)}:{port},{portal_group_tag}"


def reachable(
    listen: Sequence[Portal], reached: Portal, advertise: str | None = None
) -> list[Portal]:
    """The portals to show to a client that reached us at `reached`; that one comes first.

    A wildcard stands for the address that was reached; loopback addresses are shown only to those
    who came that way. `advertise` replaces the host ("host", the ports then stay), or all of them
    by one ("host:port", "[ipv6]:port"). Raises `UsageError` if it is malformed: check it once with
    `parse_advertise` at the start.
    """
    if advertise is not None:
        host, port = parse_advertise(advertise)
        if port is not None:
            return [Portal(host, port, reached.tag)]
        return _distinct(each._replace(host=host) for each in (reached, *listen))
    ours = reached._replace(host=_plain(reached.host))
    return _distinct([ours, *seen_from(listen, reached)])


def seen_from(listen: Sequence[Portal], reached: Portal) -> list[Portal]:
    """The portals as a client can reach them that has reached us at `reached`."""
    ours = _plain(reached.host)
    portals: list[Portal] = []
    for host, port, tag in listen:
        ip = _parse(host)
        if host == "" or (ip is not None and ip.is_unspecified):
            if ip is not None and ip.version == 4 and ":" in ours:
                continue  # an IPv4 wildcard is not reached over IPv6
            host = ours
        elif ip is not None and ip.is_loopback:
            came = _parse(ours)
            if came is None or not came.is_loopback:
                continue
        portals.append(Portal(_plain(host), port, tag))
    return portals


def _distinct(portals: Iterable[Portal]) -> list[Portal]:
    """Each address once, in the group in which it comes first."""
    found: dict[tuple[str, int], Portal] = {}
    for portal in portals:
        found.setdefault(portal[:2], portal)
    return list(found.values())


def parse_advertise(text: str) -> tuple[str, int | None]:
    """Host and port of an address to advertise. Raises `UsageError`."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise UsageError(f"--advertise {text}: write an IPv6 address as [ADDRESS]:PORT")
        port = rest[1:] if rest else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or any(c in host for c in ",[] ") or (":" in host and _parse(host) is None):
        raise UsageError(f"--advertise {text}: write HOST, HOST:PORT or [IPV6]:PORT")
    ip = _parse(host)
    if ip is not None and ip.is_unspecified:
        raise UsageError(f"--advertise {text}: no client can connect to this address")
    if not port:
        return host, None
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise UsageError(f"--advertise {text}: the port must be from 1 to 65535, not {port}")
    return host, int(port)


def _parse(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _plain(host: str) -> str:
    """Without a scope, which means something to this machine only; IPv4-mapped as IPv4."""
    ip = _parse(host)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ip)
    return host if ip is None else str(ip)


def _bracketed(host: str) -> str:
    plain = _plain(host)
    return f"[{plain}]" if ":" in plain else plain
