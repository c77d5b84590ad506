"""Who is at the other end of a TCP connection: for one of this machine the kernel knows the user.

The table of /proc/net (proc_pid_net(5)) has the peer's socket, too. A socket that its owner has
closed is everybody's there, so only an established one tells.
"""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

UNKNOWN: Final = "unknown"
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED: Final = "01"

_Address = tuple[str, int]


def who(peer: _Address, own: _Address) -> str:
    """`uid:N` of a process of this machine, `ip:ADDRESS` of another, or `UNKNOWN`."""
    for table in _TABLES:
        with contextlib.suppress(OSError), table.open(encoding="ascii") as lines:
            user = find_user(lines, peer, own)
            if user is not None:
                return f"uid:{user}"
    address = _parsed(peer[0])
    return UNKNOWN if address.is_loopback or address == _parsed(own[0]) else f"ip:{address}"


def find_user(lines: Iterable[str], peer: _Address, own: _Address) -> int | None:
    """The user of the peer's socket, from the lines of such a table."""
    wanted = [(_encoded(peer, form), _encoded(own, form)) for form in (4, 6)]
    for line in lines:
        fields = line.split(maxsplit=8)
        if len(fields) > 7 and (fields[1], fields[2]) in wanted:
            return int(fields[7]) if fields[3] == _ESTABLISHED else None
    return None


def _encoded(address: _Address, form: int) -> str:
    host = _parsed(address[0])
    packed = host.packed
    if form == 6 and host.version == 4:
        packed = bytes(10) + b"\xff\xff" + packed
    words = "".join(f"{word:08X}" for word in _words(packed))
    return f"{words}:{address[1]:04X}"


def _words(packed: bytes) -> Iterator[int]:
    for start in range(0, len(packed), 4):
        yield int.from_bytes(packed[start : start + 4], sys.byteorder)


def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped
