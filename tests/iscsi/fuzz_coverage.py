"""Runs the fuzz tests alone and prints the lines of `userdisk.iscsi` that they reach.

`python -m tests.iscsi.fuzz_coverage [MINIMUM]`: exit status 1 below MINIMUM percent. The
initiator's side is left out: it is not what a peer reaches.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import coverage
import pytest

_ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run, print, compare; returns the exit status."""
    measured = coverage.Coverage(
        data_file=None,
        include=[str(_ROOT / "src/userdisk/iscsi/*")],
        omit=["*/initiator*.py"],
    )
    measured.start()
    status = pytest.main(
        ["-q", "-x", "-p", "no:cacheprovider", str(_ROOT / "tests/iscsi/test_fuzz.py")]
    )
    measured.stop()
    if status:
        return int(status)
    report = io.StringIO()
    total = measured.report(file=report, show_missing=True)
    print(report.getvalue())
    print(f"line coverage of userdisk.iscsi by fuzz alone: {total:.1f} %")
    return int(len(sys.argv) > 1 and total < float(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
