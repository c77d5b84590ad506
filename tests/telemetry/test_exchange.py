"""Commands and answers out of bytes: however they come in pieces."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from tests.kit.link import Link, TargetEnd, environment_of, target_of
from tests.kit.nbd_link import Link as NbdLink
from tests.kit.spd_link import FLUSH, READ, WRITE, request, unmap
from tests.kit.spd_link import Link as PipeLink
from tests.kit.units import InlineRamUnit
from userdisk.errors import MediumError
from userdisk.iscsi.initiator import Task
from userdisk.nbd.replies import Replies
from userdisk.nbd.wire import Command, CommandFlag
from userdisk.scsi import sense
from userdisk.telemetry.boundary import begun
from userdisk.telemetry.exchange import (
    Decoder,
    Ended,
    Iscsi,
    Nbd,
    Pipe,
    nbd_status,
    nbd_words,
    pipe_words,
)


def _bad(name: str, lba: int, blocks: int) -> None:
    if lba == 9 and name != "unmap":
        raise MediumError(lba=9)


class Tapped(TargetEnd):
    """Has a decoder see what it is fed, as the portal does."""

    decoder: Decoder | None = None
    digests = False
    seen: list[Ended]

    def feed(self, data: bytes, piece: int = 1 << 30) -> bytes:
        sent = [self.settle()]
        view = memoryview(data)
        while view and self.reading:
            place = self.connection.buffer()
            size = min(len(place), len(view), piece)
            place[:size] = view[:size]
            if self.decoder is not None:
                self.decoder.received(1.0, bytes(view[:size]))
            view = view[size:]
            self.connection.received(size)
            sent.append(self.settle())
        return b"".join(sent)

    def settle(self) -> bytes:
        out = super().settle()
        if self.decoder is not None:
            self.seen += self.decoder.sent(2.0, out)
        return out


@pytest.mark.parametrize("digests", [False, True])
@pytest.mark.parametrize("piece", [1, 100, 4097, 1 << 30])
def test_iscsi(digests: bool, piece: int) -> None:
    unit = InlineRamUnit(block_count=1 << 10)
    unit.fault = _bad
    link = Link(environment_of(target_of(unit)), header_digest=digests, data_digest=digests)
    end = Tapped.__new__(Tapped)
    end.__dict__.update(link.end.__dict__)
    end.seen = []
    link.end = end
    link.login().ready()
    incoming = link.end.connection.incoming
    assert incoming.header_digest is incoming.data_digest is digests
    end.decoder = Iscsi(header_digest=digests, data_digest=digests)
    link.piece = piece
    rng = random.Random(piece)
    asked: list[bytes] = []
    tasks: list[Task] = []
    count = 60 if piece > 1 else 6
    for number in range(count):
        lba, blocks = rng.randrange(900), rng.choice([1, 8, 64] if piece > 1 else [1])
        head = lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"
        if number % 3 == 0:
            cdb = b"\x2a\0" + head
            tasks.append(link.session.command(cdb, data_out=rng.randbytes(blocks * 512)))
        elif number % 3 == 1:
            cdb = b"\x28\0" + head
            tasks.append(link.session.command(cdb, read_length=blocks * 512))
        else:
            cdb = b"\x28\0" + (9).to_bytes(4, "big") + b"\0\0\1\0"
            tasks.append(link.session.command(cdb, read_length=512))
        asked.append(cdb)
        if rng.random() < 0.3:
            link.session.ping(b"x" * rng.randrange(9))
        link.pump()
    assert [ended.command[:10] for ended in end.seen] == asked
    assert [(ended.asked, ended.ended, ended.lun) for ended in end.seen] == [(1.0, 2.0, 0)] * count
    for ended, task in zip(end.seen, tasks, strict=True):
        assert ended.status == task.status
        assert ended.sense == task.sense
    assert sense.decode(end.seen[2].sense).code == 0x1100
    link.end.disconnect()


@pytest.mark.parametrize("cut", [1, 30, 48, 100, 300, 40000])
def test_iscsi_from_the_middle_of_a_command(cut: int) -> None:
    """Whoever looks in the middle of a message finds the beginning of the next."""
    link = Link(environment_of(target_of(InlineRamUnit(block_count=1 << 10)))).login()
    link.ready()
    for lba in range(3):
        link.session.command(
            b"\x2a\0" + lba.to_bytes(4, "big") + b"\0\0\x64\0", data_out=bytes(100 * 512)
        )
    data = b"".join(link.session.take_output())
    connection = link.end.connection
    for at in (0, cut):  # piece by piece, and from `cut` on it is looked at
        room = connection.buffer()
        rest = data[at : cut if not at else None]
        room_at = 0
        if at:
            found = begun(connection)
            assert found is not None
            decoder = Iscsi()
            seen_from = found.here + data[cut:][found.rest :]
            decoder.received(1.0, seen_from)
        while room_at < len(rest):
            room = connection.buffer()
            count = min(len(room), len(rest) - room_at)
            room[:count] = rest[room_at : room_at + count]
            room_at += count
            connection.received(count)
            link.end.settle() if not at else None
    output = b"".join(map(bytes, connection.take_output()))
    seen = [int.from_bytes(ended.command[2:6], "big") for ended in decoder.sent(2.0, output)]
    expected = [lba for lba in range(3) if lba * (48 + 51200) + 48 >= cut or lba * 51248 >= cut]
    assert seen[-1] == 2 and set(seen) >= {lba for lba in expected if lba * 51248 >= cut}
    link.end.disconnect()


@pytest.mark.parametrize("replies", list(Replies))
@pytest.mark.parametrize("piece", [1, 37, 5000, 1 << 30])
def test_nbd(replies: Replies, piece: int) -> None:
    unit = InlineRamUnit(block_count=1 << 10)
    unit.fault = _bad
    with NbdLink(unit, replies, allocation=replies is not Replies.SIMPLE) as link:
        decoder, seen = Nbd(replies), list[Ended]()
        sent = link.send

        def send(data: bytes) -> None:
            before = len(link.received)
            for at in range(0, len(data), piece):
                decoder.received(1.0, data[at : at + piece])
            sent(data)
            seen.extend(decoder.sent(2.0, bytes(link.received[before:])))

        link.send = send  # type: ignore[method-assign]
        asked: list[tuple[int, int, int, int]] = []
        for command, offset, length, flags, error in [
            (Command.WRITE, 0, 70000 // 512 * 512, CommandFlag.FUA, 0),
            (Command.READ, 512, 66048, 0, 0),
            (Command.READ, 9 * 512, 512, 0, 5),
            (Command.WRITE, 9 * 512, 512, 0, 5),
            (Command.FLUSH, 0, 0, 0, 0),
            (Command.TRIM, 4096, 8192, 0, 0),
            (Command.READ, 1 << 40, 512, 0, 22),
            (Command.READ, 0, 4096, 0, 0),
        ]:
            data = bytes(length) if command == Command.WRITE else b""
            assert link.do(command, offset, length, flags, data).error == error
            asked.append((command, offset, length, error))
        found = []
        for ended in seen:
            words = nbd_words(ended.command)
            found.append((words.partition(",")[0], ended.status))
            assert (ended.asked, ended.ended) == (1.0, 2.0)
        assert found == [(Command(command).name, error) for command, *_, error in asked]
        assert nbd_words(seen[0].command) == "WRITE, 69632 bytes at 0, FUA"
        assert nbd_words(seen[4].command) == "FLUSH"


@pytest.mark.parametrize("piece", [1, 47, 700, 1 << 30])
def test_pipe(piece: int) -> None:
    unit = InlineRamUnit()
    unit.fault = _bad
    seen: list[Ended] = []
    with PipeLink(unit) as link:
        decoder = Pipe()
        requests = [
            request(WRITE, 1, 7, 4, fua=True, payload=bytes(2048)),
            request(READ, 2, 7, 4),
            request(READ, 3, 9, 1),
            request(FLUSH, 4),
            unmap(5, [(7, 1), (10, 1)]),
            request(READ, 6, 1 << 40, 1),
            request(77, 7),
        ]
        data = b"".join(requests)
        for at in range(0, len(data), piece):
            before = len(link.received)
            decoder.received(1.0, data[at : at + piece])
            link.send(data[at : at + piece])
            seen += decoder.sent(2.0, bytes(link.received[before:]))
    assert [pipe_words(ended.command) for ended in seen] == [
        "WRITE, 4 blocks at 7, FUA",
        "READ, 4 blocks at 7",
        "READ, 1 block at 9",
        "FLUSH",
        "UNMAP, 2 ranges",
        f"READ, 1 block at {1 << 40}",
        "request 77",
    ]
    assert {(ended.asked, ended.ended, ended.lun) for ended in seen} == {(1.0, 2.0, 0)}
    failed = {at: sense.decode(ended.sense) for at, ended in enumerate(seen) if ended.status}
    assert {at: (found.key, found.code) for at, found in failed.items()} == {
        2: (3, 0x1100), 5: (5, 0x2100), 6: (5, 0x2000),
    }  # fmt: skip
    assert failed[2].information == 9


def test_words_for_what_is_unknown() -> None:
    header = bytes.fromhex("25609513 8000 00ff") + bytes(8) + bytes(12)
    assert nbd_words(header).startswith("command 255, 0 bytes at 0")
    assert (nbd_status(0), nbd_status(5), nbd_status(4711)) == ("done", "EIO", "error 4711")


def test_what_is_never_answered_is_forgotten() -> None:
    decoder = Iscsi()
    header = bytearray(48)
    header[0] = 1
    for itt in range(5000):
        header[16:20] = itt.to_bytes(4, "big")
        decoder.received(1.0, bytes(header))
    assert len(decoder._asked) == 4096
    nbd = Nbd(Replies.STRUCTURED)
    for cookie in range(5000):
        header = bytearray.fromhex("25609513 0000 0000") + cookie.to_bytes(8, "big") + bytes(12)
        nbd.received(1.0, bytes(header))
    assert len(nbd._asked) == 4096
    pipe = Pipe()
    for hint in range(5000):
        pipe.received(1.0, request(READ, hint, 0, 1))
    assert len(pipe._asked) == 4096


@pytest.mark.parametrize(
    "make", [Iscsi, lambda: Nbd(Replies.SIMPLE), lambda: Nbd(Replies.EXTENDED), Pipe]
)
def test_any_bytes(make: Callable[[], Decoder]) -> None:
    """A peer may send anything: it is bounded, and raises nothing."""
    rng = random.Random(5)
    for _ in range(300):
        decoder = make()
        for _ in range(20):
            decoder.received(1.0, rng.randbytes(rng.randrange(200)))
            answers: Sequence[Ended] = list(decoder.sent(2.0, rng.randbytes(rng.randrange(200))))
            assert len(answers) <= 200 / 16  # the shortest answer has 16 bytes
            for ended in answers:
                assert nbd_words(ended.command).isprintable()
