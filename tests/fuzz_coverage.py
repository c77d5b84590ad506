"""Runs fuzz tests alone and prints the lines of the package that they reach.

`python -m tests.fuzz_coverage iscsi|target [MINIMUM]`: exit status 1 below MINIMUM percent. The
initiator's side is left out: it is not what a peer reaches.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import NamedTuple

import coverage
import pytest

_ROOT = Path(__file__).parents[1]


class _Part(NamedTuple):
    test: str
    sources: tuple[str, ...]


_PARTS = {
    "iscsi": _Part("tests/iscsi/test_fuzz.py", ("iscsi/*",)),
    "target": _Part("tests/target/test_command_fuzz.py", ("target/*", "scsi/*")),
}


def main() -> int:
    """Run, print, compare; returns the exit status."""
    name = sys.argv[1]
    part = _PARTS[name]
    measured = coverage.Coverage(
        data_file=None,
        include=[str(_ROOT / "src/userdisk" / source) for source in part.sources],
        omit=["*/initiator*.py"],
    )
    measured.start()
    status = pytest.main(["-q", "-x", "-p", "no:cacheprovider", str(_ROOT / part.test)])
    measured.stop()
    if status:
        return int(status)
    report = io.StringIO()
    total = measured.report(file=report, show_missing=True)
    print(report.getvalue())
    print(f"line coverage of userdisk.{name} by fuzz alone: {total:.1f} %")
    return int(len(sys.argv) > 2 and total < float(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(main())
