"""The fast path and the general path: the same commands, the same bytes on the wire and on disk."""

from __future__ import annotations

import array
import ctypes
import mmap
import random
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.kit.link import Link, close, environment_of, target_of
from tests.kit.units import ConcurrentRamUnit, InlineRamUnit, LiveRamUnit, RamUnit
from userdisk import errors
from userdisk.iscsi.initiator import Task
from userdisk.iscsi.outgoing import OUTPUT_BYTES
from userdisk.unit import Buffer, Inline

BLOCKS = 256
_MASK = 0xFFFFFFFF


class Recorded(Link):
    """A link that keeps every byte that the target sent."""

    def __init__(self, *units: RamUnit, fast: bool, piece: int = 1 << 30, **settings: Any) -> None:
        self.target = target_of(*units)
        super().__init__(environment_of(self.target), piece=piece, **settings)
        self.recorded = b""
        self.login()
        for lun in range(len(units)):
            self.ready(lun=lun)
        assert self.end.connection._fast
        self.end.connection._fast = fast

    def pump(self) -> None:
        while True:
            data = b"".join(self.session.take_output())
            answer = self.end.feed(data, self.piece)
            self.recorded += answer
            self.session.received(answer)
            if not data and not answer:
                return

    def close(self) -> None:
        self.end.disconnect()
        close(self.target)


def _cdb(operation: int, lba: int, blocks: int, flags: int = 0, group: int = 0) -> bytes:
    if operation in (0x28, 0x2A):
        return struct.pack(">BBIBHB", operation, flags, lba & _MASK, group, blocks, 0)
    return struct.pack(">BBQIBB", operation, flags, lba, blocks, group, 0)


def _command(link: Link, rng: random.Random, luns: int) -> None:
    """One random command: mostly what the fast path takes, sometimes nearly so."""
    operation = rng.choice([0x28, 0x88, 0x2A, 0x8A])
    reading = operation in (0x28, 0x88)
    lba = rng.randrange(BLOCKS)
    blocks = rng.choice([1, 1, 8, 8, 8, 16, rng.randrange(0, 129)])
    if rng.random() < 0.9:
        lba = min(lba, BLOCKS - blocks)
    elif rng.random() < 0.2:
        lba = rng.choice([1 << 31, _MASK, (1 << 64) - 1])
    odd = rng.random() < 0.1
    flags = rng.choice([0x08, 0x10, 0x20, 0xFF]) if odd and rng.random() < 0.5 else 0
    group = 1 if odd and rng.random() < 0.3 else 0
    length = announced = blocks * 512
    if odd and rng.random() < 0.5:
        announced = rng.choice([0, 512, length + 512, max(0, length - 512), length + 100])
    arguments: dict[str, Any] = {"lun": rng.randrange(luns), "attribute": rng.choice([1] * 9 + [2])}
    cdb = _cdb(operation, lba, blocks, flags, group)
    if reading:
        # an announcement that is longer than the data leaves a residual count
        link.session.command(cdb, read_length=announced, **arguments)
    else:
        link.session.command(cdb, data_out=rng.randbytes(announced), **arguments)


def _run(link: Recorded, seed: int, count: int, luns: int) -> tuple[bytes, int]:
    """A random stream in batches; what was sent, and how many commands were not fast."""
    rng = random.Random(seed)
    while count > 0:
        batch = min(count, rng.choice([1, 3, 20, 60]))
        for _ in range(batch):
            _command(link, rng, luns)
        if rng.random() < 0.2:
            link.session.ping(b"x" * rng.randrange(9))
        link.pump()
        count -= batch
    assert not link.session.tasks, "commands without an answer"
    counters = link.end.connection.counters
    return link.recorded, sum(each.commands for each in counters.values())


def _fails(name: str, lba: int, blocks: int) -> None:
    """Operations on some blocks fail, in different ways."""
    if lba % 23 == 7:
        raise errors.MediumError(lba=lba + blocks - 1)
    if lba % 29 == 5:
        raise OSError(28, "full")
    if lba % 31 == 3:
        raise ValueError("a bug")


