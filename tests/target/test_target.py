"""Targets, LUNs, nexuses, unit attentions, and what INQUIRY and its like say of a unit."""

from __future__ import annotations

import struct

import pytest

from tests.kit.engine import IQN, EnginePort, Result, ready_nexus, target_of
from tests.kit.units import InlineRamUnit, ThickRamUnit
from userdisk.scsi.sense import Asc, Pointer, Sense, decode
from userdisk.target.nexus import Nexus

TUR = bytes(6)
INQUIRY = bytes.fromhex("12000000ff00")
REPORT_LUNS = bytes.fromhex("a000000000000000ffff0000")
REQUEST_SENSE = bytes.fromhex("03000000ff00")
ONE = 1 << 48


def run(nexus: Nexus, cdb: bytes | str, lun: int = 0) -> Result:
    text = bytes.fromhex(cdb) if isinstance(cdb, str) else cdb
    return EnginePort().execute(nexus, text, lun=lun)


def attention(result: Result) -> int | None:
    """The unit attention that a result reports."""
    if result.status == 2:
        assert result.sense is not None and result.sense.key == 6
        return result.sense.code
    return None


# -- LUNs --------------------------------------------------------------------------------------


def test_units_are_numbered_in_the_order_given() -> None:
    units = [InlineRamUnit(product_id=f"disk {n}") for n in range(300)]
    nexus = ready_nexus(target_of(*units))
    data = run(nexus, "a000000000000000ffff0000").data
    luns = struct.unpack(">I4x300Q", data)[1:]
    assert luns[:2] == (0, ONE)
    assert luns[255:257] == (255 << 48, 0x4100 << 48)
    for number in (0, 1, 255, 256, 299):
        for field in {luns[number], (0x4000 | number) << 48}:  # flat space finds it as well
            assert run(nexus, INQUIRY, field).data[16:32] == f"disk {number:<11}".encode()


ABSENT = [ONE, 0x4001 << 48, 1, ONE | 1, 0x0100 << 48, 0xC101 << 48, 0x8000 << 48, (1 << 64) - 1]


@pytest.mark.parametrize("lun", ABSENT, ids=[f"{lun:016x}" for lun in ABSENT])
def test_a_lun_without_a_unit(lun: int) -> None:
    unit = InlineRamUnit()
    nexus = ready_nexus(target_of(unit))
    absent = Sense(5, Asc.LOGICAL_UNIT_NOT_SUPPORTED)
    assert run(nexus, INQUIRY, lun).data[0] == 0x7F
    assert run(nexus, "1200000010", lun).data == run(nexus, INQUIRY, lun).data[:16]
    assert run(nexus, "12018000ff", lun).sense == Sense(5, 0x2400, None, Pointer(2))
    assert run(nexus, REPORT_LUNS, lun) == run(nexus, REPORT_LUNS)
    assert decode(run(nexus, REQUEST_SENSE, lun).data) == absent
    for cdb in (TUR, "28" + "00" * 9, "1a003f00ff", "ff", "9e1f"):
        assert run(nexus, cdb, lun).sense == absent
    assert not unit.log


def test_select_report() -> None:
    nexus = ready_nexus(target_of(InlineRamUnit(), InlineRamUnit()))
    lengths = [len(run(nexus, f"a000{n:02x}000000000000ff0000").data) for n in range(3)]
    assert lengths == [24, 8, 24]
    assert run(nexus, "a00003000000000000ff0000").sense == Sense(5, 0x2400, None, Pointer(2))


# -- unit attentions ---------------------------------------------------------------------------


def test_a_new_nexus_is_told_of_power_on_once_by_each_unit() -> None:
    target = target_of(InlineRamUnit(), InlineRamUnit())
    nexus = target.attach("iqn.a")
    for lun in (0, ONE):
        assert not nexus.paths[lun].ready
        for cdb in (INQUIRY, REPORT_LUNS):
            assert run(nexus, cdb, lun).status == 0
        assert attention(run(nexus, TUR, lun)) == Asc.POWER_ON_OR_RESET
        assert nexus.paths[lun].ready
        assert attention(run(nexus, TUR, lun)) is None


def test_a_command_that_reports_an_attention_does_nothing_else() -> None:
    unit = InlineRamUnit()
    nexus = target_of(unit).attach("iqn.a")
    write = bytes.fromhex("2a000000000000000100")
    assert attention(EnginePort().execute(nexus, write, bytes(512))) == Asc.POWER_ON_OR_RESET
    assert not unit.log


def test_request_sense_returns_the_attention_and_clears_it() -> None:
    nexus = target_of(InlineRamUnit()).attach("iqn.a")
    result = run(nexus, REQUEST_SENSE)
    assert result.status == 0
    assert decode(result.data) == Sense(6, Asc.POWER_ON_OR_RESET)
    assert decode(run(nexus, REQUEST_SENSE).data) == Sense(0, 0)
    assert run(nexus, "0301000012").data.hex() == "7200000000000000"
    assert run(nexus, TUR).status == 0


