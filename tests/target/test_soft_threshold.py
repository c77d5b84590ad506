"""The soft threshold: its mode page, when initiators are told, and when it is armed again."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.kit.engine import INITIATOR, EnginePort, Result, ready_nexus, target_of
from tests.kit.units import InlineRamUnit, RamUnit
from userdisk.errors import UsageError
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, Sense
from userdisk.target.nexus import Nexus
from userdisk.unit import StorageUnit, Usage

BLOCKS = 4096
SET = 16  # blocks: 256 sets
COUNT = 52  # sets: a fifth of 256, rounded up
#: More than half a set around the threshold: the last that is above, and the first below.
HIGH, LOW = COUNT * SET + SET // 2, COUNT * SET - SET // 2
REACHED = Sense(6, Asc.SOFT_THRESHOLD_REACHED, 16)


class Thin(InlineRamUnit):
    """A unit with a threshold at 80 percent."""

    block_count = BLOCKS
    soft_threshold = 80

    def usage(self) -> Usage:
        return Usage(0, BLOCKS)


def disk(unit: StorageUnit, nexuses: int = 1) -> tuple[Any, list[Nexus]]:
    target = target_of(unit)
    found = [ready_nexus(target, f"{INITIATOR}{number}") for number in range(nexuses)]
    return target.units[0], found


def run(nexus: Nexus, cdb: str) -> Result:
    return EnginePort().execute(nexus, bytes.fromhex(cdb))


def told(nexus: Nexus) -> bool:
    """Whether TEST UNIT READY tells of the threshold; anything else is wrong."""
    result = run(nexus, "00" * 6)
    assert result.sense in (None, REACHED)
    return result.sense is not None


def test_the_mode_page() -> None:
    _, (nexus,) = disk(Thin())
    page = run(nexus, "1a081c02ff00").data[4:]
    descriptor = bytes([0x80, 0x01, 0, 0]) + struct.pack(">I", COUNT)
    # enabled; a soft threshold, armed decreasing, of the available resource
    assert page == bytes.fromhex("5c020014").ljust(16, b"\0") + descriptor
    assert run(nexus, "1a080100ff00").data[4 + 7] == 0x80  # LBPERE
    assert run(nexus, "1201b200ff00").data[4] == 4  # THRESHOLD EXPONENT
    assert page.index(descriptor) == REACHED.information


def test_a_unit_without_a_threshold_but_with_usage() -> None:
    _, (nexus,) = disk(Thin(soft_threshold=0))
    page = run(nexus, "1a081c02ff00").data[4:]
    assert page[16] == 0x00 and page[17] == 0x01  # not enabled
    assert page[20:] == bytes(4)
    assert run(nexus, "1a080100ff00").data[4 + 7] == 0
    assert run(nexus, "1201b200ff00").data[4] == 4


@pytest.mark.parametrize("unit", [InlineRamUnit(), Thin(soft_threshold=0, unmap_supported=False)])
def test_a_unit_that_has_no_thresholds(unit: StorageUnit) -> None:
    _, (nexus,) = disk(unit)
    assert run(nexus, "1a081c02ff00").sense == sense.invalid_field_in_cdb(3)
    assert run(nexus, "1201b200ff00").data[4] == 0


def test_every_nexus_is_told_once() -> None:
    lu, nexuses = disk(Thin(), 3)
    for available in (BLOCKS, HIGH + 1, HIGH, LOW):
        lu.soft_threshold.look(Usage(0, available))
        assert not any(map(told, nexuses))
    for available in (LOW - 1, 0, 5):
        lu.soft_threshold.look(Usage(0, available))
    assert all(map(told, nexuses))
    for available in (0, LOW, HIGH, LOW - 1, 0):  # within the range it is not armed again
        lu.soft_threshold.look(Usage(0, available))
        assert not any(map(told, nexuses))
    lu.soft_threshold.look(Usage(0, HIGH + 1))
    assert not any(map(told, nexuses))
    lu.soft_threshold.look(Usage(0, LOW - 1))
    assert all(map(told, nexuses))


def test_how_much_is_used_does_not_matter() -> None:
    lu, (nexus,) = disk(Thin())
    lu.soft_threshold.look(Usage(BLOCKS, HIGH + 1))
    assert not told(nexus)
    lu.soft_threshold.look(Usage(0, LOW - 1))
    assert told(nexus)


def test_a_reset_arms_it() -> None:
    lu, (nexus,) = disk(Thin())
    lu.soft_threshold.look(Usage(0, 0))
    assert told(nexus)
    lu.reset(Asc.LOGICAL_UNIT_RESET)
    assert run(nexus, "00" * 6).sense == Sense(6, Asc.LOGICAL_UNIT_RESET)
    lu.soft_threshold.look(Usage(0, 0))
    assert told(nexus)


def test_it_waits_behind_more_urgent_attentions_and_does_not_keep_inquiry_waiting() -> None:
    lu, (nexus,) = disk(Thin())
    lu.soft_threshold.look(Usage(0, 0))
    lu.establish(Asc.CAPACITY_CHANGED)
    assert run(nexus, "12000000ff00").status == 0
    assert run(nexus, "00" * 6).sense == Sense(6, Asc.CAPACITY_CHANGED)
    assert run(nexus, "03000000ff00").data[2] == 6  # REQUEST SENSE tells the other as data
    assert not told(nexus)


def test_in_descriptor_format() -> None:
    lu, (nexus,) = disk(Thin())
    lu.soft_threshold.look(Usage(0, 0))
    data = run(nexus, "03010000ff00").data
    assert data.hex() == "72063807" + "0000000c" + "000a8000" + f"{16:016x}"


@pytest.mark.parametrize("percent", range(1, 100))
def test_every_percentage_on_a_tiny_disk(percent: int) -> None:
    lu, (nexus,) = disk(Thin(block_count=3, soft_threshold=percent))
    lu.soft_threshold.look(Usage(0, 1 << 40))
    assert not told(nexus)
    lu.soft_threshold.look(Usage(3, 0))
    assert told(nexus)


@pytest.mark.parametrize("percent", [-1, 100, 0.5, True])
def test_wrong_percentages(percent: Any) -> None:
    with pytest.raises(UsageError, match="soft_threshold: must be"):
        Thin(soft_threshold=percent)


def test_a_threshold_needs_a_thin_unit_that_tells_its_usage() -> None:
    with pytest.raises(UsageError, match=r"soft_threshold: RamUnit has no usage\(\) method"):
        RamUnit(soft_threshold=80)
    with pytest.raises(UsageError, match=r"soft_threshold: .* Thin does not offer unmap"):
        Thin(unmap_supported=False)


@pytest.mark.parametrize("name", ["usage", "erase", "crypto_erase", "zero", "extents"])
def test_a_method_that_cannot_be_called(name: str) -> None:
    """The author is told at once, not when SANITIZE or LOG SENSE comes."""
    wrong = type("Wrong", (InlineRamUnit,), {name: lambda self, a, b, c, d: None})
    with pytest.raises(UsageError, match=rf"Wrong\.{name}: is called as {name}\("):
        wrong()
