"""The device's side: what a client can make it hold and do, and that nothing is left of it."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from tests.kit.spd_link import READ, WRITE, Link, decode, request, unmap
from tests.kit.units import HeldUnit, InlineRamUnit, RamUnit
from userdisk import errors
from userdisk.budget import PROCESS_LIMIT
from userdisk.unit import Extents


class Lists(InlineRamUnit):
    """Keeps what its `unmap` is called with, and on which thread."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self._parameters = dataclasses.replace(self.parameters, block_count=blocks)
        self.lists: list[list[tuple[int, int]]] = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()
        self.elsewhere = False

    def unmap(self, extents: Extents) -> None:
        self.lists.append(list(extents))
        self.begun.set()
        assert self.go.wait(30)
        self.elsewhere = threading.current_thread() is not threading.main_thread()


def push(link: Link, message: bytes) -> None:
    """Bring a message to the connection, and leave its output there."""
    link.connection.buffer()[: len(message)] = message
    link.connection.received(len(message))


def test_enough_is_under_way() -> None:
    unit = HeldUnit()
    with Link(unit) as link:
        link.send(b"".join(request(READ, hint, 0, 1) for hint in range(1, 65)))
        assert link.connection.paused
        unit.go.set()
        assert {decode(link.message()).hint for _ in range(64)} == set(range(1, 65))
        assert not link.connection.paused


def test_memory_is_bounded_and_given_back() -> None:
    unit = HeldUnit(block_count=1 << 15, max_transfer_length=1 << 20)
    with Link(unit, budget=2 << 20) as link:
        link.send(b"".join(request(READ, hint, 0, 2048) for hint in range(1, 4)))
        assert link.connection.paused
        assert not link.budget.take(1)
        unit.go.set()
        assert [len(decode(link.message()).data) for _ in range(2)] == [1 << 20] * 2
        link.connection.tick(1.0)
        assert len(decode(link.message()).data) == 1 << 20
        assert link.budget.take(2 << 20)


def test_one_request_goes_on_without_memory() -> None:
    unit = InlineRamUnit(max_transfer_length=1 << 20)
    with Link(unit, budget=0) as link:
        assert link.do(request(READ, 1, 0, 2048)).sense is None


def test_what_a_client_does_not_read_is_in_the_budget() -> None:
    unit = RamUnit(block_count=1 << 15, max_transfer_length=1 << 20)
    with Link(unit, budget=8 << 20) as link:
        connection = link.connection
        for hint in range(1, 9):
            push(link, request(READ, hint, 0, 2048))
        for _ in range(8):
            link.handle()
        assert connection.out.size > 8 << 20
        assert not link.budget.take(1), "it is queued"
        taken = connection.take_output()
        assert sum(map(len, taken)) > 8 << 20
        assert not link.budget.take(1), "it is being sent"
        connection.buffer()
        assert link.budget.take(8 << 20), "it is sent"


def test_memory_that_its_own_answers_hold_is_waited_for() -> None:
    unit = InlineRamUnit(max_transfer_length=1 << 19)
    with Link(unit, budget=1 << 19) as link:
        connection = link.connection
        push(link, request(READ, 1, 0, 1024) + request(READ, 2, 0, 1024))
        assert connection.out.size < 1 << 20, "the second waits"
        connection.take_output()
        assert connection.more, "it can go on when that is sent"
        connection.resume()
        assert connection.out.size > 1 << 19
        connection.take_output()
        assert not link.budget.take(1)
        connection.tick(1.0)
        connection.buffer()
        assert link.budget.take(1 << 19)