@pytest.mark.parametrize("kind", [InlineRamUnit, LiveRamUnit, ConcurrentRamUnit])
@pytest.mark.parametrize("piece", [1 << 30, 5000])
@pytest.mark.parametrize("faults", [False, True])
@pytest.mark.parametrize("digests", ["", "header", "data", "header data"])
@pytest.mark.parametrize("seed", range(2))
def test_same_bytes(kind: type[RamUnit], piece: int, faults: bool, digests: str, seed: int) -> None:
    outputs, disks, slow = [], [], []
    for fast in (True, False):
        units = [kind(block_count=BLOCKS) for _ in range(2)]
        for unit in units:
            unit.inline = Inline.ALL
            unit.fault = _fails if faults else None
        offered = {"header_digest": "header" in digests, "data_digest": "data" in digests}
        link = Recorded(*units, fast=fast, piece=piece, **offered)
        assert link.end.connection.out.data_digest == ("data" in digests)
        before = sum(each.commands for each in link.end.connection.counters.values())
        sent, general = _run(link, seed, 120, len(units))
        outputs.append(sent)
        slow.append(general - before)
        disks.append([bytes(unit.memory) for unit in units])
        link.close()
    assert outputs[0] == outputs[1]
    assert disks[0] == disks[1]
    assert slow[1] == 120
    assert slow[0] < 90, "hardly any command took the fast path"


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("where", ["header", "header digest", "data", "data digest"])
def test_a_wrong_digest_writes_nothing(fast: bool, where: str) -> None:
    unit = InlineRamUnit(block_count=BLOCKS)
    link = Recorded(unit, fast=fast, header_digest=True, data_digest=True)
    good = link.session.command(_cdb(0x2A, 0, 1), data_out=b"g" * 512)
    link.session.command(_cdb(0x2A, 1, 1), data_out=b"b" * 512)
    data = bytearray(b"".join(link.session.take_output()))
    second = len(data) // 2
    at = {"header": 35, "header digest": 49, "data": 52 + 100, "data digest": 52 + 512 + 1}[where]
    data[second + at] ^= 1
    link.session.received(link.end.feed(bytes(data), link.piece))
    assert good.status == 0
    assert bytes(unit.memory[:1024]) == b"g" * 512 + bytes(512)
    assert not link.end.connection.open, "the CmdSN of the second command is lost"
    link.close()


def test_a_live_unit_answers_like_one_that_copies() -> None:
    outputs = []
    for kind in (InlineRamUnit, LiveRamUnit):
        link = Recorded(kind(block_count=BLOCKS), fast=True)
        outputs.append(_run(link, 5, 300, 1)[0])
        link.close()
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("back", [1, 2, 60, 0x1000, 0x1003])
@pytest.mark.parametrize("which", ["cmd_sn", "stat_sn", "both"])
def test_numbers_around_2_to_the_32(back: int, which: str) -> None:
    outputs = []
    for fast in (True, False):
        link = Recorded(InlineRamUnit(block_count=BLOCKS), fast=fast)
        cmd_sn = (_MASK - back if which != "stat_sn" else 1000) & _MASK
        stat_sn = (_MASK - back if which != "cmd_sn" else 1000) & _MASK
        link.end.connection.out.begin(cmd_sn, stat_sn, (False, False))
        session = link.session
        session.cmd_sn, session.exp_stat_sn = cmd_sn, stat_sn
        session.max_cmd_sn = (cmd_sn + 127) & _MASK
        outputs.append(_run(link, 9, 150, 1)[0])
        link.close()
    assert outputs[0] == outputs[1]


# -- what a unit may return ----------------------------------------------------------------------


class _Returns(InlineRamUnit):
    """Reads return whatever the test says."""

    def __init__(self, make: Callable[[bytes], Any]) -> None:
        super().__init__(block_count=BLOCKS)
        self.make = make

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        made: Buffer = self.make(bytes(super().read(lba, blocks, fua)))
        return made


