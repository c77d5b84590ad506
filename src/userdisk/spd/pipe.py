"""A unit that clients of the pipe protocol can use, and what all their connections share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from userdisk.budget import Budget
from userdisk.gate import Gate
from userdisk.spd.wire import Flag, Parameters

#: Bytes; a longer transfer gains nothing, and a client has a buffer of this for each thread.
_TRANSFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Pipe:
    """One unit.

    Args:
        gate: the way into the unit.
        budget: bytes of data under way, over all connections of the server.
        report: logs what is a bug in userdisk, with its traceback.
        read_only: refuse to change it, even if the unit could be written.
        clock: seconds, for the times of operations.
    """

    gate: Gate
    budget: Budget
    report: Callable[[Exception], None]
    read_only: bool = False
    clock: Callable[[], float] = float

    @property
    def parameters(self) -> Parameters:
        """What clients are told now."""
        unit = self.gate.parameters
        flags = Flag(0)
        for flag, holds in (
            (Flag.WRITE_PROTECTED, self.read_only or unit.write_protected),
            (Flag.CACHE_SUPPORTED, unit.cache_supported),
            (Flag.UNMAP_SUPPORTED, unit.unmap_supported),
            (Flag.EJECT_DISABLED, unit.eject_disabled),
        ):
            if holds:
                flags |= flag
        longest = min(unit.max_transfer_length, _TRANSFER)
        return Parameters(
            unit.guid,
            unit.block_count,
            unit.block_length,
            unit.product_id,
            unit.product_revision,
            flags,
            longest - longest % unit.block_length,
        )
