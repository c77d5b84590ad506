"""What a unit is asked for by each request: how much at once, how often, and on which thread."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.kit.nbd_link import Link
from tests.kit.units import KINDS, InlineRamUnit
from userdisk import errors
from userdisk.nbd.replies import Replies
from userdisk.nbd.wire import Command, CommandFlag, Error, TransmissionFlag
from userdisk.unit import Extent

READ, WRITE, FLUSH, TRIM = Command.READ, Command.WRITE, Command.FLUSH, Command.TRIM
ZEROES, STATUS = Command.WRITE_ZEROES, Command.BLOCK_STATUS
FUA, NO_HOLE, DF = CommandFlag.FUA, CommandFlag.NO_HOLE, CommandFlag.DF
MIB = 1 << 20

each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
@pytest.mark.parametrize("flags", [0, FUA])
def test_no_call_is_longer_than_the_unit_takes(kind: str, flags: int) -> None:
    unit = KINDS[kind](max_transfer_length=4096)
    with Link(unit) as link:
        for length in (512, 4096, 4608, 8192, 65536, MIB):
            assert not link.write(0, b"l" * length, flags)
            assert link.read(0, length, flags) == b"l" * length
            assert not link.do(ZEROES, 0, length, NO_HOLE | flags).error
        assert {blocks for name, _, blocks, _ in unit.log if name != "flush"} <= set(range(1, 9))


@each_kind
def test_a_long_durable_write_is_made_durable_once(kind: str) -> None:
    unit = KINDS[kind](max_transfer_length=4096)
    with Link(unit) as link:
        assert not link.write(0, bytes(12288), FUA)
        assert [(name, fua) for name, _, _, fua in unit.log] == [
            ("write", False),
            ("write", False),
            ("write", False),
            ("flush", False),
        ]


@each_kind
def test_while_the_cache_is_off_every_change_is_durable(kind: str) -> None:
    unit = KINDS[kind]()
    with Link(unit) as link:
        link.gate.restraint = lambda kind: None  # as long as it is off
        link.gate.write_through.add(link)
        for request, durable in (
            ((WRITE, 0, 512, 0, bytes(512)), [("write", True)]),
            ((ZEROES, 0, 512, NO_HOLE), [("write", True)]),
            ((ZEROES, 0, 512), [("unmap", False), ("flush", False)]),
            ((TRIM, 0, 512), [("unmap", False), ("flush", False)]),
        ):
            unit.log.clear()
            assert not link.do(*request).error
            assert [(name, fua) for name, _, _, fua in unit.log] == durable
        link.gate.write_through.clear()
        link.gate.restraint = None


@each_kind
@pytest.mark.parametrize("replies", Replies, ids=lambda replies: replies.name.lower())
def test_a_unit_that_is_write_protected(kind: str, replies: Replies) -> None:
    unit = KINDS[kind](write_protected=True)
    with Link(unit, replies) as link:
        assert link.flags & TransmissionFlag.READ_ONLY
        for request in (
            (WRITE, 0, 512, 0, bytes(512)),
            (WRITE, 0, MIB, 0, bytes(MIB)),
            (WRITE, 0, 512, FUA, bytes(512)),
            (TRIM, 0, 512),
            (ZEROES, 0, 512),
        ):
            assert link.do(*request).error == Error.EPERM
            assert link.read(0, 512) == bytes(512)
        assert not link.do(FLUSH).error
    assert set(unit.calls) == {"read"}


def test_zeroes_are_written_where_unmapped_blocks_may_be_anything() -> None:
    class Vague(InlineRamUnit):
        unmap_zeroes = False

    unit = Vague()
    with Link(unit) as link:
        assert not link.flags & TransmissionFlag.SEND_FAST_ZERO
        assert not link.write(0, b"x" * 4096)
        assert not link.do(ZEROES, 0, 4096).error
        assert not unit.calls["unmap"]
        assert link.read(0, 4096) == bytes(4096)
        assert link.do(ZEROES, 0, 4096, CommandFlag.FAST_ZERO).error == Error.ENOTSUP


@pytest.mark.parametrize(
    ("command", "length", "offloaded"),
    [
        (READ, MIB, False),
        (READ, MIB + 512, True),
        (TRIM, MIB, False),
        (TRIM, MIB + 512, True),
        (ZEROES, MIB, False),
        (ZEROES, MIB + 512, True),
    ],
)
@pytest.mark.parametrize("flags", [0, FUA])
def test_what_takes_long_is_not_for_the_connection_s_thread(
    command: int, length: int, offloaded: bool, flags: int
) -> None:
    for more in (0, NO_HOLE) if command == ZEROES else (0,):
        with Link(InlineRamUnit(block_count=1 << 14)) as link:
            connection = link.connection
            data = link.request(command, 0, length, flags | more)
            connection.buffer()[: len(data)] = data
            connection.received(len(data))
            assert bool(connection.tasks.operating) is offloaded
            while connection.tasks.operating:
                link.wait()


class Counting(InlineRamUnit):
    """Tells of `at_once` blocks at a time; each `run` blocks are a hole, then data."""

    at_once = run = 1

    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        self._begin("extents", lba, blocks)
        for at in range(lba, lba + min(blocks, self.at_once)):
            hole = at // self.run % 2 == 0
            yield Extent(at, 1, mapped=not hole, zero=hole)


@pytest.mark.parametrize("replies", [Replies.STRUCTURED, Replies.EXTENDED])
def test_how_often_a_unit_is_asked_for_its_holes(replies: Replies) -> None:
    unit = Counting(block_count=1 << 13)
    with Link(unit, replies) as link:
        assert len(link.do(STATUS, 0, link.size).extents) == 64
        assert unit.calls["extents"] == 64
        assert link.do(STATUS, 0, link.size, CommandFlag.REQ_ONE).extents == ((512, 3),)
        assert unit.calls["extents"] == 66  # until it was sure where the first one ends
        unit.run = 1 << 20
        assert link.do(STATUS, 0, link.size).extents == ((64 * 512, 3),)
        unit.run, unit.at_once = 1, 1 << 20
        found = link.do(STATUS, 0, link.size).extents
        assert len(found) == 1024
        assert set(found) == {(512, 3), (512, 0)}
        unit.at_once = 100
        unit.calls.clear()
        found = link.do(STATUS, 0, link.size).extents
        assert len(found) == 1024
        assert unit.calls["extents"] == 11


@pytest.mark.parametrize("replies", [Replies.STRUCTURED, Replies.EXTENDED])
def test_parts_of_a_read_are_few(replies: Replies) -> None:
    unit = Counting()
    unit.at_once = 1 << 20
    with Link(unit, replies) as link:
        answer = link.do(READ, 0, MIB)
        assert answer.holes == tuple((at * 512, 512) for at in range(0, 63, 2))
        assert answer.data == bytes(MIB)
        assert unit.calls["read"] == 32  # the last one to the end
        assert not link.do(READ, 0, MIB, DF).holes


def test_a_read_goes_on_if_nobody_knows_the_holes() -> None:
    class Forgetful(InlineRamUnit):
        def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
            raise errors.MediumError(lba=lba)

    unit = Forgetful()
    unit.memory[:] = b"k" * len(unit.memory)
    with Link(unit) as link:
        assert link.read(0, MIB) == b"k" * MIB
        assert link.do(STATUS, 0, MIB).error == Error.EIO


def test_a_payload_of_block_status_is_short() -> None:
    with Link(InlineRamUnit(), Replies.EXTENDED) as link:
        for length in (4, 10, 4100, MIB):
            answer = link.do(STATUS, 0, length, 0, bytes(length))
            assert answer.error == Error.EINVAL
            assert answer.message == "the payload has a wrong length"
        assert not link.do(STATUS, 0, 512).error
