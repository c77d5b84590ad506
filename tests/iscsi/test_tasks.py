"""Commands that wait, task management over two sessions, windows, tags and floods."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.iscsi.test_data_out import Raw, split
from tests.kit.link import Link, close, environment_of, target_of
from tests.kit.units import KINDS, InlineRamUnit, RamUnit
from userdisk.iscsi import pdu
from userdisk.iscsi.connection import Phase
from userdisk.iscsi.initiator import Task
from userdisk.iscsi.initiator_task import ABORTED
from userdisk.target.task_management import Function, Response

BLOCKS = 16384
READ = bytes.fromhex("28000000000000000800")
FLUSH = bytes.fromhex("35000000000000000000")
READ_8M = struct.pack(">BBQIxx", 0x88, 0, 0, 16384)


class Slow(RamUnit):
    """Operations wait until the test lets them go; `entered` says that one has begun."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(block_count=BLOCKS, **parameters)
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.fault = self._wait

    def _wait(self, name: str, lba: int, blocks: int) -> None:
        self.entered.release()
        assert self.go.wait(10)


class Pair:
    """Two sessions with a slow unit (LUN 0) and a quick one (LUN 1)."""

    def __init__(self) -> None:
        self.slow, self.quick = Slow(), InlineRamUnit(block_count=BLOCKS)
        self.target = target_of(self.slow, self.quick)
        self.environment = environment_of(self.target)
        self.a = Link(self.environment, immediate_data=False, initial_r2t=True).login()
        self.b = Link(self.environment, isid=99).login()
        for link in (self.a, self.b):
            for lun in (0, 1):
                link.ready(lun=lun)

    def begin(self, link: Link, cdb: bytes = READ, **arguments: Any) -> Task:
        """A command whose operation is in the unit now."""
        arguments = arguments or {"read_length": 4096}
        task = link.session.command(cdb, **arguments)
        link.pump()
        assert self.slow.entered.acquire(timeout=10)
        return task

    def queue(self, link: Link, cdb: bytes = READ) -> Task:
        """A command whose operation is in the unit's queue."""
        task = link.session.command(cdb, read_length=4096 if cdb is READ else 0)
        link.pump()
        return task

    def manage(self, link: Link, function: int, about: Task | None = None, lun: int = 0) -> Task:
        task = link.session.task_management(function, about=about, lun=lun)
        self.pump()
        return task

    def pump(self) -> None:
        for _ in range(3):
            for link in (self.a, self.b):
                link.pump()

    def release(self) -> None:
        """Let the operations go, and wait until all have left; pump afterwards."""
        self.slow.go.set()
        ends = [link.end for link in (self.a, self.b) if not link.end.ended]
        until = time.monotonic() + 10
        while any(end.connection.tasks.operating or not end.inbox.empty() for end in ends):
            assert time.monotonic() < until, "an operation does not end"
            for end in ends:
                if not end.inbox.empty():
                    end.connection.handle(end.inbox.get())
            time.sleep(0.0005)

    def attention(self, link: Link, lun: int = 0) -> tuple[int, int, int]:
        """The sense that the next command gets; zeros if it is GOOD."""
        task = link.command(bytes(6), lun=lun)
        if not task.status:
            return 0, 0, 0
        return task.sense[2] & 0xF, task.sense[12], task.sense[13]

    def close(self) -> None:
        self.slow.go.set()
        for link in (self.a, self.b):
            link.end.disconnect()
        assert not self.target.nexuses
        assert not any(len(lu.task_set) or lu.task_set._waits for lu in self.target.units)
        close(self.target)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


# -- a slow unit --------------------------------------------------------------------------------


def test_a_session_lives_while_its_unit_is_slow(pair: Pair) -> None:
    flush = pair.begin(pair.a, FLUSH, read_length=0)
    assert pair.a.run(pair.a.session.ping(b"there?")).data == b"there?"
    assert pair.a.command(READ, lun=1, read_length=4096).status == 0
    assert pair.b.command(READ, lun=1, read_length=4096).status == 0
    assert b"TargetName=" in pair.a.run(pair.a.session.text([("SendTargets", "")])).data
    assert not flush.done
    pair.release()
    pair.pump()
    assert flush.done
    assert flush.status == 0


