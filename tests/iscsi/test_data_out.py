"""Data-out: immediate, unsolicited and solicited data, in every division; budgets; broken rules."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.link import Link, close, environment_of, target_of
from tests.kit.units import KINDS, InlineRamUnit, RamUnit
from userdisk.budget import PROCESS_LIMIT, SESSION_LIMIT
from userdisk.iscsi import pdu
from userdisk.iscsi.initiator import Task

BLOCKS = 65536  # 32 MiB of 512 bytes


class Disk:
    """A unit behind a link."""

    def __init__(self, unit: RamUnit | None = None, **settings: Any) -> None:
        self.unit = unit or InlineRamUnit(block_count=BLOCKS)
        self.target = target_of(self.unit)
        self.environment = environment_of(self.target)
        self.link = Link(self.environment, **settings).login()
        self.link.ready()
        self.tasks = self.link.end.connection.tasks
        self.data = random.Random(4).randbytes(1 << 20)

    def write(self, length: int, lba: int = 0, expected: int | None = None) -> Task:
        blocks = length // self.unit.block_length
        return self.link.session.command(
            struct.pack(">BBQIxx", 0x8A, 0, lba, blocks),
            data_out=memoryview(self.data)[:length],
            expected=expected,
        )

    def alive(self) -> None:
        """It answers a ping."""
        answer = self.link.end.feed(_nop(self.link, b"alive!!!"))
        assert answer[0] == pdu.TargetOpcode.NOP_IN
        assert b"alive!!!" in answer

    def close(self) -> None:
        self.link.end.disconnect()
        # everything that was taken from the budgets is back
        assert not self.tasks._bursts._in_flight
        assert not self.tasks.count
        assert self.environment.budget._left == PROCESS_LIMIT
        close(self.target)


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.close()


# -- every division into bursts --------------------------------------------------------------------


@pytest.mark.parametrize("first", [512, 700, 1000, 4096, 65536])
@pytest.mark.parametrize("burst", [512, 1000, 5000, 65536])
@pytest.mark.parametrize(("immediate", "r2t"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("block", [512, 4096])
def test_bursts_of_any_size(first: int, burst: int, immediate: bool, r2t: bool, block: int) -> None:
    """Bursts that end inside a block, and bursts that are smaller than one."""
    unit = InlineRamUnit(block_count=64, block_length=block)
    disk = Disk(
        unit,
        piece=3001,
        first_burst_length=first,
        max_burst_length=burst,
        immediate_data=immediate,
        initial_r2t=r2t,
    )
    length = 5 * 4096
    write = disk.link.run(disk.write(length))
    assert (write.status, write.residual) == (0, 0)
    assert unit.memory[:length] == disk.data[:length]
    unsolicited = min(first, burst, length) if immediate or not r2t else 0
    assert write.r2ts >= -(-(length - unsolicited) // burst)
    assert write.r2ts <= -(-length // min(burst, block)) + 1
    disk.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("digests", [False, True])
def test_large_writes_of_every_kind_of_unit(kind: str, digests: bool) -> None:
    unit = KINDS[kind](block_count=BLOCKS, max_transfer_length=1 << 18)
    disk = Disk(unit, header_digest=digests, data_digest=digests, piece=100_000)
    tasks = [disk.write(1 << 20, lba=number << 11) for number in range(3)]
    for task in tasks:
        assert disk.link.run(task).status == 0
    assert unit.memory[: 3 << 20] == disk.data * 3
    disk.close()


def test_less_announced_than_the_cdb_asks_for(disk: Disk) -> None:
    task = disk.link.session.command(
        struct.pack(">BBQIxx", 0x8A, 0, 0, 1024), data_out=disk.data[: 300 * 512]
    )
    disk.link.run(task)
    assert (task.status, task.residual) == (0, -(1024 - 300) * 512)
    assert disk.unit.memory[: 301 * 512] == disk.data[: 300 * 512] + bytes(512)


def test_more_announced_than_the_cdb_asks_for(disk: Disk) -> None:
    task = disk.link.session.command(
        struct.pack(">BBQIxx", 0x8A, 0, 0, 200), data_out=disk.data[: 300 * 512]
    )
    disk.link.run(task)
    assert (task.status, task.residual) == (0, 100 * 512)
    assert disk.unit.memory[: 300 * 512] == disk.data[: 200 * 512] + bytes(100 * 512)
    disk.alive()


# -- budgets -------------------------------------------------------------------------------------


def test_many_large_writes_take_turns(disk: Disk) -> None:
    """Each wants a burst of 1 MiB; never more than the session's budget is asked for at once."""
    disk.link.session.command(bytes(6))
    asked, most = 0, 0
    tasks = [disk.write(1 << 20, lba=(number % 32) << 11) for number in range(40)]
    while not all(task.done for task in tasks):
        sent = b"".join(bytes(part) for part in disk.link.session.take_output())
        answer = disk.link.end.feed(sent)
        most = max(most, disk.tasks._bursts._in_flight)
        disk.link.session.received(answer)
        asked += 1
        assert asked < 1000, "no progress"
    assert {task.status for task in tasks} == {0}
    assert SESSION_LIMIT - (1 << 20) <= most <= SESSION_LIMIT
    assert disk.unit.memory[: 32 << 20] == disk.data * 32


