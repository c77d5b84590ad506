"""libiscsi's conformance suite against a served RAM unit and a served file unit.

A skip of the suite counts as a result: it must stand in `EXPECTED_SKIPS`, and what stands there
must still be skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import suite
from tests.kit.requires import missing_program, requires
from tests.kit.server import Served, serve
from userdisk.initiator_client import Initiator, sense_codes
from userdisk.iscsi.initiator_login import Settings

pytestmark = requires(suite.PROGRAM)

#: (unit, test without its family) -> pattern of the suite's reason
EXPECTED_SKIPS: dict[tuple[str, str], str] = {
    (unit, f"{command}.DpoFua"): "REPORT_SUPPORTED_OPCODES is not implemented"  # its last part only
    for unit in ("ram", "file")
    for command in ("Read10", "Read12", "Read16", "Write10", "Write12", "Write16")
}

#: test without its family -> the one assertion that fails in it. libiscsi 1.19 asks whether the
#: answer has come right after it has queued the request, so the test fails with any target; what
#: it is about is in `test_lun_reset`.
BROKEN_TESTS: dict[str, str] = {
    "iSCSITMF.LUNResetSimpleAsync": (
        "test_async_lu_reset_simple.c:157  - CU_ASSERT_EQUAL(reconnect_succeeded,1)"
    ),
}

_TESTS = [] if missing_program(suite.PROGRAM) else suite.list_tests()


@pytest.fixture(scope="module")
def ram() -> Iterator[Served]:
    """A RAM unit of 512-byte blocks on a medium of 4096 (many tests need that)."""
    with serve("ram:64M", options=("--physical-block-length", "4096")) as served:
        yield served


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A sparse image file."""
    path: Path = tmp_path_factory.mktemp("conformance") / "disk.img"
    with serve(str(path), options=("--size", "64M")) as served:
        yield served


def test_the_suite_has_the_tests_that_matter() -> None:
    suites = {test.split(".")[1] for test in _TESTS}
    assert suites >= set(suite.SUITES) - {"ReportLUNs"}
    assert len(_TESTS) >= 60


@pytest.mark.parametrize("unit", ["ram", "file"])
@pytest.mark.parametrize("test", _TESTS)
def test_conformance(test: str, unit: str, request: pytest.FixtureRequest) -> None:
    served: Served = request.getfixturevalue(unit)
    result = suite.run(served.url, test)
    name = test.partition(".")[2]
    expected = EXPECTED_SKIPS.get((unit, name))
    if result.outcome == "fail" and name in BROKEN_TESTS:
        assert suite.failed_assertions(result.log) == [BROKEN_TESTS[name]], result.log
        return
    if result.outcome == "skip":
        assert expected is not None, f"skipped: {result.reason}\n{result.log}"
        assert re.search(expected, result.reason), result.reason
    else:
        assert result.outcome == "pass", f"{result.reason}\n{result.log}"
        assert expected is None, "no longer skipped: take it out of EXPECTED_SKIPS"


@pytest.mark.parametrize("unit", ["ram", "file"])
def test_lun_reset(unit: str, request: pytest.FixtureRequest) -> None:
    """A reset beside a write: one of the two orders, then 29/xx once on every session."""
    served: Served = request.getfixturevalue(unit)
    url = served.address
    address = (url.host, url.port)
    with (
        Initiator(address, Settings("iqn.2026-11.example:one", url.target)) as first,
        Initiator(address, Settings("iqn.2026-11.example:two", url.target)) as second,
    ):
        for initiator in (first, second):
            initiator.execute(bytes(6))
        write = first.session.command(b"\x2a" + bytes(7) + b"\x08\0", data_out=bytes(4096))
        reset = first.session.task_management(5)
        assert first.finish(reset).response == 0
        assert not write.done or write.status == 0
        for initiator in (first, second):
            task = initiator.finish(initiator.session.command(bytes(6)))
            assert sense_codes(task.sense)[:2] == (6, 0x29)
            assert initiator.finish(initiator.session.command(bytes(6))).status == 0


@pytest.mark.parametrize(
    ("log", "status", "outcome"),
    [
        ("  Test: Simple ...passed\n\n    tests      1      1      1      0\n", 0, "pass"),
        (
            "  Test: Simple ...    [SKIPPED] No.\npassed\n    tests   1   1   1   0\n",
            0,
            "skip",
        ),
        (
            "  Test: Simple ...FAILED\n    1. test_x.c:38  - X\n    tests   1   1   0   1\n",
            1,
            "fail",
        ),
        ("    tests      0      0      0      0\n", 0, "fail"),
        ("  Test: Simple ...\n", -11, "fail"),
        ("    tests      1      1      1      0\n", 1, "fail"),
    ],
)
def test_classification(log: str, status: int, outcome: str) -> None:
    assert suite.classify(log, status).outcome == outcome
