"""Percentiles, against sorted lists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.stgtest.meter import PERCENTILES, Latencies


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=300))
def test_percentiles_are_right_to_one_percent(micros: list[int]) -> None:
    latencies = Latencies()
    for micro in micros:
        latencies.add((micro + 0.5) / 1e6)
    for percent in PERCENTILES:
        rank = max(1, -(-len(micros) * percent // 100))
        exact = sorted(micros)[int(rank) - 1]
        assert exact * 0.99 - 1 <= latencies.percentile(percent) <= exact
    assert latencies.longest == pytest.approx((max(micros) + 0.5) / 1e6)


def test_nothing_has_no_latency() -> None:
    assert Latencies().percentile(99) == 0
