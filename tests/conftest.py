"""Rules for every test run: no state left behind, and no silent skips in CI.

With CI set, a test may not be skipped because something is missing. A skip whose reason begins with
"needs" is about a program or package that could be installed; other reasons (not root, no
/dev/fuse) are about the machine and stay skips.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """State files of units made by tests are not left among those of real disks."""
    with pytest.MonkeyPatch.context() as context:
        context.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


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
