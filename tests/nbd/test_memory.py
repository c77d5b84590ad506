"""What a connection may hold of memory, and that it gives all of it back, whatever happens."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.kit.nbd_link import Link
from tests.kit.units import KINDS, InlineRamUnit, RamUnit
from userdisk import errors
from userdisk.budget import PROCESS_LIMIT
from userdisk.nbd.connection import Phase
from userdisk.nbd.export import MAX_PAYLOAD
from userdisk.nbd.replies import Request
from userdisk.nbd.requests import Steps
from userdisk.nbd.wire import Command, CommandFlag, Error
from userdisk.operation import Era

READ, WRITE = Command.READ, Command.WRITE
GENERAL, FUA = CommandFlag.DF, CommandFlag.FUA
MIB = 1 << 20


class Held(RamUnit):
    """Reads and writes wait until they are let go."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.go = threading.Event()
        self.entered = threading.Event()

    def _begin(self, name: str, lba: int = 0, blocks: int = 0, fua: bool = False) -> None:
        if name in ("read", "write"):
            self.entered.set()
            assert self.go.wait(20)
        super()._begin(name, lba, blocks, fua)


def bring(link: Link, data: bytes) -> int:
    """Bring as much of it as the connection takes; returns how much that was."""
    at = 0
    connection = link.connection
    while at < len(data) and not (connection.paused or connection.more or connection.closing):
        room = connection.buffer()
        count = min(len(room), len(data) - at)
        room[:count] = data[at : at + count]
        at += count
        connection.received(count)
    return at


def all_free(link: Link, amount: int = PROCESS_LIMIT) -> bool:
    """Whether nobody holds anything of the budget, and nobody has given too much back."""
    budget = link.environment.budget
    if not budget.take(amount):
        return False
    more = budget.take(1)
    budget.give(amount + more)
    return not more


@pytest.mark.parametrize(("size", "most"), [(1, 8), (3, 2), (5, 1), (9, 1)])
def test_how_many_long_reads_are_under_way(size: int, most: int) -> None:
    unit = Held(block_count=MAX_PAYLOAD // 512)
    count = most + 2
    with Link(unit) as link:
        bring(link, b"".join(link.request(READ, 0, size * MIB) for _ in range(count)))
        assert link.connection.paused
        assert link.connection.tasks.count == most
        unit.go.set()
        link.take(count * (28 + size * MIB))
        link.connection.buffer()
        assert all_free(link)


def test_nothing_starts_beside_a_read_that_holds_more_than_a_connection_may() -> None:
    unit = Held(block_count=MAX_PAYLOAD // 512)
    with Link(unit) as link:
        bring(link, link.request(READ, 0, MAX_PAYLOAD) + link.request(READ, 0, 512) * 100)
        assert link.connection.paused
        assert link.connection.tasks.count == 1
        unit.go.set()
        link.take(28 + MAX_PAYLOAD + 100 * (28 + 512))


def test_a_long_read_holds_its_memory_until_it_is_sent() -> None:
    with Link(InlineRamUnit()) as link:
        bring(link, link.request(READ, 0, MIB, GENERAL))
        assert not link.environment.budget.take(PROCESS_LIMIT)
        link.connection.take_output()  # the owner sends it
        assert not link.environment.budget.take(PROCESS_LIMIT)
        link.connection.buffer()  # it has been sent
        assert all_free(link)


def test_who_has_what_is_always_had_does_not_get_it_twice() -> None:
    """Also while it is in a reply that has not been sent."""
    size = MIB // 4
    with Link(InlineRamUnit()) as link:
        assert link.environment.budget.take(PROCESS_LIMIT)  # by others
        bring(link, link.request(READ, 0, size, GENERAL) + link.request(READ, 0, size, GENERAL))
        assert link.connection.out.size == 28 + size
        assert link.connection.more
        link.connection.take_output()
        link.connection.resume()
        assert link.connection.out.size == 28 + size
        assert not link.connection.more
        link.connection.take_output()
        link.connection.buffer()
        link.environment.budget.give(PROCESS_LIMIT)
        assert all_free(link)


def test_a_write_gives_its_memory_back_when_it_is_done() -> None:
    with Link(InlineRamUnit()) as link:
        bring(link, link.request(WRITE, 0, MIB, FUA, bytes(MIB)))
        assert link.connection.out.buffers
        assert all_free(link)


@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_refused_holds_nothing(read_only: bool) -> None:
    with Link(InlineRamUnit(), read_only=read_only) as link:
        for command, offset, length, flags in (
            (WRITE, MIB, MIB, 0),
            (WRITE, 512, MIB, 0),
            (WRITE, 1, MIB, 0),
            (WRITE, 0, MIB, 1 << 9),
            (READ, 512, MIB, 0),
            (READ, 1, MIB, 0),
            (READ, 0, MAX_PAYLOAD + 512, 0),
        ):
            data = bytes(length) if command == WRITE else b""
            assert link.do(command, offset, length, flags, data).error
            assert all_free(link)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [0, FUA])
def test_what_fails_holds_nothing(kind: str, flags: int) -> None:
    unit = KINDS[kind](block_count=1 << 14)

    def fault(name: str, lba: int, blocks: int) -> None:
        raise errors.MediumError(lba=lba)

    with Link(unit) as link:
        unit.fault = fault
        for _ in range(3):
            assert link.do(WRITE, 0, 3 * MIB, flags, bytes(3 * MIB)).error == Error.EIO
            assert link.do(READ, 0, 3 * MIB, flags).error == Error.EIO
            link.connection.buffer()
            assert all_free(link)
        unit.fault = None


def buffers_of(link: Link) -> list[bytearray]:
    return [each for free in link.environment.buffers._free.values() for each in free]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [MIB, 4 * MIB])