def test_the_most_urgent_attention_comes_first_and_none_twice() -> None:
    target = target_of(InlineRamUnit())
    nexus, other = target.attach("iqn.a"), ready_nexus(target, "iqn.b")
    (lu,) = target.units
    for code in (Asc.CAPACITY_CHANGED, 0x1234, Asc.LOGICAL_UNIT_RESET, Asc.CAPACITY_CHANGED):
        lu.establish(code, [nexus])
    seen = []
    while not nexus.paths[0].ready:
        seen.append(attention(run(nexus, TUR)))
    assert seen == [
        Asc.POWER_ON_OR_RESET,
        Asc.LOGICAL_UNIT_RESET,
        Asc.CAPACITY_CHANGED,
        0x1234,
    ]
    assert other.paths[0].ready
    lu.establish(Asc.CAPACITY_CHANGED)
    assert attention(run(other, TUR)) == Asc.CAPACITY_CHANGED


def test_a_nexus_that_left_is_forgotten() -> None:
    target = target_of(InlineRamUnit())
    nexus, other = target.attach("iqn.a"), target.attach("iqn.b")
    (lu,) = target.units
    assert lu.gate.shared
    target.detach(nexus)
    assert target.nexuses == {other}
    assert {path.nexus for path in lu.paths} == {other}
    assert not lu.gate.shared


# -- what a unit says of itself ----------------------------------------------------------------


def test_inquiry() -> None:
    nexus = ready_nexus(target_of(InlineRamUnit(product_id="thing", product_revision="7")))
    data = run(nexus, "12000000ff").data
    assert len(data) == data[4] + 5 == 96
    assert data[8:36] == b"userdiskthing           7   "
    assert run(nexus, "12008000ff").sense == Sense(5, 0x2400, None, Pointer(2))
    assert run(nexus, "12018700ff").sense == Sense(5, 0x2400, None, Pointer(2))


@pytest.mark.parametrize("unit", [InlineRamUnit(), ThickRamUnit()], ids=["thin", "thick"])
def test_vital_product_data(unit: InlineRamUnit) -> None:
    nexus = ready_nexus(target_of(unit))
    listed = run(nexus, "12010000ff").data
    assert list(listed[4:]) == [0x00, 0x80, 0x83, 0x86, 0x8F, 0xB0, 0xB1, 0xB2]
    for code in listed[4:]:
        page = run(nexus, f"1201{code:02x}ffff").data
        assert page[1] == code
        assert int.from_bytes(page[2:4], "big") == len(page) - 4
    assert run(nexus, "12018000ff").data[4:] == str(unit.parameters.guid).encode()
    assert IQN.encode() in run(nexus, "12018300ff").data


@pytest.mark.parametrize(
    ("unit", "limits", "provisioning", "capacity"),
    [
        (InlineRamUnit(), "00100000 00000100 00000008 80000000", "00e40200", "c000"),
        (
            InlineRamUnit(physical_block_length=4096),
            "00100000 00000100 00000008 80000000",
            "00e40200",
            "c000",
        ),
        (ThickRamUnit(), "00" * 16, "00000000", "0000"),
    ],
    ids=["512", "512e", "thick"],
)
def test_provisioning_is_told_alike_everywhere(
    unit: InlineRamUnit, limits: str, provisioning: str, capacity: str
) -> None:
    nexus = ready_nexus(target_of(unit))
    assert run(nexus, "1201b000ff").data[20:36] == bytes.fromhex(limits)
    assert run(nexus, "1201b200ff").data[4:8].hex() == provisioning
    long = run(nexus, "9e10" + "00" * 8 + "00000020").data
    assert long[14:16].hex() == capacity
    exponent = long[13] & 0xF
    assert unit.block_length << exponent == unit.parameters.physical_block_length
    assert run(nexus, "1201b000ff").data[6:8] == (1 << exponent).to_bytes(2, "big")


def test_unmapped_blocks_that_do_not_read_as_zeros() -> None:
    class Dirty(InlineRamUnit):
        unmap_zeroes = False

    nexus = ready_nexus(target_of(Dirty()))
    assert run(nexus, "1201b200ff").data[4:8].hex() == "00e00200"
    assert run(nexus, "9e10" + "00" * 8 + "00000020").data[14:16].hex() == "8000"


@pytest.mark.parametrize("length", [512, 1024, 2048, 4096])
def test_capacity(length: int) -> None:
    nexus = ready_nexus(target_of(InlineRamUnit(block_count=100, block_length=length)))
    assert run(nexus, "25" + "00" * 9).data == struct.pack(">II", 99, length)
    assert run(nexus, "9e10" + "00" * 8 + "0000000c").data == struct.pack(">QI", 99, length)
    assert run(nexus, "2500000000010000").sense == Sense(5, 0x2400, None, Pointer(2))
    assert run(nexus, "2500000000010000010000").data == struct.pack(">II", 99, length)
    assert run(nexus, "5a003f00000000ffff").data[8:16] == struct.pack(">II", 100, length)
