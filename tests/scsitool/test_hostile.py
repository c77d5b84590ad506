"""Whatever a device sends, it is shown as far as it goes: no exception, no end that never comes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kit.engine import EnginePort, ready_nexus, target_of
from tests.kit.units import AbleRamUnit
from userdisk.errors import UserdiskError
from userdisk.scsi import inquiry
from userdisk.scsi.fields import Form
from userdisk.scsitool import lists, pages, parameters, words
from userdisk.scsitool.asker import Asker
from userdisk.scsitool.commands import COMMANDS, Options
from userdisk.scsitool.device import Result
from userdisk.scsitool.items import Section, read
from userdisk.scsitool.layout import Part, as_json, as_lines, as_table

DECODERS: dict[str, Callable[[bytes], Sequence[Part]]] = {
    "inquiry": pages.standard_inquiry,
    **{
        f"vpd {code:02x}": lambda data, code=code: pages.vpd(code, data)  # type: ignore[misc]
        for code in (*(page.code for page in pages.VPD_PAGES), 0x88, 0xC1)
    },
    "capacity 10": pages.short_capacity,
    "capacity 16": pages.long_capacity,
    "luns": pages.lun_list,
    "mode 6": lambda data: parameters.mode_data(data, short=True),
    "mode 10": lambda data: parameters.mode_data(data, short=False),
    "log": parameters.log_page,
    "sense": parameters.sense_data,
    "keys": parameters.reservation_keys,
    "reservation": parameters.current_reservation,
    "full status": parameters.full_status,
    "capabilities": parameters.capabilities,
    "opcodes": lambda data: [lists.command_list(data)],
    "lba status": lambda data: [lists.run_list(lists.runs(data))],
    "port groups": lambda data: [lists.group_list(data)],
}

#: CDBs whose answers are real beginnings for damage.
REAL = {
    "inquiry": "12000000ff00",
    **{f"vpd {code:02x}": f"1201{code:02x}ffff00" for code in (0, 0x80, 0x83, 0x86, 0x8F, 0xB0,
                                                              0xB1, 0xB2)},
    "capacity 10": "25000000000000000000",
    "capacity 16": "9e10000000000000000000000020",
    "luns": "a00000000000000010000000",
    "mode 6": "1a003f00ff00",
    "mode 10": "5a103fff000000ffff00",
    "log": "4d0042000000000fff00",
    "sense": "03000000fc00",
    "keys": "5e000000000000ffff00",
    "reservation": "5e010000000000ffff00",
    "full status": "5e030000000000ffff00",
    "capabilities": "5e020000000000ffff00",
    "opcodes": "a30c800000000000ffff0000",
    "lba status": "9e12000000000000000000001000",
}  # fmt: skip


def show(parts: Sequence[Part]) -> None:
    for form in (as_table, as_lines):
        for line in form(parts):
            assert "\n" not in line or not isinstance(parts[0], Section)
    as_json(parts)


def answers() -> dict[str, bytes]:
    target = target_of(AbleRamUnit(soft_threshold=75))
    nexus = ready_nexus(target)
    port = EnginePort()
    found = {}
    for name, cdb in REAL.items():
        result = port.execute(nexus, bytes.fromhex(cdb))
        assert result.status == 0, name
        found[name] = result.data
    return found


ANSWERS = answers()


@pytest.mark.parametrize("name", ANSWERS)
def test_our_own_answers_have_nothing_odd(name: str) -> None:
    parts = DECODERS[name](ANSWERS[name])
    show(parts)
    warned = [line for line in as_lines(parts) if "WARN" in line]
    assert not warned


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes(name: str, data: bytes) -> None:
    show(DECODERS[name](data))


@pytest.mark.parametrize("name", ANSWERS)
def test_damaged_answers(name: str) -> None:
    whole = ANSWERS[name]
    draw = random.Random(name)
    decode = DECODERS[name]
    for length in range(min(len(whole), 120)):
        show(decode(whole[:length]))
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.choice((0, 1, 0x7F, 0xFF, 0x40))
        show(decode(bytes(damaged)))


@given(data=st.binary(max_size=40))
@settings(deadline=None)
def test_items_are_all_of_the_bytes(data: bytes) -> None:
    for table in (inquiry.STANDARD, inquiry.BLOCK_LIMITS):
        number = bits = 0
        for item in read(data, table):
            value = item.value
            if isinstance(value, bytes):
                assert item.bits == 8 * len(value)
                value = int.from_bytes(value, "big")
            assert value < 1 << item.bits or item.form is Form.BYTES
            number, bits = number << item.bits | value, bits + item.bits
        assert bits == 8 * len(data)
        assert number.to_bytes(len(data), "big") == data


@given(data=st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_words_of_any_bytes(data: bytes) -> None:
    for text in (words.sense_words(data), words.cdb_words(data), words.status_words(2, data)):
        assert text and text.isprintable()
    for first in (0x70, 0x71, 0x72, 0x73, 0xF0):
        assert words.sense_words(bytes([first]) + data)


class Hostile:
    """A device that answers every command with whatever the test says."""

    name = "hostile"

    def __init__(self, answer: Callable[[bytes, int], Result]) -> None:
        self.execute_count = 0
        self._answer = answer

    def execute(self, cdb: bytes, read_length: int = 0, data_out: bytes = b"") -> Result:
        self.execute_count += 1
        return self._answer(cdb, read_length)

    def close(self) -> None:
        pass


OPTIONS = Options(page="83", blocks=8, write=True, command=bytes(6), read_length=64)


def _lying(cdb: bytes, room: int) -> Result:
    return Result(0, b"", b"\xff" * min(room, 5000))


def _empty(cdb: bytes, room: int) -> Result:
    return Result(0, b"", b"")


def _attention(cdb: bytes, room: int) -> Result:
    return Result(2, bytes.fromhex("70 00 06 00 00 00 00 0a 00 00 00 00 29 00 00 00 00 00"), b"")


def _sense_of_nothing(cdb: bytes, room: int) -> Result:
    return Result(2, b"", b"")


def _noise() -> Callable[[bytes, int], Result]:
    draw = random.Random(7)
    counter = itertools.count()

    def answer(cdb: bytes, room: int) -> Result:
        status = 0 if next(counter) % 5 else draw.choice((2, 8, 0x18))
        return Result(status, draw.randbytes(20), draw.randbytes(draw.randint(0, room)))

    return answer


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
@pytest.mark.parametrize(
    "answer", [_lying, _empty, _attention, _sense_of_nothing, _noise()],
    ids=["lying", "empty", "attention", "no sense", "noise"],
)  # fmt: skip
def test_a_hostile_device(command: object, answer: Callable[[bytes, int], Result]) -> None:
    device = Hostile(answer)
    page = "02" if command.name == "logs" else OPTIONS.page  # type: ignore[attr-defined]
    options = Options(page=page, blocks=8, write=True, command=OPTIONS.command, read_length=64)
    try:
        show(command.run(Asker(device), options))  # type: ignore[attr-defined]
    except UserdiskError as error:
        assert "\n" not in str(error)
    assert 1 <= device.execute_count < 2000
