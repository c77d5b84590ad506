"""What every serving process answers on its control socket about what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from userdisk.control import Answer, Verb
from userdisk.gate import Gate
from userdisk.server import Server
from userdisk.telemetry.stats import Statistics


def verbs(server: Server, units: Sequence[tuple[str, Gate]]) -> dict[str, Verb]:
    """For the table of `Control`.

    Args:
        units: of the server, and what they are called.
    """
    statistics = Statistics(server, units)

    def stats(request: Mapping[str, object]) -> Answer:
        return statistics.answer()

    return {"stats": stats}
