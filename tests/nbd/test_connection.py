"""A connection's life: batches, limits, ends; and the fast path, which must not be told apart."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from tests.kit.nbd_link import Link, environment_of
from tests.kit.units import KINDS, InlineRamUnit, LiveRamUnit, RamUnit
from userdisk import errors
from userdisk.budget import PROCESS_LIMIT
from userdisk.gate import Gate
from userdisk.nbd import connection as connection_module
from userdisk.nbd import fast_path, wire
from userdisk.nbd.connection import Connection, Phase
from userdisk.nbd.export import MAX_PAYLOAD, Export
from userdisk.nbd.replies import Replies
from userdisk.nbd.wire import Command, CommandFlag, Error
from userdisk.operation import Kind

READ, WRITE, FLUSH = Command.READ, Command.WRITE, Command.FLUSH

each_form = pytest.mark.parametrize("replies", Replies, ids=lambda replies: replies.name.lower())


# -- the fast path ---------------------------------------------------------------------------------


def mixed(link: Link, chosen: random.Random) -> bytes:
    """A request that may be plain, or anything but."""
    size = link.size
    length = chosen.choice((512, 4096, 4096, 4096, 16384, 65536, 1 << 20, 0, 513))
    offset = chosen.choice((chosen.randrange(size // 512) * 512, 0, size - length, size, 511))
    flags = chosen.choice((0, 0, 0, 0, 0, 0, CommandFlag.FUA, CommandFlag.DF, 1 << 9))
    command = chosen.choice((READ, READ, READ, WRITE, WRITE, FLUSH, Command.TRIM, 77))
    data = chosen.randbytes(length) if command == WRITE else b""
    return link.request(command, max(offset, 0), length, flags, data)


@each_form
@pytest.mark.parametrize("unit_class", [InlineRamUnit, LiveRamUnit])
@pytest.mark.parametrize("piece", [0, 1000])
def test_the_fast_path_answers_as_the_general_one(
    replies: Replies, unit_class: type[RamUnit], piece: int
) -> None:
    outputs, memories = [], []
    for general in (False, True):
        chosen = random.Random(11)
        unit = unit_class(block_count=8192)
        unit.memory[:] = random.Random(1).randbytes(len(unit.memory))

        def fault(name: str, lba: int, blocks: int) -> None:
            if lba % 97 == 5:
                raise errors.MediumError(lba=lba + blocks // 2)

        with Link(unit, replies, piece=piece) as link:
            unit.fault = fault
            if general:
                link.gate.restraint = lambda kind: None
            for _ in range(30):
                link.send(b"".join(mixed(link, chosen) for _ in range(chosen.randrange(1, 40))))
            outputs.append(bytes(link.received))
            memories.append(bytes(unit.memory))
            unit.fault = None
    assert outputs[0] == outputs[1]
    assert memories[0] == memories[1]


def test_plain_requests_do_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests that compare it would compare nothing."""
    for replies in Replies:
        with Link(InlineRamUnit(), replies) as link:
            counters = link.connection.counters[link.gate]
            for length in (512, 4096, 65536):
                assert link.read(length, length) == bytes(length)
                assert not link.write(length, bytes(length))
            assert (counters.reads, counters.writes, counters.commands) == (3, 3, 0)
            assert counters.read_bytes == counters.written_bytes == 512 + 4096 + 65536
            link.do(FLUSH)
            assert counters.commands == 1
    monkeypatch.setattr(fast_path, "run", lambda connection: None)
    with Link(InlineRamUnit()) as link:
        link.read(0, 512)
        assert link.connection.counters[link.gate].commands == 1


def test_a_restraint_takes_requests_off_the_fast_path() -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        asked: list[Kind] = []

        def restraint(kind: Kind) -> errors.StorageError | None:
            asked.append(kind)
            return errors.WriteProtected() if kind is Kind.WRITE else None

        link.gate.restraint = restraint
        assert link.read(0, 512) == bytes(512)
        assert link.write(0, bytes(512)) == Error.EPERM
        assert asked == [Kind.READ, Kind.WRITE]
        assert not unit.calls["write"]
        link.gate.restraint = None
        assert not link.write(0, bytes(512))