def _mapped(data: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memory


def _strided(data: bytes) -> memoryview:
    wide = bytearray(len(data) * 2)
    wide[::2] = data
    return memoryview(wide)[::2]


_GOOD: dict[str, Callable[[bytes], Any]] = {
    "bytearray": bytearray,
    "view": memoryview,
    "words": lambda data: memoryview(bytearray(data)).cast("I"),
    "matrix": lambda data: memoryview(data).cast("B", (8, len(data) // 8)),
    "signed": lambda data: memoryview(data).cast("b"),
    "strided": _strided,
    "array": lambda data: array.array("H", data),
    "ctypes": lambda data: (ctypes.c_uint8 * len(data)).from_buffer_copy(data),
    "ctypes view": lambda data: memoryview((ctypes.c_uint8 * len(data)).from_buffer_copy(data)),
    "mmap": _mapped,
}
_BAD: dict[str, Callable[[bytes], Any]] = {
    "short": lambda data: data[:-1],
    "long": lambda data: data + b"x",
    "long view": lambda data: memoryview(data + b"x"),
    "words, too many": lambda data: array.array("I", data + data),
    "empty": lambda data: b"",
    "none": lambda data: None,
    "length": len,
    "text": lambda data: data.decode("latin-1"),
    "list": list,
}


def _released(data: bytes) -> memoryview:
    view = memoryview(data)
    view.release()
    return view


_BAD["released"] = _released


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("form", [*_GOOD, *_BAD])
def test_what_read_returns(
    form: str, fast: bool, live: bool, caplog: pytest.LogCaptureFixture
) -> None:
    unit = _Returns((_GOOD | _BAD)[form])
    unit.live_reads = live
    link = Recorded(unit, fast=fast)
    data = random.Random(1).randbytes(4096)
    link.command(_cdb(0x8A, 3, 8), data_out=data)
    read = link.command(_cdb(0x88, 3, 8), read_length=4096)
    if form in _GOOD:
        assert (read.status, read.residual) == (0, 0)
        assert read.data == data
    else:
        assert (read.status, bytes(read.data), read.residual) == (2, b"", 4096)
        assert (read.sense[2] & 0xF, read.sense[12], read.sense[13]) == (4, 0x44, 0)
        assert "read" in caplog.text, "the author of the unit is told nothing"
    assert link.run(link.session.ping(b"on")).data == b"on"
    link.close()


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("header", [False, True])
def test_rows_that_are_as_many_as_a_header_has_bytes(header: bool, live: bool) -> None:
    """The digest is of the data, whatever its shape."""
    unit = _Returns(lambda data: memoryview(data).cast("B", (48, 512)))
    unit.live_reads = live
    link = Recorded(unit, fast=True, header_digest=header, data_digest=True)
    assert link.command(_cdb(0x28, 0, 48), read_length=48 * 512).data == bytes(48 * 512)
    link.close()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("kind", [SystemExit, ValueError, MemoryError, errors.NotReady])
def test_whatever_is_raised_fails_one_command(fast: bool, kind: type[BaseException]) -> None:
    unit = InlineRamUnit(block_count=BLOCKS)
    link = Recorded(unit, fast=fast)

    def fault(name: str, lba: int, blocks: int) -> None:
        if lba == 8:
            raise kind()

    unit.fault = fault
    tasks = [link.session.command(_cdb(0x28, lba, 8), read_length=4096) for lba in (0, 8, 16)] + [
        link.session.command(_cdb(0x2A, lba, 8), data_out=bytes(4096)) for lba in (0, 8, 16)
    ]
    link.pump()
    assert [task.status for task in tasks] == [0, 2, 0, 0, 2, 0]
    assert [task.residual for task in tasks] == [0, 4096, 0, 0, 4096, 0]
    link.close()


# -- live memory ---------------------------------------------------------------------------------


class _BlockUnit(InlineRamUnit):
    """Live blocks in bytearrays of their own: reads of one block return the block itself."""

    live_reads = True

    def __init__(self) -> None:
        super().__init__(block_count=BLOCKS)
        self.blocks = [bytearray(512) for _ in range(BLOCKS)]

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        return self.blocks[lba]

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self.blocks[lba][:] = data


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("make", [LiveRamUnit, _BlockUnit])
def test_a_read_before_a_write_shows_what_was_there(
    make: Callable[[], RamUnit], fast: bool
) -> None:
    link = Recorded(make(), fast=fast)

    def write(fill: bytes, operation: int = 0x2A) -> Task:
        return link.session.command(_cdb(operation, 5, 1), data_out=fill * 512)

    def read() -> Task:
        return link.session.command(_cdb(0x28, 5, 1), read_length=512)

    write(b"a")
    link.pump()
    tasks = [read(), write(b"b"), read(), write(b"c", 0x8A), read()]
    link.pump()
    assert [bytes(task.data[:1]) for task in tasks] == [b"a", b"", b"b", b"", b"c"]
    link.close()


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("operation", ["unmap", "long write", "compare and write"])
def test_a_read_before_a_slow_path_change_shows_what_was_there(fast: bool, operation: str) -> None:
    link = Recorded(LiveRamUnit(), fast=fast)
    link.command(_cdb(0x2A, 0, 64), data_out=b"a" * 32768)
    read = link.session.command(_cdb(0x28, 0, 8), read_length=4096)
    if operation == "unmap":
        link.session.command(
            struct.pack(">BB6xB", 0x42, 0, 24),
            data_out=struct.pack(">HH4xQI4x", 22, 16, 0, 64),
        )
    elif operation == "compare and write":  # on a thread of the unit, before this one sends
        link.session.command(
            struct.pack(">BBQ3xBxx", 0x89, 0, 0, 1), data_out=b"a" * 512 + b"b" * 512
        )
        connection, inbox = link.end.connection, link.end.inbox
        request = b"".join(bytes(part) for part in link.session.take_output())
        connection.buffer()[: len(request)] = request
        connection.received(len(request))
        inbox.put(inbox.get(timeout=10))  # it has written
        link.session.received(link.end.settle())
    else:  # more than is immediate
        link.session.command(_cdb(0x2A, 0, 256), data_out=b"b" * 131072)
    link.pump()
    assert read.data == b"a" * 4096
    link.close()


@pytest.mark.parametrize("fast", [False, True])
def test_with_two_sessions_nothing_live_is_sent(fast: bool) -> None:
    unit = LiveRamUnit()
    target = target_of(unit)
    environment = environment_of(target)
    one = Link(environment).login()
    other = Link(environment, isid=7).login()
    for link in (one, other):
        link.ready()
        link.end.connection._fast = fast
    one.session.command(_cdb(0x28, 0, 8), read_length=4096)
    place = one.end.connection.buffer()
    request = b"".join(bytes(part) for part in one.session.take_output())
    place[: len(request)] = request
    one.end.connection.received(len(request))
    other.command(_cdb(0x2A, 0, 8), data_out=b"x" * 4096)  # before the first has sent
    assert b"x" not in b"".join(bytes(part) for part in one.end.connection.take_output())
    for link in (one, other):
        link.end.disconnect()
    close(target)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("why", ["", "others have it open", "threads write", "data digest"])
def test_live_memory_is_only_sent_where_nobody_can_change_it(why: str, again: bool) -> None:
    """Also in the batches after the first, which begin with what that one has learned."""
    unit = LiveRamUnit()
    if why == "threads write":
        unit.inline = Inline.READ
    target = target_of(unit)
    link = Link(environment_of(target), data_digest=why == "data digest")
    link.login().ready()
    connection = link.end.connection
    if again:
        link.command(_cdb(0x28, 0, 8), read_length=4096)
        assert connection.recent is not None and connection.recent.lane is not None
    target.units[0].gate.shared = why == "others have it open"
    link.session.command(_cdb(0x28, 0, 8), read_length=4096)
    request = b"".join(bytes(part) for part in link.session.take_output())
    connection.buffer()[: len(request)] = request
    connection.received(len(request))
    live = [each for each in connection.out.buffers if type(each) is memoryview]
    assert [len(each) for each in live] == ([] if why else [4096])
    link.session.received(link.end.settle())
    link.end.disconnect()
    close(target)


def test_a_batch_over_two_units_lets_go_of_both() -> None:
    units = [InlineRamUnit(block_count=BLOCKS) for _ in range(2)]
    link = Recorded(*units, fast=True)
    for number in range(20):
        link.session.command(_cdb(0x28, 0, 1), lun=number % 2, read_length=512)
    link.pump()
    assert [unit.calls["read"] for unit in units] == [10, 10]
    for lu in link.target.units:
        assert not lu.gate._turns._lock.locked()
    link.close()


def test_nothing_is_kept_of_a_unit_that_was_left() -> None:
    """Whoever waits for another unit has let go of the first, which may be different by then."""
    units = [InlineRamUnit(block_count=BLOCKS) for _ in range(2)]
    units[1].inline = Inline.READ  # so that nobody waits for it here
    link = Recorded(*units, fast=True)
    gate = link.target.units[1].gate
    assert gate.enter()
    for lun in range(2):
        link.session.command(_cdb(0x28, 0, 1), lun=lun, read_length=512)
    request = b"".join(bytes(part) for part in link.session.take_output())
    connection = link.end.connection
    connection.buffer()[: len(request)] = request
    connection.received(len(request))
    assert units[0].calls["read"] == 1 and not units[1].calls["read"]
    assert connection.paths[0].lane is None
    gate.leave()
    link.end.inbox.put(link.end.inbox.get(timeout=10))  # the second unit has read
    link.session.received(link.end.settle())
    assert not link.session.tasks
    link.close()


def test_what_came_before_a_failure_is_counted_once() -> None:
    unit = InlineRamUnit(block_count=BLOCKS)
    link = Recorded(unit, fast=True)

    def fault(name: str, lba: int, blocks: int) -> None:
        if lba == 9:
            raise errors.MediumError(lba=9)

    unit.fault = fault
    counters = link.end.connection.counters[link.target.units[0].gate]
    for lba in (1, 2, 9, 3):
        link.session.command(_cdb(0x2A, lba, 1), data_out=bytes(512))
        link.session.command(_cdb(0x28, lba, 1), read_length=512)
    link.pump()
    assert (counters.reads, counters.read_bytes) == (3, 3 * 512)
    assert (counters.writes, counters.written_bytes) == (3, 3 * 512)
    link.close()


@pytest.mark.parametrize("again", [False, True])
def test_a_batch_of_output_ends_where_it_should(again: bool) -> None:
    """Also with what a batch before has learned."""
    unit = LiveRamUnit(block_count=BLOCKS)
    link = Recorded(unit, fast=True)
    if again:
        link.command(_cdb(0x28, 0, 128), read_length=65536)
    for _ in range(40):
        link.session.command(_cdb(0x28, 0, 128), read_length=65536)
    request = b"".join(bytes(part) for part in link.session.take_output())
    connection = link.end.connection
    connection.buffer()[: len(request)] = request
    connection.received(len(request))
    held = sum(map(len, connection.out.buffers))
    assert OUTPUT_BYTES <= held <= OUTPUT_BYTES + 2 * 65536
    link.session.received(link.end.settle())
    assert not link.session.tasks
    link.close()


def test_reads_and_writes_whose_cdbs_differ_in_length_are_fast() -> None:
    link = Recorded(InlineRamUnit(block_count=BLOCKS), fast=True)
    counters = link.end.connection.counters
    before = sum(each.commands for each in counters.values())
    for n in range(20):
        link.session.command(_cdb(0x28, n, 1), read_length=512)
        link.session.command(_cdb(0x8A, n, 1), data_out=bytes([n]) * 512)
        link.session.command(_cdb(0x88, n, 1), read_length=512)
    link.pump()
    assert not link.session.tasks
    assert sum(each.commands for each in counters.values()) == before
    link.close()


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("read", [0x28, 0x88])
@pytest.mark.parametrize("write", [0x2A, 0x8A])
@pytest.mark.parametrize("beyond", [1, 7, 8, 9])
def test_the_end_is_the_end_also_after_commands_that_look_alike(
    fast: bool, read: int, write: int, beyond: int
) -> None:
    asked: list[tuple[str, int, int]] = []
    unit = InlineRamUnit(block_count=BLOCKS)
    unit.fault = lambda name, lba, blocks: asked.append((name, lba, blocks))
    link = Recorded(unit, fast=fast)
    lba = BLOCKS - 8 + beyond
    for at in (0, BLOCKS - 8, lba):
        link.session.command(_cdb(read, at, 8), read_length=4096)
        link.session.command(_cdb(write, at, 8), data_out=bytes(4096))
    before = link.end.connection.out.stat_sn
    link.pump()
    assert link.end.connection.out.stat_sn - before == 6
    assert sorted({at for _, at, _ in asked}) == [0, BLOCKS - 8]
    link.close()


def test_a_busy_gate_is_not_waited_for() -> None:
    """A serial unit with slow operations: while one runs, reads are queued behind it."""
    unit = RamUnit(block_count=BLOCKS)
    unit.inline = Inline.READ
    link = Recorded(unit, fast=True)
    (lu,) = link.target.units
    assert lu.gate._turns.serial
    with lu.gate._turns._lock:  # as a worker does while it flushes
        read = link.session.command(_cdb(0x28, 0, 1), read_length=512)
        link.pump()
        assert not read.done
        assert link.run(link.session.ping(b"!")).data == b"!"
    assert link.run(read).status == 0
    link.close()


@pytest.mark.parametrize("known", [False, True])
def test_what_changes_while_a_batch_waits_for_the_gate_is_seen(known: bool) -> None:
    """Somebody is alone in the unit and keeps the path out: its batch looks when it is in."""
    unit = InlineRamUnit(block_count=BLOCKS)
    link = Recorded(unit, fast=True)
    (lu,) = link.target.units
    (path,) = lu.paths
    if known:  # the lane is learned
        link.command(_cdb(0x2A, 0, 1), data_out=bytes(512))
    enter = lu.gate.enter

    def after_another() -> bool:
        if not path.attentions:
            lu.establish(0x2A03)
        return enter()

    lu.gate.enter = after_another
    write = link.run(link.session.command(_cdb(0x2A, 0, 1), data_out=b"x" * 512))
    assert (write.status, write.sense[12:14]) == (2, b"\x2a\x03")
    assert not any(unit.memory)
    link.close()
