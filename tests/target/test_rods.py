"""What ends a token: writes of every kind, time, its initiator; also over sockets, in a race."""

from __future__ import annotations

import struct
import threading

import pytest

from tests.kit.copies import (
    DEL_TKN,
    ZERO_TOKEN,
    Clock,
    Host,
    Information,
    code,
    copy_list,
    filled,
    host_of,
    lun,
    pair,
    populate_list,
    populate_token,
    same,
    segment,
    token_information,
    write_list,
    write_using_token,
)
from tests.kit.engine import IQN, EnginePort, ready_nexus, target_of
from tests.kit.sockets import connect, serving
from tests.kit.units import KINDS, AsyncRamUnit, ConcurrentRamUnit, InlineRamUnit
from userdisk.gate import Gate
from userdisk.initiator_client import Initiator, ScsiError
from userdisk.operation import Exclusive, Kind, Operation
from userdisk.scsi.sense import Asc
from userdisk.target import rods
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target

COUNT = 2048
R = [(0, 4)]
POPULATE = populate_list(R)


def ready(host: Host, unit: int = 0) -> bool:
    return host.nexus.paths[lun(unit)].ready


# -- what ends a token -------------------------------------------------------------------------


def gone(host: Host, token: bytes, why: Asc, unit: int = 1) -> None:
    """The token is not valid any more, for this reason."""
    assert code(host.write(write_list(token, [(1000, 1)]), unit=unit)) == (5, why)


def cdb10(opcode: int, lba: int, count: int) -> bytes:
    return struct.pack(">BBIxHx", opcode, 0, lba, count)


