"""The journal of unflushed changes, against a server that loses everything unflushed."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.nbd.replay import OVERHEAD, Change, Journal, State


def under_way(journal: Journal[Any]) -> list[Change[Any]]:
    """What was sent and not answered, in order: to be sent again after `to_repeat`."""
    return [each for each in journal._open if each.state is State.UNDER_WAY]


SIZE = 24


class Server:
    """A disk of single bytes with a volatile cache; answers in any order."""

    def __init__(self) -> None:
        self.durable = bytearray(SIZE)
        self.cache: list[tuple[int, int, int]] = []

    def change(self, start: int, end: int, value: int) -> None:
        self.cache.append((start, end, value))

    def flush(self) -> None:
        for start, end, value in self.cache:
            self.durable[start:end] = bytes([value]) * (end - start)
        self.cache.clear()

    def shown(self) -> bytes:
        data = bytearray(self.durable)
        for start, end, value in self.cache:
            data[start:end] = bytes([value]) * (end - start)
        return bytes(data)

    def crash(self, chance: random.Random) -> None:
        """Some of what was not flushed is there, some is not."""
        kept = [change for change in self.cache if chance.random() < 0.5]
        self.cache = kept
        self.flush()


class Client:
    """Drives a journal: requests go to the server at any time, answers come at any time."""

    def __init__(self, chance: random.Random, limit: int) -> None:
        self.chance = chance
        self.journal: Journal[int] = Journal(limit)
        self.limit = limit
        self.server = Server()
        self.sent: list[Change[int]] = []  # not with the server yet
        self.made: list[Change[int]] = []  # not answered yet
        self.answered: deque[Change[int]] = deque()
        self.open: list[Change[int]] = []
        self.value = 0

    def begin(self) -> None:
        start = self.chance.randrange(SIZE)
        length = self.chance.randint(1, SIZE - start)
        self.value = (self.value + 1) % 256
        change = self.journal.begin(self.value, start, length, self.chance.choice((0, 600)))
        self.open.append(change)
        self.go([change] if change.state is State.UNDER_WAY else [])

    def go(self, changes: list[Change[int]]) -> None:
        for change in changes:
            assert change.state is State.UNDER_WAY
            for other in self.sent + self.made:
                assert other.end <= change.start or change.end <= other.start, "they overlap"
            self.sent.append(change)
        assert self.journal.cost <= max(self.limit, 600 + OVERHEAD)

    def make(self) -> None:
        if self.sent:
            change = self.sent.pop(self.chance.randrange(len(self.sent)))
            self.server.change(change.start, change.end, change.request)
            self.made.append(change)

    def answer(self) -> None:
        if self.made:
            change = self.made.pop(self.chance.randrange(len(self.made)))
            self.open.remove(change)
            self.answered.append(change)
            self.go(self.journal.answered(change, made=True))

    def flush(self) -> None:
        mark = self.journal.flush_begun()
        for _ in range(self.chance.randrange(4)):  # others go on before the server gets it
            self.chance.choice((self.make, self.answer, self.begin))()
        self.server.flush()
        if self.chance.random() < 0.9:  # else its answer is lost
            self.go(self.journal.flush_answered(mark))

    def crash(self) -> None:
        self.server.crash(self.chance)
        again = under_way(self.journal)
        assert set(again) == set(self.sent + self.made)
        for group in self.journal.to_repeat(3, 1 << 20):
            for change in self.chance.sample(group, len(group)):  # in any order within a group
                assert change.state is State.ANSWERED
                self.server.change(change.start, change.end, change.request)
                if self.chance.random() < 0.02:  # and lost once more
                    return self.crash()
        self.sent, self.made = again, []
        return None


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([1, 3000, 20_000, 1 << 20]))
def test_nothing_answered_is_ever_lost(seed: int, limit: int) -> None:
    chance = random.Random(seed)
    client = Client(chance, limit)
    for _ in range(150):
        what = chance.choices(
            (client.begin, client.make, client.answer, client.flush, client.crash),
            (6, 6, 6, 1, 0.5),
        )[0]
        what()
        if client.journal.wants_flush:
            client.flush()
        model = bytearray(SIZE)
        for change in client.answered:
            model[change.start : change.end] = bytes([change.request]) * (change.end - change.start)
        unsure = {at for change in client.open for at in range(change.start, change.end)}
        shown = client.server.shown()
        wrong = [at for at in range(SIZE) if shown[at] != model[at] and at not in unsure]
        assert not wrong, f"answered bytes are not there: {wrong}"
    for _ in range(1000):  # all that is open is answered in the end: nothing is held for ever
        client.make()
        client.answer()
        if client.journal.wants_flush:
            client.flush()
        if not client.open:
            break
    assert not client.open


def test_the_later_of_two_that_overlap_waits() -> None:
    journal: Journal[str] = Journal(1 << 20)
    first = journal.begin("first", 0, 10)
    second = journal.begin("second", 9, 10)
    apart = journal.begin("apart", 30, 10)
    behind = journal.begin("behind", 18, 20)
    assert [each.state for each in (first, second, apart, behind)] == [
        State.UNDER_WAY, State.HELD, State.UNDER_WAY, State.HELD,
    ]  # fmt: skip
    assert journal.answered(first, made=True) == [second]
    assert journal.answered(apart, made=True) == []
    assert journal.answered(second, made=False) == [behind]


def test_a_flush_covers_what_was_answered_before_it() -> None:
    journal: Journal[str] = Journal(1 << 20)
    changes = [journal.begin(str(number), number * 10, 10) for number in range(3)]
    journal.answered(changes[2], made=True)
    mark = journal.flush_begun()
    journal.answered(changes[0], made=True)
    journal.flush_answered(mark)
    assert changes[2].state is State.FORGOTTEN
    assert list(journal.to_repeat(10, 1 << 20)) == [[changes[0]]]
    assert under_way(journal) == [changes[1]]


def test_repeating_keeps_the_order_of_what_overlaps() -> None:
    journal: Journal[str] = Journal(1 << 20)
    begun = []
    for name, start in (("a", 0), ("b", 5), ("c", 20), ("d", 25), ("e", 40)):
        change = journal.begin(name, start, 10)
        if change.state is State.HELD:
            assert journal.answered(begun[-1], made=True) == [change]
            begun[-1] = begun[-1]
        begun.append(change)
    for change in begun:
        if change.state is State.UNDER_WAY:
            journal.answered(change, made=True)
    groups = [[change.request for change in group] for group in journal.to_repeat(10, 1 << 20)]
    assert groups == [["a"], ["b", "c"], ["d", "e"]]
    assert [len(group) for group in journal.to_repeat(1, 1 << 20)] == [1] * 5
    assert [len(group) for group in journal.to_repeat(10, 1)] == [1] * 5


def test_at_the_limit_changes_are_held_until_a_flush() -> None:
    journal: Journal[int] = Journal(4 * (OVERHEAD + 1000))
    changes = [journal.begin(number, number * 10, 10, 1000) for number in range(5)]
    assert [change.state for change in changes] == [State.UNDER_WAY] * 4 + [State.HELD]
    assert not journal.wants_flush  # nothing was answered that it could cover
    assert journal.answered(changes[0], made=True) == []
    assert journal.wants_flush
    assert journal.flush_answered(journal.flush_begun()) == [changes[4]]
    assert not journal.wants_flush
    assert journal.cost == 4 * (OVERHEAD + 1000)


def test_one_change_larger_than_the_limit_still_goes() -> None:
    journal: Journal[int] = Journal(10)
    change = journal.begin(1, 0, 10, 1000)
    assert change.state is State.UNDER_WAY
    assert journal.begin(2, 100, 10).state is State.HELD


@pytest.mark.parametrize("made", [True, False])
def test_what_failed_is_not_repeated(made: bool) -> None:
    journal: Journal[int] = Journal(1 << 20)
    journal.answered(journal.begin(1, 0, 10), made=made)
    assert len(list(journal.to_repeat(1, 1))) == made
    assert bool(journal.cost) == made


def test_a_held_change_that_is_given_up_holds_nobody() -> None:
    journal: Journal[int] = Journal(1 << 20)
    first = journal.begin(1, 0, 10)
    second = journal.begin(2, 5, 10)
    third = journal.begin(3, 12, 10)
    assert journal.dropped(second) == [third]
    assert second.state is State.FORGOTTEN and first.state is State.UNDER_WAY
