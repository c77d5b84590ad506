"""Which names of a host are the console's own (pure): DNS rebinding comes with another.

A name can be made to mean this machine by whoever owns it; an IP address and localhost cannot.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]{2,45})\]|([a-z0-9._-]{1,253}))(?::([0-9]{1,5}))?")
_HTTP: Final = 80


@dataclass(frozen=True)
class Own:
    """Where the console listens.

    Attributes:
        port: of TCP.
        remote: whether it is more than this machine that may ask.
        names: under which others know this machine, then; in lower case.
    """

    port: int
    remote: bool = False
    names: frozenset[str] = frozenset()

    @property
    def cookie(self) -> str:
        """The name of its cookie."""
        return f"userdisk-{self.port}"

    def has_host(self, text: str) -> bool:
        """Whether a request with this Host is for the console."""
        match = _HOST.fullmatch(text.lower())
        if match is None or int(match[3] or _HTTP) != self.port:
            return False
        name = match[1] or match[2]
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            known = name == "localhost" or (self.remote and name in self.names)
            return known and match[1] is None
        return (address.version == 6) == (match[1] is not None) and (
            self.remote or address.is_loopback
        )
