"""launcher/restarts.py: delays grow and are forgiven; nothing is started for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from userdisk.launcher.restarts import Restarts
from userdisk.launcher.spec import Policy, Restart

TIMES = st.floats(0.01, 100.0)
START = 1e6  # a clock begins anywhere


def crashes(restarts: Restarts, *ran: float) -> list[float | None]:
    """The delays of a unit that fails after it has run for so long, each time."""
    now, delays = START, []
    for each in ran:
        now += each
        delay = restarts.next(now, failed=True, ran=each)
        delays.append(delay)
        now += delay or 0.0
    return delays


def test_delays_double_up_to_the_longest() -> None:
    restarts = Restarts(Policy(first_delay=0.2, longest_delay=1.0))
    assert crashes(restarts, *[0.1] * 5) == [0.2, 0.4, 0.8, 1.0, 1.0]


def test_what_ran_long_for_its_delay_comes_back_soon() -> None:
    restarts = Restarts(Policy(first_delay=0.2, longest_delay=30.0))
    assert crashes(restarts, 0.1, 0.1, 5.0, 5.0) == [0.2, 0.4, 0.2, 0.2]
    restarts = Restarts(Policy(first_delay=1.0, longest_delay=30.0))
    assert crashes(restarts, 0.0, 10.0, 9.9, 20.0) == [1.0, 1.0, 2.0, 1.0]  # ten times the last
    restarts = Restarts(Policy(first_delay=0.2, longest_delay=30.0))
    assert crashes(restarts, *[5.0] * 60) == [0.2] * 60  # killed every 5 s, for 5 minutes


def test_too_often_in_too_short_a_time() -> None:
    restarts = Restarts(Policy(first_delay=1.0, longest_delay=1.0, starts=3, period=60.0))
    assert crashes(restarts, 0.0, 0.0, 0.0, 0.0) == [1.0, 1.0, 1.0, None]
    assert restarts.why == "it was started 3 times within 60 s"
    assert restarts.next(START + 100.0, failed=True, ran=50.0) == 1.0


def test_when_it_is_not_wanted() -> None:
    for restart, failed, again in (
        (Restart.NEVER, True, False),
        (Restart.NEVER, False, False),
        (Restart.ON_FAILURE, True, True),
        (Restart.ON_FAILURE, False, False),
        (Restart.ALWAYS, True, True),
        (Restart.ALWAYS, False, True),
    ):
        restarts = Restarts(Policy(restart))
        assert (restarts.next(0.0, failed=failed, ran=1.0) is not None) is again
        assert again or str(restart) in restarts.why


@given(
    st.floats(0.01, 10.0),
    st.floats(1.0, 20.0),
    st.integers(1, 20),
    st.floats(1.0, 1000.0),
    st.lists(TIMES, max_size=60),
)
def test_bounds_hold_whatever_happens(
    first: float, factor: float, starts: int, period: float, ran: list[float]
) -> None:
    policy = Policy(first_delay=first, longest_delay=first * factor, starts=starts, period=period)
    restarts, now, begun = Restarts(policy), START, []
    last = first
    for each in ran:
        now += each
        delay = restarts.next(now, failed=True, ran=each)
        if delay is None:
            assert sum(now - when <= period for when in begun) == starts and restarts.why
            continue
        assert first <= delay <= policy.longest_delay
        assert delay in (first, min(2 * last, policy.longest_delay))
        assert delay == first or each < 10 * last
        begun.append(now)
        assert sum(now - when <= period for when in begun) <= starts
        last = delay
        now += delay
