"""Copies with tokens: Windows' sequence, every error exit, aborts, an oracle."""

from __future__ import annotations

import hashlib
import struct
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.copies import (
    DEL_TKN,
    IMMED,
    RTV,
    ZERO_TOKEN,
    Host,
    Range,
    code,
    copy_status_lid4,
    filled,
    host_of,
    lun,
    pair,
    populate_list,
    populate_token,
    same,
    token_information,
    write_list,
    write_using_token,
)
from tests.kit.engine import IQN, ready_nexus
from tests.kit.units import InlineRamUnit, RamUnit
from userdisk import errors
from userdisk.scsi.sense import Asc, Pointer
from userdisk.target.task_management import Function, manage

COUNT = 2048
MAX_BLOCKS = (64 << 20) // 512


def blocks(unit: RamUnit, *ranges: Range) -> bytes:
    size = unit.block_length
    return b"".join(unit.memory[lba * size : (lba + count) * size] for lba, count in ranges)


def ready(host: Host, unit: int = 0) -> bool:
    return host.nexus.paths[lun(unit)].ready


# -- Windows' sequence, as documented ----------------------------------------------------------


def test_windows_copies_a_file() -> None:
    """POPULATE TOKEN, RECEIVE ROD TOKEN INFORMATION, WRITE USING TOKEN, and asking again."""
    a, b, host = pair()
    populate = bytes.fromhex(
        "002e 01 00 00000000 00000000 0000 0020"  # 46 bytes follow; IMMED; default time-out
        "0000000000000040 00000010 00000000"
        "0000000000000100 00000008 00000000"
    )
    cdb = bytes.fromhex("83 10 00000000 0000abcd 00000030 00 00")
    assert host.run(cdb, populate) == (0, b"", None, 48)
    answer = host.run(bytes.fromhex("84 07 0000abcd 00000000 00000226 00 00")).data
    assert answer[:38] == bytes.fromhex(
        "00000222 10 01 0000 fffffffe 00 00 00 f1 0000000000000018 0000 000000000000"
        "00000202 0000"  # a descriptor of 514 bytes: two that are restricted, and the token
    )
    token = answer[38:]
    assert len(token) == 512
    write = (
        bytes.fromhex("0226 01 0000000000 0000000000000004")
        + token
        + bytes.fromhex("000000000000 0010 0000000000000200 00000010 00000000")
    )
    cdb = bytes.fromhex("83 11 00000000 0000abce 00000228 00 00")
    assert host.run(cdb, write, unit=1) == (0, b"", None, 552)
    answer = host.run(bytes.fromhex("84 07 0000abce 00000000 00000024 00 00"), unit=1).data
    assert answer == bytes.fromhex(
        "00000020 11 01 0003 fffffffe 00 00 00 f1 0000000000000010 0000 000000000000 00000000"
    ), "two reads and a write"
    assert blocks(b, (0x200, 16)) == blocks(a, (0x44, 12), (0x100, 4))


def test_windows_zeroes_with_the_well_known_token() -> None:
    a, _, host = pair(max_transfer_length=4096)
    kept = blocks(a, (0, 10)), blocks(a, (310, COUNT - 310))
    assert host.write(write_list(ZERO_TOKEN, [(10, 300)], flags=IMMED)).status == 0
    information = host.information(2)
    assert (information.action, information.state, information.transferred) == (0x11, 1, 300)
    assert (blocks(a, (0, 10)), blocks(a, (310, COUNT - 310))) == kept
    assert not any(blocks(a, (10, 300)))


def test_zeros_are_written_in_steps_that_the_unit_takes() -> None:
    unit = filled(max_transfer_length=4 * 512)
    host = host_of(unit)
    assert host.write(write_list(ZERO_TOKEN, [(8, 10), (40, 1)])).status == 0
    assert [entry[1:3] for entry in unit.log] == [(8, 4), (12, 4), (16, 2), (40, 1)]


