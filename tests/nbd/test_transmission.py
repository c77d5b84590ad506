"""The transmission phase: every command and flag, every form of reply, units of every kind."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from typing import Any

import pytest

from tests.kit.nbd_link import Chunks, Link
from tests.kit.units import KINDS, InlineRamUnit, RamUnit
from userdisk import errors
from userdisk.nbd import wire
from userdisk.nbd.export import MAX_PAYLOAD
from userdisk.nbd.replies import Replies
from userdisk.nbd.wire import Command, CommandFlag, Error, TransmissionFlag
from userdisk.unit import Extent, Inline

READ, WRITE, FLUSH, TRIM = Command.READ, Command.WRITE, Command.FLUSH, Command.TRIM
ZEROES, CACHE, STATUS = Command.WRITE_ZEROES, Command.CACHE, Command.BLOCK_STATUS
FUA, NO_HOLE, DF = CommandFlag.FUA, CommandFlag.NO_HOLE, CommandFlag.DF
REQ_ONE, FAST_ZERO = CommandFlag.REQ_ONE, CommandFlag.FAST_ZERO

each_form = pytest.mark.parametrize("replies", Replies, ids=lambda replies: replies.name.lower())
each_kind = pytest.mark.parametrize("kind", KINDS)


class SparseUnit(InlineRamUnit):
    """Blocks 256 to 511 are a hole; the rest is data in runs of the lengths of `runs`."""

    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        self._begin("extents", lba, blocks)
        end = lba + blocks
        for start, stop, hole in ((0, 256, False), (256, 512, True), (512, 1 << 40, False)):
            low, high = max(lba, start), min(end, stop)
            if low < high:
                yield Extent(low, high - low, mapped=not hole, zero=hole)


@each_form
@each_kind
def test_a_random_trace_leaves_what_a_model_says(replies: Replies, kind: str) -> None:
    chosen = random.Random(f"{replies}{kind}")
    unit = KINDS[kind](block_count=4096, block_length=512, max_transfer_length=16 << 10)
    model = bytearray(unit.parameters.size)
    with Link(unit, replies, piece=chosen.choice((0, 130, 4096, 70000))) as link:
        for _ in range(25):
            requests: list[tuple[bytes, int, int]] = []
            expected: list[bytes | None] = []
            taken: set[int] = set()
            for _ in range(chosen.randrange(1, 12)):
                blocks = chosen.choice((1, 8, 8, 8, 40, 200))
                lba = chosen.randrange(4096 - blocks)
                if taken & set(range(lba, lba + blocks)):
                    continue  # what overlaps at the same time has no order
                taken |= set(range(lba, lba + blocks))
                offset, length = lba * 512, blocks * 512
                command = chosen.choice((READ, READ, READ, WRITE, WRITE, WRITE, ZEROES, TRIM))
                flags = chosen.choice((0, 0, 0, FUA))
                data = chosen.randbytes(length) if command == WRITE else b""
                requests.append(
                    (
                        link.request(command, offset, length, flags, data),
                        offset,
                        length if command == READ else 0,
                    )
                )
                expected.append(bytes(model[offset : offset + length]) if command == READ else None)
                if command != READ:
                    model[offset : offset + length] = data or bytes(length)
            for answer, wanted in zip(link.answers(requests), expected, strict=True):
                assert not answer.error
                assert wanted is None or answer.data == wanted
        assert unit.memory == model


def refused(link: Link) -> list[tuple[Error, tuple[Any, ...]]]:
    """Requests that must be refused, and with what."""
    size, block = link.size, link.minimum
    end = size - block
    found: list[tuple[Error, tuple[Any, ...]]] = [
        (Error.EINVAL, (READ, 0, 0)),
        (Error.EINVAL, (READ, 1, block)),
        (Error.EINVAL, (READ, 0, block + 1)),
        (Error.EINVAL, (READ, size, block)),
        (Error.EINVAL, (READ, end, 2 * block)),
        (Error.EINVAL, (READ, (1 << 64) - block, block)),
        (Error.EINVAL, (READ, 0, MAX_PAYLOAD + block)),
        (Error.EINVAL, (WRITE, 1, block, 0, bytes(block))),
        (Error.EINVAL, (WRITE, 0, block + 1, 0, bytes(block + 1))),
        (Error.ENOSPC, (WRITE, end, 2 * block, 0, bytes(2 * block))),
        (Error.ENOSPC, (WRITE, size, block, FUA, bytes(block))),
        (Error.EINVAL, (WRITE, 0, block, NO_HOLE, bytes(block))),
        (Error.EINVAL, (WRITE, 0, block, DF, bytes(block))),
        (Error.EINVAL, (TRIM, 0, 0)),
        (Error.EINVAL, (TRIM, 1, block)),
        (Error.EINVAL, (TRIM, end, 2 * block)),
        (Error.EINVAL, (TRIM, 0, block, FAST_ZERO)),
        (Error.ENOSPC, (ZEROES, end, 2 * block)),
        (Error.EINVAL, (ZEROES, 3, block)),
        (Error.EINVAL, (ZEROES, 0, block, REQ_ONE)),
        (Error.EINVAL, (CACHE, size, block)),
        (Error.EINVAL, (CACHE, 0, block, NO_HOLE)),
        (Error.EINVAL, (FLUSH, 0, block)),
        (Error.EINVAL, (FLUSH, block, 0)),
        (Error.EINVAL, (FLUSH, 0, 0, DF)),
        (Error.EINVAL, (STATUS, size, block)),
        (Error.EINVAL, (STATUS, 0, 0)),
        (Error.EINVAL, (STATUS, 1, block)),
        (Error.EINVAL, (STATUS, 0, block, NO_HOLE)),
        (Error.EINVAL, (8, 0, block)),
        (Error.EINVAL, (99, 0, 0)),
        (Error.EINVAL, (READ, 0, block, 1 << 6)),
        (Error.EINVAL, (READ, 0, block, 1 << 15)),
    ]
    if link.replies is Replies.SIMPLE:
        found.append((Error.EINVAL, (READ, 0, block, DF)))
        found.append((Error.EINVAL, (STATUS, 0, block)))
    if link.replies is not Replies.EXTENDED:
        flag = CommandFlag.PAYLOAD_LEN
        found.append((Error.EINVAL, (STATUS, 0, block, flag)))
        found.append((Error.EINVAL, (WRITE, 0, block, flag, bytes(block))))
    else:
        found.append((Error.EINVAL, (READ, 0, block, 0, bytes(block))))
        found.append((Error.EINVAL, (TRIM, 0, block, 0, bytes(block))))
    return found


@each_form
@each_kind
@pytest.mark.parametrize("block_length", [512, 4096])
def test_what_is_wrong_is_refused_and_changes_nothing(
    replies: Replies, kind: str, block_length: int
) -> None:
    unit = KINDS[kind](block_count=64, block_length=block_length)
    unit.memory[:] = before = random.Random(3).randbytes(len(unit.memory))
    with Link(unit, replies) as link:
        for error, request in refused(link):
            assert link.do(*request).error == error, request
            assert link.read(0, link.minimum) == before[: link.minimum]
        # and all of them at once, among requests that are good
        burst = []
        for _, request in refused(link):
            burst += [(link.request(*request), request[1], 0)]
            burst += [(link.request(READ, link.minimum, link.minimum), link.minimum, link.minimum)]
        answers = link.answers(burst)
        assert [each.error for each in answers[::2]] == [error for error, _ in refused(link)]
        good = before[link.minimum : 2 * link.minimum]
        assert all(each.data == good for each in answers[1::2])
        assert unit.memory == before
        assert set(unit.calls) <= {"read", "open"}


@each_form
def test_a_read_only_export(replies: Replies) -> None:
    unit = InlineRamUnit()
    with Link(unit, replies, read_only=True) as link:
        assert link.flags & TransmissionFlag.READ_ONLY
        for request in ((WRITE, 0, 512, 0, bytes(512)), (TRIM, 0, 512), (ZEROES, 0, 512)):
            assert link.do(*request).error == Error.EPERM
        assert not link.do(FLUSH).error
        assert link.read(0, 512) == bytes(512)
    assert unit.calls == {"read": 1, "flush": 2}  # one of them of closing the unit


@each_form
@each_kind
def test_fua_and_flush_reach_the_unit(replies: Replies, kind: str) -> None:
    unit = KINDS[kind](max_transfer_length=4096)
    with Link(unit, replies) as link:
        assert not link.write(0, bytes(1024), FUA)
        assert unit.log[-1] == ("write", 0, 2, True)
        assert not link.write(0, bytes(1024))
        assert unit.log[-1] == ("write", 0, 2, False)
        assert not link.write(0, bytes(10240), FUA)
        assert [each[0] for each in unit.log[-4:]] == ["write", "write", "write", "flush"]
        assert not link.do(FLUSH).error
        assert unit.log[-1][0] == "flush"
        assert not link.do(FLUSH, flags=FUA).error
        assert not link.do(TRIM, 0, 1024, FUA).error
        assert [each[0] for each in unit.log[-2:]] == ["unmap", "flush"]
        assert not link.do(ZEROES, 0, 1024, FUA).error
        assert [each[0] for each in unit.log[-2:]] == ["unmap", "flush"]
        assert not link.do(ZEROES, 0, 1024, FUA | NO_HOLE).error
        assert [each[0] for each in unit.log[-2:]] == ["write", "flush"]
        assert not link.do(READ, 0, 1024, FUA).error


@each_form
def test_zeroes_with_and_without_holes(replies: Replies) -> None:
    unit = InlineRamUnit(max_transfer_length=4096)
    with Link(unit, replies) as link:
        assert not link.write(0, b"x" * 16384)
        assert link.flags & TransmissionFlag.SEND_FAST_ZERO
        assert not link.do(ZEROES, 512, 1024, FAST_ZERO).error
        assert unit.log[-1] == ("unmap", 1, 2, False)
        assert link.do(ZEROES, 2048, 1024, FAST_ZERO | NO_HOLE).error == Error.ENOTSUP
        assert not link.do(ZEROES, 4096, 10240, NO_HOLE).error
        assert [each[:3] for each in unit.log[-3:]] == [
            ("write", 8, 8),
            ("write", 16, 8),
            ("write", 24, 4),
        ]
        expected = b"x" * 512 + bytes(1024) + b"x" * 2560 + bytes(10240) + b"x" * 2048
        assert link.read(0, 16384) == expected


def test_a_unit_without_unmap_is_trimmed_in_vain_and_not_zeroed_fast() -> None:
    unit = InlineRamUnit(unmap_supported=False)
    with Link(unit) as link:
        assert not link.flags & TransmissionFlag.SEND_TRIM
        assert not link.write(0, b"x" * 4096)
        assert not link.do(TRIM, 0, 4096).error
        assert link.read(0, 4096) == b"x" * 4096
        assert link.do(ZEROES, 0, 512, FAST_ZERO).error == Error.ENOTSUP
        assert not link.do(ZEROES, 0, 512).error
        assert link.read(0, 1024) == bytes(512) + b"x" * 512
    assert not unit.calls["unmap"]


@pytest.mark.parametrize("replies", [Replies.STRUCTURED, Replies.EXTENDED])
def test_a_sparse_read_shows_its_holes(replies: Replies) -> None:
    unit = SparseUnit(max_transfer_length=32 << 10)
    content = random.Random(1).randbytes(len(unit.memory))
    content = content[: 256 * 512] + bytes(256 * 512) + content[512 * 512 :]
    unit.memory[:] = content
    with Link(unit, replies) as link:
        answer = link.do(READ, 0, 1 << 20)
        assert answer.data == content
        assert answer.holes == ((256 * 512, 256 * 512),)
        answer = link.do(READ, 200 * 512, 100 * 512)  # too short to be searched
        assert answer.data == content[200 * 512 : 300 * 512]
        assert not answer.holes
        answer = link.do(READ, 128 * 512, 256 * 512)
        assert answer.data == content[128 * 512 : 384 * 512]
        assert answer.holes == ((256 * 512, 128 * 512),)
        answer = link.do(READ, 0, 1 << 20, DF)
        assert answer.data == content
        assert not answer.holes
        assert link.do(READ, 256 * 512, 256 * 512).holes == ((256 * 512, 256 * 512),)


def test_a_read_with_too_many_holes_is_data_at_its_end() -> None:
    class Striped(InlineRamUnit):
        def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
            for at in range(lba, lba + blocks):
                yield Extent(at, 1, mapped=at % 2 == 0, zero=at % 2 == 1)

    unit = Striped()
    for lba in range(0, 2048, 2):
        unit.memory[lba * 512 : lba * 512 + 512] = bytes([1 + lba % 255]) * 512
    with Link(unit) as link:
        answer = link.do(READ, 0, 1 << 20)
        assert answer.data == unit.memory
        assert 10 < len(answer.holes) < 64


@pytest.mark.parametrize("replies", [Replies.STRUCTURED, Replies.EXTENDED])
def test_block_status(replies: Replies) -> None:
    with Link(SparseUnit(), replies) as link:
        size = link.size
        assert link.do(STATUS, 0, size).extents == (
            (256 * 512, 0),
            (256 * 512, 3),
            (size - 512 * 512, 0),
        )
        assert link.do(STATUS, 0, size, REQ_ONE).extents == ((256 * 512, 0),)
        assert link.do(STATUS, 300 * 512, 512).extents == ((512, 3),)
        assert link.do(STATUS, 255 * 512, 1024, REQ_ONE).extents == ((512, 0),)
    with Link(InlineRamUnit(), replies) as link:
        assert link.do(STATUS, 512, 4096).extents == ((4096, 0),)
    with Link(InlineRamUnit(), replies, allocation=False) as link:
        assert link.do(STATUS, 512, 4096).error == Error.EINVAL


class Vast(RamUnit):
    """16 TiB that are one extent, or nearly."""

    block_count = 1 << 35
    inline = Inline.ALL

    def __init__(self) -> None:
        super(RamUnit, self).__init__()
        self.zeroed: list[tuple[int, int]] = []

    def unmap(self, extents: Any) -> None:
        self.zeroed += extents

    def flush(self) -> None: ...


def test_lengths_over_32_bits() -> None:
    with Link(Vast(), Replies.STRUCTURED) as link:
        # as much as 32 bits can say, in whole blocks
        assert link.do(STATUS, 0, 0xFFFFFE00).extents == ((0xFFFFFE00, 0),)
    unit = Vast()
    with Link(unit, Replies.EXTENDED) as link:
        assert link.do(STATUS, 0, 1 << 44).extents == ((1 << 44, 0),)
        assert link.do(STATUS, 0, (1 << 44) + 512).error == Error.EINVAL
        assert not link.do(ZEROES, 1 << 20, 1 << 40).error
        assert sum(blocks for _, blocks in unit.zeroed) == 1 << 31
        assert unit.zeroed[0][0] == 1 << 11


def test_block_status_with_payload() -> None:
    def ask(link: Link, length: int, *ids: int) -> Chunks:
        payload = struct.pack(f">Q{len(ids)}I", length, *ids)
        return link.do(STATUS, 0, len(payload), 0, payload)

    with Link(SparseUnit(), Replies.EXTENDED) as link:
        assert ask(link, 512 * 512, 1).extents == ((256 * 512, 0), (256 * 512, 3))
        assert ask(link, 512 * 512).error == Error.EINVAL
        assert ask(link, 512 * 512, 2).error == Error.EINVAL
        assert ask(link, 512 * 512, 1, 2).error == Error.EINVAL
        assert ask(link, 512 * 512, 1, 1).error == Error.EINVAL
        assert ask(link, 0, 1).error == Error.EINVAL
        assert ask(link, 1 << 60, 1).error == Error.EINVAL
        assert link.do(STATUS, 0, 7, 0, bytes(7)).error == Error.EINVAL
        assert link.do(STATUS, 0, 9, 0, bytes(9)).error == Error.EINVAL
        assert link.do(STATUS, 0, 8000, 0, bytes(8000)).error == Error.EINVAL
        assert ask(link, 512, 1).extents == ((512, 0),)


FAILURES: list[tuple[BaseException, Error]] = [
    (errors.MediumError(lba=3), Error.EIO),
    (OSError(28, "full"), Error.ENOSPC),
    (errors.OutOfMemory(), Error.ENOMEM),
    (errors.WriteProtected(), Error.EPERM),
    (errors.NotReady(), Error.EIO),
    (errors.Unsupported(), Error.ENOTSUP),
    (ValueError("a bug"), Error.EIO),
    (SystemExit(3), Error.EIO),
]


@each_form
@each_kind
@pytest.mark.parametrize("failure", FAILURES, ids=lambda each: type(each[0]).__name__)
def test_what_a_unit_raises(
    replies: Replies, kind: str, failure: tuple[BaseException, Error]
) -> None:
    unit = KINDS[kind](max_transfer_length=2048)
    with Link(unit, replies) as link:

        def fault(name: str, lba: int, blocks: int) -> None:
            if lba <= 3 < lba + blocks or name == "flush":
                raise failure[0]

        unit.fault = fault
        for request in (
            (READ, 0, 2048),
            (READ, 0, 8192),
            (WRITE, 0, 2048, 0, bytes(2048)),
            (WRITE, 0, 8192, 0, bytes(8192)),
            (ZEROES, 0, 2048, NO_HOLE),
            (TRIM, 0, 2048),
            (FLUSH,),
        ):
            answer = link.do(*request)
            assert answer.error == failure[1], request
            known = failure[1] is Error.EIO and isinstance(failure[0], errors.MediumError)
            if replies is not Replies.SIMPLE and known and request[0] != FLUSH:
                assert answer.offset == 3 * 512
            assert link.read(4096, 512) == bytes(512)  # the others live on
        unit.fault = None


@each_form
@each_kind
def test_a_read_of_the_wrong_length_is_an_error_of_that_request(
    replies: Replies, kind: str
) -> None:
    class Short(KINDS[kind]):  # type: ignore[misc]
        pass

    unit = Short()
    whole = unit.read
    wrong = True

    def read(lba: int, blocks: int, fua: bool) -> Any:
        return b"short" if wrong else bytes(blocks * 512)

    async def read_async(lba: int, blocks: int, fua: bool) -> Any:
        return read(lba, blocks, fua)

    import inspect

    unit.read = read_async if inspect.iscoroutinefunction(whole) else read
    with Link(unit, replies) as link:
        assert link.do(READ, 0, 512).error == Error.EIO
        wrong = False
        assert link.read(0, 512) == bytes(512)


@each_form
@each_kind
def test_disc_is_not_answered_and_what_is_under_way_is(replies: Replies, kind: str) -> None:
    unit = KINDS[kind]()
    with Link(unit, replies) as link:
        before = link.request(WRITE, 0, 512, 0, b"y" * 512)
        link.send(before + link.request(Command.DISC) + link.request(READ, 0, 512))
        while not link.connection.closing:
            link.wait()
        size = {Replies.SIMPLE: 16, Replies.STRUCTURED: 20, Replies.EXTENDED: 32}[replies]
        assert len(link.received) == size
        assert unit.memory[:512] == b"y" * 512
        assert unit.calls["read"] == 0


@pytest.mark.parametrize(
    "data",
    [
        bytes(28),
        wire.REQUEST.pack(wire.EXTENDED_REQUEST_MAGIC, 0, 0, bytes(8), 0, 512) + bytes(4),
        wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, WRITE, bytes(8), 0, MAX_PAYLOAD + 512),
        wire.REQUEST.pack(wire.REQUEST_MAGIC, 0, WRITE, bytes(8), 0, 0xFFFFFFFF),
    ],
)
def test_what_ends_the_connection(data: bytes) -> None:
    with Link(InlineRamUnit()) as link:
        link.send(data)
        assert link.connection.closing
        assert not link.received


def test_what_ends_a_connection_with_extended_headers() -> None:
    layout, magic = wire.EXTENDED_REQUEST, wire.EXTENDED_REQUEST_MAGIC
    for data in (
        layout.pack(wire.REQUEST_MAGIC, 0, READ, bytes(8), 0, 512),
        layout.pack(magic, CommandFlag.PAYLOAD_LEN, WRITE, bytes(8), 0, MAX_PAYLOAD + 512),
        layout.pack(magic, CommandFlag.PAYLOAD_LEN, READ, bytes(8), 0, 1 << 40),
        layout.pack(magic, 0, WRITE, bytes(8), 0, 512),
    ):
        with Link(InlineRamUnit(), Replies.EXTENDED) as link:
            link.send(data)
            assert link.connection.closing
            assert not link.received
