"""Budgets, and buffers that are used again."""

from __future__ import annotations

import threading

import pytest

from userdisk.budget import SESSION_LIMIT, Budget, Buffers, Share


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


def test_a_share_is_held_until_the_reply_is_sent() -> None:
    budget = Budget(1 << 20, threading.Lock())
    share = Share(budget, 0)
    assert share.take(1 << 20)
    assert share.take(65536), "what is small is not in the budget"
    assert not share.take(65537)
    share.release(1 << 20, queued=True)
    share.sent()
    assert share.owes, "the owner has not taken it"
    share.taken()
    assert share.owes, "nor sent it"
    assert not budget.take(1)
    share.sent()
    assert not share.owes
    assert budget.take(1 << 20)
    budget.give(1 << 20)
    assert share.held == 65536
    share.release(65536)
    assert (share.held, share.owes) == (0, False)


def test_who_has_nothing_goes_on_though_the_budget_is_used_up() -> None:
    budget = Budget(0, threading.Lock())
    share = Share(budget, 1 << 20)
    assert not share.take((1 << 20) + 1)
    assert share.take(1 << 20)
    assert not share.take(1 << 20)
    share.release(1 << 20, queued=True)
    assert not share.take(1 << 20), "what it has not sent counts"
    share.abandon()
    assert share.take(1 << 20)
    share.release(1 << 20)
    assert not budget.take(1)


def test_a_share_has_a_limit_of_its_own() -> None:
    share = Share(Budget(1 << 40, threading.Lock()), 0)
    assert share.take(2 * SESSION_LIMIT), "alone"
    assert share.full
    share.release(2 * SESSION_LIMIT)
    assert share.take(SESSION_LIMIT // 2)
    assert not share.full
    assert not share.take(SESSION_LIMIT // 2 + 1)
    assert share.take(SESSION_LIMIT // 2)
    assert share.full


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