@pytest.mark.parametrize(
    ("name", "cdb", "data"),
    [
        ("WRITE(10)", cdb10(0x2A, 19, 2), bytes(1024)),
        ("WRITE(16)", struct.pack(">BBQIxx", 0x8A, 0, 0, 11), bytes(11 * 512)),
        ("WRITE SAME(16)", struct.pack(">BBQIxx", 0x93, 0, 15, 1), bytes(512)),
        ("WRITE SAME(10), UNMAP", struct.pack(">BBIxHx", 0x41, 8, 15, 1), bytes(512)),
        ("UNMAP", struct.pack(">B6xHx", 0x42, 24), struct.pack(">HH4xQI4x", 22, 16, 15, 1)),
        ("ORWRITE(16)", struct.pack(">BBQIxx", 0x8B, 0, 15, 1), bytes(512)),
        ("WRITE AND VERIFY(10)", cdb10(0x2E, 15, 1), bytes(512)),
        ("WRITE USING TOKEN", write_using_token(7, 552), write_list(ZERO_TOKEN, [(15, 1)])),
        (
            "EXTENDED COPY",
            bytes.fromhex("83 00 0000000000000000 0000002c 0000"),
            copy_list([], [segment(0xFFFF, 0xFFFF, 1, 100, 15)]),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_whatever_writes_to_its_blocks_cancels_it(name: str, cdb: bytes, data: bytes) -> None:
    _, _, host = pair()
    other = Host(ready_nexus(host.nexus.target, "iqn.2024-01.org.example:other"))
    token = host.token([(100, 4), (10, 10)])
    assert not ready(host) and not ready(other) and ready(host, 1)
    spared = host.token([(500, 4)])
    assert other.run(cdb, data).status == 0
    gone(host, token, Asc.TOKEN_CANCELLED)
    assert not ready(host)
    assert host.write(write_list(spared, [(0, 4)]), unit=1).status == 0
    assert other.run(cdb10(0x2A, 500, 1), bytes(512)).status == 0
    assert ready(host) and ready(other), "the fast path is free again"


def test_a_compare_and_write_that_miscompares_may_cancel_but_reads_do_not() -> None:
    _, _, host = pair()
    token = host.token([(10, 10)])
    for cdb in (cdb10(0x28, 10, 10), cdb10(0x35, 0, 0), cdb10(0x34, 10, 1)):
        assert host.run(cdb).status == 0
    for lba in (9, 20):
        assert host.run(cdb10(0x2A, lba, 1), bytes(512)).status == 0
    assert host.write(write_list(token, [(0, 10)]), unit=1).status == 0


def test_a_block_port_cancels_it() -> None:
    a, _, host = pair()
    token = host.token([(10, 10)])
    gate = host.nexus.paths[0].lu.gate
    gate.run(Operation(Kind.READ, 10, 1))
    gate.run(Operation(Kind.WRITE, 9, 1, data=memoryview(bytes(512))))
    assert host.write(write_list(token, [(0, 10)]), unit=1).status == 0
    gate.run(Operation(Kind.WRITE, 19, 1, data=memoryview(bytes(512))))
    gone(host, token, Asc.TOKEN_CANCELLED)
    assert a.calls["write"] == 2


@pytest.mark.parametrize("kind", [Kind.ERASE, Kind.CRYPTO_ERASE])
def test_erasing_cancels_it(kind: Kind) -> None:
    class Erasable(InlineRamUnit):
        def erase(self) -> None:
            pass

        def crypto_erase(self) -> None:
            pass

    host = host_of(Erasable(), filled())
    token = host.token([(10, 10)])
    host.nexus.paths[0].lu.gate.perform(Operation(kind))
    gone(host, token, Asc.TOKEN_CANCELLED)


def test_another_medium_cancels_it() -> None:
    a, b = filled(removable=True), filled()
    host = host_of(a, b)
    token = host.token([(10, 10)])
    assert host.run(bytes.fromhex("1b0000000200")).status == 0
    assert host.run(bytes.fromhex("1b0000000300")).status == 0
    gone(host, token, Asc.TOKEN_CANCELLED)


def test_a_disk_that_was_cut_cancels_it() -> None:
    a, _, host = pair()
    token = host.token([(10, 10), (COUNT - 1, 1)])
    a.resized(COUNT - 1)
    gone(host, token, Asc.TOKEN_CANCELLED)
    assert not a.log


def test_time() -> None:
    clock = Clock()
    host = host_of(filled(), filled(), clock=clock)
    usual, long = host.token([(0, 1)]), host.token([(2, 1)], timeout=300)
    clock.now += 29
    assert host.write(write_list(usual, [(0, 1)]), unit=1).status == 0
    clock.now += 29  # used since
    assert host.write(write_list(usual, [(0, 1)]), unit=1).status == 0
    clock.now += 30
    gone(host, usual, Asc.TOKEN_EXPIRED)
    assert not ready(host)
    clock.now += 300
    assert host.run(bytes(6)).status == 0  # TEST UNIT READY finds that it has expired
    assert ready(host)
    gone(host, long, Asc.TOKEN_EXPIRED)


def test_a_command_on_its_way_keeps_it() -> None:
    clock = Clock()
    a, b = filled(block_count=8192), filled(block_count=8192)
    host = host_of(a, b, clock=clock)
    token = host.token([(0, 8192)])
    host.port.deferred = True
    data = write_list(token, [(0, 8192)])
    task = host.port.start(host.nexus, write_using_token(3, len(data)), data, lun(1))
    host.port.step()
    clock.now += 1000
    assert Host(host.nexus).run(bytes(6)).status == 0
    while host.port.waiting:
        host.port.step()
    assert task.completions[0] is not None and task.completions[0].status == 0
    assert same(a.memory, b.memory)


def test_an_initiator_may_delete_it() -> None:
    _, _, host = pair()
    token = host.token([(10, 10)])
    assert host.write(write_list(token, [(0, 10)], flags=DEL_TKN), unit=1).status == 0
    gone(host, token, Asc.TOKEN_DELETED)
    assert ready(host)
    assert host.write(write_list(ZERO_TOKEN, [(0, 10)], flags=DEL_TKN), unit=1).status == 0


def test_there_are_so_many_tokens_and_no_more() -> None:
    clock = Clock()
    host = host_of(filled(), filled(), clock=clock)
    tokens = [host.token([(each, 1)]) for each in range(rods.MAX_RODS)]
    result = host.populate(POPULATE, 7)
    assert code(result) == (5, Asc.INSUFFICIENT_RESOURCES_FOR_ROD_TOKEN)
    assert host.information(7).state == 2 and not host.information(7).token
    assert host.populate(POPULATE, 7, unit=1).status == 0, "the limit is that of a unit"
    assert host.write(write_list(tokens[3], [(0, 1)], flags=DEL_TKN), unit=1).status == 0
    assert host.populate(POPULATE, 7).status == 0
    clock.now += 31
    assert all(len(host.token([(each, 1)])) == 512 for each in range(rods.MAX_RODS))


# -- writes that race with the token -----------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_write_while_it_is_being_used(steps: int) -> None:
    a, b = filled(block_count=8192), filled(block_count=8192)
    host = host_of(a, b)
    token = host.token([(0, 8192)])
    before, was = bytes(b.memory), bytes(a.memory)
    host.port.deferred = True
    data = write_list(token, [(0, 8192)])
    task = host.port.start(host.nexus, write_using_token(3, len(data)), data, lun(1))
    for _ in range(steps):
        host.port.step()
    now = Host(ready_nexus(host.nexus.target, "iqn.2024-01.org.example:other"))
    assert now.run(cdb10(0x2A, 5, 1), bytes(512)).status == 0
    while host.port.waiting:
        host.port.step()
    (completion,) = task.completions
    assert completion is not None and completion.status == 2
    # what is read now might be of another time: no more of it is written
    done = (steps + 1) // 2 << 20
    assert same(b.memory, was[:done] + before[done:])
    key = 0xA if done else 5
    assert completion.sense[2] == key and completion.sense[12:14] == b"\x0d\x04"
    assert int.from_bytes(completion.sense[3:7], "big") == done // 512


def test_a_write_queued_before_and_done_after_the_token_was_made() -> None:
    """On a unit whose operations overlap, a write may be asked for long before it runs."""
    unit = ConcurrentRamUnit()
    gate = Gate(unit)
    lu = LogicalUnit(gate)
    target = Target(IQN, [lu])
    host = Host(ready_nexus(target))
    early = Operation(Kind.WRITE, 0, 1, data=memoryview(bytes(512)))
    assert gate.watch is None  # when `early` was asked for
    token = host.token(R)
    gate.perform(early)
    gone(host, token, Asc.TOKEN_CANCELLED, unit=0)


def test_making_a_token_is_exclusive() -> None:
    class Watched(EnginePort):
        def operate(self, task: object, operation: Operation) -> object:
            assert isinstance(operation, Exclusive) and not operation.blocks
            return super().operate(task, operation)  # type: ignore[arg-type]

    host = Host(ready_nexus(target_of(AsyncRamUnit())), Watched())
    assert host.populate(POPULATE).status == 0


# -- over sockets ------------------------------------------------------------------------------


def make_token(initiator: Initiator, ranges: list[tuple[int, int]]) -> bytes:
    data = populate_list(ranges)
    initiator.execute(populate_token(1, len(data)), data_out=data)
    return Information.read(initiator.execute(token_information(1), read_length=4096)).token


def use_token(initiator: Initiator, token: bytes, ranges: list[tuple[int, int]]) -> None:
    data = write_list(token, ranges)
    initiator.execute(write_using_token(2, len(data)), data_out=data)


@pytest.mark.parametrize("kind", KINDS)
def test_writes_of_another_session_cancel_it(kind: str) -> None:
    """Writes that had the fast path before, and get it back after."""
    a, b = KINDS[kind](), InlineRamUnit()
    with serving(a, b) as (_, address):
        one, two = connect(address), connect(address, isid=2)
        there = connect(address, lun=1, isid=3)
        with one, two, there:
            for lba in range(40):
                two.write(lba, bytes([lba]) * 512)
            token = make_token(one, [(10, 10)])
            two.write(9, bytes(512))
            use_token(there, token, [(100, 10)])
            assert there.read(100, 10) == bytes(a.memory[10 * 512 : 20 * 512])
            two.write(19, bytes(512))
            with pytest.raises(ScsiError, match="5/23/08"):
                use_token(there, token, [(200, 10)])
            assert two.read(19, 1) == bytes(512)
            assert not any(b.memory[200 * 512 : 210 * 512])


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_of_one_time(kind: str) -> None:
    """A writer in the fast path, all the while; what a token gives is what was there when made."""
    a, b = KINDS[kind](), InlineRamUnit()
    started = completed = 0
    stop = threading.Event()
    good = cancelled = 0

    def write(initiator: Initiator) -> None:
        nonlocal started, completed
        while not stop.is_set():
            started += 1
            initiator.write(16, struct.pack(">Q", started) * 512)  # 8 blocks
            completed = started
            stop.wait(0.0005 if started % 3 else 0.004)

    with serving(a, b) as (_, address):
        one, two = connect(address), connect(address, isid=2)
        with one, two, connect(address, lun=1, isid=3) as there:
            two.write(16, bytes(4096))
            writer = threading.Thread(target=write, args=(two,))
            writer.start()
            try:
                for _ in range(60):
                    earliest = completed
                    token = make_token(one, [(16, 8)])
                    latest = started
                    try:
                        use_token(there, token, [(0, 8)])
                    except ScsiError as error:
                        assert any(each in str(error) for each in ("5/23/08", "5/0d/04"))
                        cancelled += 1
                        continue
                    good += 1
                    found = set(struct.unpack(">512Q", there.read(0, 8)))
                    assert len(found) == 1
                    assert earliest <= found.pop() <= latest
            finally:
                stop.set()
                writer.join()
    assert good + cancelled == 60


@pytest.mark.parametrize("cut", [1004, 1001])
def test_blocks_that_were_cut_off_come_back_as_others(cut: int) -> None:
    a, b, host = pair()
    token, other = host.token([(1000, 8)]), host.token([(0, 8)])
    a.resized(cut)
    a.resized(2048)
    before = bytes(b.memory)
    gone(host, token, Asc.TOKEN_CANCELLED)
    assert same(b.memory, before)
    assert host.write(write_list(other, [(0, 8)]), unit=1).status == 0
    assert same(b.memory[:4096], a.memory[:4096])


def test_a_copy_between_units_of_a_real_server() -> None:
    a, b = InlineRamUnit(block_count=8192), KINDS["serial"](block_length=4096, block_count=1024)
    a.memory[:] = bytes(range(256)) * (len(a.memory) // 256)
    names: list[bytes] = []
    with serving(a, b) as (_, address):
        for number in range(2):
            with connect(address, lun=number) as initiator:
                page = initiator.execute(bytes.fromhex("1201830100 00"), read_length=256)
                names.append(bytes([0xE4, 0, 0, 0]) + page[4:16].ljust(28, b"\0"))
        with connect(address) as initiator:
            data = copy_list(names, [segment(0, 1, 8000, 0, 10)])
            initiator.execute(
                bytes.fromhex("8300 0000000000000000") + struct.pack(">Ixx", len(data)),
                data_out=data,
            )
    assert same(b.memory[10 * 4096 : 1010 * 4096], a.memory[: 8000 * 512])
