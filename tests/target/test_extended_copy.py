"""EXTENDED COPY(LID1): other initiators' bytes, every error exit, aborts, an oracle."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.copies import (
    DISCARD,
    HOLD,
    NO_ID,
    RESERVED,
    Host,
    code,
    copy_list,
    copy_status,
    copy_status_lid4,
    cscd,
    extended_copy,
    failure_details,
    filled,
    lun,
    pair,
    same,
    segment,
)
from tests.kit.engine import EnginePort, ready_nexus, target_of
from tests.kit.reservations import EA, IGNORE, RESERVE, WE
from tests.kit.reservations import Host as Reserver
from tests.kit.units import InlineRamUnit, RamUnit
from userdisk import errors
from userdisk.scsi.opcodes import Opcode, ThirdPartyCopyIn, ThirdPartyCopyOut
from userdisk.scsi.sense import Asc, Pointer
from userdisk.scsi.third_party_copy import MAX_COPIES
from userdisk.target import operations
from userdisk.target.command import Completion
from userdisk.target.task_management import Function, manage

HERE = 0xFFFF  #: the unit that the command is sent to
COUNT = 2048


def in_list(byte: int) -> Pointer:
    return Pointer(byte, None, False)


def in_segment(byte: int) -> Pointer:
    return Pointer(byte, None, False, True)


# -- other initiators' bytes -------------------------------------------------------------------


def test_the_list_that_linux_targets_and_vmware_use() -> None:
    """Two identification descriptors and one segment, written out byte by byte."""
    a, b = filled(guid=uuid.UUID(int=0xA1 << 64)), filled(guid=uuid.UUID(int=0xB2 << 64))
    host = Host(ready_nexus(target_of(a, b)))
    identification = host.run(bytes.fromhex("1201830100 00")).data
    assert identification[4:16] == bytes.fromhex("01030008 30000000000000a1")
    data = bytes.fromhex(
        "00 18 0040 00000000 0000001c 00000000"  # no list identifier, two units, one segment
        "e4 00 0000 01 03 00 08 30000000000000a1 000000000000000000000000 00 000200"
        "e4 00 0000 01 03 00 08 30000000000000b2 000000000000000000000000 00 000200"
        "02 02 0018 0000 0001 0000 0080 0000000000000010 0000000000000400"
    )
    assert len(data) == 108
    before = bytes(b.memory)
    result = host.run(bytes.fromhex("83 00 0000000000000000 0000006c 00 00"), data)
    assert result == (0, b"", None, 108)
    copied = a.memory[0x10 * 512 : 0x90 * 512]
    assert b.memory == before[: 0x400 * 512] + copied + before[0x480 * 512 :]


def test_a_parameter_list_of_no_bytes_is_no_error() -> None:
    _, b, host = pair()
    assert host.run(extended_copy(0)) == (0, b"", None, None)
    assert not b.log


def test_the_unit_addressed_needs_no_descriptor() -> None:
    a, _, host = pair()
    assert host.copy(copy_list([], [segment(HERE, HERE, 8, 0, 100)])).status == 0
    assert a.memory[: 8 * 512] == a.memory[100 * 512 : 108 * 512]


@pytest.mark.parametrize("usage", [HOLD, DISCARD, NO_ID])
def test_list_id_usage(usage: int) -> None:
    _, _, host = pair()
    identifier = 0 if usage == NO_ID else 7
    data = copy_list([], [segment(HERE, HERE, 1, 0, 9)], identifier=identifier, usage=usage)
    assert host.copy(data).status == 0
    status = host.run(copy_status(identifier))
    if usage == NO_ID:
        assert code(status) == (5, Asc.INVALID_FIELD_IN_CDB)
    else:
        assert status.data == bytes.fromhex("00000008 01 0001 00 00000200")


def test_a_segment_of_no_blocks_is_no_error() -> None:
    a, b, host = pair()
    data = copy_list([cscd(b)], [segment(HERE, 0, 0, COUNT, COUNT)])
    assert host.copy(data).status == 0
    assert not a.log and not b.log


# -- what is wrong with the list ---------------------------------------------------------------

A = InlineRamUnit(guid=uuid.UUID(int=77))
ONE = segment(0, 0, 1, 0, 8)
GOOD = copy_list([cscd(A)], [ONE])


def changed(at: int, value: bytes, data: bytes = GOOD) -> bytes:
    return data[:at] + value + data[at + len(value) :]


ILLEGAL: dict[str, tuple[bytes, int, Pointer | None]] = {
    "no header": (GOOD[:15], Asc.PARAMETER_LIST_LENGTH_ERROR, None),
    "half a unit": (GOOD[:47], Asc.PARAMETER_LIST_LENGTH_ERROR, None),
    "half a segment": (GOOD[:-1], Asc.PARAMETER_LIST_LENGTH_ERROR, None),
    "no segment": (GOOD[:48], Asc.PARAMETER_LIST_LENGTH_ERROR, None),
    "too long": (bytes(16 + 7681), Asc.PARAMETER_LIST_LENGTH_ERROR, None),
    "longer than it says": (
        copy_list([cscd(A)] * 17, [ONE] * 257),
        Asc.PARAMETER_LIST_LENGTH_ERROR,
        None,
    ),
    "lies about all": (changed(8, b"\xff\xff\xff\xff"), Asc.PARAMETER_LIST_LENGTH_ERROR, None),
    "usage": (
        copy_list([cscd(A)], [ONE], usage=RESERVED),
        Asc.INVALID_FIELD_IN_PARAMETER_LIST,
        Pointer(1, 4, False),
    ),
    "identifier": (
        copy_list([cscd(A)], [ONE], usage=NO_ID),
        Asc.INVALID_FIELD_IN_PARAMETER_LIST,
        in_list(0),
    ),
    "inline data": (
        copy_list([cscd(A)], [ONE], inline=4) + b"data",
        Asc.INLINE_DATA_LENGTH_EXCEEDED,
        in_list(12),
    ),
    "units": (
        copy_list([cscd(A)] * 17, [ONE]),
        Asc.TOO_MANY_TARGET_DESCRIPTORS,
        in_list(16 + 16 * 32),
    ),
    "segments": (
        copy_list([cscd(A)], [ONE] * 257),
        Asc.TOO_MANY_SEGMENT_DESCRIPTORS,
        in_list(48 + 256 * 28),
    ),
    "unit type": (
        copy_list([cscd(A), b"\xe0" + cscd(A)[1:]], [ONE]),
        Asc.UNSUPPORTED_TARGET_DESCRIPTOR_TYPE,
        in_list(48),
    ),
    "segment type": (
        copy_list([cscd(A)], [ONE, b"\x03" + ONE[1:]]),
        Asc.UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE,
        in_list(76),
    ),
    "unit length": (
        changed(2, b"\x00\x1f"),
        Asc.INVALID_FIELD_IN_PARAMETER_LIST,
        in_list(2),
    ),
    "segments' length": (
        changed(8, b"\x00\x00\x00\x1b"),
        Asc.INVALID_FIELD_IN_PARAMETER_LIST,
        in_list(8),
    ),
    "segment length": (
        changed(50, b"\x00\x14"),
        Asc.INVALID_FIELD_IN_PARAMETER_LIST,
        in_list(50),
    ),
    "designator length": (changed(23, b"\x15"), Asc.INVALID_FIELD_IN_PARAMETER_LIST, in_list(23)),
}


@pytest.mark.parametrize("case", ILLEGAL)
def test_wrong_lists_change_nothing(case: str) -> None:
    data, expected, pointer = ILLEGAL[case]
    unit = InlineRamUnit(guid=uuid.UUID(int=77))
    host = Host(ready_nexus(target_of(unit)))
    result = host.copy(data)
    assert code(result) == (5, expected)
    assert result.sense is not None and result.sense.pointer == pointer
    assert result.sense.information is None
    assert not unit.log
    assert code(host.run(copy_status(1))) == (5, Asc.INVALID_FIELD_IN_CDB), "it never began"


def test_less_data_than_the_cdb_says() -> None:
    unit = InlineRamUnit(guid=uuid.UUID(int=77))
    host = Host(ready_nexus(target_of(unit)))
    result = host.run(extended_copy(len(GOOD)), GOOD[:-1])
    assert code(result) == (5, Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
    assert result.wanted == len(GOOD) and not unit.log


@settings(deadline=None)
@given(st.integers(0, len(GOOD) * 3 - 1), st.integers(0, 255), st.integers(0, 12))
def test_lists_with_any_byte_wrong(at: int, value: int, extra: int) -> None:
    """Whatever one byte says, there is an answer, and a refusal changes nothing."""
    unit = InlineRamUnit(guid=uuid.UUID(int=77), block_count=16)
    host = Host(ready_nexus(target_of(unit)))
    data = copy_list([cscd(A), cscd(A)], [ONE, ONE, segment(1, 0, 2, 3, 9)])
    data = changed(at % len(data), bytes([value]), data)
    data = data + bytes(extra - 6) if extra > 6 else data[: len(data) - extra]
    result = host.copy(data)
    assert result.status in (0, 2)
    if result.status:
        assert result.sense is not None and result.sense.key in (5, 0xA)
        assert "write" not in unit.calls


# -- what is wrong with a segment or a unit ----------------------------------------------------


def unreachable(name: bytes) -> bytes:
    return cscd(A, name=name)


OTHER = bytes([1, 3, 0, 8]) + b"\x30nobody."

ABORTED: dict[str, tuple[Callable[[InlineRamUnit, InlineRamUnit], bytes], int, Pointer]] = {
    "no such unit": (
        lambda a, b: copy_list([cscd(a), unreachable(OTHER)], [segment(0, 1, 1, 0, 0)]),
        Asc.COPY_TARGET_NOT_REACHABLE,
        in_list(48),
    ),
    "another association": (
        lambda a, b: copy_list(
            [unreachable(bytes([1, 0x13, 0, 8]) + cscd(a)[8:16])], [segment(HERE, 0, 1, 0, 0)]
        ),
        Asc.COPY_TARGET_NOT_REACHABLE,
        in_list(16),
    ),
    "destination beyond the list": (
        lambda a, b: copy_list([cscd(a)], [segment(0, 1, 1, 0, 0)]),
        Asc.COPY_TARGET_NOT_REACHABLE,
        in_segment(6),
    ),
    "source beyond the list": (
        lambda a, b: copy_list([cscd(a)], [segment(0x7FF, 0, 1, 0, 0)]),
        Asc.COPY_TARGET_NOT_REACHABLE,
        in_segment(4),
    ),
    "null unit": (
        lambda a, b: copy_list([cscd(a)], [segment(0xC000, 0, 1, 0, 0)]),
        Asc.COPY_TARGET_NOT_REACHABLE,
        in_segment(4),
    ),
    "what a token names": (
        lambda a, b: copy_list([cscd(a)], [segment(0xF800, 0, 1, 0, 0)]),
        Asc.COPY_TARGET_NOT_REACHABLE,
        in_segment(4),
    ),
    "a tape": (
        lambda a, b: copy_list([cscd(a), cscd(b, device=1)], [segment(0, 1, 1, 0, 0)]),
        Asc.INCORRECT_COPY_TARGET_TYPE,
        in_list(48),
    ),
    "another block length": (
        lambda a, b: copy_list([cscd(a), cscd(b, block_length=512)], [segment(0, 1, 8, 0, 0)]),
        Asc.INVALID_FIELD_IN_PARAMETER_LIST,
        in_list(77),
    ),
    "half a block": (
        lambda a, b: copy_list([cscd(a), cscd(b)], [segment(0, 1, 9, 0, 0)]),
        Asc.UNEXPECTED_INEXACT_SEGMENT,
        in_segment(10),
    ),
    "source past the end": (
        lambda a, b: copy_list([cscd(a), cscd(b)], [segment(0, 1, 8, COUNT - 7, 0)]),
        Asc.NO_ADDITIONAL_SENSE,
        in_segment(12),
    ),
    "destination past the end": (
        lambda a, b: copy_list([cscd(a), cscd(b)], [segment(0, 1, 8, 0, 256)]),
        Asc.NO_ADDITIONAL_SENSE,
        in_segment(20),
    ),
    "destination far past the end": (
        lambda a, b: copy_list([cscd(a), cscd(b)], [segment(0, 1, 8, 0, (1 << 64) - 1)]),
        Asc.NO_ADDITIONAL_SENSE,
        in_segment(20),
    ),
    "not even no blocks past the end": (
        lambda a, b: copy_list([cscd(a), cscd(b)], [segment(0, 1, 0, COUNT + 1, 0)]),
        Asc.NO_ADDITIONAL_SENSE,
        in_segment(12),
    ),
}


@pytest.mark.parametrize("case", ABORTED)
@pytest.mark.parametrize("number", [0, 2])
def test_segments_that_cannot_be_copied(case: str, number: int) -> None:
    make, expected, pointer = ABORTED[case]
    a, b, host = pair(block_length=4096, block_count=256)
    data = make(a, b)
    start = 16 + int.from_bytes(data[2:4], "big")
    good = segment(HERE, HERE, 1, 0, 9)
    data = (
        data[:8]
        + struct.pack(">I", 28 * (1 + number))
        + data[12:start]
        + (good * number + data[start:])
    )
    result = host.copy(data)
    assert code(result) == (0xA, expected)
    assert result.sense is not None
    assert result.sense.pointer == pointer
    assert (result.sense.command_specific or 0) == number
    assert result.sense.information is None
    assert not a.log and not b.log, "good segments before it are not copied either"
    status = host.run(copy_status(1)).data
    assert status == bytes.fromhex("00000008 02 0000 00 00000000")


def raw(host: Host, data: bytes) -> Completion:
    (completion,) = host.port.start(host.nexus, extended_copy(len(data)), data).completions
    assert completion is not None
    return completion


def test_a_write_protected_destination_tells_so_itself() -> None:
    _, b, host = pair(write_protected=True)
    data = copy_list([cscd(b)], [segment(HERE, 0, 4, 0, 0)])
    answer = raw(host, data)
    fixed = bytes.fromhex("70 00 0a 00000000 1d 00120000 0d01 00 800010")
    theirs = bytes.fromhex("70 00 07 00000000 0a 00000000 2700 00 000000")
    assert answer.sense == fixed + b"\x02" + theirs, "status byte and sense data from byte 18 on"
    assert not b.log


def test_descriptor_format() -> None:
    a, b, host = pair(write_protected=True)
    for path in host.nexus.paths.values():
        path.lu.descriptor_sense = True
    answer = raw(host, copy_list([cscd(b)], [segment(HERE, 0, 4, 0, 0)]))
    assert answer.sense == bytes.fromhex(
        "72 0a 0d01 000000 20"
        "01 0a 0000 0000000000000000"  # segment 0
        "02 06 0000 800010 00"
        "0c 0a 02 02 7207270000000000"
    )
    assert not a.log and not b.log


@pytest.mark.parametrize(("kind", "as_source"), [(WE, True), (WE, False), (EA, True), (EA, False)])
def test_reservations_hold_for_the_other_unit(kind: int, as_source: bool) -> None:
    a, b = filled(), filled()
    target = target_of(a, b)
    host = Host(ready_nexus(target))
    holder = Reserver(ready_nexus(target, "iqn.2024-01.org.example:holder"))
    for service, scope, lists in ((IGNORE, 0, (0, 5)), (RESERVE, kind, (5, 0))):
        body = struct.pack(">QQ8x", *lists)
        cdb = struct.pack(">BBB2xIx", 0x5F, service, scope, len(body))
        assert holder.port.execute(holder.nexus, cdb, body, lun(1)).status == 0
    host.nexus.paths[lun(1)].lu.take_attention(host.nexus.paths[lun(1)])
    way = (0, HERE) if as_source else (HERE, 0)
    answer = raw(host, copy_list([cscd(b)], [segment(*way, 4, 0, 0)]))
    if as_source and kind == WE:
        assert answer.status == 0
        return
    at = "1200" if as_source else "0012"
    assert answer.sense == bytes.fromhex(f"70 00 0a 00000000 0b {at}0000 0d01 00 800010 18")
    assert "write" not in a.calls + b.calls


def test_a_medium_error_on_the_way() -> None:
    a = filled(block_count=8192)
    host = Host(ready_nexus(target_of(a)))

    def fault(name: str, lba: int, blocks: int) -> None:
        if name == "read" and lba <= 2500 < lba + blocks:
            raise errors.MediumError(lba=2500)

    a.fault = fault
    data = copy_list(
        [], [segment(HERE, HERE, 1, 0, 8000), segment(HERE, HERE, 4000, 0, 4000)], identifier=3
    )
    answer = raw(host, data)
    # the first step of the second segment is written, 2048 blocks: 1952 are missing
    assert answer.sense == bytes.fromhex(
        "f0 00 0a 000007a0 1d 12000001 0d01 00 a00004"  # of segment 1, SD: its byte 4
        "02 f0 00 03 000009c4 0a 00000000 1100 00 000000"
    )
    assert a.memory[4000 * 512 : 6048 * 512] == a.memory[: 2048 * 512]
    details = host.run(failure_details(3)).data
    assert details[:4] == struct.pack(">I", len(details) - 4)
    assert details[4:60] == bytes(52) + struct.pack(">BBH", 2, 0, len(answer.sense))
    assert details[60:] == answer.sense
    assert host.run(failure_details(3)).data == bytes(4), "told once"
    assert host.run(copy_status(3)).data == bytes.fromhex("00000008 02 0002 00 00100200")


def test_a_unit_that_reads_too_little() -> None:
    class Short(InlineRamUnit):
        def read(self, lba: int, blocks: int, fua: bool) -> bytes:
            return bytes(1)

    a = Short()
    host = Host(ready_nexus(target_of(a)))
    answer = raw(host, copy_list([], [segment(HERE, HERE, 1, 0, 9)]))
    assert answer.sense[2] == 0xA and answer.sense[18:21] == b"\x02\xf0\x00"
    assert not a.calls["write"]


def test_reservations_are_asked_for_again_on_the_way() -> None:
    a, b = filled(block_count=8192), filled(block_count=8192)
    target = target_of(a, b)
    host = Host(ready_nexus(target), EnginePort(deferred=True))
    data = copy_list([cscd(b)], [segment(HERE, 0, 8192, 0, 0)])
    task = host.port.start(host.nexus, extended_copy(len(data)), data)
    for _ in range(3):  # read, write, read
        host.port.step()
    host.nexus.paths[lun(1)].lu.write_protected = True
    host.port.step()
    while host.port.waiting:
        host.port.step()
    (completion,) = task.completions
    assert completion is not None and completion.status == 2
    assert b.calls == {"write": 1}, "the second found it protected"
    assert completion.sense[12:14] == b"\x0d\x01"


# -- results -----------------------------------------------------------------------------------


def test_results_are_told_once_and_by_nexus() -> None:
    _, _, host = pair()
    other = Host(ready_nexus(host.nexus.target, "iqn.2024-01.org.example:other"))
    data = copy_list([], [segment(HERE, HERE, 1, 0, 9)], identifier=200)
    assert host.copy(data).status == 0
    for command in (copy_status(200), failure_details(200), copy_status_lid4(200)):
        for result in (other.run(command), host.run(command, unit=1)):
            assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
            assert result.sense is not None and result.sense.pointer == Pointer(2)
    assert host.run(failure_details(200)).data == bytes(4)
    assert host.run(copy_status(200, 5)).data == bytes.fromhex("00000008 01")
    assert code(host.run(copy_status(200))) == (5, Asc.INVALID_FIELD_IN_CDB)
    full = host.run(copy_status_lid4(200)).data
    assert full == bytes.fromhex(
        "0000001c 00 01 0002 fffffffe 00 00 00 00 0000000000000200 0001 000000000000"
    )
    assert host.run(copy_status_lid4(200)).data == full, "this one stays"


@pytest.mark.parametrize("how", ["reset", "nexus", "same identifier"])
def test_results_are_forgotten(how: str) -> None:
    _, _, host = pair()
    data = copy_list([], [segment(HERE, HERE, 1, 0, COUNT)])
    assert host.copy(data).status == 2
    lu = host.nexus.paths[0].lu
    if how == "reset":
        lu.reset(Asc.LOGICAL_UNIT_RESET)
        lu.take_attention(host.nexus.paths[0])
    elif how == "nexus":
        host.nexus.target.detach(host.nexus)
        host = Host(ready_nexus(host.nexus.target))
    else:
        assert host.copy(copy_list([], [segment(HERE, HERE, 1, 0, 9)])).status == 0
        assert host.run(failure_details(1)).data == bytes(4)
        return
    assert code(host.run(failure_details(1))) == (5, Asc.INVALID_FIELD_IN_CDB)


def test_the_oldest_results_make_room() -> None:
    _, _, host = pair()
    for identifier in range(MAX_COPIES + 1):
        data = copy_list([], [segment(HERE, HERE, 1, 0, 9)], identifier=identifier)
        assert host.copy(data).status == 0
    assert code(host.run(copy_status(0))) == (5, Asc.INVALID_FIELD_IN_CDB)
    assert host.run(copy_status(1)).status == 0


def test_copies_under_way() -> None:
    a = filled()
    nexus = ready_nexus(target_of(a))
    slow, now = Host(nexus, EnginePort(deferred=True)), Host(nexus)

    def start(identifier: int) -> None:
        data = copy_list([], [segment(HERE, HERE, 1, 0, 9)], identifier=identifier)
        slow.port.start(nexus, extended_copy(len(data)), data)

    for identifier in range(MAX_COPIES):
        start(identifier)
    assert now.run(copy_status(5)).data == bytes.fromhex("00000008 00 0001 00 00000000")
    assert now.run(copy_status_lid4(5)).data[4:12] == bytes.fromhex("00 11 0000 000003e8")
    assert code(now.run(failure_details(5))) == (5, Asc.INVALID_FIELD_IN_CDB)
    duplicate = copy_list([], [segment(HERE, HERE, 1, 0, 9)], identifier=5)
    assert code(now.copy(duplicate)) == (5, Asc.OPERATION_IN_PROGRESS)
    more = copy_list([], [segment(HERE, HERE, 1, 0, 9)], identifier=250)
    assert now.copy(more).status == 0x08
    unnamed = copy_list([], [segment(HERE, HERE, 1, 0, 9)], identifier=0, usage=NO_ID)
    assert now.copy(unnamed).status == 0
    while slow.port.waiting:
        slow.port.step()
    assert now.run(copy_status(5)).data == bytes.fromhex("00000008 01 0001 00 00000200")
    assert now.copy(more).status == 0


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_an_abort_between_two_steps(steps: int) -> None:
    a, b = filled(block_count=8192), filled(block_count=8192)
    host = Host(ready_nexus(target_of(a, b)), EnginePort(deferred=True))
    before = bytes(b.memory)
    data = copy_list([cscd(b)], [segment(HERE, 0, 8192, 0, 0)], identifier=4)
    task = host.port.start(host.nexus, extended_copy(len(data)), data)
    for _ in range(steps):
        host.port.step()
    answers: list[int] = []
    manage(Function.ABORT_TASK, host.nexus, 0, task, answers.append)
    assert not answers
    host.port.step()
    assert answers == [0] and task.completions == [None]
    done = (steps + 1) // 2 * (1 << 20)
    assert same(b.memory, a.memory[:done] + before[done:])
    assert not host.port.waiting
    host.port.deferred = False
    assert host.run(copy_status(4)).data[4] == 2
    operations = f"{steps // 2 * 2 + steps % 2:04x}"
    full = host.run(copy_status_lid4(4)).data
    assert full[5:16] == bytes.fromhex(f"60 {operations} fffffffe 40 00 00 00")


# -- steps -------------------------------------------------------------------------------------


def test_steps_are_a_mebibyte_and_offloaded() -> None:
    class Watched(EnginePort):
        def operate(self, task: object, operation: object) -> object:
            assert operation.offload  # type: ignore[attr-defined]
            assert operation.gate is not None  # type: ignore[attr-defined]
            return super().operate(task, operation)  # type: ignore[arg-type]

    a, b = filled(block_count=8192), filled(block_length=4096, block_count=1024)
    host = Host(ready_nexus(target_of(a, b)), Watched())
    data = copy_list([cscd(a), cscd(b)], [segment(0, 1, 4800, 16, 3)])
    assert host.copy(data).status == 0
    assert [entry[:3] for entry in a.log] == [
        ("read", 16, 2048), ("read", 2064, 2048), ("read", 4112, 704),
    ]  # fmt: skip
    assert [entry[:3] for entry in b.log] == [
        ("write", 3, 256), ("write", 259, 256), ("write", 515, 88),
    ]  # fmt: skip


def test_units_with_small_operations() -> None:
    a = filled(max_transfer_length=1024)
    b = filled(block_length=4096, block_count=256, max_transfer_length=8192)
    host = Host(ready_nexus(target_of(a, b)))
    for way in ((0, 1, 40, 8, 5), (1, 0, 5, 7, 64)):
        assert host.copy(copy_list([cscd(a), cscd(b)], [segment(*way)])).status == 0
    assert b.memory[5 * 4096 : 10 * 4096] == a.memory[8 * 512 : 48 * 512]
    assert a.memory[64 * 512 : 104 * 512] == b.memory[7 * 4096 : 12 * 4096]
    assert max(entry[2] for entry in a.log) <= 2 and max(entry[2] for entry in b.log) <= 2


# -- what is announced -------------------------------------------------------------------------


def test_operating_parameters_and_page_say_the_same() -> None:
    _, _, host = pair()
    assert host.run(bytes.fromhex("1200000060 00")).data[5] == 0x08, "3PC"
    page = host.run(bytes.fromhex("12018fffff 00")).data
    descriptors, at = {}, 4
    while at < len(page):
        kind, length = struct.unpack_from(">HH", page, at)
        assert not length % 4
        descriptors[kind] = page[at + 4 : at + 4 + length]
        at += 4 + length
    assert page[4:8] == bytes.fromhex("0000 0020"), "what Windows looks for first"
    assert list(descriptors) == sorted(descriptors)
    parameters = host.run(bytes.fromhex("8403 0000000000000000 000000ff 0000")).data
    assert len(parameters) == 4 + int.from_bytes(parameters[:4], "big")
    assert parameters[8:16] == descriptors[4][4:12], "descriptor limits"
    assert parameters[43:46] == descriptors[8][:3] == bytes([2, 0x02, 0xE4])
    listed, commands = descriptors[1][1 : 1 + descriptors[1][0]], {}
    while listed:
        commands[listed[0]] = list(listed[2 : 2 + listed[1]])
        listed = listed[2 + listed[1] :]
    rows = {
        opcode: sorted(row.service_action or 0 for row in operations.ROWS if row.opcode == opcode)
        for opcode in (Opcode.THIRD_PARTY_COPY_OUT, Opcode.THIRD_PARTY_COPY_IN)
    }
    assert commands == rows
    assert commands == {0x83: list(ThirdPartyCopyOut), 0x84: list(ThirdPartyCopyIn)}


@pytest.mark.parametrize("opcode", [0x83, 0x84])
def test_other_service_actions(opcode: int) -> None:
    _, _, host = pair()
    result = host.run(bytes([opcode, 0x1C]))
    assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
    assert result.sense is not None and result.sense.pointer == Pointer(1, 4)


# -- an oracle ---------------------------------------------------------------------------------

LENGTHS = (512, 2048, 4096)
SIZE = 16 * 4096
MEMORIES = [bytes((i * 7 + i // 512 + each * 50) % 256 for i in range(SIZE)) for each in range(3)]

segments = st.tuples(
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 40),
    st.integers(0, 130),
    st.integers(0, 130),
    st.sampled_from([0, 2]),
)


@settings(deadline=None)
@given(
    st.lists(st.lists(segments, min_size=1, max_size=4), max_size=6),
    st.sampled_from([512 * 3, 4096, 1 << 20]),
)
def test_against_byte_arrays(
    commands: list[list[tuple[int, int, int, int, int, int]]], transfer: int
) -> None:
    units = [
        RamUnit(
            block_length=length,
            block_count=SIZE // length,
            max_transfer_length=max(transfer // length, 1) * length,
        )
        for length in LENGTHS
    ]
    for number, unit in enumerate(units):
        unit.memory[:] = MEMORIES[number]
    models = [bytearray(unit.memory) for unit in units]
    host = Host(ready_nexus(target_of(*units)))
    names = [cscd(unit) for unit in units]
    for command in commands:
        wanted = [bytearray(model) for model in models]
        good = True
        for source, target, blocks, source_lba, target_lba, flags in command:
            size = blocks * LENGTHS[target if flags else source]
            start, to = source_lba * LENGTHS[source], target_lba * LENGTHS[target]
            fits = start + size <= SIZE and to + size <= SIZE
            whole = not size % LENGTHS[source] and not size % LENGTHS[target]
            good = good and fits and whole
            if good:
                wanted[target][to : to + size] = bytes(wanted[source][start : start + size])
        parts = [segment(*each[:5], flags=each[5]) for each in command]
        result = host.copy(copy_list(names, parts))
        assert result.status == (0 if good else 2)
        if good:
            models = wanted
        assert [unit.memory for unit in units] == models
