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

pytestmark = requires(suite.PROGRAM)

#: (unit, test without its family) -> pattern of the suite's reason
EXPECTED_SKIPS: dict[tuple[str, str], str] = {}

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
    expected = EXPECTED_SKIPS.get((unit, test.partition(".")[2]))
    if result.outcome == "skip":
        assert expected is not None, f"skipped: {result.reason}\n{result.log}"
        assert re.search(expected, result.reason), result.reason
    else:
        assert result.outcome == "pass", f"{result.reason}\n{result.log}"
        assert expected is None, "no longer skipped: take it out of EXPECTED_SKIPS"


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