@pytest.mark.parametrize("kind", KINDS)
def test_what_began_in_an_era_that_is_over_fails(kind: str) -> None:
    unit = KINDS[kind](max_transfer_length=4096)
    with Link(unit) as link:
        era = link.gate.era

        def fault(name: str, lba: int, blocks: int) -> None:
            era.over = errors.NoMedium

        unit.fault = fault
        assert link.write(0, bytes(16384)) == Error.EIO
        assert unit.calls["write"] == 1
        unit.fault = None


def test_a_disk_that_was_cut_ends_earlier_and_one_that_grew_ends_where_it_did() -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        assert link.size == 1 << 20
        unit.resized(1024)
        assert link.do(READ, 1024 * 512, 512).error == Error.EINVAL
        assert link.do(WRITE, 1023 * 512, 1024, 0, bytes(1024)).error == Error.ENOSPC
        assert link.read(1023 * 512, 512) == bytes(512)
        unit.memory += bytes(1 << 20)
        unit.resized(4096)
        assert link.read(2047 * 512, 512) == bytes(512)
        assert link.do(READ, 2048 * 512, 512).error == Error.EINVAL


@pytest.mark.parametrize("command", [WRITE, Command.WRITE_ZEROES, Command.TRIM])
def test_a_read_shows_what_was_there_before_a_write_behind_it(command: Command) -> None:
    unit = LiveRamUnit()
    unit.memory[:512] = b"a" * 512
    with Link(unit) as link:
        data = b"b" * 512 if command == WRITE else b""
        requests = [
            (link.request(READ, 0, 512), 0, 512),
            (link.request(command, 0, 512, 0, data), 0, 0),
            (link.request(READ, 0, 512), 0, 512),
        ]
        before, _, after = link.answers(requests)
        assert before.data == b"a" * 512
        assert after.data == (data or bytes(512))


def test_views_of_live_memory_go_out_only_while_nobody_else_has_the_unit() -> None:
    unit = LiveRamUnit()
    with Link(unit) as link, Link(link.gate) as other:
        assert link.gate.shared
        link.connection.received(len(put(link, link.request(READ, 0, 512))))
        link.connection.received(len(put(link, link.request(READ, 0, 65536, CommandFlag.DF))))
        assert not link.connection.out.live
        assert not any(type(each) is memoryview for each in link.connection.take_output())
        other.close()
        assert not link.gate.shared
        link.connection.received(len(put(link, link.request(READ, 0, 512))))
        assert link.connection.out.live
        link.connection.take_output()
        other = Link(link.gate)


def put(link: Link, data: bytes) -> bytes:
    link.connection.buffer()[: len(data)] = data
    return data


# -- limits ----------------------------------------------------------------------------------------


