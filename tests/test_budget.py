"""Budgets, and buffers that are used again."""

from __future__ import annotations

import threading

import pytest

from userdisk.budget import Budget, Buffers


def test_a_budget_is_not_overdrawn_unless_forced() -> None:
    budget = Budget(100, threading.Lock())
    assert budget.take(60)
    assert not budget.take(41)
    assert budget.take(40)
    assert not budget.take(1)
    assert budget.take(1000, force=True)
    budget.give(1000)
    assert not budget.take(1)
    budget.give(60)
    assert budget.take(60)


@pytest.mark.parametrize("size", [1, 512, 65536, 65537, 131072, 131073, 300000, 1 << 20])
def test_buffers_are_long_enough_and_not_twice_too_long(size: int) -> None:
    buffers = Buffers(threading.Lock())
    buffer = buffers.take(size)
    assert size <= len(buffer) <= 2 * size
    buffers.give(buffer)
    assert (buffers.take(size) is buffer) == (size > 65536)
    assert buffers.take(size) is not buffer


def test_few_buffers_are_kept() -> None:
    buffers = Buffers(threading.Lock())
    many = [buffers.take(1 << 20) for _ in range(50)]
    for buffer in many:
        buffers.give(buffer)
    again = [buffers.take(1 << 20) for _ in range(50)]
    assert sum(any(new is old for old in many) for new in again) == 8