def test_immediate_data_that_has_to_wait_for_budget() -> None:
    """Part of a block came with the command; the rest is asked for much later."""
    disk = Disk(
        InlineRamUnit(block_count=BLOCKS // 8, block_length=4096),
        first_burst_length=1000,
        initial_r2t=True,
    )
    large = [disk.write(1 << 20, lba=(number + 1) << 8) for number in range(12)]
    small = disk.write(4096, lba=0)
    sent = b"".join(bytes(part) for part in disk.link.session.take_output())
    answer = disk.link.end.feed(sent)
    assert disk.tasks._bursts._waiting, "nobody has to wait"
    for _ in range(5):  # the receive buffer is used again, before the R2Ts are answered
        disk.link.session.ping(b"\xff" * 16000)
    sent = b"".join(bytes(part) for part in disk.link.session.take_output())
    disk.link.session.received(disk.link.end.feed(sent))
    disk.link.session.received(answer)
    for task in [*large, small]:
        assert disk.link.run(task).status == 0
    assert disk.unit.memory[:4096] == disk.data[:4096]
    disk.close()


def test_data_out_that_is_assembled_takes_turns() -> None:
    """COMPARE AND WRITE of 2 MiB each, in bursts of 64 KiB: all of it counts from the first on."""
    unit = InlineRamUnit(block_count=BLOCKS // 8, block_length=4096)
    disk = Disk(unit, max_burst_length=65536, first_burst_length=65536)
    half = 255 * 4096
    data = bytes(half) + disk.data[:half]
    tasks = []
    for number in range(12):
        cdb = struct.pack(">BBQ3xBBx", 0x89, 0, number * 255, 255, 0)
        tasks.append(disk.link.session.command(cdb, data_out=data))
    most = 0
    while not all(task.done for task in tasks):
        sent = b"".join(bytes(part) for part in disk.link.session.take_output())
        if not sent and disk.tasks.operating:
            disk.link.end.wait()
        answer = disk.link.end.feed(sent)
        most = max(most, disk.tasks._bursts._in_flight)
        kept = sum(task.kept for task in disk.tasks._by_itt.values())
        assert kept <= SESSION_LIMIT
        disk.link.session.received(answer)
    assert {task.status for task in tasks} == {0}
    assert 3 * len(data) <= most <= SESSION_LIMIT
    assert unit.memory[: 12 * half] == disk.data[:half] * 12
    disk.close()


def test_large_reads_take_turns() -> None:
    unit = RamUnit(block_count=BLOCKS)
    disk = Disk(unit)
    unit.memory[: 1 << 20] = disk.data
    read = struct.pack(">BBQIxx", 0x88, 0, 0, 16384)
    tasks = [disk.link.session.command(read, read_length=8 << 20) for _ in range(4)]
    disk.link.pump()
    assert len(disk.tasks._queue) == 3
    for task in tasks:
        assert disk.link.run(task).status == 0
        assert task.data[: 1 << 20] == disk.data
    disk.close()


def test_a_read_is_not_longer_than_announced() -> None:
    """Its budget is what was announced; the residual count tells of the rest."""
    for expected in (0, 100, 512, 70_000):
        disk = Disk()
        read = disk.link.session.command(
            struct.pack(">BBQIxx", 0x88, 0, 0, 16384), read_length=expected or 1, expected=expected
        )
        disk.link.run(read)
        assert (read.status, read.residual) == (0, expected - (8 << 20))
        assert len(read.data) == expected
        blocks = sum(entry[2] for entry in disk.unit.log if entry[0] == "read")
        assert blocks == -(-expected // 512)
        disk.close()


@pytest.mark.parametrize("kind", ["inline", "serial"])
def test_reads_wait_while_nobody_takes_their_data(kind: str) -> None:
    """A write holds budget while five reads of 8 MiB queue; then none of the output is sent."""
    disk = Disk(KINDS[kind](block_count=BLOCKS), immediate_data=False, initial_r2t=True)
    session, end = disk.link.session, disk.link.end
    write = disk.write(1 << 20)
    sent = b"".join(bytes(part) for part in session.take_output())
    answer = end.feed(sent)
    read = struct.pack(">BBQIxx", 0x88, 0, 0, 16384)
    reads = [session.command(read, read_length=8 << 20) for _ in range(5)]
    end.feed(b"".join(bytes(part) for part in session.take_output()))
    assert len(disk.tasks._queue) == 5
    session.received(answer)  # the R2T: now the write ends, and the reads may go
    data = memoryview(b"".join(bytes(part) for part in session.take_output()))
    while data:
        place = end.connection.buffer()
        size = min(len(place), len(data))
        place[:size] = data[:size]
        data = data[size:]
        end.connection.received(size)  # and nothing is taken out
    held = 0
    for _ in range(50):  # operations end on the unit's thread: more than one read's steps
        held = max(held, sum(map(len, end.connection.out.buffers)))
        if kind == "inline" or end.connection.more:
            break
        end.wait()
    assert held <= (8 << 20) + (2 << 20)
    assert len(disk.tasks._queue) >= 3
    session.received(end.settle())
    for task in reads:
        assert disk.link.run(task).status == 0
    assert write.status == 0
    disk.close()


def test_a_command_in_both_directions_does_not_wait_for_itself(disk: Disk) -> None:
    """A WRITE that also claims to read 8 MiB: its own reservation is not in its way."""
    session = disk.link.session
    command = struct.pack(">BBQIxx", 0x8A, 0, 0, 16384)
    numbers = (0, 0xB1D1, 8 << 20, session.cmd_sn, session.exp_stat_sn)
    session.cmd_sn += 1
    header = pdu.GENERIC.pack(0x01, 0xE1, 0, *numbers, command)
    answer = disk.link.end.feed(header)
    assert answer[0] == pdu.TargetOpcode.R2T


# -- broken rules --------------------------------------------------------------------------------


def _nop(link: Link, data: bytes) -> bytes:
    session = link.session
    header = pdu.GENERIC.pack(
        0x40, 0x80, len(data), 0, 0xEEEE, pdu.RESERVED_TAG, session.cmd_sn, 0, bytes(16)
    )
    return header + data


class Raw:
    """Commands and Data-Outs by hand."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.end = disk.link.end
        self.out = self.end.connection.out

    def command(
        self,
        blocks: int,
        data: bytes = b"",
        *,
        final: bool = True,
        expected: int = -1,
        itt: int = 9,
    ) -> list[tuple[bytes, bytes]]:
        flags = 0xA1 if final else 0x21
        expected = blocks * 512 if expected < 0 else expected
        cdb = struct.pack(">BBQIxx", 0x8A, 0, 0, blocks)
        numbers = (0, itt, expected, self.out.exp_cmd_sn, 0, cdb)
        return self.feed(pdu.GENERIC.pack(0x01, flags, len(data), *numbers) + _padded(data))

    def data(
        self,
        data: bytes,
        *,
        ttt: int = pdu.RESERVED_TAG,
        sn: int = 0,
        offset: int = 0,
        final: bool = True,
        itt: int = 9,
    ) -> list[tuple[bytes, bytes]]:
        flags = 0x80 if final else 0
        header = pdu.DATA_OUT.pack(0x05, flags, len(data), 0, itt, ttt, 0, sn, offset)
        return self.feed(header + _padded(data))

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        return split(self.end.feed(data))


def _padded(data: bytes) -> bytes:
    return data + pdu.PADDING[len(data) % 4]


def split(stream: bytes) -> list[tuple[bytes, bytes]]:
    """Header and data of each PDU (without digests)."""
    found = []
    while stream:
        length = int.from_bytes(stream[5:8])
        found.append((stream[:48], stream[48 : 48 + length]))
        stream = stream[48 + pdu.padded(length) :]
    return found


def sense_of(answer: list[tuple[bytes, bytes]]) -> tuple[int, int, int]:
    """Sense of the only PDU, a SCSI Response with CHECK CONDITION."""
    ((header, data),) = answer
    assert (header[0], header[3]) == (pdu.TargetOpcode.SCSI_RESPONSE, 2)
    assert data[2] & 0x7F in (0x70, 0x72)
    if data[2] & 0x7F == 0x72:
        return data[3] & 0xF, data[4], data[5]
    return data[4] & 0xF, data[14], data[15]


def r2t_of(answer: list[tuple[bytes, bytes]]) -> tuple[int, int, int, int]:
    """ttt, r2t_sn, offset, length of the only PDU, an R2T."""
    ((header, _),) = answer
    assert header[0] == pdu.TargetOpcode.R2T
    fields = pdu.R2T.unpack(header)
    return fields[4], fields[8], fields[9], fields[10]


def test_a_sequence_by_hand(disk: Disk) -> None:
    raw = Raw(disk)
    assert raw.command(400, disk.data[:1024], final=False) == []
    assert raw.data(disk.data[1024:9000], offset=1024, final=False) == []
    ttt, sn, offset, length = r2t_of(raw.data(disk.data[9000:65536], sn=1, offset=9000))
    assert (sn, offset, length) == (0, 65536, 400 * 512 - 65536)
    assert raw.data(disk.data[65536:100000], ttt=ttt, offset=65536, final=False) == []
    ((header, _),) = raw.data(disk.data[100000:204800], ttt=ttt, sn=1, offset=100000)
    assert (header[0], header[3]) == (pdu.TargetOpcode.SCSI_RESPONSE, 0)
    assert disk.unit.memory[:204800] == disk.data[:204800]


@pytest.mark.parametrize(
    ("wrong", "sense"),
    [
        ({"offset": 512}, (0xB, 0x4B, 0x05)),
        ({"offset": 0xFFFFFFFF}, (0xB, 0x4B, 0x05)),
        ({"sn": 1}, (0xB, 0x4B, 0x00)),
        ({"data": bytes(512)}, (0xB, 0x0C, 0x0D)),
        ({"data": b""}, (0xB, 0x0C, 0x0D)),
        ({"data": bytes(102912)}, (0xB, 0x4B, 0x02)),
        ({"final": False}, (0xB, 0x4B, 0x00)),
    ],
)
@pytest.mark.parametrize("piece", [1 << 30, 20000])
def test_a_wrong_data_out(wrong: dict[str, Any], sense: tuple[int, int, int], piece: int) -> None:
    """Its command ends with ABORTED COMMAND, and nothing else happens."""
    disk = Disk(piece=piece, immediate_data=False, initial_r2t=True)
    raw = Raw(disk)
    ttt, _, offset, length = r2t_of(raw.command(200))
    assert (offset, length) == (0, 102400)
    arguments: dict[str, Any] = {"data": disk.data[:length], "ttt": ttt, **wrong}
    data = arguments.pop("data")
    assert sense_of(raw.data(data, **arguments)) == sense
    if "final" in wrong:  # the rest of the sequence may still come, and is not answered
        assert raw.data(b"", ttt=ttt, sn=1, offset=length) == []
    assert disk.unit.memory == bytes(len(disk.unit.memory))
    disk.alive()
    disk.close()


def test_a_data_out_with_another_tag_is_rejected(disk: Disk) -> None:
    raw = Raw(disk)
    ttt, *_ = r2t_of(raw.command(1))
    for tag in (ttt + 1, pdu.RESERVED_TAG, 0):
        ((header, data),) = raw.data(bytes(512), ttt=tag)
        assert (header[0], header[2]) == (
            pdu.TargetOpcode.REJECT,
            pdu.RejectReason.INVALID_PDU_FIELD,
        )
        assert data[16:24] == struct.pack(">II", 9, tag)
    ((header, _),) = raw.data(disk.data[:512], ttt=ttt)
    assert header[3] == 0
    assert disk.unit.memory[:512] == disk.data[:512]


def test_a_data_out_for_no_command_is_rejected(disk: Disk) -> None:
    ((header, _),) = Raw(disk).data(bytes(70000), itt=77)
    assert header[0] == pdu.TargetOpcode.REJECT
    disk.alive()


@pytest.mark.parametrize(
    ("blocks", "immediate", "final", "expected"),
    [
        (200, 65537, True, -1),  # more than FirstBurstLength
        (1, 1024, True, -1),  # more than was announced
        (1, 512, True, 0),
    ],
)
def test_too_much_immediate_data(
    disk: Disk, blocks: int, immediate: int, final: bool, expected: int
) -> None:
    answer = Raw(disk).command(blocks, bytes(immediate), final=final, expected=expected)
    assert sense_of(answer) == (0xB, 0x0C, 0x0C)
    assert not disk.unit.calls["write"]
    disk.alive()


def test_immediate_and_unsolicited_data_that_were_not_agreed_on() -> None:
    disk = Disk(immediate_data=False, initial_r2t=True)
    raw = Raw(disk)
    assert sense_of(raw.command(1, bytes(512))) == (0xB, 0x0C, 0x0C)
    assert sense_of(raw.command(1, final=False)) == (0xB, 0x0C, 0x0C)
    assert raw.data(bytes(512)) == []  # it was on its way
    assert not disk.unit.calls["write"]
    disk.alive()
    disk.close()


def test_a_data_out_while_the_operation_runs() -> None:
    """A burst nobody asked for, while the unit writes the one before: the command fails."""
    disk = Disk(RamUnit(block_count=BLOCKS, max_transfer_length=1 << 18))
    (lu,) = disk.target.units
    raw = Raw(disk)
    ttt, _, _, length = r2t_of(raw.command(1024))
    assert length == 1 << 18
    assert lu.gate._turns.serial
    with lu.gate._turns._lock:  # the worker waits
        assert raw.data(disk.data[:length], ttt=ttt) == []
        assert disk.tasks.operating == 1
        assert raw.data(b"\xff" * 100_000, offset=length) == []
        landing = raw.data(b"\xff" * 100_000, ttt=ttt, offset=0)
        assert [header[0] for header, _ in landing] == [pdu.TargetOpcode.REJECT]
    answer: list[tuple[bytes, bytes]] = []
    while not answer:
        disk.link.end.wait()
        answer = split(disk.link.end.settle())
    assert answer[0][0][0] == pdu.TargetOpcode.SCSI_RESPONSE
    written = bytes(disk.unit.memory)
    assert written[: 1 << 18] == disk.data[: 1 << 18]
    assert b"\xff" * 1000 not in written
    disk.alive()
    disk.close()


def test_an_abort_while_data_is_landing() -> None:
    """The rest of the Data-Out still lands in the burst's buffer, which no one else may have."""
    disk = Disk(immediate_data=False, initial_r2t=True)
    raw = Raw(disk)
    ttt, *_ = r2t_of(raw.command(2048))
    header = pdu.DATA_OUT.pack(0x05, 0x80, 200_000, 0, 9, ttt, 0, 0, 0)
    half = header + b"\xee" * 100_000
    assert raw.feed(half) == []
    assert disk.link.end.connection.incoming.landing
    disk.tasks._by_itt[9].abort()
    disk.tasks._by_itt[9].aborted = True
    disk.link.end.settle()
    assert not disk.tasks.count
    place = disk.link.end.connection.buffer()
    fresh = disk.environment.buffers.take(1 << 20)
    fresh[:] = bytes(len(fresh))
    place[:100_000] = b"\xee" * 100_000
    disk.link.end.connection.received(100_000)
    assert not any(fresh)
    del place
    assert raw.feed(b"") == []
    disk.alive()
    disk.close()


def test_a_bad_data_digest_fails_the_command() -> None:
    disk = Disk(data_digest=True, immediate_data=False, initial_r2t=True)
    raw = Raw(disk)
    ttt, *_ = r2t_of(raw.command(200))
    header = pdu.DATA_OUT.pack(0x05, 0x80, 102400, 0, 9, ttt, 0, 0, 0)
    answer = raw.end.feed(header + disk.data[:102400] + b"oops")
    assert (answer[0], answer[2]) == (pdu.TargetOpcode.REJECT, pdu.RejectReason.DATA_DIGEST_ERROR)
    assert sense_of([(answer[100:148], answer[148:168])]) == (0xB, 0x47, 0x05)
    assert disk.unit.memory == bytes(len(disk.unit.memory))
    assert raw.feed(pdu.GENERIC.pack(0x40, 0x80, 0, 0, 3, 0xFFFFFFFF, 0, 0, bytes(16)))
    disk.close()


def test_a_bad_digest_elsewhere_ends_the_connection() -> None:
    for place in (10, 60):  # in the header, in immediate data
        disk = Disk(header_digest=True, data_digest=True)
        disk.write(512)
        sent = bytearray(b"".join(map(bytes, disk.link.session.take_output())))
        sent[place] ^= 1
        disk.link.end.feed(bytes(sent))
        assert not disk.link.end.reading
        assert not disk.unit.calls["write"]
        disk.close()