@pytest.mark.parametrize("kind", KINDS)
def test_outstanding_commands_are_all_answered(kind: str) -> None:
    unit = KINDS[kind](block_count=BLOCKS)
    target = target_of(unit)
    link = Link(environment_of(target)).login()
    link.ready()
    rng = random.Random(1)
    tasks, written = [], {}
    for number in range(300):
        lba = number * 8
        if rng.random() < 0.5:
            written[lba] = rng.randbytes(4096)
            cdb = struct.pack(">BBIBHB", 0x2A, rng.choice([0, 8]), lba, 0, 8, 0)
            tasks.append(link.session.command(cdb, data_out=written[lba]))
        else:
            cdb = struct.pack(">BBIBHB", 0x28, 0, lba, 0, 8, 0)
            tasks.append(link.session.command(cdb, read_length=4096))
    for task in tasks:
        assert link.run(task).status == 0
    for lba, data in written.items():
        assert unit.memory[lba * 512 : lba * 512 + 4096] == data
    link.end.disconnect()
    close(target)


def test_data_of_a_late_write_is_not_that_of_the_receive_buffer(pair: Pair) -> None:
    first = pair.begin(pair.b)
    data = random.Random(3).randbytes(4096)
    cdb = bytes.fromhex("2a000000010000000800")
    write = pair.b.session.command(cdb, data_out=data)
    pair.b.pump()
    for fill in (b"x", b"y"):  # over the place where the data was received
        pair.b.command(cdb, lun=1, data_out=fill * 65536, expected=4096)
        pair.b.run(pair.b.session.ping(fill * 8000))
    pair.release()
    pair.pump()
    assert (first.status, write.status) == (0, 0)
    assert pair.slow.memory[256 * 512 : 256 * 512 + 4096] == data


# -- abort task ---------------------------------------------------------------------------------


def test_abort_of_a_running_task_is_answered_when_it_has_left(pair: Pair) -> None:
    task = pair.begin(pair.a)
    abort = pair.manage(pair.a, Function.ABORT_TASK, about=task)
    assert not abort.done
    pair.release()
    pair.pump()
    assert (abort.done, abort.response) == (True, Response.COMPLETE)
    assert task.response == ABORTED, "an aborted task was answered"


def test_abort_of_a_queued_task_is_answered_at_once(pair: Pair) -> None:
    running = pair.begin(pair.a)
    queued = pair.queue(pair.a)
    abort = pair.manage(pair.a, Function.ABORT_TASK, about=queued)
    assert (abort.done, abort.response) == (True, Response.COMPLETE)
    pair.release()
    pair.pump()
    assert running.done
    assert queued.response == ABORTED
    assert pair.slow.calls["read"] == 1


def test_abort_of_a_task_that_waits_for_data(pair: Pair) -> None:
    raw = RawLink(pair.a)
    ((r2t, _),) = raw.command(200)
    ttt = pdu.R2T.unpack(r2t)[4]
    assert raw.data(bytes(1000), ttt=ttt, final=False) == []
    assert raw.function(Function.ABORT_TASK, about=9) == [Response.COMPLETE]
    assert raw.data(bytes(101400), ttt=ttt, sn=1, offset=1000) == []  # it was on its way
    assert raw.function(Function.ABORT_TASK, about=9) == [Response.NO_SUCH_TASK]
    assert not pair.slow.calls["write"]


def test_abort_of_a_task_that_waits_for_budget(pair: Pair) -> None:
    for lun, response in ((1, Response.COMPLETE), (5, Response.NO_SUCH_LUN)):
        running = pair.a.session.command(READ_8M, read_length=8 << 20)
        pair.a.pump()
        waiting = pair.a.session.command(READ_8M, lun=lun, read_length=8 << 20)
        pair.a.pump()
        assert len(pair.a.end.connection.tasks._queue) == 1
        abort = pair.manage(pair.a, Function.ABORT_TASK, about=waiting, lun=lun)
        assert (abort.done, abort.response) == (True, response)
        pair.release()
        pair.pump()
        assert running.done
        assert waiting.response == (0 if lun == 5 else ABORTED)


