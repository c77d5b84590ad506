"""The attaching process, as `attach` and `mount` start it: the request comes on standard input."""

from __future__ import annotations

import json
import sys

from userdisk.attach.launch import main as hold_and_report
from userdisk.attach.process import Task
from userdisk.cli.units import UnitOptions, unit_name


def main() -> int:
    """Hold one disk until a signal; returns the exit status."""
    request = json.load(sys.stdin)
    unit = request["unit"]
    options = UnitOptions(**request["options"])
    return hold_and_report(
        Task(unit, unit_name(unit), lambda: options.open(unit), request["mountpoint"])
    )


if __name__ == "__main__":
    sys.exit(main())
