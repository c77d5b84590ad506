"""What one batch may put out, whoever answers it: its bounds, views of memory, counts, gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.kit.nbd_link import Link
from tests.kit.units import InlineRamUnit, LiveRamUnit, RamUnit
from userdisk import errors
from userdisk.nbd.outgoing import OUTPUT_BUFFERS, OUTPUT_BYTES
from userdisk.nbd.replies import Replies
from userdisk.nbd.wire import Command, CommandFlag, Error
from userdisk.operation import Kind
from userdisk.unit import Buffer, Extent, Inline

READ, WRITE, FLUSH = Command.READ, Command.WRITE, Command.FLUSH
GENERAL = CommandFlag.DF  # a READ with it is not plain

KIB = 1 << 10
HEADER = 28  # bytes, of a reply with data


def batch(link: Link, data: bytes) -> None:
    """Bring it in one piece, and leave the output where it is."""
    link.connection.buffer()[: len(data)] = data
    link.connection.received(len(data))


@pytest.mark.parametrize(
    "reads",
    [
        [(512, 0)] * 900,
        [(512, GENERAL)] * 200 + [(512, 0)] * 700,
        [(64 * KIB, 0)] * 40,
        [(64 * KIB, 0)] * 14 + [(32 * KIB, 0)] * 60,
        [(64 * KIB, GENERAL)] * 14 + [(64 * KIB, 0)] * 60,
        [(64 * KIB, GENERAL)] * 60,
        [(512, GENERAL)] * 900,
    ],
)
@pytest.mark.parametrize("fails", [False, True])
def test_a_batch_ends_in_time_and_goes_on_after_that(
    reads: list[tuple[int, int]], fails: bool
) -> None:
    def fault(name: str, lba: int, blocks: int) -> None:
        raise errors.MediumError

    unit = InlineRamUnit()
    with Link(unit) as link:
        unit.fault = fault if fails else None
        batch(link, b"".join(link.request(READ, 0, length, flags) for length, flags in reads))
        most = 2 * max(length for length, _ in reads) + HEADER * OUTPUT_BUFFERS
        answered = batches = 0
        while out := link.connection.take_output():
            assert len(out) <= OUTPUT_BUFFERS
            size = sum(map(len, out))
            assert size <= OUTPUT_BYTES + most
            batches += 1
            answered += len(out) if fails else len(out) // 2
            if link.connection.more:
                link.connection.resume()
        assert answered == len(reads)
        assert batches > 1 or sum(length for length, _ in reads) < OUTPUT_BYTES or fails
        unit.fault = None


class Odd(LiveRamUnit):
    """What `read` returns comes from `made`."""

    made: Callable[[bytearray], Any] = bytes

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        found: Buffer = type(self).made(self.memory)
        return found


@pytest.mark.parametrize("flags", [0, GENERAL])
@pytest.mark.parametrize(
    ("made", "good"),
    [
        (lambda memory: memoryview(memory)[:512].cast("I"), True),
        (lambda memory: memoryview(memory)[:512], True),
        (lambda memory: memory[:512], True),
        (lambda memory: memoryview(memory)[:511], False),
        (lambda memory: memoryview(memory)[:513], False),
        (lambda memory: memoryview(memory)[:2048].cast("I"), False),
        (lambda memory: bytes(511), False),
        (lambda memory: memory[:513], False),
        (lambda memory: None, False),
    ],
)
def test_what_a_read_may_return(made: Callable[[bytearray], Any], good: bool, flags: int) -> None:
    unit = Odd()
    unit.memory[:2048] = b"m" * 2048
    type(unit).made = made
    with Link(unit) as link:
        answer = link.do(READ, 0, 512, flags)
        assert answer.error == (0 if good else Error.EIO)
        assert answer.data == (b"m" * 512 if good else b"") or not good


@pytest.mark.parametrize("flags", [0, GENERAL])
def test_what_is_not_a_view_may_change_as_well(flags: int) -> None:
    class Cached(LiveRamUnit):
        """Returns the same bytearray each time."""

        cache = bytearray(512)

        def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
            self.cache[:] = self.memory[lba * 512 : lba * 512 + 512]
            return self.cache

    unit = Cached()
    unit.memory[:1024] = b"a" * 512 + b"b" * 512
    with Link(unit) as link:
        answers = link.answers(
            [(link.request(READ, at, 512, flags), at, 512) for at in (0, 512, 0, 512)]
        )
        assert [each.data[:1] for each in answers] == [b"a", b"b", b"a", b"b"]


@pytest.mark.parametrize("flags", [0, GENERAL])
def test_views_go_out_only_if_no_other_thread_can_write(flags: int) -> None:
    class Half(LiveRamUnit):
        inline = Inline.READ  # writes are run on a thread of the unit

    for unit_class, live in ((LiveRamUnit, True), (Half, False)):
        with Link(unit_class()) as link:
            batch(link, link.request(READ, 0, 512, flags))
            out = link.connection.out
            assert out.live is live
            assert any(type(each) is memoryview for each in out.buffers) is live


def test_a_part_of_a_read_that_waits_for_another_part_is_copied() -> None:
    """The first run of data is read at once, the last one on a thread of the unit."""

    class Sparse(LiveRamUnit):
        def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
            yield Extent(0, 128)
            yield Extent(128, 128, mapped=False, zero=True)
            yield Extent(256, blocks - 256)

    unit = Sparse(block_count=1 << 13)
    unit.memory[:] = b"r" * len(unit.memory)
    with Link(unit) as link:
        batch(link, link.request(READ, 0, 4 << 20))
        assert link.connection.tasks.operating
        assert not link.connection.out.live
        while link.connection.tasks.operating:
            link.wait()
        assert bytes(link.received[HEADER : HEADER + 65536]) == b"r" * 65536


@pytest.mark.parametrize("command", [WRITE, Command.WRITE_ZEROES, Command.TRIM])
@pytest.mark.parametrize("flags", [0, GENERAL])
def test_a_batch_that_ends_with_a_write_shows_no_live_memory(command: int, flags: int) -> None:
    with Link(LiveRamUnit()) as link:
        data = bytes(512) if command == WRITE else b""
        batch(link, link.request(READ, 0, 512, flags) + link.request(command, 0, 512, 0, data))
        assert not link.connection.out.live
        assert not any(type(each) is memoryview for each in link.connection.out.buffers)


@pytest.mark.parametrize("replies", Replies, ids=lambda replies: replies.name.lower())
@pytest.mark.parametrize("piece", [1, 7, 27, 28, 29, 31, 32, 33, 100, 539, 541, 1000])
def test_requests_come_in_pieces(replies: Replies, piece: int) -> None:
    """Of any size: one request at a time, and many."""
    unit = InlineRamUnit()
    with Link(unit, replies, piece=piece) as link:
        for number in range(1, 4):
            data = bytes([number]) * 512
            assert not link.write(number * 512, data)
            assert link.read(number * 512, 512) == data
        requests = []
        for number in range(20):
            data = bytes([100 + number]) * 1024
            requests.append((link.request(WRITE, number * 1024, 1024, 0, data), number * 1024, 0))
            requests.append((link.request(READ, number * 1024, 1024), number * 1024, 1024))
        answers = link.answers(requests)
        assert not any(each.error for each in answers)
        assert [each.data[:1] for each in answers[1::2]] == [bytes([100 + i]) for i in range(20)]
        assert unit.calls["write"] == unit.calls["read"] == 23


@pytest.mark.parametrize("piece", [0, 28, 1000])
def test_data_of_a_refused_write_is_not_taken_for_requests(piece: int) -> None:
    unit = InlineRamUnit()
    with Link(unit, piece=piece) as link:
        data = (link.request(READ, 0, 512) * 400)[:8192]
        assert link.write(link.size - 512, data) == Error.ENOSPC
        assert not unit.calls["read"]
        assert link.read(0, 512) == bytes(512)


def test_the_last_blocks_are_plain_too() -> None:
    with Link(InlineRamUnit()) as link:
        end = link.size - 4096
        for offset in (end, end - 512, 0):
            assert link.read(offset, 4096) == bytes(4096)
            assert not link.write(offset, bytes(4096))
        assert link.connection.counters[link.gate].commands == 0


@pytest.mark.parametrize("length", [512, 32 * KIB, 256 * KIB])
@pytest.mark.parametrize("flags", [0, CommandFlag.FUA])
def test_errors_are_counted_for_what_failed(flags: int, length: int) -> None:
    def fault(name: str, lba: int, blocks: int) -> None:
        raise OSError(5, "no")

    unit = InlineRamUnit()
    with Link(unit, piece=10_000) as link:
        unit.fault = fault
        assert link.write(0, bytes(length), flags) == Error.EIO
        assert (link.gate.read_errors, link.gate.write_errors) == (0, 1)
        assert link.do(READ, 0, length, flags).error == Error.EIO
        assert (link.gate.read_errors, link.gate.write_errors) == (1, 1)
        counters = link.connection.counters[link.gate]
        assert (counters.commands, counters.failures) == (2, 2)
        assert (counters.reads, counters.writes) == (0, 0)
        unit.fault = None


@pytest.mark.parametrize("command", [READ, WRITE])
@pytest.mark.parametrize("flags", [0, CommandFlag.FUA])
def test_an_error_elsewhere_has_no_place_in_the_answer(command: int, flags: int) -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        for lba, offset in ((1, None), (2, 1024), (3, 1536), (4, None), (1 << 40, None)):

            def fault(name: str, at: int, blocks: int, lba: int = lba) -> None:
                raise errors.MediumError(lba=lba)

            unit.fault = fault
            data = bytes(1024) if command == WRITE else b""
            answer = link.do(command, 1024, 1024, flags, data)
            assert (answer.error, answer.offset) == (Error.EIO, offset)
        unit.fault = None


# -- the gate --------------------------------------------------------------------------------------


def refuse(kind: Kind) -> errors.StorageError:
    return errors.WriteProtected()


@pytest.mark.parametrize("command", [READ, WRITE, FLUSH, Command.WRITE_ZEROES, Command.TRIM])
def test_every_kind_of_operation_asks(command: int) -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        link.gate.restraint = refuse
        length = 0 if command == FLUSH else 512
        data = bytes(512) if command == WRITE else b""
        assert link.do(command, 0, length, 0, data).error == Error.EPERM
        assert set(unit.calls) <= {"open"}
        link.gate.restraint = None


@pytest.mark.parametrize("command", [READ, WRITE])
def test_a_restraint_that_came_while_the_gate_was_waited_for(command: int) -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        enter = link.gate.enter

        def waiting() -> bool:
            link.gate.restraint = refuse
            return enter()

        link.gate.enter = waiting
        data = bytes(512) if command == WRITE else b""
        assert link.do(command, 0, 512, 0, data).error == Error.EPERM
        assert not unit.calls["read"] + unit.calls["write"]
        link.gate.restraint = None
        link.gate.enter = enter


def test_who_is_restrained_does_not_wait_for_the_gate() -> None:
    with Link(InlineRamUnit()) as link:
        enter = link.gate.enter
        link.gate.restraint = refuse
        link.gate.enter = lambda: pytest.fail("waited")
        assert link.do(READ, 0, 512).error == Error.EPERM
        link.gate.enter = enter
        link.gate.restraint = None


@pytest.mark.parametrize("error", [errors.MediumError, ValueError, SystemExit])
@pytest.mark.parametrize("command", [READ, WRITE])
@pytest.mark.parametrize("flags", [0, CommandFlag.FUA])
def test_the_gate_is_left_whatever_happens(
    error: type[BaseException], command: int, flags: int
) -> None:
    def fault(name: str, lba: int, blocks: int) -> None:
        raise error

    unit = InlineRamUnit()
    with Link(unit) as link:
        unit.fault = fault
        data = bytes(512) if command == WRITE else b""
        for _ in range(3):
            assert link.do(command, 0, 512, flags, data).error == Error.EIO
            assert link.gate.enter()
            link.gate.leave()
        unit.fault = None


def test_a_unit_is_called_in_the_order_of_the_requests() -> None:
    """Plain or not, one after the other; the answers too."""
    unit = InlineRamUnit()
    with Link(unit) as link:
        kinds: Iterable[int] = [0, CommandFlag.FUA, 0, 0, CommandFlag.FUA, CommandFlag.FUA, 0] * 9
        requests = []
        for number, flags in enumerate(kinds):
            requests.append(link.request(WRITE, 0, 512, flags, bytes([number]) * 512))
            requests.append(link.request(READ, 0, 512, flags))
        first = link._cookie - len(requests) + 1
        link.send(b"".join(requests))
        at = 0
        for number in range(len(requests)):
            cookie = int.from_bytes(link.received[at + 8 : at + 16], "big")
            assert cookie == first + number
            if number % 2:
                assert link.received[at + HEADER : at + HEADER + 512] == bytes([number // 2]) * 512
                at += HEADER + 512
            else:
                at += 20
        assert at == len(link.received)


def test_a_slow_unit_gets_what_was_received_not_what_came_after() -> None:
    """Data of a write that waits for its turn is not where the next bytes are received."""
    unit = RamUnit()
    with Link(unit) as link:
        for number in range(40):
            requests = []
            for at in range(20):
                data = bytes([number + at]) * 4096
                requests.append((link.request(WRITE, at * 4096, 4096, 0, data), at * 4096, 0))
            assert not any(each.error for each in link.answers(requests))
            for at in range(20):
                assert unit.memory[at * 4096 : at * 4096 + 4096] == bytes([number + at]) * 4096
