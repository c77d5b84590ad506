"""Configurations 1, 2 and 5 of the matrix: a test for each test of the suite in each of them.

The configurations run side by side, and only those tests of them that were selected.
`make conformance` runs the whole matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance import suite
from tests.conformance.configurations import CONFIGURATIONS, Configuration
from tests.conformance.expectations import objection, short
from tests.conformance.matrix import Matrix
from tests.kit.requires import missing_program, requires

pytestmark = [requires(suite.PROGRAM), pytest.mark.timeout(2 * suite.TIMEOUT)]

_CHOSEN = [each for each in CONFIGURATIONS if each.number in ("1", "2", "5")]
_TESTS = [] if missing_program(suite.PROGRAM) else suite.list_tests()


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest) -> Iterator[Matrix]:
    wanted: dict[Configuration, list[str]] = {}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname == "test_conformance":
            configuration, test = (
                item.callspec.params["configuration"],
                item.callspec.params["test"],
            )
            assert isinstance(configuration, Configuration) and isinstance(test, str)
            wanted.setdefault(configuration, []).append(test)
    with Matrix(wanted, jobs=len(_CHOSEN)) as running:
        yield running


@pytest.mark.parametrize("test", _TESTS, ids=short)
@pytest.mark.parametrize("configuration", _CHOSEN, ids=lambda each: each.name)
def test_conformance(configuration: Configuration, test: str, matrix: Matrix) -> None:
    result = matrix.result(configuration, test)
    found = objection(configuration, test, result)
    assert found is None, f"{found}\n{result.log}"
