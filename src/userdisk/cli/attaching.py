"""The attaching process, as `attach` and `mount` start it: the request comes on standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from userdisk.attach.launch import main as hold_and_report
from userdisk.attach.process import Task
from userdisk.cli.unit_options import unit_name
from userdisk.log_format import Wanted


def task(request: Mapping[str, Any], *, foreground: bool = False) -> Task:
    """What is to be attached; the unit's process is `userdisk.cli.unit_process`.

    Args:
        request: `unit`, `options` (`UnitOptions`), `logs` (`Wanted`), `wait`, and perhaps
            `mountpoint`.
    """
    unit = request["unit"]
    return Task(
        unit,
        unit_name(unit),
        [sys.executable, "-P", "-m", "userdisk.cli.unit_process", unit],
        {"unit": unit, "options": request["options"]},
        request.get("mountpoint", ""),
        foreground,
        Wanted(**request["logs"]),
        request["wait"],
    )


def main() -> int:
    """Hold one disk until a signal; returns the exit status."""
    return hold_and_report(task(json.load(sys.stdin)))


if __name__ == "__main__":
    sys.exit(main())
