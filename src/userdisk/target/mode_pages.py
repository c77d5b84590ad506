"""The mode pages of a logical unit: their default values, and what may be changed (SPC-5 7.5).

A field that is neither here nor changeable is zero: TST 0 (one task set for all nexuses), QERR 0
and TAS 0 (tasks that others abort end without a status), UA_INTLCK_CTRL 0, AUTOLOAD MODE 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from userdisk.scsi import mode
from userdisk.scsi.mode import Page
from userdisk.target import soft_threshold

if TYPE_CHECKING:
    from userdisk.target.logical_unit import LogicalUnit

Truth: TypeAlias = "Callable[[LogicalUnit], bool]"


def _always(lu: LogicalUnit) -> bool:
    return True


def _has_cache(lu: LogicalUnit) -> bool:
    return lu.parameters.cache_supported


def _zero(lu: LogicalUnit) -> Mapping[str, int]:
    return {}


def _error_recovery(lu: LogicalUnit) -> Mapping[str, int]:
    return {"LBPERE": int(lu.soft_threshold.enabled)}


def _caching(lu: LogicalUnit) -> Mapping[str, int]:
    return {"WCE": int(_has_cache(lu))}


def _control(lu: LogicalUnit) -> Mapping[str, int]:
    """Log parameters are not saved; SIMPLE commands may overtake each other; nobody gets BUSY."""
    return {"GLTSD": 1, "QUEUE ALGORITHM MODIFIER": 1, "BUSY TIMEOUT PERIOD": 0xFFFF}


def _exceptions(lu: LogicalUnit) -> Mapping[str, int]:
    return {"DEXCPT": 1}  # no informational exceptions are reported


def _thresholds(lu: LogicalUnit) -> Mapping[str, int]:
    """One threshold: soft, when the available resource decreases to it; told to every nexus."""
    return {
        "ENABLED": int(lu.soft_threshold.enabled),
        "THRESHOLD RESOURCE": 1,
        "THRESHOLD COUNT": soft_threshold.count(lu),
    }


class ModePage(NamedTuple):
    """One mode page."""

    layout: Page
    default: Callable[[LogicalUnit], Mapping[str, int]] = _zero  #: values that are not zero
    #: The fields that MODE SELECT may change, each with the units where it may. All of them are
    #: such that any value will do.
    changeable: Mapping[str, Truth] = {}
    offered: Truth = _always


#: In the order in which page 3Fh returns them.
MODE_PAGES: tuple[ModePage, ...] = (
    ModePage(mode.READ_WRITE_ERROR_RECOVERY, _error_recovery),
    ModePage(mode.CACHING, _caching, {"WCE": _has_cache}),
    ModePage(mode.CONTROL, _control, {"D_SENSE": _always, "SWP": _always}),
    ModePage(mode.CONTROL_EXTENSION),
    ModePage(mode.POWER_CONDITION),
    ModePage(mode.INFORMATIONAL_EXCEPTIONS, _exceptions),
    ModePage(mode.LOGICAL_BLOCK_PROVISIONING, _thresholds, offered=soft_threshold.reports_usage),
)


def offered(lu: LogicalUnit) -> list[ModePage]:
    """The pages that this unit has."""
    return [page for page in MODE_PAGES if page.offered(lu)]
