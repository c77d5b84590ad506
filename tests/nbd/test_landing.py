"""A plain WRITE whose data lands in a buffer of its own: whatever happens before it is all here."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.nbd_link import Link
from tests.kit.units import InlineRamUnit, LiveRamUnit
from userdisk import errors
from userdisk.budget import PROCESS_LIMIT
from userdisk.nbd.connection import PAYLOAD_LIMIT, Phase
from userdisk.nbd.replies import Replies
from userdisk.nbd.wire import Command, Error
from userdisk.operation import Kind

READ, WRITE = Command.READ, Command.WRITE
SIZE = 512 << 10
DATA = bytes(range(256)) * (SIZE // 256)


def free(link: Link) -> int:
    """Bytes that the budget has left."""
    budget = link.environment.budget
    least, most = 0, PROCESS_LIMIT + 1
    while most - least > 1:
        middle = (least + most) // 2
        if budget.take(middle):
            budget.give(middle)
            least = middle
        else:
            most = middle
    return least


def begin(
    link: Link, offset: int = 0, data: bytes = DATA
) -> tuple[bytes, list[tuple[bytes, int, int]]]:
    """Send most of a WRITE; returns the rest of it, and the request to wait for."""
    request = link.request(WRITE, offset, len(data), 0, data)
    link.send(request[: len(request) - 5])
    return request[-5:], [(request[-5:], offset, 0)]


@pytest.mark.parametrize("replies", Replies)
@pytest.mark.parametrize("size", [16 << 10, 64 << 10, SIZE, 1 << 20, (1 << 20) + 512])
@pytest.mark.parametrize("piece", [0, 4093])
def test_every_byte_arrives(replies: Replies, size: int, piece: int) -> None:
    unit = InlineRamUnit(block_count=8192, max_transfer_length=2 << 20)
    data = (DATA * 3)[:size]
    with Link(unit, replies, piece=piece) as link:
        requests = [
            (link.request(WRITE, at * size, size, 0, data[at:] + data[:at]), at * size, 0)
            for at in range(3)
        ]
        assert [answer.error for answer in link.answers(requests)] == [0, 0, 0]
        for at in range(3):
            assert unit.memory[at * size : (at + 1) * size] == data[at:] + data[:at]
        assert link.read(512, 512) == data[512:1024]
        counters = link.connection.counters[link.gate]
        pieces = 3 * (1 if size <= 1 << 20 else 2)
        assert (counters.writes, counters.written_bytes) == (pieces, 3 * size)
        assert free(link) == PROCESS_LIMIT


def test_it_goes_to_the_unit_in_one_piece_without_a_task() -> None:
    unit = InlineRamUnit(max_transfer_length=1 << 20)
    with Link(unit) as link:
        _, requests = begin(link)
        assert not link.connection.tasks.count
        assert not unit.calls["write"]
        assert not link.answers(requests)[0].error
        assert unit.log == [("write", 0, SIZE // 512, False)]


def test_the_unit_fails() -> None:
    unit = InlineRamUnit(max_transfer_length=1 << 20)

    def fault(name: str, lba: int, blocks: int) -> None:
        raise errors.OutOfSpace

    with Link(unit) as link:
        unit.fault = fault
        assert link.write(0, DATA) == Error.ENOSPC
        unit.fault = None
        assert not link.write(0, DATA)
        assert free(link) == PROCESS_LIMIT


def test_a_restraint_that_comes_meanwhile_is_asked() -> None:
    unit = InlineRamUnit(max_transfer_length=1 << 20)
    with Link(unit) as link:
        _, requests = begin(link)
        link.gate.restraint = lambda kind: errors.WriteProtected() if kind is Kind.WRITE else None
        assert link.answers(requests)[0].error == Error.EPERM
        assert not unit.calls["write"]
        _, requests = begin(link)
        link.gate.restraint = lambda kind: None
        assert not link.answers(requests)[0].error
        assert unit.memory[:SIZE] == DATA
        link.gate.restraint = None
        assert free(link) == PROCESS_LIMIT


def test_a_disk_that_is_cut_meanwhile() -> None:
    unit = InlineRamUnit(max_transfer_length=1 << 20)
    with Link(unit) as link:
        _, requests = begin(link, SIZE)
        unit.resized(2 * SIZE // 512 - 1)
        assert link.answers(requests)[0].error == Error.ENOSPC
        assert not unit.calls["write"]
        assert not link.write(0, DATA), "and what follows is understood"
        assert link.read(0, 512) == DATA[:512]
        assert free(link) == PROCESS_LIMIT


def test_a_serial_unit_that_is_busy_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = InlineRamUnit(max_transfer_length=1 << 20)
    with Link(unit) as link:
        _, requests = begin(link)
        monkeypatch.setattr(link.connection, "enter", lambda gate: False)
        link.send(requests[0][0])
        assert link.connection.tasks.operating == 1
        monkeypatch.undo()
        assert not link.answers([(b"", 0, 0)])[0].error
        assert unit.memory[:SIZE] == DATA


def test_a_read_in_front_of_it_shows_what_was_there() -> None:
    unit = LiveRamUnit(max_transfer_length=1 << 20)
    with Link(unit) as link:
        connection = link.connection
        write = link.request(WRITE, 0, SIZE, 0, DATA)
        read = link.request(READ, 0, 512)
        room = connection.buffer()
        sent = write[:100]
        room[: len(sent)] = sent
        connection.received(len(sent))
        assert not connection.out.live
        room = connection.buffer()
        rest = write[100:] + read
        room[: len(rest)] = rest[: len(room)]
        connection.received(len(room))
        link.send(rest[len(room) :])
        assert len(link.take(20)) == 20
        assert link.take(28 + 512)[28:] == DATA[:512]


def test_the_server_stops_meanwhile() -> None:
    unit = InlineRamUnit(max_transfer_length=1 << 20)
    with Link(unit) as link:
        begin(link)
        assert free(link) == PROCESS_LIMIT - SIZE
        link.connection.request_end(2)
        assert link.connection.closing
        assert free(link) == PROCESS_LIMIT
        assert not unit.calls["write"]


def test_the_client_goes_meanwhile() -> None:
    unit = InlineRamUnit(max_transfer_length=1 << 20)
    with Link(unit) as link:
        begin(link)
        link.connection.lost("gone")
        assert link.connection.finished
        assert free(link) == PROCESS_LIMIT
        assert not unit.calls["write"]


def test_the_client_stays_silent_in_the_middle() -> None:
    with Link(InlineRamUnit(max_transfer_length=1 << 20)) as link:
        begin(link)
        link.connection.tick(0.5)
        for second in range(1, int(PAYLOAD_LIMIT)):
            link.connection.tick(second)
        assert link.connection.phase is Phase.TRANSMISSION
        link.connection.tick(PAYLOAD_LIMIT + 2)
        assert link.connection.closing


def test_a_disk_that_grew_ends_where_the_client_was_told() -> None:
    unit = InlineRamUnit()
    with Link(unit, piece=10_000) as link:
        end = link.size
        unit.memory += bytes(end)
        unit.resized(2 * end // 512)
        for offset in (end - 512, end, 2 * end - SIZE):
            assert link.write(offset, DATA) == Error.ENOSPC
        assert not link.write(end - SIZE, DATA)
        assert unit.memory[end - SIZE :] == DATA + bytes(end)
        assert free(link) == PROCESS_LIMIT


_SIZES = [512, 4096, 15872, 16 << 10, 100 << 10, 250 << 10, 300 << 10, 700 << 10, 1 << 20]


@settings(max_examples=25, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.sampled_from([READ, WRITE]), st.sampled_from(_SIZES), st.integers(0, 2048)),
        min_size=1,
        max_size=12,
    ),
    piece=st.sampled_from([0, 11_003, 70_001]),
    replies=st.sampled_from(list(Replies)),
)
def test_any_run_of_requests(
    requests: list[tuple[Command, int, int]], piece: int, replies: Replies
) -> None:
    """All sent at once, received in pieces: each answer shows what was written before it."""
    unit = InlineRamUnit(block_count=4096, max_transfer_length=1 << 20)
    model = bytearray(unit.memory)
    with Link(unit, replies, piece=piece) as link:
        sent, expected = [], []
        for number, (command, size, block) in enumerate(requests):
            offset = block * 512
            data = DATA[number : number + 256] * (size // 256) if command is WRITE else b""
            request = link.request(command, offset, size, 0, data)
            sent.append((request, offset, size if command is READ else 0))
            if command is WRITE:
                model[offset : offset + size] = data
            expected.append(bytes(model[offset : offset + size]) if command is READ else b"")
        answers = link.answers(sent)
        assert [answer.error for answer in answers] == [0] * len(requests)
        assert [bytes(answer.data) for answer in answers] == expected
        assert unit.memory == model
        link.connection.take_output()  # the last has been sent
        link.connection.buffer()
        assert free(link) == PROCESS_LIMIT


def test_a_connection_that_waits_has_no_long_buffer() -> None:
    unit = InlineRamUnit(block_count=8192, max_transfer_length=1 << 20)
    with Link(unit) as link:
        usual = link.connection.incoming.buffer
        for size in (512 << 10, 1 << 20):
            request = link.request(WRITE, 0, size, 0, DATA[:256] * (size // 256))
            link.send(request[:-5])
            assert len(link.connection.incoming.buffer) > size
            assert not link.answers([(request[-5:], 0, 0)])[0].error
            link.connection.buffer()
            assert link.connection.incoming.buffer is usual