def test_a_queued_command_for_no_unit_ends_with_its_connection(pair: Pair) -> None:
    pair.a.session.command(READ_8M, read_length=8 << 20)
    pair.a.session.command(READ_8M, lun=5, read_length=8 << 20)
    pair.a.pump()
    assert pair.a.end.connection.tasks.count == 2
    pair.slow.go.set()
    pair.a.end.disconnect()  # returns
    assert pair.a.end.connection.finished


@pytest.mark.parametrize(
    ("lun", "itt", "response"),
    [
        (0, 0x7777, Response.NO_SUCH_TASK),
        (1, None, Response.NO_SUCH_TASK),  # the task is of another unit
        (5, None, Response.NO_SUCH_LUN),
    ],
)
def test_abort_of_what_is_not_there(
    pair: Pair, lun: int, itt: int | None, response: Response
) -> None:
    task = pair.begin(pair.a)
    about = Task() if itt else task
    about.itt = itt or about.itt
    abort = pair.manage(pair.a, Function.ABORT_TASK, about=about, lun=lun)
    assert abort.response == response
    pair.release()
    pair.pump()
    assert task.status == 0


def test_another_session_cannot_abort_a_task(pair: Pair) -> None:
    task = pair.begin(pair.a)
    abort = pair.manage(pair.b, Function.ABORT_TASK, about=task)
    assert abort.response == Response.NO_SUCH_TASK
    pair.release()
    pair.pump()
    assert task.done


@pytest.mark.parametrize(
    ("function", "response"),
    [
        (Function.CLEAR_ACA, Response.NOT_SUPPORTED),
        (Function.TASK_REASSIGN, Response.REASSIGNMENT_NOT_SUPPORTED),
        (0, Response.NOT_SUPPORTED),
        (9, Response.NOT_SUPPORTED),
        (127, Response.NOT_SUPPORTED),
    ],
)
def test_functions_that_are_not_offered(pair: Pair, function: int, response: Response) -> None:
    assert pair.manage(pair.a, function).response == response
    assert pair.attention(pair.a) == (0, 0, 0)


# -- functions over two sessions ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "others", "told", "told_other"),
    [
        (Function.ABORT_TASK_SET, False, (0, 0, 0), (0, 0, 0)),
        (Function.CLEAR_TASK_SET, True, (0, 0, 0), (6, 0x2F, 0)),
        (Function.LOGICAL_UNIT_RESET, True, (6, 0x29, 3), (6, 0x29, 3)),
        (Function.TARGET_WARM_RESET, True, (6, 0x29, 2), (6, 0x29, 2)),
    ],
)
def test_functions_on_task_sets(
    pair: Pair,
    function: Function,
    others: bool,
    told: tuple[int, int, int],
    told_other: tuple[int, int, int],
) -> None:
    running = pair.begin(pair.b)
    mine, theirs = pair.queue(pair.a), pair.queue(pair.b)
    # of no concern to functions on LUN 0
    managed = pair.manage(pair.a, function)
    assert managed.done is not others, "answered before the last task had left"
    pair.release()
    pair.pump()
    assert (managed.done, managed.response) == (True, Response.COMPLETE)
    assert mine.response == ABORTED
    assert running.done is not others
    assert theirs.done is not others
    pair.slow.fault = None
    assert pair.attention(pair.a) == told
    assert pair.attention(pair.b) == told_other
    whole = function == Function.TARGET_WARM_RESET
    assert pair.attention(pair.b, lun=1) == (told_other if whole else (0, 0, 0))


def test_target_cold_reset_ends_every_session_of_the_target(pair: Pair) -> None:
    stranger = target_of(InlineRamUnit(), name="iqn.2026-11.io.userdisk:stranger")
    pair.environment.targets[stranger.name] = stranger  # type: ignore[index]
    other = Link(pair.environment, target=stranger.name).login()
    running = pair.begin(pair.b)
    reset = pair.manage(pair.a, Function.TARGET_COLD_RESET)
    assert not reset.done
    assert pair.a.end.reading
    pair.slow.go.set()
    while not reset.done:
        if not pair.b.end.inbox.empty():
            pair.b.end.wait()
        pair.a.pump()
    while pair.b.end.reading:
        pair.b.end.wait()
    assert (reset.done, reset.response) == (True, Response.COMPLETE)
    assert not running.done
    assert pair.a.end.connection.phase is Phase.CLOSING  # after the response was sent
    assert pair.b.end.connection.phase is Phase.CLOSED
    assert other.end.reading
    for link in (pair.a, pair.b):
        link.end.disconnect()
    assert not pair.target.nexuses
    again = Link(pair.environment).login()
    assert again.command(bytes(6)).sense[12] == 0x29
    for link in (again, other):
        link.end.disconnect()
    close(stranger)