def test_a_bug_gives_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = InlineRamUnit(max_transfer_length=1 << 20)
    with Link(unit) as link:
        monkeypatch.setattr(link.gate, "checked_read", lambda data, size: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            link.send(request(READ, 1, 0, 2048))
        link.connection.lost("a bug")
        assert link.connection.finished
        assert link.budget.take(PROCESS_LIMIT)


@pytest.mark.parametrize("count", [1, 256, 257, 1000])
def test_long_lists_are_cut_and_let_others_come_in_between(count: int) -> None:
    unit = Lists(blocks=1 << 13)
    extents = [(2 * number, 1) for number in range(count)]
    with Link(unit) as link:
        assert link.do(unmap(1, extents)).sense is None
    assert [each for one in unit.lists for each in one] == extents
    assert max(map(len, unit.lists)) <= 256
    assert len(unit.lists) == -(-count // 256)
    assert unit.elsewhere == (count > 256)


def test_many_blocks_are_cut() -> None:
    blocks = (5 << 30) // 512
    unit = Lists(blocks=blocks + 3)
    with Link(unit) as link:
        assert link.do(unmap(1, [(1, 2), (3, blocks)])).sense is None
    assert sum(each for one in unit.lists for _, each in one) == blocks + 2
    assert all(sum(each for _, each in one) <= (1 << 30) // 512 for one in unit.lists)
    assert [one[0][0] + sum(each for _, each in one) for one in unit.lists[:-1]] == [
        one[0][0] for one in unit.lists[1:]
    ]
    assert unit.elsewhere


def test_a_client_that_goes_takes_the_rest_of_its_list_along() -> None:
    unit = Lists(blocks=1 << 13)
    unit.go.clear()
    with Link(unit) as link:
        push(link, unmap(1, [(2 * number, 1) for number in range(1000)]))
        assert unit.begun.wait(30)
        link.connection.lost("gone")
        unit.go.set()
        link.handle()
        assert link.connection.finished
    assert len(unit.lists) == 1


def test_a_list_with_one_wrong_piece_changes_nothing() -> None:
    unit = Lists(blocks=1 << 13)
    with Link(unit) as link:
        answer = link.do(unmap(1, [*((number, 1) for number in range(700)), (1 << 13, 1)]))
        assert (answer.sense, answer.information) == ((5, 0x21, 0), 1 << 13)
    assert not unit.lists


def test_what_one_client_has_under_way_is_bounded() -> None:
    unit = HeldUnit(block_count=1 << 15, max_transfer_length=1 << 20)
    with Link(unit) as link:
        for hint in range(1, 9):
            assert not link.connection.paused
            push(link, request(READ, hint, 0, 2048))
        assert link.connection.paused
        link.connection.resume()
        assert link.budget.take(PROCESS_LIMIT - (8 << 20))
        assert not link.budget.take(1)
        link.budget.give(PROCESS_LIMIT - (8 << 20))
        unit.go.set()


def test_data_to_write_is_in_the_budget() -> None:
    unit = HeldUnit(block_count=1 << 12, max_transfer_length=1 << 20)
    with Link(unit) as link:
        link.send(request(WRITE, 1, 0, 2048, payload=bytes(1 << 20)))
        assert not link.budget.take(PROCESS_LIMIT - (1 << 20) + 1)
        unit.go.set()
        assert decode(link.message()).sense is None
        assert link.budget.take(PROCESS_LIMIT)


def test_memory_that_others_had_is_found_at_the_next_tick() -> None:
    unit = HeldUnit(block_count=1 << 12, max_transfer_length=1 << 20)
    with Link(unit, budget=1 << 20) as link:
        assert link.budget.take(1 << 20)
        push(link, request(READ, 1, 0, 1024))
        push(link, request(READ, 2, 0, 1024))
        assert link.connection.pending
        assert link.connection.paused
        link.budget.give(1 << 20)
        link.connection.tick(1.0)
        assert not link.connection.paused
        unit.go.set()
        assert [decode(link.message()).hint for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(("blocks", "count"), [(1, 1000), (128, 50)])
def test_output_ends_a_batch(blocks: int, count: int) -> None:
    unit = InlineRamUnit(max_transfer_length=1 << 16)
    with Link(unit) as link:
        push(link, b"".join(request(READ, hint, 0, blocks) for hint in range(1, count + 1)))
        out = link.connection.out
        assert link.connection.more
        assert out.size <= (1 << 20) + (64 << 10) + 52
        assert len(out.buffers) < 512 + 3
        assert unit.calls["read"] < count
        link.collect()
        assert [decode(link.message()).hint for _ in range(count)] == [*range(1, count + 1)]


def test_data_stays_while_more_comes() -> None:
    """What a slow unit is still to write is not in the buffer that is received into."""
    unit = HeldUnit()
    with Link(unit) as link:
        link.send(request(READ, 1, 0, 1))
        link.send(request(WRITE, 2, 5, 2, payload=b"a" * 1024))
        link.send(request(WRITE, 3, 9, 2, payload=b"b" * 1024))
        unit.go.set()
        assert [decode(link.message()).hint for _ in range(3)] == [1, 2, 3]
    assert unit.memory[5 * 512 : 7 * 512] == b"a" * 1024
    assert unit.memory[9 * 512 : 11 * 512] == b"b" * 1024


def test_what_began_before_a_change_fails_after_it() -> None:
    unit = HeldUnit()
    with Link(unit) as link:
        link.send(request(READ, 1, 0, 1) + request(WRITE, 2, 5, 1, payload=bytes(512)))
        link.gate.era.over = errors.ReservationConflict
        unit.go.set()
        assert decode(link.message()).hint == 1
        assert decode(link.message()).sense == errors.ReservationConflict.sense
    assert unit.calls["write"] == 0


def test_a_unit_knows_that_it_is_shared() -> None:
    with Link(InlineRamUnit()) as link:
        assert not link.gate.shared
        with Link(link.gate) as other:
            assert link.gate.shared
            other.connection.lost("gone")
            other.connection.end()
            assert not link.gate.shared


def test_a_unit_has_one_visitor_at_a_time() -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        inside: list[bool] = []
        unit.fault = lambda *_: inside.append(not link.gate._turns.vacant())
        link.do(request(READ, 1, 0, 1))
        assert inside == [True]
        assert link.gate._turns.vacant()


def test_nothing_begins_when_the_server_stops() -> None:
    unit = HeldUnit()
    with Link(unit) as link:
        push(link, request(READ, 1, 0, 1))
        link.connection.request_end(2)
        assert link.connection.paused
        push(link, request(WRITE, 2, 0, 1, payload=bytes(512)))
        unit.go.set()
        assert decode(link.message()).hint == 1
        assert link.connection.closing
    assert unit.calls["write"] == 0


def test_nothing_begins_after_the_end() -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        link.connection.fail("somebody else wants the place")
        push(link, request(WRITE, 2, 0, 1, payload=bytes(512)))
    assert unit.calls["write"] == 0


def test_nobody_is_blamed_for_time_in_which_nobody_looked() -> None:
    with Link(InlineRamUnit()) as link:
        link.connection.tick(1.0)
        link.send(request(READ, 1, 0, 1)[:20])
        link.connection.tick(2.0)
        link.connection.tick(1000.0)
        assert not link.connection.closing


def test_a_disk_that_has_grown_is_as_it_was_announced() -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        unit.memory += bytes(512)
        unit.resized(2049)
        assert link.do(request(READ, 1, 2048, 1)).sense == (5, 0x21, 0)
    assert unit.calls["read"] == 0
