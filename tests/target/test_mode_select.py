"""MODE SELECT: every field of every page, parameter lists that are wrong, values that are saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kit.modes import (
    CACHING,
    CHANGED,
    CONTROL,
    PF,
    SAVED,
    SP,
    Disk,
    caching,
    control,
    header,
    pointed,
    select,
)
from tests.target.test_mode_sense import Thin
from userdisk import identity
from userdisk.errors import UsageError, UserdiskError, WriteError
from userdisk.identity import Identity
from userdisk.scsi import mode
from userdisk.scsi.fields import Field
from userdisk.scsi.sense import Asc, Pointer

READY = bytes(6)
#: What an initiator may change, by page: said here once more.
CHANGEABLE = {"caching": {"WCE"}, "control": {"SWP", "D_SENSE"}}
FIELDS = [(page, field) for page in mode.PAGES for field in page.fields]


def flipped(data: bytes, byte: int, bit: int) -> bytes:
    return data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]


def bits_of(field: Field) -> set[tuple[int, int]]:
    """(byte, bit) of all bits of a field."""
    first = 8 * field.byte + 7 - field.bit
    return {(place // 8, 7 - place % 8) for place in range(first, first + field.bits)}


# -- every field of every page -----------------------------------------------------------------


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("page", mode.PAGES, ids=[page.name for page in mode.PAGES])
def test_every_bit_of_a_page(page: mode.Page, short: bool) -> None:
    disk = Disk(Thin(cache_supported=True))
    current = bytes([*disk.sense(page.code, page.subpage)])
    start = len(header(short=short))
    owners = {place: field for field in page.fields for place in bits_of(field)}
    changed = set()
    for byte in range(page.header_length, page.length):
        for bit in range(8):
            data = header(short=short) + flipped(current, byte, bit)
            result = disk.run(select(len(data), short=short), data)
            field = owners.get((byte, bit))
            if field is not None and field.name in CHANGEABLE.get(page.name, ()):
                assert result == (0, b"", None, len(data)), field
                assert disk.sense(page.code, page.subpage) == flipped(current, byte, bit)
                assert disk.run(READY, nexus=disk.two).sense is not None
                undo = header(short=short) + current
                assert disk.run(select(len(undo), short=short), undo).status == 0
                assert disk.run(READY, nexus=disk.two).sense is not None
                changed.add(field.name)
                continue
            if field is None:
                expected = Pointer(start + byte, bit, in_cdb=False)
            else:
                whole = field.bit == 7 and field.bits % 8 == 0
                place = None if whole else field.bit
                expected = Pointer(start + field.byte, place, in_cdb=False)
            assert pointed(result) == expected, (byte, bit)
            assert disk.sense(page.code, page.subpage) == current
    assert changed == CHANGEABLE.get(page.name, set())
    assert disk.run(READY, nexus=disk.two).status == 0


@pytest.mark.parametrize("page", mode.PAGES, ids=[page.name for page in mode.PAGES])
def test_the_header_of_a_page(page: mode.Page) -> None:
    disk = Disk(Thin(cache_supported=True))
    current = disk.sense(page.code, page.subpage)
    assert disk.select(current).status == 0
    assert disk.select(flipped(current, 0, 7)).status == 0  # PS is reserved, and sent all the same
    for length in (0, page.length - page.header_length - 1, 0xFF):
        wrong = bytearray(current)
        wrong[page.header_length - 1] = length
        at = 4 + (2 if page.subpage else 1)
        assert pointed(disk.select(bytes(wrong))) == Pointer(at, in_cdb=False)
    for code in {0, 2, 0x3E, 0x3F}:
        wrong = bytearray(current)
        wrong[0] = wrong[0] & 0xC0 | code
        assert pointed(disk.select(bytes(wrong))) == Pointer(4, 5, in_cdb=False)
    if page.subpage:
        for subpage in (0, 5, 0xFF):
            wrong = bytearray(current)
            wrong[1] = subpage
            assert pointed(disk.select(bytes(wrong))) == Pointer(5, in_cdb=False)
    else:
        wrong_format = flipped(current, 0, 6)  # its length is taken for a subpage code
        assert pointed(disk.select(wrong_format)) == Pointer(5, in_cdb=False)
    assert pointed(disk.select(current, current)) == Pointer(4 + len(current), 5, in_cdb=False)


# -- the rest of the list ----------------------------------------------------------------------

_GOOD: Any = None


@pytest.mark.parametrize(
    ("short", "data", "expected"),
    [
        (True, "00 00 00 00", _GOOD),
        (True, "0b 00 90 00", _GOOD),  # as it was sensed
        (True, "00 01 00 00", (1, None)),
        (True, "00 00 08 00", (2, 3)),
        (True, "00 00 40 00", (2, 6)),
        (True, "00 00 00 04", (3, None)),
        (True, "00 00 00 10 00000800 00000200", (3, None)),
        (True, "00 00 00 08 00000800 00000200", _GOOD),
        (True, "00 00 00 08 00000000 00000200", _GOOD),
        (True, "00 00 00 08 ffffffff 00000200", _GOOD),
        (True, "00 00 00 08 000007ff 00000200", (4, None)),
        (True, "00 00 00 08 00000801 00000200", (4, None)),
        (True, "00 00 00 08 00000800 01000200", (8, None)),
        (True, "00 00 00 08 00000800 00001000", (9, None)),
        (True, "00 00 00 08 00000800 00000000", (9, None)),
        (False, "0000 00 00 00 00 0000", _GOOD),
        (False, "1234 00 90 01 00 0000", _GOOD),
        (False, "0000 ff 00 00 00 0000", (2, None)),
        (False, "0000 00 01 00 00 0000", (3, 0)),
        (False, "0000 00 00 02 00 0000", (4, 1)),
        (False, "0000 00 00 81 00 0000", (4, 7)),
        (False, "0000 00 00 00 01 0000", (5, None)),
        (False, "0000 00 00 00 00 0010 00000800 00000200", (6, None)),
        (False, "0000 00 00 01 00 0008 00000800 00000200", (6, None)),
        (False, "0000 00 00 00 00 0008 00000800 00000200", _GOOD),
        (False, "0000 00 00 01 00 0010 0000000000000800 00000000 00000200", _GOOD),
        (False, "0000 00 00 01 00 0010 0000000000000000 00000000 00000200", _GOOD),
        (False, "0000 00 00 01 00 0010 ffffffffffffffff 00000000 00000200", _GOOD),
        (False, "0000 00 00 01 00 0010 00000000ffffffff 00000000 00000200", (8, None)),
        (False, "0000 00 00 01 00 0010 0000000000000800 00000001 00000200", (16, None)),
        (False, "0000 00 00 01 00 0010 0000000000000800 00000000 00000201", (20, None)),
    ],
)
def test_header_and_block_descriptor(
    short: bool, data: str, expected: tuple[int, int | None] | None
) -> None:
    disk, body = Disk(), bytes.fromhex(data)
    result = disk.run(select(len(body), short=short), body)
    if expected is None:
        assert result == (0, b"", None, len(body))
    else:
        assert pointed(result) == Pointer(*expected, in_cdb=False)
    result = disk.run(select(len(body) + 12, short=short), body + control(swp=True))
    assert (result.status == 0) is (expected is None)
    assert disk.lu.write_protected is (expected is None)


def test_capacities_beyond_a_short_descriptor() -> None:
    disk = Disk(Thin(block_count=1 << 33))
    body = bytes.fromhex("00000008 ffffffff 00000200")
    assert disk.run(select(len(body)), body).status == 0
    body = bytes.fromhex("00000008 fffffffe 00000200")
    assert pointed(disk.run(select(len(body)), body)) == Pointer(4, in_cdb=False)


@pytest.mark.parametrize("short", [True, False])
def test_lists_that_end_early(short: bool) -> None:
    disk = Disk()
    body = header(8, short=short) + bytes.fromhex("00000800 00000200")
    body += control(swp=True, d_sense=True) + caching(wce=False)
    ends = {len(body) - 32, len(body) - 20, len(body), len(header(short=short)) + 8, 0}
    before = disk.everything()
    for length in range(len(body)):
        result = disk.run(select(length, short=short), body[:length])
        if length in ends:
            continue  # it ends between pages
        assert result.sense is not None
        assert result.sense.code == Asc.PARAMETER_LIST_LENGTH_ERROR, length
        if length < min(ends - {0}) + 1:
            assert disk.everything() == before
    disk = Disk()
    for length in (1, 12, len(body) - 1):  # less is announced than the CDB says
        result = disk.run(select(len(body), short=short), body[:length])
        assert result.sense is not None
        assert result.sense.code == Asc.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT
    assert disk.everything() == before


def test_nothing_changes_if_a_later_page_is_wrong() -> None:
    disk = Disk()
    before = disk.everything()
    result = disk.select(control(swp=True, d_sense=True), caching(wce=False), bytes([0x1A, 1, 0]))
    assert pointed(result) == Pointer(4 + 12 + 20 + 1, in_cdb=False)
    assert disk.everything() == before
    assert disk.run(READY, nexus=disk.two).status == 0


@pytest.mark.parametrize("short", [True, False])
def test_page_format_and_an_empty_list(short: bool) -> None:
    disk = Disk()
    for flags in (0, PF):
        assert disk.run(select(0, flags, short=short)).status == 0
    body = header(short=short) + control(swp=True)
    result = disk.run(select(len(body), 0, short=short), body)
    assert result.sense is not None and result.sense.pointer == Pointer(1, 4)
    assert result.sense.code == Asc.INVALID_FIELD_IN_CDB
    assert not disk.lu.write_protected


# -- random lists ------------------------------------------------------------------------------

PAGES = st.sampled_from(
    [
        control(),
        control(swp=True),
        control(d_sense=True),
        caching(wce=False),
        CACHING,
        bytes.fromhex("01 0a" + "00" * 10),
        bytes.fromhex("4a 01 001c" + "00" * 28),
        bytes.fromhex("1a 26" + "00" * 38),
        bytes.fromhex("1c 0a 08" + "00" * 9),
    ]
)
LISTS = st.lists(PAGES, max_size=4).map(b"".join)


@given(
    short=st.booleans(),
    descriptor=st.booleans(),
    body=LISTS,
    harm=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=3),
    cut=st.none() | st.integers(0, 200),
)
def test_a_list_is_good_or_changes_nothing(
    short: bool, descriptor: bool, body: bytes, harm: list[tuple[int, int]], cut: int | None
) -> None:
    disk = Disk()
    data = bytearray(header(8 if descriptor else 0, short=short))
    data += bytes.fromhex("00000800 00000200") if descriptor else b""
    data += body
    for at, value in harm:
        data[at % len(data)] = value
    if cut is not None:
        del data[cut:]
    before, told = disk.everything(), disk.run(READY, nexus=disk.two).status
    assert told == 0
    result = disk.run(select(len(data), short=short), bytes(data))
    same = disk.everything() == before
    if result.status == 0:
        assert (result.wanted or 0) == len(data)
        assert (disk.run(READY, nexus=disk.two).status == 0) is same
        return
    assert same and disk.run(READY, nexus=disk.two).status == 0
    assert result.sense is not None and result.sense.key == 5
    if result.sense.code == Asc.INVALID_FIELD_IN_PARAMETER_LIST:
        pointer = result.sense.pointer
        assert pointer is not None and not pointer.in_cdb and pointer.byte < len(data)
    else:
        assert result.sense.code == Asc.PARAMETER_LIST_LENGTH_ERROR


# -- who is told -------------------------------------------------------------------------------


def test_other_nexuses_are_told_of_changes_only() -> None:
    disk = Disk()
    assert disk.select(control(d_sense=True)).status == 0
    assert disk.code(READY) is None
    assert disk.code(READY, nexus=disk.two) == CHANGED
    assert disk.code(READY, nexus=disk.two) is None
    assert disk.select(control(d_sense=True), CACHING, nexus=disk.two).status == 0
    assert disk.code(READY) is None
    assert disk.select(control(), nexus=disk.two).status == 0
    assert disk.code(READY) == CHANGED
    assert disk.code(READY, nexus=disk.two) is None


# -- saved values ------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> identity.Place:
    return identity.beside(str(tmp_path / "disk.img"), read_only=False)


def served(place: identity.Place, **how: Any) -> Disk:
    """The disk of this place, as a server has it that has just started."""
    disk = Disk(**how)
    return Disk(disk.unit, identity.identify(disk.unit, place))


def test_saved_values_are_there_after_a_restart(place: identity.Place) -> None:
    disk = served(place)
    assert disk.sense(0x0A)[0] == disk.sense(0x08)[0] | 2 == 0x8A
    assert disk.sense(0x3F, 0xFF, SAVED) == disk.sense(0x3F, 0xFF)
    assert disk.select(control(d_sense=True), caching(wce=False), flags=PF | SP).status == 0
    assert disk.select(control(swp=True)).status == 0  # for this time
    assert disk.sense(0x0A, 0, SAVED)[2:5] == bytes.fromhex("06 10 00")
    disk = served(place)
    assert disk.sense(0x0A)[2:5] == disk.sense(0x0A, 0, SAVED)[2:5] == bytes.fromhex("06 10 00")
    assert disk.sense(0x08)[2] == 0 and disk.unit is not None and disk.lu.gate.write_through
    assert disk.lu.descriptor_sense and not disk.lu.write_protected
    assert disk.sense(0x0A, 0, 2)[2:5] == bytes.fromhex("02 10 00")  # default


def test_saving_takes_all_current_values_along(place: identity.Place) -> None:
    disk = served(place)
    assert disk.select(control(swp=True)).status == 0
    assert disk.run(select(0, SP)).status == 0
    assert disk.code(READY, nexus=disk.two) == CHANGED
    assert disk.code(READY, nexus=disk.two) is None
    assert served(place).lu.write_protected


def test_a_reset_goes_back_to_saved_values(place: identity.Place) -> None:
    disk = served(place)
    assert disk.select(control(d_sense=True), caching(wce=False), flags=PF | SP).status == 0
    assert disk.select(control(swp=True), CACHING).status == 0
    flushes = disk.unit.calls["flush"]
    disk.lu.reset(Asc.LOGICAL_UNIT_RESET)
    assert disk.unit.calls["flush"] == flushes + 1  # the cache is off again
    assert disk.lu.descriptor_sense and not disk.lu.write_protected and disk.lu.gate.write_through
    assert disk.code(READY) == (6, Asc.LOGICAL_UNIT_RESET)
    assert disk.code(READY) is None


def test_a_reset_goes_back_to_default_values() -> None:
    disk = Disk()
    assert disk.select(control(swp=True, d_sense=True), caching(wce=False)).status == 0
    disk.lu.reset(Asc.LOGICAL_UNIT_RESET)
    assert disk.code(READY) == (6, Asc.LOGICAL_UNIT_RESET)
    assert disk.sense(0x0A) == CONTROL and disk.sense(0x08) == CACHING
    assert disk.code(bytes.fromhex("2a000000000000000100"), bytes(512)) is None
    assert disk.unit.log[-1] == ("write", 0, 1, False)
    assert next(iter(disk.one.paths.values())).ready


@pytest.mark.parametrize("short", [True, False])
def test_save_is_refused_where_nothing_can_be_saved(short: bool) -> None:
    disk = Disk()
    body = header(short=short) + control(swp=True)
    for length in (0, len(body)):
        result = disk.run(select(length, PF | SP, short=short), body[:length])
        assert result.sense is not None and result.sense.code == Asc.INVALID_FIELD_IN_CDB
        assert result.sense.pointer == Pointer(1, 0)
    assert not disk.lu.write_protected


class _Full(Identity):
    """A state file that cannot be written any more."""

    def save(self, name: str, value: Any) -> bool:
        raise UserdiskError("no space")


def test_what_cannot_be_saved_does_not_change(place: identity.Place) -> None:
    disk = Disk(saved=_Full(served(place).unit.parameters.guid, "somewhere"))
    assert disk.select(control(swp=True), flags=PF | SP).sense[:2] == (4, 0x4400)  # type: ignore[index]
    assert not disk.lu.write_protected
    assert disk.sense(0x0A) == disk.sense(0x0A, 0, SAVED)
    assert disk.code(READY, nexus=disk.two) is None


def test_a_flush_that_fails_changes_nothing() -> None:
    disk = Disk()

    def fault(name: str, lba: int, blocks: int) -> None:
        if name == "flush":
            raise WriteError("worn out")

    disk.unit.fault = fault
    for pages in ([caching(wce=False)], [control(swp=True)]):
        result = disk.select(*pages)
        assert result.sense is not None
        assert (result.sense.key, result.sense.code) == (3, Asc.WRITE_ERROR)
        assert result.sense.information is None  # it is about no block
    assert disk.sense(0x0A) == CONTROL and disk.sense(0x08) == CACHING
    assert disk.code(READY, nexus=disk.two) is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (7, "not an object but 7"),
        ([], "not an object but []"),
        ({"control": 7}, "control: not an object but 7"),
        ({"steering": {}}, "there is no page 'steering'"),
        ({"power condition": {}}, "there is no page 'power condition'"),
        ({"control": {"TAS": 0}}, "control: there is no 'TAS'"),
        ({"control": {"SWP": 2}}, "control: SWP cannot be 2"),
        ({"control": {"SWP": -1}}, "control: SWP cannot be -1"),
        ({"control": {"SWP": True}}, "control: SWP cannot be True"),
        ({"control": {"SWP": "1"}}, "control: SWP cannot be '1'"),
        ({"caching": {"WCE": None}}, "caching: WCE cannot be None"),
    ],
)
def test_saved_values_that_are_none(place: identity.Place, value: object, why: str) -> None:
    path = place.write[0]
    assert served(place).select(control(swp=True), flags=PF | SP).status == 0
    state = json.loads(Path(path).read_text())
    state["mode_parameters"] = value
    Path(path).write_text(json.dumps(state))
    with pytest.raises(UsageError) as caught:
        served(place)
    message = str(caught.value)
    assert path in message and why in message and "\n" not in message


def test_saved_values_of_a_field_that_is_no_more(place: identity.Place) -> None:
    assert served(place).select(caching(wce=False), control(swp=True), flags=PF | SP).status == 0
    disk = served(place, cache_supported=False)
    assert disk.lu.write_protected and not disk.lu.gate.write_through
    assert disk.sense(0x08)[2] == 0
