"""What all NBD connections of a server share, handed in by the server (no I/O of its own)."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from userdisk.budget import Budget, Buffers
from userdisk.nbd.export import Export


class TlsMode(enum.Enum):
    """Whether connections are encrypted (the protocol's NOTLS, SELECTIVETLS and FORCEDTLS)."""

    NONE = enum.auto()
    OFFERED = enum.auto()
    REQUIRED = enum.auto()


@dataclass(frozen=True, slots=True)
class Environment:
    """What all NBD connections of a server share."""

    #: by name, in the order in which they are listed; the first one is the default export
    exports: Mapping[str, Export]
    tls: TlsMode
    #: bytes of data under way, over all connections
    budget: Budget
    buffers: Buffers
    #: logs what is a bug in userdisk, with its traceback
    report: Callable[[Exception], None]
    #: seconds, for the times of operations
    clock: Callable[[], float] = float
