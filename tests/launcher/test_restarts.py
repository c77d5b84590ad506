"""launcher/restarts.py: delays grow, tries end, patience comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.launcher.restarts import Restarts
from userdisk.launcher.spec import Policy, Restart


@pytest.mark.parametrize(
    ("restart", "failed", "again"),
    [
        (Restart.NEVER, True, False),
        (Restart.NEVER, False, False),
        (Restart.ON_FAILURE, True, True),
        (Restart.ON_FAILURE, False, False),
        (Restart.ALWAYS, True, True),
        (Restart.ALWAYS, False, True),
    ],
)
def test_who_is_started_again(restart: Restart, failed: bool, again: bool) -> None:
    found = Restarts(Policy(restart)).next(0.0, failed=failed, ran=0.0)
    assert (found is not None) == again


def test_delays_double_up_to_the_longest_and_begin_anew_after_a_long_life() -> None:
    restarts = Restarts(Policy(first_delay=1.0, longest_delay=5.0))
    found = [restarts.next(0.0, failed=True, ran=ran) for ran in (0, 0, 0, 0, 4.9, 5.0, 0)]
    assert found == [1.0, 2.0, 4.0, 5.0, 5.0, 1.0, 2.0]


@given(
    starts=st.integers(0, 5),
    period=st.floats(1, 100),
    steps=st.lists(st.floats(0, 50), max_size=40),
)
def test_never_more_than_so_many_in_any_period(
    starts: int, period: float, steps: list[float]
) -> None:
    restarts = Restarts(Policy(starts=starts, period=period))
    now, times = 0.0, []
    for step in steps:
        now += step
        if restarts.next(now, failed=True, ran=0.0) is not None:
            times.append(now)
    for first in times:
        assert sum(0 <= each - first < period for each in times) <= starts
    if starts and steps:
        assert times, "the first one is always allowed"