class Held(RamUnit):
    """Writes and reads wait until they are let go."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.go = threading.Event()

    def _begin(self, name: str, lba: int = 0, blocks: int = 0, fua: bool = False) -> None:
        if name in ("read", "write"):
            assert self.go.wait(10)
        super()._begin(name, lba, blocks, fua)


@each_form
def test_enough_under_way_stops_the_receiving(replies: Replies) -> None:
    unit = Held()
    with Link(unit, replies) as link:
        connection = link.connection
        requests = [
            link.request(WRITE, i * 512, 512, 0, bytes([i % 256]) * 512) for i in range(300)
        ]
        waiting = b"".join(requests)
        while waiting and not connection.paused:
            room = connection.buffer()
            count = min(len(room), len(waiting))
            room[:count], waiting = waiting[:count], waiting[count:]
            connection.received(count)
        assert connection.paused
        assert connection.tasks.count == 128
        unit.go.set()
        link.send(waiting)
        size = {Replies.SIMPLE: 16, Replies.STRUCTURED: 20, Replies.EXTENDED: 32}[replies]
        link.take(300 * size)
        assert not connection.tasks.count
        assert [unit.memory[i * 512] for i in range(300)] == [i % 256 for i in range(300)]


def test_large_requests_stop_it_earlier_and_leave_no_debt() -> None:
    unit = Held(block_count=1 << 18)
    with Link(unit) as link:
        connection = link.connection
        for number in range(20):
            if connection.paused:
                break
            put(link, data := link.request(READ, number << 20, 1 << 20))
            connection.received(len(data))
        assert connection.tasks.count == 8
        unit.go.set()
        while connection.tasks.count:
            link.wait()
        budget = connection.environment.budget
        link.send(link.request(FLUSH))
        connection.buffer()  # what was taken has been sent
        assert budget.take(PROCESS_LIMIT)
        budget.give(PROCESS_LIMIT)


def test_without_memory_a_request_waits_until_there_is_some() -> None:
    with Link(InlineRamUnit(block_count=1 << 14), budget=4 << 20) as link:
        connection, budget = link.connection, link.environment.budget
        link.gate.restraint = lambda kind: None  # the general path
        assert budget.take(4 << 20)
        link.send(link.request(READ, 0, 4 << 20) + link.request(READ, 0, 512))
        assert connection.paused
        assert not link.received
        connection.tick(1.0)
        assert connection.paused
        budget.give(4 << 20)
        connection.tick(2.0)
        while connection.tasks.operating:
            link.wait()
        link.send(b"")
        link.take(28 + (4 << 20) + 28 + 512)
        assert not connection.paused
        connection.buffer()
        assert budget.take(4 << 20)


@pytest.mark.parametrize("kind", KINDS)
def test_who_holds_nothing_goes_on_whatever_others_hold(kind: str) -> None:
    unit = KINDS[kind](block_count=1 << 14)
    data = random.Random(7).randbytes(5 << 20)
    with Link(unit, budget=4 << 20) as link:
        connection, budget = link.connection, link.environment.budget
        assert budget.take(4 << 20)  # by somebody who is slow
        assert not link.write(0, data)
        assert link.read(0, 2 << 20) == data[: 2 << 20]
        requests = [
            (link.request(READ, number << 19, 1 << 19), number << 19, 1 << 19)
            for number in range(10)
        ]
        got = link.answers(requests)  # no tick was needed
        assert b"".join(each.data for each in got) == data
        connection.buffer()
        budget.give(4 << 20)
        assert budget.take(4 << 20)  # nobody owes anything
        assert not budget.take(1)


@each_form
def test_the_largest_payload(replies: Replies) -> None:
    unit = InlineRamUnit(block_count=MAX_PAYLOAD // 512 + 8)
    data = random.Random(5).randbytes(MAX_PAYLOAD)
    with Link(unit, replies) as link:
        assert not link.write(512, data)
        assert unit.memory[512 : 512 + MAX_PAYLOAD] == data
        assert link.read(512, MAX_PAYLOAD) == data
        assert link.do(READ, 512, MAX_PAYLOAD + 512).error == Error.EINVAL
        budget = link.environment.budget
        link.connection.buffer()
        assert budget.take(PROCESS_LIMIT)


@each_form
def test_a_long_write_waits_for_a_slow_unit(replies: Replies) -> None:
    """What comes behind its piece has a place only when the unit has taken that."""
    unit = Held(block_count=1 << 14)
    data = random.Random(9).randbytes(5 << 20)
    with Link(unit, replies) as link:
        connection = link.connection
        waiting = link.request(WRITE, 512, len(data), 0, data)
        while not connection.paused:
            room = connection.buffer()
            count = min(len(room), len(waiting))
            assert count
            room[:count], waiting = waiting[:count], waiting[count:]
            connection.received(count)
        assert len(waiting) > 3 << 20
        unit.go.set()
        link.send(waiting)
        size = {Replies.SIMPLE: 16, Replies.STRUCTURED: 20, Replies.EXTENDED: 32}[replies]
        link.take(size)
        assert unit.memory[512 : 512 + len(data)] == data
        assert unit.calls["write"] == 5


def test_large_reads_wait_for_the_memory_of_those_before_them() -> None:
    with Link(InlineRamUnit(block_count=1 << 17), budget=MAX_PAYLOAD) as link:
        connection = link.connection
        link.send(link.request(READ, 0, MAX_PAYLOAD) + link.request(READ, 0, MAX_PAYLOAD))
        for second in range(200):  # longer than a silent client may take
            while connection.tasks.operating:
                link.wait()
            connection.tick(second)
            link.send(b"")
        assert not connection.closing
        link.take(2 * (28 + MAX_PAYLOAD))


def test_a_client_that_stops_within_a_request_is_ended() -> None:
    for data in (b"\x25", wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, WRITE, bytes(8), 0, 1 << 20)):
        with Link(InlineRamUnit()) as link:
            link.connection.tick(100.0)
            link.send(data)
            for second in range(101, 162):
                link.connection.tick(second)
                assert not link.connection.closing
            link.connection.tick(162)
            assert link.connection.closing
    with Link(InlineRamUnit()) as link:  # one that has nothing to say may be silent
        link.connection.tick(1e6)
        link.connection.tick(2e6)
        assert link.read(0, 512) == bytes(512)


def test_a_client_that_does_not_get_to_transmission_is_ended() -> None:
    with Link(InlineRamUnit()) as link:
        connection = Connection(link.environment, lambda action: None, 5.0)
        connection.tick(5.0 + connection_module.NEGOTIATION_LIMIT)
        assert connection.opening
        connection.tick(5.1 + connection_module.NEGOTIATION_LIMIT)
        assert connection.closing


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_is_gone_leaves_nothing(kind: str) -> None:
    unit = KINDS[kind](block_count=1 << 14)
    link = Link(unit)
    budget = link.environment.budget
    requests = b"".join(link.request(READ, 0, 1 << 20) for _ in range(8))
    whole = link.request(WRITE, 0, 1 << 20, 0, bytes(1 << 20))
    connection = link.connection
    for data in (requests, whole[: 1 << 19]):
        while data and not (connection.paused or connection.more):
            room = connection.buffer()
            count = min(len(room), len(data))
            room[:count], data = data[:count], data[count:]
            connection.received(count)
    link.close()
    assert not connection.tasks.count
    assert not link.gate.shared
    assert budget.take(PROCESS_LIMIT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_stops_answers_what_is_under_way(kind: str) -> None:
    unit = KINDS[kind]()
    with Link(unit) as link:
        connection = link.connection
        data = link.request(WRITE, 0, 512, 0, b"z" * 512)
        half = link.request(WRITE, 512, 1 << 19, 0, bytes(1 << 19))[:100000]
        link.send(data + half)
        connection.request_end(2)
        while connection.phase is Phase.LEAVING:
            link.wait()
        link._collect()
        assert connection.closing
        assert len(link.received) == 20
        assert unit.memory[:512] == b"z" * 512


def test_a_server_that_stops_does_not_wait_for_a_negotiation() -> None:
    unit = InlineRamUnit()
    environment = environment_of(Export("disk", Gate(unit)))
    connection = Connection(environment, lambda action: None, 0.0)
    connection.request_end(2)
    assert connection.closing
    connection.lost("stop")
    assert connection.finished
    connection.end()


# -- noise -----------------------------------------------------------------------------------------


@each_form
def test_damaged_requests_end_the_connection_or_are_answered(replies: Replies) -> None:
    for seed in range(30):
        chosen = random.Random(f"{seed}{replies}")
        unit = InlineRamUnit(block_count=64)
        with Link(unit, replies, piece=chosen.choice((0, 1, 7, 500))) as link:
            data = bytearray(b"".join(mixed(link, chosen) for _ in range(6))[:200000])
            for _ in range(chosen.randrange(1, 8)):
                at = chosen.randrange(len(data))
                if chosen.random() < 0.5:
                    data[at] ^= 1 << chosen.randrange(8)
                elif chosen.random() < 0.5:
                    del data[at : at + chosen.randrange(40)]
                else:
                    data[at:at] = chosen.randbytes(chosen.randrange(40))
            link.send(bytes(data[:60000]))
            connection = link.connection
            assert len(connection.incoming.buffer) == 256 << 10
            assert connection.closing or connection.phase in (Phase.TRANSMISSION, Phase.LEAVING)
