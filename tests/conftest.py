"""Rules for every test run: with CI set, a test may not be skipped because something is missing.

A skip whose reason begins with "needs" is about a program or package that could be installed;
other reasons (not root, no /dev/fuse) are about the machine and stay skips.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


def _forbid(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return
    path, line, reason = report.longrepr
    reason = reason.removeprefix("Skipped: ")
    if reason.startswith("needs"):
        report.outcome = "failed"
        report.longrepr = f"{path}:{line}: {reason}; a run with CI set must not skip this"


if os.environ.get("CI"):

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        _forbid(report)
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        report = yield
        _forbid(report)
        return report
