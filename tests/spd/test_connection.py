"""The device's side: what each request does, what is refused, and what ends a connection."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.spd_link import FLUSH, READ, WRITE, Link, decode, request, unmap
from tests.kit.units import KINDS, HeldUnit, InlineRamUnit, LiveRamUnit, RamUnit
from userdisk import errors
from userdisk.budget import PROCESS_LIMIT
from userdisk.operation import Kind
from userdisk.spd.connection import MESSAGE_LIMIT

LBA_OUT_OF_RANGE, INVALID_FIELD, INVALID_LIST = (5, 0x21, 0), (5, 0x24, 0), (5, 0x26, 0)
UNSUPPORTED, PROTECTED = (5, 0x20, 0), (7, 0x27, 0)
DATA = bytes(range(256)) * 8


def test_it_begins_with_the_parameters() -> None:
    unit = InlineRamUnit(
        product_id="a disk", product_revision="7", max_transfer_length=96 * 512, eject_disabled=True
    )
    with Link(unit) as link:
        assert len(link.parameters) == 128
        guid, count, length, product, revision, kind, flags, most = struct.unpack_from(
            "<16sQI16s4sB3xII", link.parameters
        )
        assert guid == unit.parameters.guid.bytes_le
        assert (count, length, kind, flags, most) == (2048, 512, 0, 0b1110, 96 * 512)
        assert (product, revision) == (b"a disk".ljust(16, b"\0"), b"7\0\0\0")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("piece", [0, 1, 47, 700])
def test_every_operation(kind: str, piece: int) -> None:
    unit = KINDS[kind]()
    with Link(unit, piece=piece) as link:
        assert link.do(request(WRITE, 1, 7, 4, fua=True, payload=DATA)).sense is None
        assert link.do(request(READ, 2, 7, 4)).data == DATA
        assert link.do(request(READ, 2, 8, 1, fua=True)).data == DATA[512:1024]
        assert link.do(request(FLUSH, 3, 0, 0)).sense is None
        assert link.do(unmap(4, [(7, 1), (10, 1), (9, 0)])).sense is None
        assert link.do(request(READ, 5, 7, 4)).data == bytes(512) + DATA[512:1536] + bytes(512)
        assert unit.log == [
            ("write", 7, 4, True),
            ("read", 7, 4, False),
            ("read", 8, 1, True),
            ("flush", 0, 0, False),
            ("unmap", 7, 1, False),
            ("unmap", 10, 1, False),
            ("read", 7, 4, False),
        ]
        counters = link.connection.counters[link.gate]
        assert (counters.reads, counters.writes, counters.flushes, counters.unmaps) == (3, 1, 1, 1)
        assert (counters.read_bytes, counters.written_bytes) == (9 * 512, 4 * 512)


@pytest.mark.parametrize("message", [request(READ, 9), request(WRITE, 9), unmap(9, [])])
def test_no_blocks_are_no_work(message: bytes) -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        answer = link.do(message)
        assert (answer.sense, answer.data) == (None, b"")
        assert not unit.log


REFUSED: dict[str, tuple[bytes, tuple[int, int, int], int | None]] = {
    "read past the end": (request(READ, 1, 2047, 2), LBA_OUT_OF_RANGE, 2048),
    "read of nothing past the end": (request(READ, 1, 2049, 0), LBA_OUT_OF_RANGE, 2049),
    "read that wraps": (request(READ, 1, (1 << 64) - 1, 2), LBA_OUT_OF_RANGE, (1 << 64) - 1),
    "read of too much": (request(READ, 1, 0, 129), INVALID_FIELD, None),
    "read whose length has 33 bits": (request(READ, 1, 0, 1 << 23), LBA_OUT_OF_RANGE, 2048),
    "read with payload": (request(READ, 1, 0, 1, payload=bytes(512)), INVALID_FIELD, None),
    "write past the end": (request(WRITE, 1, 2048, 1, payload=bytes(512)), LBA_OUT_OF_RANGE, 2048),
    "write without data": (request(WRITE, 1, 0, 1), INVALID_FIELD, None),
    "write with too little": (request(WRITE, 1, 0, 2, payload=bytes(1023)), INVALID_FIELD, None),
    "write with too much": (request(WRITE, 1, 0, 1, payload=bytes(513)), INVALID_FIELD, None),
    "flush past the end": (request(FLUSH, 1, 2048, 1), LBA_OUT_OF_RANGE, 2048),
    "flush with payload": (request(FLUSH, 1, 0, 1, payload=b"x"), INVALID_FIELD, None),
    "unmap past the end": (unmap(1, [(0, 1), (2000, 49)]), LBA_OUT_OF_RANGE, 2048),
    "unmap that wraps": (unmap(1, [((1 << 64) - 1, 1)]), LBA_OUT_OF_RANGE, (1 << 64) - 1),
    "unmap of more than is there": (unmap(1, [(0, 1)], count=2), INVALID_LIST, None),
    "unmap of less than is there": (unmap(1, [(0, 1)] * 2, count=1), INVALID_LIST, None),
    "unmap of the same again and again": (unmap(1, [(0, 1025)] * 2), INVALID_LIST, None),
    "unmap of very many": (unmap(1, [], count=1 << 31), INVALID_LIST, None),
    "no kind": (request(0, 1), UNSUPPORTED, None),
    "another kind": (request(5, 1), UNSUPPORTED, None),
    "no hint": (request(READ, 0, 0, 1), INVALID_FIELD, None),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_change_nothing_and_are_answered(name: str) -> None:
    message, sense, where = REFUSED[name]
    unit = InlineRamUnit(max_transfer_length=128 * 512)
    with Link(unit) as link:
        answer = link.do(message)
        assert (answer.status[0], answer.sense, answer.data) == (2, sense, b"")
        assert answer.information == where
        assert not unit.log
        assert link.connection.counters[link.gate].failures == 1
        assert link.do(request(READ, 1, 0, 1)).data == bytes(512)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_disk_that_is_protected(read_only: bool) -> None:
    unit = InlineRamUnit(write_protected=not read_only)
    with Link(unit, read_only=read_only) as link:
        assert link.parameters[52] & 1
        assert link.do(request(WRITE, 1, 0, 1, payload=bytes(512))).sense == PROTECTED
        assert link.do(unmap(1, [(0, 1)])).sense == PROTECTED
        assert link.do(request(FLUSH, 1)).sense is None
        assert not unit.log


def test_a_disk_that_cannot_unmap() -> None:
    unit = InlineRamUnit(unmap_supported=False)
    with Link(unit) as link:
        assert not link.parameters[52] & 4
        assert link.do(unmap(1, [(0, 1)])).sense == UNSUPPORTED


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_the_unit(kind: str) -> None:
    unit = KINDS[kind]()

    def fault(name: str, lba: int, blocks: int) -> None:
        raise errors.MediumError("bad", lba=lba + 1) if name == "read" else OSError(28, "full")

    unit.fault = fault
    with Link(unit) as link:
        answer = link.do(request(READ, 1, 5, 2))
        assert (answer.sense, answer.information) == ((3, 0x11, 0), 6)
        assert link.do(request(WRITE, 1, 0, 1, payload=bytes(512))).sense == (7, 0x27, 7)
        unit.fault = None


def test_what_restrains_other_ports_binds_this_one() -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        asked = []

        def restraint(kind: Kind) -> errors.StorageError | None:
            asked.append(kind)
            return errors.ReservationConflict() if kind is Kind.WRITE else None

        link.gate.restraint = restraint
        assert link.do(request(READ, 1, 0, 1)).sense is None
        assert link.do(request(WRITE, 1, 0, 1, payload=bytes(512))).sense == (5, 0x20, 2)
        assert asked == [Kind.READ, Kind.WRITE]
        assert not unit.calls["write"]


def test_a_disk_that_was_cut() -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        unit.resized(1024)
        assert link.do(request(READ, 1, 1024, 1)).sense == LBA_OUT_OF_RANGE
        assert link.do(request(READ, 1, 1023, 1)).sense is None


@pytest.mark.parametrize("length", [0, 1, 47, 49 + 128 * 512, 0xFFFFFFFF])
def test_a_message_of_a_wrong_length_ends_the_client(length: int) -> None:
    unit = InlineRamUnit(max_transfer_length=128 * 512)
    with Link(unit) as link, Link(link.gate) as other:
        link.send(struct.pack("<I", length) + request(READ, 1, 0, 1)[4:])
        assert link.connection.closing
        assert not link.received
        assert other.do(request(READ, 1, 0, 1)).sense is None


def test_answers_in_another_order_and_a_hint_that_is_in_use() -> None:
    class Overlapping(HeldUnit):
        concurrent = True
        workers = 2

    unit = Overlapping()
    with Link(unit) as link:
        link.send(request(READ, 1, 0, 1) + request(WRITE, 2, 0, 1, payload=DATA[:512]))
        assert decode(link.message()).hint == 2
        link.send(request(WRITE, 1, 0, 1, payload=DATA[:512]))
        assert link.connection.closing
        assert "0x1" in link.connection.reason
        unit.go.set()
    assert unit.calls["write"] == 1


def test_data_of_a_slow_unit_is_kept() -> None:
    unit = HeldUnit()
    with Link(unit) as link:
        link.send(request(READ, 1, 0, 1) + request(WRITE, 2, 5, 4, payload=DATA))
        link.send(request(READ, 3, 5, 4))
        unit.go.set()
        assert [decode(link.message()).hint for _ in range(3)] == [1, 2, 3]
        assert unit.memory[5 * 512 : 9 * 512] == DATA


def test_live_memory_is_copied() -> None:
    unit = LiveRamUnit()
    unit.memory[:512] = b"a" * 512
    with Link(unit) as link:
        link.send(request(READ, 1, 0, 1) + request(WRITE, 2, 0, 1, payload=b"b" * 512))
        assert decode(link.message()).data == b"a" * 512


def test_the_end_of_the_server() -> None:
    unit = HeldUnit()
    with Link(unit) as link:
        link.send(request(READ, 1, 0, 1))
        link.connection.request_end(2)
        assert not link.connection.closing
        unit.go.set()
        assert decode(link.message()).hint == 1
        assert link.connection.closing


def test_a_client_that_goes_gets_nothing_and_no_other_gets_its_answers() -> None:
    unit = HeldUnit()
    with Link(unit) as link, Link(link.gate) as other:
        link.send(b"".join(request(READ, hint, 0, 1) for hint in range(1, 9)))
        link.connection.lost("gone")
        unit.go.set()
        assert other.do(request(READ, 5, 1, 1)).sense is None
        assert not other.received
        while not link.connection.finished:
            link.wait()
        assert not link.received
        assert unit.calls["read"] <= 3, "what waited was given up"


def test_silence_in_the_middle_of_a_message() -> None:
    with Link(InlineRamUnit()) as link:
        link.connection.tick(100.0)
        for second in range(int(MESSAGE_LIMIT) + 2):
            link.connection.tick(100.0 + second)
        assert not link.connection.closing, "between messages it may be silent"
        link.send(request(READ, 1, 0, 1)[:20])
        for second in range(int(MESSAGE_LIMIT) + 4):
            link.connection.tick(200.0 + second)
        assert link.connection.closing


def test_it_has_begun_with_the_first_request() -> None:
    with Link(InlineRamUnit()) as link:
        assert link.connection.opening
        link.do(request(FLUSH, 1))
        assert not link.connection.opening


ANY = st.one_of(
    st.binary(max_size=200),
    st.builds(
        request,
        st.integers(0, 6),
        st.integers(0, 5),
        st.integers(0, 2100) | st.integers(0, (1 << 64) - 1),
        st.integers(0, 40) | st.integers(0, (1 << 32) - 1),
        payload=st.integers(0, 4).map(lambda blocks: bytes(512 * blocks)),
    ),
    st.builds(
        unmap,
        st.integers(0, 5),
        st.lists(st.tuples(st.integers(0, 2100), st.integers(0, 99)), max_size=4),
        count=st.none() | st.integers(0, (1 << 32) - 1),
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(ANY, max_size=12),
    st.sampled_from([InlineRamUnit, RamUnit]),
    st.sampled_from([0, 1, 13]),
)
def test_any_bytes_are_answered_or_end_the_client(
    messages: list[bytes], unit: Callable[[], RamUnit], piece: int
) -> None:
    with Link(unit(), piece=piece) as link:
        link.send(b"".join(messages))
        while link.connection.pending:
            link.wait()
        at = 0
        while at < len(link.received):
            length = int.from_bytes(link.received[at : at + 4], "little")
            decode(bytes(link.received[at + 4 : at + 4 + length]))
            at += 4 + length
        assert at == len(link.received)
    assert link.budget.take(PROCESS_LIMIT)


def test_unmap_is_as_durable_as_a_write_where_each_write_is() -> None:
    unit = InlineRamUnit()
    with Link(unit) as link:
        assert link.do(unmap(1, [(0, 1)])).sense is None
        assert (unit.calls["unmap"], unit.calls["flush"]) == (1, 0)
        link.gate.write_through.add("somebody")
        assert link.do(unmap(1, [(0, 1)])).sense is None
        assert (unit.calls["unmap"], unit.calls["flush"]) == (2, 1)
