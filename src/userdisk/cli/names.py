"""Names, addresses and sizes as people write them (iSCSI names: RFC 7143 4.2.7, RFC 3722)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from userdisk.cli.unit_options import unit_name
from userdisk.errors import UsageError

DEFAULT_PORT = 3260
_PREFIX = "iqn.2026-11.io.userdisk:"
_MAX_NAME = 223  # bytes, RFC 7143 4.2.7.1
_MAX_TAG = 65535  # of a portal group

_NAME = re.compile(
    r"iqn\.\d{4}-(0[1-9]|1[0-2])\.[a-z0-9][a-z0-9.-]*(:[a-z0-9.:-]+)?"
    r"|eui\.[0-9a-f]{16}"
    r"|naa\.([0-9a-f]{16}|[0-9a-f]{32})"
)


def target_names(specs: Sequence[str], given: Sequence[str], *, each: bool) -> list[str]:
    """The name of the target of all units, or of one target for each of them.

    Args:
        given: the names to use; none: names that are the same for the same units.

    Raises `UsageError` if there are too many or too few.
    """
    wanted = specs if each else specs[:1]
    if given:
        if len(given) != len(wanted):
            rule = f"each of the {len(specs)} units needs one" if each else "one target has one"
            hint = "" if each else " (--each makes a target for each unit)"
            raise UsageError(f"--name: given {len(given)} times, {rule}{hint}")
        return [checked_name("--name", text) for text in given]
    names: list[str] = []
    for spec in wanted:
        name, number = _default_name(spec), 1
        while (own := name if number == 1 else f"{name}-{number}") in names:
            number += 1
        names.append(own)
    return names


def _default_name(spec: str) -> str:
    name = re.sub(r"[^a-z0-9.-]+", "-", unit_name(spec).lower()).strip("-.")
    return (_PREFIX + (name or "disk"))[: _MAX_NAME - 4].rstrip("-.")


def checked_name(option: str, text: str) -> str:
    """An iSCSI name in lower case, as RFC 3722 prepares it. Raises `UsageError`."""
    name = text.lower()
    if len(name) > _MAX_NAME:
        raise UsageError(f"{option}: an iSCSI name has at most {_MAX_NAME} characters")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{option} {text}: not an iSCSI name; write it like iqn.2026-11.org.example:disk1"
            " (letters, digits, '-', '.' and ':')"
        )
    return name


def parse_portal(option: str, text: str) -> tuple[str, int, int]:
    """`ADDR`, `ADDR:PORT`, `[IPV6]:PORT`, and `,TAG` as (host, port, tag). Raises `UsageError`."""
    match = re.fullmatch(
        r"(?:\[([^\[\],]+)\]|([^\[\]:,]+))(?::([0-9]{1,5}))?(?:,([0-9]{1,9}))?", text
    )
    if match is None:
        hint = "; put an IPv6 address in brackets, [::1]:3260" if text.count(":") > 1 else ""
        raise UsageError(f"{option} {text}: write it as ADDRESS[:PORT][,TAG]{hint}")
    port = DEFAULT_PORT if match[3] is None else int(match[3])
    if port > 65535:
        raise UsageError(f"{option} {text}: a port is at most 65535")
    tag = 1 if match[4] is None else int(match[4])
    if not 1 <= tag <= _MAX_TAG:
        raise UsageError(f"{option} {text}: a portal group tag is from 1 to {_MAX_TAG}")
    return match[1] or match[2], port, tag


def portal_text(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def is_wildcard(host: str) -> bool:
    """Whether it stands for every address of this machine."""
    return host in ("0.0.0.0", "::", "*")


def own_address(wildcard: str) -> str:
    """An address of this machine that others can probably reach: that of its default route."""
    import socket

    family, far = (
        (socket.AF_INET6, "2001:db8::1") if ":" in wildcard else (socket.AF_INET, "192.0.2.1")
    )
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))  # chooses a route; a datagram socket sends nothing yet
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()


_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def size_text(size: int) -> str:
    """A size for people: exact where it is a whole number of some unit, else two decimals."""
    power = min(max(size.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    value = size / (1 << 10 * power)
    number = f"{value:.0f}" if value == int(value) else f"{value:.2f}"
    return f"{number} {_UNITS[power]}"


def duration_text(seconds: float) -> str:
    """A time span for people: its two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
