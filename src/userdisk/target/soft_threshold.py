"""The soft threshold of a thin unit's storage, and who is told (SBC-4 4.7.3.7, 6.5.9).

Storage is counted in threshold sets of 2^exponent blocks. The threshold is a number of available
sets, the share of the disk's size that `soft_threshold` leaves. When fewer blocks are available
than half a set below it, every nexus is told, once; when there are more than half a set above, it
is armed again. A logical unit reset arms it as well.

The server asks the unit now and then (`look`); no command ever waits for that.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from userdisk.operation import Kind, Operation
from userdisk.scsi.sense import Asc
from userdisk.target import provisioning
from userdisk.target.aspect import Aspect
from userdisk.unit import Usage, overrides

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit

_SET = 1 << 20  # bytes of a threshold set, if the disk is neither tiny nor huge
_MIN_SETS_EXPONENT, _MAX_SETS_EXPONENT = 8, 31  # of the number of sets in a disk


def reports_usage(lu: LogicalUnit) -> bool:
    """Whether the unit tells how much storage it uses, so that there can be a threshold."""
    return provisioning.offered(lu) and overrides(lu.gate.unit, "usage")


def exponent(lu: LogicalUnit) -> int:
    """THRESHOLD EXPONENT: 0 if the unit does not report its usage, which means no thresholds."""
    if not reports_usage(lu):
        return 0
    usual = (_SET // lu.block_length).bit_length() - 1
    disk = lu.block_count.bit_length() - 1
    return max(1, min(usual, disk - _MIN_SETS_EXPONENT), disk - _MAX_SETS_EXPONENT)


def count(lu: LogicalUnit) -> int:
    """THRESHOLD COUNT: at so many available sets initiators are warned; 0: never."""
    percent = lu.parameters.soft_threshold
    if not percent or not reports_usage(lu):
        return 0
    return -(-lu.block_count * (100 - percent) // 100 >> exponent(lu)) or 1


def ask(lu: LogicalUnit) -> Generator[Operation, Any, Usage]:
    """Steps that ask the unit for its usage."""
    usage = yield Operation(Kind.USAGE)
    return lu.gate.checked_usage(usage)


class SoftThreshold(Aspect):
    """Whether initiators have been told that storage runs short. It keeps nobody from running."""

    def __init__(self, lu: LogicalUnit) -> None:
        self._lu = lu
        self._armed = True

    @property
    def enabled(self) -> bool:
        """There is something to look at."""
        return count(self._lu) > 0

    def look(self, usage: Usage) -> None:
        """What the unit's usage is now. From any thread, one at a time."""
        lu = self._lu
        middle, half = count(lu) << exponent(lu), 1 << exponent(lu) - 1
        if usage.available > middle + half:
            self._armed = True
        elif self._armed and usage.available < middle - half:
            self._armed = False
            lu.establish(Asc.SOFT_THRESHOLD_REACHED)

    def reset(self) -> None:
        """The next look tells again."""
        self._armed = True
