"""libiscsi's conformance tests, one process for each, and how their output reads."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

PROGRAM = "iscsi-test-cu"
TIMEOUT = 150  #: seconds for one test; Sanitize.Reset alone sleeps for 64

#: The reason of a test that ended without a word.
SILENT = "ended at once, without a word"

#: The tests are listed several times; these families have each of them once.
_FAMILIES = ("SCSI", "iSCSI")

_SUMMARY = re.compile(r"^ +tests +(\d+) +(\d+) +(\d+) +(\d+)", re.MULTILINE)
_FAILED = re.compile(r"^FAILED|\.\.\.FAILED|^ +\d+\. \S+\.c:\d+", re.MULTILINE)
_COMPLAINT = re.compile(
    r"^ +(?:\[FAILED\] |\d+\. (?=\S+\.c:\d+))(.*?)(?:    Send .*| *)$", re.MULTILINE
)
_END = re.compile(r"^passed|^FAILED|\.\.\.passed|\.\.\.FAILED", re.MULTILINE)
_SILENT = re.compile(r"  Test: \w+ \.\.\.passed")
_SKIPPED = re.compile(r"\[SKIPPED\] *(.*?) *$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """`outcome` is pass, skip or fail; `reasons` are the suite's for a skip, what failed else."""

    outcome: str
    reasons: tuple[str, ...]
    log: str

    @property
    def reason(self) -> str:
        """The reasons in a line."""
        return "; ".join(self.reasons)


def list_tests() -> list[str]:
    """The names of all tests, as FAMILY.SUITE.TEST."""
    done = subprocess.run([PROGRAM, "-l"], capture_output=True, text=True, check=True)
    names = (line.strip() for line in done.stdout.splitlines())
    return [name for name in names if name.count(".") == 2 and name.split(".")[0] in _FAMILIES]


def version() -> str:
    """The version of the Debian package that the program is from."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "libiscsi-bin"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.partition("-")[0]


def run(urls: Sequence[str], test: str, options: Sequence[str] = ()) -> Result:
    """Run one test against the logical unit at `urls` (its paths). Blocks."""
    command = [PROGRAM, "-V", *options, "-t", test, *urls]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        return Result("fail", (f"no end after {TIMEOUT} s",), _text(error.stdout))
    return classify(_text(done.stdout) + _text(done.stderr), done.returncode)


def classify(log: str, status: int) -> Result:
    """What a log of one test says.

    A test that skipped any part of itself is a skip, whatever else it did, and so is one that did
    nothing at all: the program counts both as passed. What it skips before and after the test, to
    find out about the disk, is not counted.
    """
    summary = _SUMMARY.search(log)
    start = max(log.find("  Test: "), 0)
    complaints = tuple(dict.fromkeys(_COMPLAINT.findall(log, start)))
    if summary is None:
        return Result("fail", (*complaints, f"ended with {status} before its summary"), log)
    ran, passed = int(summary[2]), int(summary[3])
    if status or ran != 1 or passed != 1 or _FAILED.search(log, start):
        said = complaints or (f"ran {ran}, passed {passed}, status {status}",)
        return Result("fail", said, log)
    end = _END.search(log, start)
    skipped = _SKIPPED.findall(log, start, end.start() if end else len(log))
    if skipped:
        return Result("skip", (*dict.fromkeys(skipped),), log)
    if _SILENT.match(log, start):
        return Result("skip", (SILENT,), log)
    return Result("pass", (), log)


def _text(output: bytes | str | None) -> str:
    return output.decode("utf-8", "replace") if isinstance(output, bytes) else output or ""
