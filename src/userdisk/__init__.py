"""Any Python class becomes a disk: subclass `StorageUnit`, define `read` and `write`, serve it.

unit, errors, operation   what a user writes; the error table; one call of a unit's method
gate, dispatcher, turns   the one way into a unit; threads and event loops of slow units
backend, identity         units that come with userdisk (ram, file, block device); who a disk is
scsi, target              wire formats; the engine that runs SCSI commands          (pure)
iscsi                     PDUs, login, sessions, connections                        (pure)
portal, transport, server owner threads of connections; the server that holds everything
attach                    making a unit a block device of this machine
cli                       the command `userdisk`
testing                   the suite that checks a storage unit of your own
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.errors import (
    Aborted,
    HardwareError,
    MediumError,
    NoMedium,
    NotReady,
    OutOfMemory,
    OutOfRange,
    OutOfSpace,
    StorageError,
    Unsupported,
    UsageError,
    UserdiskError,
    WriteError,
    WriteProtected,
)

if TYPE_CHECKING:
    from userdisk.unit import Buffer, Extent, Extents, Inline, Parameters, StorageUnit, Usage

__all__ = [
    "Aborted",
    "Buffer",
    "Extent",
    "Extents",
    "HardwareError",
    "Inline",
    "MediumError",
    "NoMedium",
    "NotReady",
    "OutOfMemory",
    "OutOfRange",
    "OutOfSpace",
    "Parameters",
    "StorageError",
    "StorageUnit",
    "Unsupported",
    "Usage",
    "UsageError",
    "UserdiskError",
    "WriteError",
    "WriteProtected",
]


def __getattr__(name: str) -> object:
    """What units are made of is loaded when it is used: most processes have no unit."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from userdisk import unit

    value: object = getattr(unit, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