def test_a_token_is_laid_out_as_the_standard_says() -> None:
    a = filled(guid=uuid.UUID(int=0xA1 << 64), physical_block_length=4096)
    host = host_of(a)
    first, second = host.token([(7, 3), (99, 2)]), host.token([(7, 3)])
    assert first[:8] == bytes.fromhex("00800001 0000 01f8"), "point in time, change vulnerable"
    assert first[16:48] == bytes.fromhex(
        "e4 00 0000 01 03 00 08 30000000000000a1 000000000000000000000000 00000200"
    )
    assert first[48:64] == (5 * 512).to_bytes(16, "big")
    assert first[64:96] == bytes(32)
    assert first[96:104] == bytes.fromhex("00000200 00 03 c000"), "of READ CAPACITY(16)"
    name = IQN.encode() + b"\0"
    assert first[128:132] == bytes([0x53, 0xA8, 0, (len(name) + 3) // 4 * 4])
    assert first[132 : 132 + len(name)] == name and not any(first[132 + len(name) : 256])
    assert first[8:16] != second[8:16] and first[256:] != second[256:]
    assert all(len(set(token[256:])) > 128 for token in (first, second)), "looks random"


# -- lists that are wrong ----------------------------------------------------------------------

R = [(0, 4)]
POPULATE = populate_list(R)
ILLEGAL_PARAMETER = Asc.INVALID_FIELD_IN_PARAMETER_LIST


def at(byte: int) -> Pointer:
    return Pointer(byte, None, False)


def changed(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


WRONG_POPULATE: dict[str, tuple[bytes, int, Pointer | None]] = {
    "no header": (POPULATE[:15], Asc.PARAMETER_LIST_LENGTH_ERROR, None),
    "far too long": (POPULATE + bytes(65537), Asc.PARAMETER_LIST_LENGTH_ERROR, None),
    "data length": (changed(POPULATE, 0, b"\x00\x1d"), ILLEGAL_PARAMETER, at(0)),
    "data length of two": (
        changed(populate_list([(0, 1), (8, 1)]), 0, b"\x00\x1e"),
        ILLEGAL_PARAMETER,
        at(14),
    ),
    "no descriptor": (changed(POPULATE, 14, b"\x00\x0f"), ILLEGAL_PARAMETER, at(14)),
    "time-out": (populate_list(R, timeout=301), ILLEGAL_PARAMETER, at(4)),
    "type": (populate_list(R, flags=RTV, kind=0x00800002), ILLEGAL_PARAMETER, at(8)),
    "no point in time": (populate_list(R, flags=RTV, kind=0x00010000), ILLEGAL_PARAMETER, at(8)),
    "overlap": (populate_list([(8, 4), (20, 1), (4, 5)]), ILLEGAL_PARAMETER, at(16)),
    "twice": (populate_list([(8, 4), (8, 4)]), ILLEGAL_PARAMETER, at(16)),
    "ranges": (
        populate_list([(each * 2, 1) for each in range(65)]),
        Asc.TOO_MANY_SEGMENT_DESCRIPTORS,
        at(14),
    ),
    "blocks": (populate_list([(0, 1), (1, MAX_BLOCKS)]), ILLEGAL_PARAMETER, at(40)),
    "the end": (populate_list([(0, 1), (COUNT - 1, 2)]), Asc.LBA_OUT_OF_RANGE, None),
    "far past the end": (populate_list([((1 << 64) - 1, 1)]), Asc.LBA_OUT_OF_RANGE, None),
}


@pytest.mark.parametrize("case", WRONG_POPULATE)
def test_wrong_lists_make_no_token(case: str) -> None:
    data, expected, pointer = WRONG_POPULATE[case]
    host = host_of(filled())
    result = host.populate(data)
    assert code(result) == (5, expected)
    assert result.sense is not None and result.sense.pointer == pointer
    assert code(host.run(token_information(1))) == (5, Asc.INVALID_FIELD_IN_CDB)
    assert ready(host)


def test_right_lists_that_look_odd() -> None:
    a = filled()
    host = host_of(a)
    assert host.run(populate_token(1, 0)) == (0, b"", None, None)
    assert host.run(write_using_token(1, 0)) == (0, b"", None, None)
    whole = populate_list([(COUNT - 4, 4), (COUNT, 0), (0, 1)])
    for data, expected in [
        (populate_list(R, flags=RTV, kind=0x0080FFFF), R),
        (populate_list(R, flags=RTV, kind=0x00800001), R),
        (populate_list(R, kind=0x12345678), R),  # ignored: RTV is 0
        (whole, [(COUNT - 4, 4), (0, 1)]),
        (whole[:-1], [(COUNT - 4, 4)]),  # cut by the parameter list length: ignored
        (changed(POPULATE, 0, struct.pack(">HBxII2xH", 45, 0, 0, 0, 31)) + bytes(15), R),
    ]:
        assert host.populate(data, 5).status == 0
        information = host.information(5)
        assert information.state == 1 and information.transferred == sum(
            each for _, each in expected
        )
        assert not a.log, "no block is read for a token"


def test_the_largest_token() -> None:
    big = InlineRamUnit(block_count=MAX_BLOCKS + 8)
    host = host_of(big)
    assert len(host.token([(8, MAX_BLOCKS)])) == 512
    page = host.run(bytes.fromhex("12018fffff 00")).data
    ranges, longest, usual, most, best = struct.unpack_from(">HIIQQ", page, 14)
    assert (ranges, longest, usual, most, best) == (64, 300, 30, MAX_BLOCKS, MAX_BLOCKS)
    assert len(host.token([(each * 2, 1) for each in range(64)])) == 512


WRONG_WRITE: dict[str, tuple[bytes, int, Pointer | None]] = {
    "no header": (write_list(ZERO_TOKEN, R)[:535], Asc.PARAMETER_LIST_LENGTH_ERROR, None),
    "data length": (
        changed(write_list(ZERO_TOKEN, R), 0, b"\x02\x25"),
        ILLEGAL_PARAMETER,
        at(0),
    ),
    "lengths that differ": (
        changed(write_list(ZERO_TOKEN, R), 0, b"\x02\x27"),
        ILLEGAL_PARAMETER,
        at(0),
    ),
    "overlap": (write_list(ZERO_TOKEN, [(8, 4), (4, 5)]), ILLEGAL_PARAMETER, at(536)),
    "ranges": (
        write_list(ZERO_TOKEN, [(each * 2, 1) for each in range(65)]),
        Asc.TOO_MANY_SEGMENT_DESCRIPTORS,
        at(534),
    ),
    "blocks": (write_list(ZERO_TOKEN, [(0, MAX_BLOCKS + 1)]), ILLEGAL_PARAMETER, at(544)),
    "the end": (write_list(ZERO_TOKEN, [(COUNT, 1)]), Asc.LBA_OUT_OF_RANGE, None),
    "token length": (
        write_list(changed(ZERO_TOKEN, 6, b"\x01\xf7"), R),
        Asc.INVALID_TOKEN_LENGTH,
        None,
    ),
    "token type": (
        write_list(changed(ZERO_TOKEN, 0, b"\x00\x01\x00\x00"), R),
        Asc.UNSUPPORTED_TOKEN_TYPE,
        None,
    ),
    "unknown": (
        write_list(changed(ZERO_TOKEN, 0, b"\x00\x80\x00\x01"), R),
        Asc.TOKEN_UNKNOWN,
        None,
    ),
}


@pytest.mark.parametrize("case", WRONG_WRITE)
def test_wrong_lists_write_nothing(case: str) -> None:
    data, expected, pointer = WRONG_WRITE[case]
    unit = filled()
    host = host_of(unit)
    result = host.write(data)
    assert code(result) == (5, expected)
    assert result.sense is not None and result.sense.pointer == pointer
    assert not unit.log


@settings(deadline=None)
@given(st.integers(0, 551), st.integers(0, 255), st.integers(0, 30), st.booleans())
def test_lists_with_any_byte_wrong(place: int, value: int, cut: int, writing: bool) -> None:
    unit = InlineRamUnit(block_count=64)
    host = host_of(unit)
    data = write_list(host.token([(0, 8)]), [(16, 8)]) if writing else populate_list([(0, 8)])
    data = changed(data, place % len(data), bytes([value]))[: len(data) - max(0, cut - 10)]
    result = host.write(data) if writing else host.populate(data)
    assert result.status in (0, 2)
    if result.status and result.sense is not None and result.sense.key == 5:
        assert not unit.calls["write"]


def test_a_token_with_any_bit_wrong_is_none() -> None:
    a, b, host = pair()
    token = host.token(R)
    for place in (8, 15, 16, 50, 128, 255, 256, 511):
        forged = changed(token, place, bytes([token[place] ^ 1]))
        result = host.write(write_list(forged, R), unit=1)
        assert code(result) == (5, Asc.TOKEN_UNKNOWN)
    assert not b.log and not a.log
    assert host.write(write_list(token, R), unit=1).status == 0


# -- what a token stands for -------------------------------------------------------------------


def test_a_token_serves_every_unit_and_nexus_of_the_target() -> None:
    a, b, host = pair()
    other = Host(ready_nexus(host.nexus.target, "iqn.2024-01.org.example:other"))
    token = host.token([(5, 6)], unit=1)
    assert other.write(write_list(token, [(50, 6)])).status == 0
    assert blocks(a, (50, 6)) == blocks(b, (5, 6))
    assert host.write(write_list(token, [(100, 6)]), unit=1).status == 0, "also its own unit"
    assert blocks(b, (100, 6)) == blocks(b, (5, 6))
    elsewhere = host_of(filled())
    assert code(elsewhere.write(write_list(token, R))) == (5, Asc.TOKEN_UNKNOWN)


def test_a_write_over_the_tokens_own_data_is_refused() -> None:
    a, _, host = pair()
    token = host.token([(10, 10)])
    for target in [(10, 10), (19, 1), (5, 6), (0, 30)]:
        result = host.write(write_list(token, [target]))
        assert code(result) == (5, Asc.INVALID_TOKEN_OPERATION)
    assert not a.calls["write"]
    assert host.write(write_list(token, [(20, 10)])).status == 0


def test_blocks_of_another_length() -> None:
    """The example of SBC-4 5.59: the offset counts blocks of the unit that is written."""
    a, b, host = pair(block_length=4096, block_count=256)
    token = host.token([(15, 6), (40, 61)])
    assert host.write(write_list(token, [(3, 1)]), unit=1).status == 0
    assert host.information(2, 1).transferred == 1
    assert blocks(b, (3, 1)) == blocks(a, (15, 6), (40, 2))
    assert host.write(write_list(token, [(4, 1)], offset=1), unit=1).status == 0
    assert blocks(b, (4, 1)) == blocks(a, (42, 8))
    back = host.token([(3, 2)], unit=1)
    assert host.write(write_list(back, [(200, 3), (300, 5)], offset=3)).status == 0
    assert blocks(a, (200, 3), (300, 5)) == blocks(b, (3, 2))[3 * 512 : 11 * 512]


@pytest.mark.parametrize("flags", [0, IMMED])
def test_more_blocks_than_the_token_has(flags: int) -> None:
    a, b, host = pair(block_length=4096, block_count=256)
    before = blocks(b, (13, 243))
    token = host.token([(0, 20)])
    result = host.write(write_list(token, [(10, 2), (12, 5)], flags=flags), unit=1)
    if flags:
        assert result == (0, b"", None, 568)
    else:
        assert code(result) == (0xA, Asc.COPY_TARGET_DATA_UNDERRUN)
        assert result.sense is not None and result.sense.information == 3
    information = host.information(2, 1)
    assert (information.state, information.status, information.transferred) == (3, 2, 3)
    assert information.sense == bytes.fromhex("f0 00 0a 00000003 0a 00000000 0d04 00 000000")
    assert blocks(b, (10, 3)) == blocks(a, (0, 20)) + bytes(4 * 512), "the last block is padded"
    assert blocks(b, (13, 243)) == before


def test_an_offset_past_the_token() -> None:
    _, b, host = pair(block_length=4096, block_count=256)
    token = host.token([(0, 20)])
    for offset in (3, 1 << 32, (1 << 64) - 1):
        result = host.write(write_list(token, [(0, 1)], offset=offset), unit=1)
        assert code(result) == (5, ILLEGAL_PARAMETER)
        assert result.sense is not None and result.sense.pointer == at(8)
    assert host.write(write_list(token, [(0, 1)], offset=2), unit=1).status == 0
    empty = host.token([(7, 0)])
    assert code(host.write(write_list(empty, [(0, 1)]), unit=1)) == (5, ILLEGAL_PARAMETER)
    assert b.calls["write"] == 1


# -- failures and aborts -----------------------------------------------------------------------


def failing(unit: RamUnit, what: str, lba: int, error: Exception) -> None:
    def fault(name: str, first: int, count: int) -> None:
        if name == what and first <= lba < first + count:
            raise error

    unit.fault = fault


def test_a_source_that_cannot_be_read() -> None:
    a, b = filled(block_count=8192), filled(block_count=8192)
    host = host_of(a, b)
    token = host.token([(0, 8192)])
    failing(a, "read", 3000, errors.MediumError(lba=3000))
    result = host.write(write_list(token, [(0, 8192)]), unit=1)
    assert code(result) == (0xA, Asc.COPY_TARGET_DATA_UNDERRUN)
    assert result.sense is not None and result.sense.information == 2048
    assert host.information(2, 1)[1:6] == (3, 0xFFFFFFFE, 2, 0xF1, 2048)
    result = host.write(write_list(token, [(0, 100)], offset=2990), unit=1)
    assert code(result) == (5, Asc.COPY_TARGET_DATA_UNDERRUN)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("flags", [0, IMMED])
def test_a_destination_that_cannot_be_written_says_why_itself(zeros: bool, flags: int) -> None:
    a, b = filled(block_count=8192), filled(block_count=8192)
    host = host_of(a, b)
    token = ZERO_TOKEN if zeros else host.token([(0, 8192)])
    failing(b, "write", 3000, errors.OutOfSpace())
    result = host.write(write_list(token, [(0, 8192)], flags=flags), unit=1)
    if flags:
        assert result.status == 0
    else:
        assert code(result) == (7, Asc.SPACE_ALLOCATION_FAILED)
    information = host.information(2, 1)
    assert (information.state, information.status, information.transferred) == (3, 2, 2048)
    assert information.sense[2] == 7 and information.sense[12:14] == b"\x27\x07"


def test_a_write_protected_destination() -> None:
    _, b, host = pair(write_protected=True)
    token = host.token(R)
    assert code(host.write(write_list(token, R), unit=1)) == (7, Asc.WRITE_PROTECTED)
    assert len(host.token(R, unit=1)) == 512, "to be read from it may be"
    assert not b.log


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_abort_between_two_steps(steps: int) -> None:
    a, b = filled(block_count=8192), filled(block_count=8192)
    host = host_of(a, b)
    before = bytes(b.memory)
    token = host.token([(0, 8192)])
    host.port.deferred = True
    data = write_list(token, [(0, 8192)], flags=DEL_TKN)
    task = host.port.start(host.nexus, write_using_token(3, len(data)), data, lun(1))
    for _ in range(steps):
        host.port.step()
    answers: list[int] = []
    manage(Function.LOGICAL_UNIT_RESET, host.nexus, lun(1), task, answers.append)
    while host.port.waiting:
        host.port.step()
    assert answers == [0] and task.completions == [None]
    done = (steps + 1) // 2 * (1 << 20)
    assert same(b.memory, a.memory[:done] + before[done:])
    again = Host(ready_nexus(host.nexus.target))
    assert code(again.run(token_information(3), unit=1)) == (5, Asc.INVALID_FIELD_IN_CDB)
    assert again.write(write_list(token, [(0, 1)]), unit=1).status == 0, "the token lives on"


def test_a_populate_that_is_aborted() -> None:
    host = host_of(filled())
    host.port.deferred = True
    task = host.port.start(host.nexus, populate_token(3, len(POPULATE)), POPULATE)
    answers: list[int] = []
    manage(Function.ABORT_TASK, host.nexus, 0, task, answers.append)
    host.port.step()
    assert answers == [0] and task.completions == [None]
    information = Host(host.nexus).information(3)
    assert (information.state, information.status, information.token) == (0x60, 0x40, b"")


# -- results -----------------------------------------------------------------------------------


def test_the_token_is_told_once_and_to_its_nexus() -> None:
    _, _, host = pair()
    other = Host(ready_nexus(host.nexus.target, "iqn.2024-01.org.example:other"))
    assert host.populate(POPULATE, 9).status == 0
    for result in (other.run(token_information(9)), host.run(token_information(9), unit=1)):
        assert code(result) == (5, Asc.INVALID_FIELD_IN_CDB)
        assert result.sense is not None and result.sense.pointer == Pointer(2)
    short = host.run(token_information(9, 100)).data
    assert len(short) == 100 and int.from_bytes(short[:4], "big") == 546
    full = host.run(token_information(9)).data
    assert full[:100] == short
    assert host.information(9).token == b"", "all of it was told"
    assert host.run(copy_status_lid4(9)).data == bytes([0, 0, 0, 28]) + full[4:32]
    assert host.populate(POPULATE, 9).status == 0
    assert host.run(token_information(9, 0)).data == b""
    assert host.information(9).token == b"", "nobody wants it"


def test_an_operation_under_way() -> None:
    host = host_of(filled(block_count=8192))
    host.port.deferred = True
    data = write_list(ZERO_TOKEN, [(0, 8192)])
    host.port.start(host.nexus, write_using_token(3, len(data)), data)
    host.port.step()
    now = Host(host.nexus)
    assert now.information(3)[:6] == (0x11, 0x11, 1000, 0, 0xF1, 2048)
    assert code(now.write(data, 3)) == (5, Asc.OPERATION_IN_PROGRESS)
    assert code(now.populate(POPULATE, 3)) == (5, Asc.OPERATION_IN_PROGRESS)


# -- an oracle ---------------------------------------------------------------------------------

LENGTHS = (512, 4096)
SIZE = 16 * 4096
MEMORIES = [hashlib.shake_256(bytes([each])).digest(SIZE) for each in range(2)]

ranges = st.lists(st.tuples(st.integers(0, 127), st.integers(0, 40)), min_size=1, max_size=4)
steps = st.one_of(
    st.tuples(st.just("make"), st.integers(0, 1), ranges),
    st.tuples(
        st.just("use"),
        st.integers(0, 1),
        ranges,
        st.integers(0, 3),
        st.integers(0, 12),
    ),
    st.tuples(st.just("write"), st.integers(0, 1), st.integers(0, 127)),
)


def shaped(unit: int, wanted: list[Range]) -> list[Range] | None:
    """The ranges cut to the unit; None if they overlap."""
    count = SIZE // LENGTHS[unit]
    found = [(lba % count, min(size, count - lba % count)) for lba, size in wanted]
    taken: set[int] = set()
    for lba, size in found:
        these = set(range(lba, lba + size))
        if these & taken:
            return None
        taken |= these
    return found


@settings(deadline=None)
@given(st.lists(steps, max_size=12), st.sampled_from([4096, 1 << 20]))
def test_against_byte_arrays(commands: list[tuple[object, ...]], transfer: int) -> None:
    units = [
        RamUnit(
            block_length=length,
            block_count=SIZE // length,
            max_transfer_length=max(transfer // length, 1) * length,
        )
        for length in LENGTHS
    ]
    for unit, memory in zip(units, MEMORIES, strict=True):
        unit.memory[:] = memory
    models = [bytearray(memory) for memory in MEMORIES]
    host = host_of(*units)
    #: token, unit, its blocks' bytes when it was made, the ranges; None: cancelled
    tokens: list[tuple[bytes, int, bytes, list[Range]] | None] = []

    def written(number: int, lba: int, size: int) -> None:
        for index, kept in enumerate(tokens):
            if (
                kept
                and kept[1] == number
                and any(lba < first + count and first < lba + size for first, count in kept[3])
            ):
                tokens[index] = None

    for what, number, *rest in commands:
        assert isinstance(number, int)
        length = LENGTHS[number]
        if what == "write":
            (place,) = rest
            assert isinstance(place, int)
            lba = place % (SIZE // length)
            host.run(struct.pack(">BBIxHx", 0x2A, 0, lba, 1), bytes([lba]) * length, number)
            models[number][lba * length : (lba + 1) * length] = bytes([lba]) * length
            written(number, lba, 1)
            continue
        found = shaped(number, rest[0])  # type: ignore[arg-type]
        if found is None:
            continue
        if what == "make":
            token = host.token(found, number)
            data = b"".join(
                models[number][lba * length : (lba + size) * length] for lba, size in found
            )
            tokens.append((token, number, data, [each for each in found if each[1]]))
            continue
        index, offset = rest[1], rest[2]
        assert isinstance(index, int) and isinstance(offset, int)
        if not tokens:
            continue
        kept = tokens[index % len(tokens)]
        if kept is None:
            continue
        token, source, data, own = kept
        result = host.write(write_list(token, found, offset=offset), unit=number)
        clash = source == number and any(
            lba < first + count and first < lba + size
            for lba, size in found
            for first, count in own
            if size
        )
        total = sum(size for _, size in found)
        if offset * length >= len(data) or clash:
            assert result.status == 2
            continue
        there = data[offset * length :]
        there += bytes(-len(there) % length)
        assert result.status == (0 if len(there) >= total * length else 2)
        for lba, size in found:
            piece, there = there[: size * length], there[size * length :]
            models[number][lba * length : lba * length + len(piece)] = piece
            if piece:
                written(number, lba, len(piece) // length)
    assert [unit.memory for unit in units] == models
