"""LOG SENSE: every page, decoded; counters of what happened; bad CDBs."""

from __future__ import annotations

import struct

import pytest

from tests.kit import log_page
from tests.kit.engine import EnginePort, Result, ready_nexus, target_of
from tests.kit.units import InlineRamUnit, ThickRamUnit
from userdisk import errors
from userdisk.scsi import log, sense
from userdisk.scsi.log import Parameter
from userdisk.scsi.sense import Asc, Sense
from userdisk.target.log_pages import Processed
from userdisk.target.nexus import Nexus
from userdisk.unit import StorageUnit, Usage

NONE = 0xFF  # no temperature


class Thin(InlineRamUnit):
    """Tells what the test says."""

    told: object = Usage(3, 5)

    def usage(self) -> Usage:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told  # type: ignore[return-value]


def ask(
    nexus: Nexus, page: int, subpage: int = 0, control: int = 1, pointer: int = 0, length: int = 999
) -> Result:
    cdb = struct.pack(">BBBBBHHB", 0x4D, 0, control << 6 | page, subpage, 0, pointer, length, 0)
    return EnginePort().execute(nexus, cdb)


def nexus_of(unit: StorageUnit) -> Nexus:
    return ready_nexus(target_of(unit))


def parameters(nexus: Nexus, page: int, control: int = 1, pointer: int = 0) -> dict[int, bytes]:
    data = ask(nexus, page, control=control, pointer=pointer).data
    assert data[0] == 0x80 | page  # DS, not SPF
    assert data[1] == 0
    assert struct.unpack_from(">H", data, 2) == (len(data) - 4,)
    found = log_page.decode(data)
    assert data[4:] == b"".join(each.encode() for each in found)
    codes = [each.code for each in found]
    assert codes == sorted(set(codes))
    return {each.code: each.value for each in found}


def counters(nexus: Nexus, page: int, control: int = 1) -> dict[int, int]:
    found = parameters(nexus, page, control)
    return {code: int.from_bytes(value, "big") for code, value in found.items()}


# -- which pages there are ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "pages"),
    [
        (Thin(), "00 02 03 0c 0d 0e 2f"),
        (InlineRamUnit(), "00 02 03 0d 0e 2f"),  # does not tell its usage
        (ThickRamUnit(), "00 02 03 0d 0e 2f"),
        (Thin(unmap_supported=False), "00 02 03 0d 0e 2f"),
    ],
)
def test_lists_of_pages(unit: StorageUnit, pages: str) -> None:
    nexus, listed = nexus_of(unit), bytes.fromhex(pages)
    data = ask(nexus, 0).data
    assert data == bytes([0, 0, 0, len(listed)]) + listed
    data = ask(nexus, 0, 0xFF).data
    pairs = [(0, 0), (0, 0xFF)] + [(page, 0) for page in listed[1:]]
    assert data == bytes([0x40, 0xFF, 0, 2 * len(pairs)]) + b"".join(map(bytes, pairs))
    for page in range(0x40):
        result = ask(nexus, page)
        assert (result.status == 0) == (page in listed)
        if page not in listed:
            assert result.sense == sense.invalid_field_in_cdb(2, 5)


def test_subpages_that_do_not_exist() -> None:
    nexus = nexus_of(Thin())
    for page in (0x00, 0x02, 0x0C, 0x2F):
        for subpage in range(1, 256):
            if (page, subpage) != (0, 0xFF):
                assert ask(nexus, page, subpage).sense == sense.invalid_field_in_cdb(3)


def test_nothing_is_saved() -> None:
    result = EnginePort().execute(nexus_of(Thin()), bytes.fromhex("4d010200000000ffff00"))
    assert result.sense == sense.invalid_field_in_cdb(1, 0)


# -- counters ----------------------------------------------------------------------------------


def test_counters_of_errors_and_bytes() -> None:
    unit = InlineRamUnit()
    nexus = nexus_of(unit)
    (path,) = nexus.paths.values()
    path.lu.processed = lambda: Processed(read=0x1234, written=0x1_0000_0000)
    assert counters(nexus, 3) == {3: 0, 5: 0x1234, 6: 0}
    assert counters(nexus, 2) == {3: 0, 5: 0x1_0000_0000, 6: 0}

    failures = {
        errors.MediumError("bad"): True,
        errors.HardwareError("bad"): True,
        OSError(5, "I/O error"): True,
        ZeroDivisionError("a bug"): True,
        errors.NotReady("later"): False,
        errors.OutOfSpace("full"): False,
        errors.OutOfMemory("later"): False,
    }
    expected = 0
    for failure, counts in failures.items():

        def fault(name: str, lba: int, blocks: int, failure: Exception = failure) -> None:
            raise failure

        unit.fault = fault
        expected += counts
        for cdb in ("28000000000000000100", "2a000000000000000100"):
            result = EnginePort().execute(nexus, bytes.fromhex(cdb), bytes(512))
            assert result.status == 2
        assert counters(nexus, 3)[6] == counters(nexus, 2)[6] == expected
    EnginePort().execute(nexus, bytes.fromhex("35000000000000000000"))  # a flush is a write
    assert (counters(nexus, 3)[6], counters(nexus, 2)[6]) == (expected, expected)
    unit.fault = lambda name, lba, blocks: (_ for _ in ()).throw(errors.WriteError("lost"))
    EnginePort().execute(nexus, bytes.fromhex("35000000000000000000"))
    assert (counters(nexus, 3)[6], counters(nexus, 2)[6]) == (expected, expected + 1)


