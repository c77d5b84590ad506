"""libiscsi's conformance tests, one process for each, and how their output reads.

`python -m tests.conformance.suite URL` prints a table for any target.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass

PROGRAM = "iscsi-test-cu"
TIMEOUT = 60  #: seconds for one test

#: suite -> pattern of the tests in it that must not fail
SUITES: dict[str, str] = {
    "Mandatory": ".*",
    "TestUnitReady": ".*",
    "Inquiry": ".*",
    "ReadCapacity10": ".*",
    "ReadCapacity16": ".*",
    "Read6": ".*",
    "Read10": ".*",
    "Read12": ".*",
    "Read16": ".*",
    "Write10": ".*",
    "Write12": ".*",
    "Write16": ".*",
    "ModeSense6": ".*",
    "ReportLUNs": ".*",
    "Unmap": ".*",
    "iSCSIcmdsn": ".*",
    "iSCSIdatasn": ".*",
    "iSCSIResiduals": "(Read|Write)[0-9].*",  # WRITE AND VERIFY is a command of its own
    "iSCSITMF": ".*",
}

_SUMMARY = re.compile(r"^ +tests +(\d+) +(\d+) +(\d+) +(\d+)", re.MULTILINE)
_FAILED = re.compile(r"^FAILED|\.\.\.FAILED|^ +\d+\. \S+\.c:\d+", re.MULTILINE)
_ASSERTION = re.compile(r"^ +\d+\. (\S+\.c:\d+ .*)", re.MULTILINE)
_END = re.compile(r"^passed|^FAILED|\.\.\.passed|\.\.\.FAILED", re.MULTILINE)
_SKIPPED = re.compile(r"\[SKIPPED\] *(.*)")


@dataclass(frozen=True, slots=True)
class Result:
    """`outcome` is pass, skip or fail; `reason` is the suite's for a skip, else ours."""

    outcome: str
    reason: str
    log: str


def list_tests() -> list[str]:
    """The names of the tests of `SUITES` that this version of the program has."""
    text = subprocess.run([PROGRAM, "-l"], capture_output=True, text=True, check=True).stdout
    found: dict[tuple[str, str], str] = {}
    for line in text.split():
        family, *rest = line.split(".")
        if len(rest) != 2 or rest[0] not in SUITES or family not in ("ALL", "SCSI", "iSCSI"):
            continue
        if re.fullmatch(SUITES[rest[0]], rest[1]):
            found.setdefault((rest[0], rest[1]), line)
    return list(found.values())


def run(url: str, test: str) -> Result:
    """Run one test against the logical unit at `url`, whose data is lost. Blocks."""
    command = [PROGRAM, "-d", "-V", "-t", test, url]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        return Result("fail", f"no end after {TIMEOUT} s", _text(error.stdout))
    log = _text(done.stdout) + _text(done.stderr)
    return classify(log, done.returncode)


def classify(log: str, status: int) -> Result:
    """What a log of one test says. The program's status is 0 for a skip, and counts as passed."""
    summary = _SUMMARY.search(log)
    if summary is None:
        return Result("fail", f"ended with {status} before its summary", log)
    ran, passed = int(summary[2]), int(summary[3])
    start = log.find("  Test: ")
    if status or ran != 1 or passed != 1 or _FAILED.search(log, max(start, 0)):
        return Result("fail", f"ran {ran}, passed {passed}, status {status}", log)
    end = _END.search(log, start)  # the suite's own start and end skip things, too
    skipped = _SKIPPED.search(log, start, end.start() if end else len(log))
    if skipped is not None:
        return Result("skip", skipped[1].strip(), log)
    return Result("pass", "", log)


def failed_assertions(log: str) -> list[str]:
    """The assertions that failed, as "file.c:line  - text"."""
    return [found.strip() for found in _ASSERTION.findall(log)]


def _text(output: bytes | str | None) -> str:
    return output.decode("utf-8", "replace") if isinstance(output, bytes) else output or ""


def main() -> None:
    """Print a line for each test that does not pass, and the totals."""
    totals: Counter[str] = Counter()
    for test in list_tests():
        result = run(sys.argv[1], test)
        totals[result.outcome] += 1
        if result.outcome != "pass":
            print(f"{test:44} {result.outcome:5} {result.reason}")
    print(dict(totals))


if __name__ == "__main__":
    main()