def test_a_refused_cold_reset_ends_nothing(pair: Pair) -> None:
    raw = RawLink(pair.a)
    pair.begin(pair.b)
    for number in range(40):
        raw.function(Function.LOGICAL_UNIT_RESET, itt=0x100 + number)
    assert raw.function(Function.TARGET_COLD_RESET) == [Response.REJECTED]
    assert pair.a.end.reading
    assert pair.b.end.reading


def test_the_session_that_asked_is_gone_before_the_answer(pair: Pair) -> None:
    running = pair.begin(pair.b)
    reset = pair.manage(pair.a, Function.LOGICAL_UNIT_RESET)
    pair.a.end.disconnect()
    pair.release()
    pair.pump()
    assert not reset.done
    assert not running.done
    assert pair.b.run(pair.b.session.ping(b"!")).data == b"!"


# -- windows, tags, floods ---------------------------------------------------------------------


class RawLink(Raw):
    """By hand, on a link."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.end = link.end
        self.out = self.end.connection.out

    def function(self, function: int, *, about: int = 0xFFFFFFFF, itt: int = 0x200) -> list[int]:
        """Send a task management function; the responses that come at once."""
        header = pdu.TASK_MANAGEMENT.pack(
            0x42, 0x80 | function, 0, 0, itt, about, self.out.exp_cmd_sn, 0, 0, 0
        )
        return [each[2] for each, _ in self.feed(header) if each[0] == 0x22]

    def read(self, itt: int, *, immediate: bool = False, cmd_sn: int | None = None) -> list[bytes]:
        """Send a READ of 8 blocks; the headers that come at once."""
        number = self.out.exp_cmd_sn if cmd_sn is None else cmd_sn & 0xFFFFFFFF
        numbers = (0, itt, 4096, number, 0, READ + bytes(6))
        opcode = 0x41 if immediate else 0x01
        return [each for each, _ in self.feed(pdu.GENERIC.pack(opcode, 0xC1, 0, *numbers))]


def test_the_window_closes_and_opens(pair: Pair) -> None:
    raw = RawLink(pair.a)
    for number in range(128):
        assert raw.read(number) == []
    assert raw.out.max_cmd_sn == (raw.out.exp_cmd_sn - 1) & 0xFFFFFFFF
    before = raw.out.exp_cmd_sn
    assert raw.read(1000) == []  # beyond the window: as if it had not come
    assert raw.out.exp_cmd_sn == before
    assert pair.a.end.connection.tasks.count == 128
    pair.release()
    assert raw.out.max_cmd_sn == (before + 127) & 0xFFFFFFFF
    raw.read(1000)
    assert raw.out.exp_cmd_sn == (before + 1) & 0xFFFFFFFF


@pytest.mark.parametrize("start", [1, 0xFFFFFFF0, 0x7FFFFFFA])
def test_max_cmd_sn_never_goes_back(pair: Pair, start: int) -> None:
    """Over commands of every kind, quick, slow, immediate and refused."""
    pair.a.end.connection.out.begin(start, 5, (False, False))
    raw = RawLink(pair.a)
    raw.out._max_cmd_sn = raw.out.max_cmd_sn
    last = raw.out.max_cmd_sn
    rng = random.Random(2)
    pair.slow.go.set()
    answers: list[bytes] = []
    for number in range(400):
        kind = rng.randrange(6)
        if kind < 3:
            headers = raw.read(number, immediate=kind == 2)
        elif kind == 3:
            numbers = (1 << 48, number, 4096, raw.out.exp_cmd_sn, 0, READ + bytes(6))
            headers = [each for each, _ in raw.feed(pdu.GENERIC.pack(0x01, 0xC1, 0, *numbers))]
        elif kind == 4:
            header = pdu.GENERIC.pack(
                0x40, 0x80, 0, 0, number, 0xFFFFFFFF, raw.out.exp_cmd_sn, 0, bytes(16)
            )
            headers = [each for each, _ in raw.feed(header)]
        else:
            headers = [each for each, _ in split(pair.a.end.settle())]
        answers += headers
        for header in headers:
            value = int.from_bytes(header[32:36])
            assert not pdu.serial_less(value, last), f"{value} after {last}"
            assert (value - int.from_bytes(header[28:32])) & 0xFFFFFFFF in (*range(128), 0xFFFFFFFF)
            last = value
    assert len(answers) > 100


@pytest.mark.parametrize("ahead", [1, 127])
def test_a_gap_in_the_numbers_ends_the_connection(pair: Pair, ahead: int) -> None:
    raw = RawLink(pair.a)
    raw.read(1, cmd_sn=raw.out.exp_cmd_sn + ahead)
    assert not pair.a.end.reading
    assert pair.b.end.reading


@pytest.mark.parametrize("ahead", [-1, -2, -(1 << 30), 128, 1 << 20])
def test_numbers_outside_the_window_are_ignored(pair: Pair, ahead: int) -> None:
    raw = RawLink(pair.a)
    assert raw.read(1, cmd_sn=raw.out.exp_cmd_sn + ahead) == []
    assert not pair.a.end.connection.tasks.count
    assert pair.a.end.reading


def test_a_tag_in_use_is_refused(pair: Pair) -> None:
    raw = RawLink(pair.a)
    assert raw.read(5) == []
    for immediate in (False, True):
        (header,) = raw.read(5, immediate=immediate)
        assert (header[0], header[2]) == (0x3F, pdu.RejectReason.TASK_IN_PROGRESS)
    (header,) = raw.read(pdu.RESERVED_TAG)
    assert header[0] == 0x3F
    pair.release()
    assert pair.slow.calls["read"] == 1
    pair.a.end.settle()
    assert raw.read(5) == []  # free again
    assert pair.a.end.connection.tasks.count == 1


def test_a_flood_of_immediate_commands_is_refused(pair: Pair) -> None:
    raw = RawLink(pair.a)
    refused = 0
    for number in range(1000):
        for header in raw.read(number, immediate=True):
            assert (header[0], header[2]) == (0x3F, pdu.RejectReason.IMMEDIATE_COMMAND_REJECT)
            refused += 1
    assert pair.a.end.connection.tasks.count <= 140
    assert refused == 1000 - pair.a.end.connection.tasks.count


def test_a_flood_of_functions_is_refused(pair: Pair) -> None:
    """Each waits for a task that does not end; they do not pile up."""
    pair.begin(pair.b)
    raw = RawLink(pair.a)
    answers = [
        raw.function(Function.LOGICAL_UNIT_RESET, itt=0x200 + number) for number in range(500)
    ]
    assert answers.count([]) == 32
    assert answers.count([Response.REJECTED]) == 468
    (lu, _) = pair.target.units
    assert len(lu.task_set._waits) == 32
    pair.release()
    assert len([each for each, _ in split(pair.a.end.settle()) if each[0] == 0x22]) == 32
    assert raw.function(Function.LOGICAL_UNIT_RESET) == [Response.COMPLETE]


def test_tags_of_dropped_data_do_not_pile_up(pair: Pair) -> None:
    """Commands refused with data to come: what is remembered of them is bounded."""
    raw = RawLink(pair.a)
    for number in range(3000):
        raw.command(1, final=False, itt=number)
    assert len(pair.a.end.connection.tasks._discard) <= 1024
    assert pair.a.end.reading


def test_a_discovery_session_has_no_commands() -> None:
    target = target_of(InlineRamUnit())
    link = Link(environment_of(target), target=None).login()
    raw = RawLink(link)
    assert raw.read(1)[0][0] == 0x3F
    assert raw.function(Function.TARGET_COLD_RESET) == []
    assert raw.data(bytes(512))[0][0][0] == 0x3F
    assert b"TargetName" in link.end.feed(
        pdu.GENERIC.pack(0x44, 0x80, 16, 0, 9, 0xFFFFFFFF, raw.out.exp_cmd_sn, 0, bytes(16))
        + b"SendTargets=All\0"
    )
    link.end.disconnect()
    close(target)