def test_a_read_of_the_wrong_length_counts() -> None:
    class Short(InlineRamUnit):
        def read(self, lba: int, blocks: int, fua: bool) -> bytes:
            return b"too short"

    nexus = nexus_of(Short())
    assert EnginePort().execute(nexus, bytes.fromhex("28000000000000000100")).status == 2
    assert counters(nexus, 3)[6] == 1


@pytest.mark.parametrize("page", [2, 3])
def test_page_control_of_counters(page: int) -> None:
    nexus = nexus_of(InlineRamUnit())
    (path,) = nexus.paths.values()
    path.lu.processed = lambda: Processed(7, 7)
    never = dict.fromkeys((3, 5, 6), (1 << 64) - 1)
    assert counters(nexus, page, log.THRESHOLD) == never
    assert counters(nexus, page, log.CUMULATIVE)[5] == 7
    assert counters(nexus, page, log.DEFAULT_THRESHOLD) == never
    assert counters(nexus, page, log.DEFAULT_CUMULATIVE) == dict.fromkeys((3, 5, 6), 0)


def test_a_counter_stays_at_its_largest_value() -> None:
    assert log.counter(5, 1 << 70, log.CUMULATIVE).value == b"\xff" * 8


# -- lists -------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", range(4))
def test_what_is_not_counted_is_the_same_for_every_page_control(control: int) -> None:
    nexus = nexus_of(Thin())
    assert parameters(nexus, 0x0D, control) == {0: bytes([0, NONE])}
    assert parameters(nexus, 0x0E, control) == {4: bytes(4)}
    assert parameters(nexus, 0x2F, control) == {0: bytes([0, 0, NONE, 0])}
    assert set(parameters(nexus, 0x0C, control)) == {1, 2}
    assert ask(nexus, 0, control=control).data == ask(nexus, 0).data


def test_control_bytes() -> None:
    nexus = nexus_of(Thin())
    assert ask(nexus, 0x0D).data.hex() == "8d000006 0000 23 02 00ff".replace(" ", "")
    assert ask(nexus, 3).data[:8].hex() == "83000024" + "0003" + "20" + "08"


def test_the_parameter_pointer() -> None:
    nexus = nexus_of(Thin())
    assert list(parameters(nexus, 2, pointer=0)) == [3, 5, 6]
    assert list(parameters(nexus, 2, pointer=3)) == [3, 5, 6]
    assert list(parameters(nexus, 2, pointer=4)) == [5, 6]
    assert list(parameters(nexus, 2, pointer=6)) == [6]
    assert list(parameters(nexus, 0x0C, pointer=2)) == [2]
    last = {0x00: 0, 0x02: 6, 0x0C: 2, 0x0D: 0, 0x0E: 4, 0x2F: 0}
    for page, code in last.items():
        for pointer in (code + 1, 0xFFFF):
            assert ask(nexus, page, pointer=pointer).sense == sense.invalid_field_in_cdb(5)


# -- provisioning ------------------------------------------------------------------------------

#: Block counts -> the threshold exponent: sets of 1 MiB, at least 256 of them, at most 2^32.
EXPONENTS = {2048: 3, 100: 1, 1 << 21: 11, (1 << 30) + 5: 11, 1 << 43: 12, 1 << 52: 21}


@pytest.mark.parametrize("block_count", EXPONENTS)
def test_resource_counts(block_count: int) -> None:
    class Huge(Thin):
        def __init__(self) -> None:
            StorageUnit.__init__(self, block_count=block_count)

    exponent = EXPONENTS[block_count]
    unit = Huge()
    nexus = nexus_of(unit)
    page = EnginePort().execute(nexus, bytes.fromhex("1201b200ff00")).data
    assert page[4] == exponent
    assert block_count >> exponent < 1 << 32
    size = 1 << exponent
    for used, available, counts in [
        (0, 0, (0, 0)),
        (1, size - 1, (1, 0)),  # used is rounded up, available down
        (5 * size, 7 * size, (5, 7)),
        (1 << 80, 1 << 80, (0xFFFFFFFF, 0xFFFFFFFF)),
    ]:
        unit.told = Usage(used, available)
        found = parameters(nexus, 0x0C)
        assert found == {
            1: struct.pack(">IBxxx", counts[1], 2),
            2: struct.pack(">IBxxx", counts[0], 2),
        }


@pytest.mark.parametrize("told", [Usage(-1, 0), (1, 2), None, Usage(0.5, 1)])  # type: ignore[arg-type]
def test_a_unit_that_tells_nonsense(told: object) -> None:
    unit = Thin()
    unit.told = told
    result = ask(nexus_of(unit), 0x0C)
    assert result.sense == Sense(4, Asc.INTERNAL_TARGET_FAILURE)


def test_a_unit_that_cannot_tell() -> None:
    unit = Thin()
    unit.told = errors.NotReady("later")
    nexus = nexus_of(unit)
    assert ask(nexus, 0x0C).sense == Sense(2, Asc.NOT_READY_CAUSE_NOT_REPORTABLE)
    assert counters(nexus, 3)[6] == counters(nexus, 2)[6] == 0


def test_decoding_leaves_out_what_is_incomplete() -> None:
    whole = log.page(2, [Parameter(1, b"ab"), Parameter(2, b"cd")])
    for length in range(4, len(whole)):
        assert len(log_page.decode(whole[:length])) == (length - 4) // 6