def test_buffers_are_used_again_by_one_at_a_time(kind: str, size: int) -> None:
    unit = KINDS[kind](block_count=1 << 14)
    with Link(unit) as link:
        for number in range(3):
            data = bytes([number + 1]) * size
            assert not link.write(0, data)
            assert link.read(0, len(data)) == data
            free = buffers_of(link)
            assert free
            assert len({id(each) for each in free}) == len(free)


def test_a_buffer_that_the_unit_holds_is_not_free() -> None:
    unit = Held()
    link = Link(unit)
    data = link.request(WRITE, 0, MIB, 0, b"x" * MIB)
    assert bring(link, data) == len(data)
    assert unit.entered.wait(20)
    assert not buffers_of(link)
    link.connection.lost("gone")
    assert not buffers_of(link)
    unit.go.set()
    link.close()
    assert unit.memory == b"x" * MIB
    assert len(buffers_of(link)) == 1
    assert all_free(link)


@pytest.mark.parametrize("ends", ["stop", "lost"])
def test_a_long_write_that_is_cut_short_ends(ends: str) -> None:
    """Its first piece is in the unit; the rest will not come."""
    unit = Held(block_count=1 << 14)
    with Link(unit) as link:
        connection = link.connection
        bring(link, link.request(WRITE, 0, 4 * MIB, 0, b"y" * (4 * MIB)))
        assert unit.entered.wait(20)
        if ends == "stop":
            connection.request_end(2)
        else:
            connection.lost("gone")
        assert not connection.closing
        unit.go.set()
        while connection.tasks.operating:
            link.wait()
        assert not connection.tasks.count
        assert connection.closing or connection.phase is Phase.CLOSED
        assert not link.received
        assert all_free(link)
        assert unit.calls["write"] == 1


def test_a_write_that_is_cut_short_before_its_first_piece_ends_at_once() -> None:
    with Link(InlineRamUnit()) as link:
        half = link.request(WRITE, 0, MIB, FUA, bytes(MIB))[: MIB // 2]
        assert bring(link, half) == len(half)
        link.connection.request_end(2)
        assert link.connection.closing
        assert all_free(link)


@pytest.mark.parametrize("kind", KINDS)
def test_an_era_that_ends_while_a_request_begins_is_that_request_s(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = KINDS[kind]()
    with Link(unit) as link:
        service, gate = link.connection.service, link.gate
        start = service.start

        def started(request: Request) -> Steps:
            steps = start(request)
            gate.era.over = errors.NoMedium
            gate.era = Era()  # another medium
            return steps

        monkeypatch.setattr(service, "start", started)
        assert link.write(0, bytes(512), FUA) == Error.EIO
        assert not unit.calls["write"]
        monkeypatch.undo()
        assert not link.write(0, bytes(512), FUA)


@pytest.mark.parametrize("restrained", [False, True])
@pytest.mark.parametrize("size", [32 << 10, MIB, 2 * MIB])
def test_an_era_that_ends_while_data_comes_is_the_one_the_request_began_in(
    restrained: bool, size: int
) -> None:
    """What was asked for before an eject does not change the next medium."""
    unit = InlineRamUnit(block_count=1 << 14)
    with Link(unit) as link:
        gate = link.gate
        data = link.request(WRITE, 0, size, 0, b"w" * size)
        link.send(data[:-5])
        gate.era.over = errors.NoMedium
        gate.era = Era()
        if restrained:
            gate.restraint = lambda kind: None
        assert link.answers([(data[-5:], 0, 0)])[0].error == Error.EIO
        assert unit.memory[-512:] == bytes(512)
        assert unit.calls["write"] == (size > MIB)  # a piece that had come before
        assert not link.write(0, b"n" * size)
        assert unit.memory[:size] == b"n" * size
        link.connection.buffer()
        assert all_free(link)


def test_queued_requests_of_somebody_who_is_gone_stay_undone() -> None:
    unit = Held()
    link = Link(unit)
    bring(link, b"".join(link.request(READ, 0, 512) for _ in range(100)))
    assert link.connection.tasks.operating == 100
    link.connection.lost("gone")
    unit.go.set()
    link.close()
    assert unit.calls["read"] <= 1
