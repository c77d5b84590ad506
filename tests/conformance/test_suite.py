"""The runner itself: how logs read, and whether its tables say what they should."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.conformance import report, suite
from tests.conformance.configurations import CONFIGURATIONS, Configuration
from tests.conformance.expectations import EXPECTED, objection, short
from tests.conformance.matrix import Matrix
from tests.conformance.suite import Result
from tests.kit.requires import requires

_PASSED = "\n    tests      1      1      1      0\n"
_FAILED = "\n    tests      1      1      0      1\n"


@pytest.mark.parametrize(
    ("log", "status", "outcome", "reasons"),
    [
        (f"  Test: Simple ...\n    Send READ10\n    [OK]\npassed\n{_PASSED}", 0, "pass", ()),
        (f"  Test: Simple ...passed    Send PRIN\n{_PASSED}", 0, "skip", (suite.SILENT,)),
        (
            f"    [SKIPPED] start\n  Test: Simple ...    [SKIPPED] No.\n"
            f"passed    [SKIPPED] x\n{_PASSED}",
            0,
            "skip",
            ("No.",),
        ),
        (
            "  Test: Simple ...\n    [FAILED] READ10 command failed\nFAILED\n"
            f"    1. test_x.c:38  - CU_FAIL(\"x\")    Send PRIN/READ_KEYS\n{_FAILED}",
            1,
            "fail",
            ("READ10 command failed", 'test_x.c:38  - CU_FAIL("x")'),
        ),
        ("    tests      0      0      0      0\n", 0, "fail", ("ran 0, passed 0, status 0",)),
        ("  Test: Simple ...\n", -11, "fail", ("ended with -11 before its summary",)),
        ("    tests      1      1      1      0\n", 1, "fail", ("ran 1, passed 1, status 1",)),
    ],
)  # fmt: skip
def test_classification(log: str, status: int, outcome: str, reasons: tuple[str, ...]) -> None:
    result = suite.classify(log, status)
    assert (result.outcome, result.reasons) == (outcome, reasons)


@requires(suite.PROGRAM)
def test_every_test_is_listed_once() -> None:
    names = [short(test) for test in suite.list_tests()]
    assert len(names) == len(set(names)) >= 230


@requires(suite.PROGRAM)
def test_every_entry_is_about_some_test_and_none_overlap() -> None:
    names = [short(test) for test in suite.list_tests()]
    for entry in EXPECTED:
        assert entry.where
        for pattern in entry.tests:
            assert any(
                entry.covers(configuration, name)
                for configuration in CONFIGURATIONS
                for name in names
            ), pattern
    for configuration in CONFIGURATIONS:
        for name in names:
            assert sum(entry.covers(configuration, name) for entry in EXPECTED) <= 1, name


def test_objections() -> None:
    """Whatever is not as listed is objected to: outcome, reason, and an entry gone stale."""
    entry = next(entry for entry in EXPECTED if entry.outcome == "skip")
    configuration = next(each for each in CONFIGURATIONS if each.name in entry.where)
    listed = "SCSI." + entry.tests[0].replace("*", "x")
    assert objection(configuration, listed, Result("pass", (), "")) is not None
    assert objection(configuration, listed, Result("fail", ("x",), "")) is not None
    assert objection(configuration, listed, Result("skip", ("for fun",), "")) is not None
    assert objection(configuration, "SCSI.X.Y", Result("pass", (), "")) is None
    assert objection(configuration, "SCSI.X.Y", Result("skip", ("x",), "")) is not None
    assert objection(configuration, "SCSI.X.Y", Result("fail", ("x",), "")) is not None


def test_a_server_that_ends_badly_is_heard_of() -> None:
    @contextmanager
    def start(configuration: Configuration) -> Iterator[Sequence[str]]:
        if configuration.number:
            raise AssertionError(f"{configuration.name} did not start")
        yield ()

    wanted = {CONFIGURATIONS[0]: ["SCSI.X.Y"]}
    with (
        Matrix(wanted, jobs=1, start=start) as matrix,
        pytest.raises(AssertionError, match="512n did not start"),
    ):
        matrix.result(CONFIGURATIONS[0], "SCSI.X.Y")


@requires(suite.PROGRAM)
def test_the_document_is_current() -> None:
    """`python -m tests.conformance.report` writes it."""
    measured, tgt_version, version = report.load()
    assert set(measured) == {configuration.name for configuration in CONFIGURATIONS}
    text = report.render(suite.list_tests(), version, measured, tgt_version)
    assert report.DOCUMENT.read_text() == text
    passed = re.search(r"disks: (\d+) of (\d+) with userdisk, (\d+) with tgt", text)
    assert passed is not None
    never, total, theirs = map(int, passed.groups())
    readme = " ".join((report.DOCUMENT.parents[1] / "README.md").read_text().split())
    assert f"passes {total - never} of its {total} tests on one of {len(CONFIGURATIONS)}" in readme
    assert f"tgt {total - theirs};" in readme
