"""The runner itself: how logs read, and whether its tables say what they should."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from tests.conformance import report, suite
from tests.conformance.configurations import BY_NAME, CONFIGURATIONS, Configuration
from tests.conformance.expectations import EXPECTED, expected, objection, short
from tests.conformance.matrix import Matrix
from tests.conformance.suite import Result
from tests.kit.requires import requires

_PASSED = "\n    tests      1      1      1      0\n"
_RESERVATIONS = ("EA", "WE", "EARO", "WERO", "EAAR", "WEAR")
_UNANSWERED = "test_async_lu_reset_simple.c:157  - CU_ASSERT_EQUAL(reconnect_succeeded,1)"
_RESET_ASYNC = "iSCSI.iSCSITMF.LUNResetSimpleAsync"
_RESET = "iSCSITMF.LUNResetSimpleAsync"
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


def test_an_excuse_is_for_exactly_what_is_listed() -> None:
    configuration, test = BY_NAME["3 TiB"], "SCSI.Verify10.ZeroBlocks"
    said = (
        "VERIFY10 successful but should have failed with"
        " ILLEGAL_REQUEST(0x05)/LBA_OUT_OF_RANGE(0x2100)",
        "test_verify10_0blocks.c:33  - CU_ASSERT_EQUAL(_r,0)",
        "test_verify10_0blocks.c:43  - CU_ASSERT_EQUAL(_r,0)",
    )
    assert objection(configuration, test, Result("fail", said, "")) is None
    elsewhere = said[2].replace("43", "53")
    for other in (said[:2], (*said, elsewhere), (*said[:2], elsewhere)):
        assert objection(configuration, test, Result("fail", other, "")) is not None


@requires(suite.PROGRAM)
@pytest.mark.parametrize(
    ("result", "allowed"),
    [
        (Result("pass", (), ""), True),
        (Result("fail", (_UNANSWERED,), ""), True),
        (Result("fail", (_UNANSWERED, "ended with -6 before its summary"), ""), True),
        (Result("fail", ("ended with -11 before its summary",), ""), True),
        (Result("fail", ("test_async_lu_reset_simple.c:158  - x",), ""), False),
        (Result("fail", (_UNANSWERED, "x"), ""), False),
        (Result("fail", ("no end after 150 s",), ""), False),
        (Result("skip", ("x",), ""), False),
    ],
)
def test_in_a_race_of_the_suite_either_may_win(result: Result, allowed: bool) -> None:
    assert (objection(BY_NAME["512e"], _RESET_ASYNC, result) is None) == allowed


def test_excuses_are_for_single_tests() -> None:
    """Which kinds of disk have what excused: a new excuse is meant to be noticed here."""
    excused = {
        configuration.number: {
            short(test)
            for test in suite.list_tests()
            if (entry := expected(configuration, test)) and entry.outcome == "fail"
        }
        for configuration in CONFIGURATIONS
    }
    access = {f"ProutReserve.Access{kind}" for kind in _RESERVATIONS}
    dpo = {f"WriteVerify{length}.Dpo" for length in (10, 12, 16)}
    assert excused.pop("6") == access | dpo
    assert excused.pop("3") == access | {"WriteSame10.UnmapUntilEnd", _RESET}
    assert max(map(len, excused.values())) == 5


@requires(suite.PROGRAM)
def test_only_what_writes_is_kept_from_a_protected_disk() -> None:
    """Without -d the suite leaves itself out; what the disk is for runs, with -d."""
    protected = BY_NAME["protected"]
    wanted = {
        "SCSI.ReadOnly.ReadOnlySBC": ("-d", "pass"),
        "SCSI.Write10.Simple": ("", "skip"),
        "SCSI.Write10.WriteProtect": ("-d", "pass"),
        "SCSI.ProutReserve.Simple": ("-d", "pass"),
        "SCSI.ProutReserve.AccessWERO": ("-d", "fail"),
    }
    with Matrix({protected: list(wanted)}, jobs=1) as matrix:
        for test, (option, outcome) in wanted.items():
            assert protected.may_lose_data(short(test)) == bool(option), test
            result = matrix.result(protected, test)
            assert result.outcome == outcome, f"{test}\n{result.log}"
            assert objection(protected, test, result) is None, test
    for configuration in CONFIGURATIONS:
        if configuration is not protected:
            assert configuration.may_lose_data("Write10.Simple")


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
