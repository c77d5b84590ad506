"""The initiator and our target over the fake link: data in every way that can be negotiated."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.link import TARGET, Link, close, environment_of, target_of
from tests.kit.units import InlineRamUnit
from userdisk.errors import UsageError
from userdisk.iscsi.chap import Account, Credentials
from userdisk.iscsi.environment import Environment
from userdisk.iscsi.initiator import Task
from userdisk.iscsi.initiator_fast_path import lun_field
from userdisk.iscsi.initiator_login import LoginBroken, LoginRefused
from userdisk.iscsi.initiator_task import BlockRead

BLOCKS = 8192
ANNA = {"user": "anna", "secret": b"a secret of anna"}
DISK = {"mutual_user": "disk", "mutual_secret": b"the disk's secret"}


@pytest.fixture
def environment() -> Iterator[Environment]:
    target = target_of(InlineRamUnit(block_count=BLOCKS))
    yield environment_of(target)
    close(target)


def read(lba: int, blocks: int) -> Task:
    return Task(struct.pack(">BxQIxx", 0x88, lba, blocks), blocks * 512)


def write(lba: int, data: bytes) -> Task:
    return Task(struct.pack(">BxQIxx", 0x8A, lba, len(data) // 512), 0, data)


def both(link: Link, lba: int, data: bytes) -> tuple[Task, Task]:
    """Write, and read it back."""
    first, second = write(lba, data), read(lba, len(data) // 512)
    for task in (first, second):
        link.session.submit([task])
        link.run(task)
    assert (first.response, first.status, first.residual) == (0, 0, 0)
    assert (second.response, second.status, second.residual) == (0, 0, 0)
    assert second.data == data
    return first, second


_LENGTHS = (512, 4096, 65536)
_COMBINATIONS = [
    {
        "initial_r2t": r2t,
        "immediate_data": immediate,
        "first_burst_length": first,
        "max_burst_length": burst,
        "max_recv_segment": segment,
    }
    for r2t, immediate, first, burst, segment in itertools.product(
        (False, True), (False, True), _LENGTHS, _LENGTHS, _LENGTHS
    )
]


@pytest.mark.parametrize("r2t", [False, True])
@pytest.mark.parametrize("immediate", [False, True])
def test_every_combination(environment: Environment, r2t: bool, immediate: bool) -> None:
    data = random.Random(1).randbytes(80 * 512)
    chosen = [
        each
        for each in _COMBINATIONS
        if (each["initial_r2t"], each["immediate_data"]) == (r2t, immediate)
        and each["first_burst_length"] <= each["max_burst_length"]
    ]
    assert len(chosen) == 18
    for number, settings in enumerate(chosen):
        link = Link(environment, isid=number + 1, **settings).login()
        found = link.session.parameters
        assert (found.initial_r2t, found.immediate_data) == (r2t, immediate)
        assert found.first_burst_length == settings["first_burst_length"]
        assert found.max_burst_length == settings["max_burst_length"]
        link.ready()
        long, back = both(link, 8, data)
        assert back.data_pdus >= len(data) / settings["max_recv_segment"]
        first = min(len(data), found.first_burst_length)
        if r2t:
            first = min(first, found.max_send_segment) if immediate else 0
        asked = -(-(len(data) - first) // found.max_burst_length)
        assert long.r2ts >= asked
        assert bool(long.r2ts) == bool(asked)
        short, _ = both(link, 0, data[:512])
        assert bool(short.r2ts) == (r2t and not immediate)
        link.end.disconnect()


@pytest.mark.parametrize("digests", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("piece", [1 << 30, 1000, 7])
def test_digests(environment: Environment, digests: tuple[bool, bool], piece: int) -> None:
    names = dict(zip(("header_digest", "data_digest"), digests, strict=True))
    link = Link(environment, piece=piece, max_recv_segment=40000, **names).login()
    found = link.session.parameters
    assert (found.header_digest, found.data_digest) == digests
    link.ready()
    length = 512 if piece == 7 else 100 * 512
    both(link, 0, random.Random(2).randbytes(length))
    assert link.run(link.session.ping(b"abc")).data == b"abc"
    assert len(link.command(b"\x12\0\0\0\x26\0", read_length=38).data) == 38
    link.end.disconnect()


@pytest.mark.parametrize("piece", [1 << 30, 100_000, 4096, 999])
def test_long_data_in_pieces(environment: Environment, piece: int) -> None:
    """What is longer than the staging buffer goes to its place, however it comes."""
    link = Link(environment, piece=piece).login()
    link.ready()
    data = random.Random(3).randbytes(1 << 20)
    parts = [write(512 * n, data[n << 18 : (n + 1) << 18]) for n in range(4)]
    link.session.submit(parts)
    for part in parts:
        link.run(part)
    both(link, 4096, data)
    whole = link.run(link.session.command(read(0, 2048).cdb, read_length=1 << 20))
    assert whole.data == data
    link.end.disconnect()


def test_many_commands_at_once(environment: Environment) -> None:
    """More than the window takes; they end in any order that the target likes."""
    link = Link(environment).login()
    link.ready()
    tasks: list[Task] = []
    for number in range(600):
        tasks.append(write(number, bytes([number % 251]) * 512))
        tasks.append(read(number, 1))
    link.session.submit(tasks)
    assert link.session.waiting
    for task in tasks:
        link.run(task)
    assert all((task.response, task.status) == (0, 0) for task in tasks)
    assert [task.data[0] for task in tasks[1::2]] == [n % 251 for n in range(600)]
    assert link.session.idle
    link.end.disconnect()


@pytest.mark.parametrize("itt", [0xFFFFFFF0, 5])
def test_the_numbers_wrap(environment: Environment, itt: int) -> None:
    link = Link(environment).login()
    link.ready()
    session, out = link.session, link.end.connection.out
    session.cmd_sn, session.max_cmd_sn = 0xFFFFFFF0, 0xFFFFFFF0 + 100 & 0xFFFFFFFF
    out.exp_cmd_sn = 0xFFFFFFF0
    session.exp_stat_sn = out.stat_sn = 0xFFFFFFF5
    session.itt = itt
    tasks = [read(number, 1) for number in range(64)]
    session.submit(tasks)
    for task in tasks:
        link.run(task)
    assert (session.cmd_sn, session.exp_stat_sn) == (48, 53)
    assert {task.itt for task in tasks}.isdisjoint({0, 0xFFFFFFFF})
    link.end.disconnect()


def block_read(lba: int, blocks: int) -> BlockRead:
    task = BlockRead()
    task.lba, task.blocks = lba, blocks
    return task


_STATES = [
    {},
    {"cmd_sn": 0xFFFFFFFE, "max_cmd_sn": 90},
    {"itt": 0xFFFFFFFC},
    {"max_cmd_sn": 3},  # the window is open for three of them, or two
    {"max_cmd_sn": 1},
]


@pytest.mark.parametrize("state", _STATES)
@pytest.mark.parametrize("digest", [False, True])
@pytest.mark.parametrize("lun", [0, 300])
def test_reads_are_sent_as_other_commands_are(
    environment: Environment, state: dict[str, int], digest: bool, lun: int
) -> None:
    """Byte by byte; used ones as well as new ones."""
    wanted = [(5, 1), (2**40, 8), (7, 8), (0, 2**20), (9, 0)]
    sent = []
    for number in (0, 1):
        link = Link(environment, isid=number + 1, header_digest=digest).login()
        link.ready()
        session = link.session
        assert session.max_cmd_sn - session.cmd_sn >= 10
        session.cmd_sn, session.max_cmd_sn = 2, 60
        for name, value in state.items():
            setattr(session, name, value)
        tasks = [block_read(*each) for each in wanted]
        tasks[2].data, tasks[2].data_pdus, tasks[2].done = b"old", 1, True
        if number:
            session.submit_reads(tasks, lun, 512)
        else:
            session.submit([Task(read(*each).cdb, each[1] * 512, b"", lun) for each in wanted])
        under_way = [*session.tasks.values(), *session.waiting]
        about = [
            (each.itt, each.cmd_sn, each.lun, each.read_length, each.done, each.data)
            for each in under_way
        ]
        assert len(about) == 5
        assert {each.data_pdus for each in under_way} == {0}
        numbers = (session.itt, session.cmd_sn, len(session.waiting), list(session.tasks))
        sent.append((b"".join(session.take_output()), about, numbers))
        link.end.disconnect()
    assert sent[0] == sent[1]


def test_no_reads_at_all(environment: Environment) -> None:
    link = Link(environment).login()
    link.session.submit_reads([], 0, 512)
    assert link.session.take_output() == []
    link.end.disconnect()


@pytest.mark.parametrize(
    ("settings", "credentials", "error"),
    [
        ({}, {}, None),
        (ANNA, {"user": True}, None),
        (ANNA | DISK, {"user": True, "mutual": True}, None),
        ({}, {"user": True}, LoginRefused),
        (ANNA | {"secret": b"another of 12"}, {"user": True}, LoginRefused),
        (ANNA | {"user": "berta"}, {"user": True}, LoginRefused),
        (ANNA, {}, LoginBroken),
        (ANNA | DISK, {"user": True}, (LoginBroken, LoginRefused)),
        (
            ANNA | DISK | {"mutual_secret": b"wrong" * 3},
            {"user": True, "mutual": True},
            LoginBroken,
        ),
        (ANNA | DISK | {"mutual_user": "tape"}, {"user": True, "mutual": True}, LoginBroken),
        (ANNA | DISK | {"mutual_secret": ANNA["secret"]}, {"user": True}, UsageError),
    ],
)
def test_chap(settings: dict[str, Any], credentials: dict[str, bool], error: Any) -> None:
    target = target_of(InlineRamUnit())
    mutual = Account("disk", b"the disk's secret") if "mutual" in credentials else None
    users = (Account("anna", b"a secret of anna"),)
    environment = environment_of(
        target, credentials=Credentials(users, mutual) if credentials else None
    )
    if error is None:
        link = Link(environment, **settings).login()
        assert link.ready().status == 0
        link.end.disconnect()
    else:
        with pytest.raises(error):
            Link(environment, **settings).login()
    close(target)


def test_a_discovery_session_and_its_end(environment: Environment) -> None:
    link = Link(environment, target=None).login()
    answer = link.run(link.session.text([("SendTargets", "All")]))
    assert f"TargetName={TARGET}".encode() in answer.data
    assert link.run(link.session.logout()).response == 0
    assert link.session.closed


def test_lun_numbers() -> None:
    assert [f"{lun_field(lun):016x}" for lun in (0, 255, 256, 16383)] == [
        "0000000000000000", "00ff000000000000", "4100000000000000", "7fff000000000000"
    ]  # fmt: skip
    for wrong in (-1, 16384):
        with pytest.raises(ValueError, match="LUN"):
            lun_field(wrong)
