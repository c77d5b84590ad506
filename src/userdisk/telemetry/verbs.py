"""What every serving process answers on its control socket about what it does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from userdisk.control import Answer, Verb
from userdisk.gate import Gate

if TYPE_CHECKING:
    from userdisk.server import Server
    from userdisk.telemetry.stats import Statistics


def verbs(server: Server, units: Sequence[tuple[str, Gate]]) -> dict[str, Verb]:
    """For the table of `Control`: `stats`, and `trace`, which goes on until who asked has gone.

    Args:
        units: of the server, and what they are called.
    """
    began = time.time()

    @cache
    def statistics() -> Statistics:  # what it needs is not loaded before somebody asks
        from userdisk.telemetry.stats import Statistics

        return Statistics(server, units, began)

    def stats(request: Mapping[str, object]) -> Answer:
        return statistics().answer()

    def trace(request: Mapping[str, object]) -> Iterator[Answer]:
        from userdisk.telemetry.watching import watch

        return watch(server, statistics().units, request)

    return {"stats": stats, "trace": trace}
