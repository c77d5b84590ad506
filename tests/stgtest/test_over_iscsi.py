"""Operations as commands, and what runs of plain answers must not hide."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.kit.units import InlineRamUnit
from userdisk.backend.iscsi_disk import Disk
from userdisk.errors import MediumError
from userdisk.gate import Gate
from userdisk.initiator_url import parse_url
from userdisk.server import Server
from userdisk.stgtest.engine import Engine, Limits
from userdisk.stgtest.generator import RANDOM, Plan
from userdisk.stgtest.over_iscsi import DirectPort, Operation, _Disk, open_iscsi
from userdisk.stgtest.pattern import Pattern
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target

DISK = Disk(
    block_count=100_000, block_length=512, physical_block_length=512, long_commands=True,
    write_protected=False, volatile_cache=True, fua=True, max_transfer_blocks=256, unmap_blocks=64,
    unmap_descriptors=1, same_unmaps=False, same_blocks=0, unmap_zeroes=True, removable=False,
    identity=b"",
)  # fmt: skip
URL = parse_url("iscsi://127.0.0.1/iqn.2026-11.io.userdisk:x/3")


def op(letter: str, lba: int, blocks: int, **more: Any) -> Operation:
    return Operation(letter, 1, lba, blocks, fua=more.get("fua", False))


def test_a_long_unmap_is_several_commands_and_ends_with_the_last() -> None:
    disk = _Disk(URL, DISK)
    unmap = op("U", 1000, 150)
    commands = disk.commands([unmap])
    ranges = [struct.unpack_from(">QI", bytes(each.data_out), 8) for each in commands]
    assert ranges == [(1000, 64), (1064, 64), (1128, 22)]
    assert {each.lun for each in commands} == {3}
    commands[1].status = 8
    assert [disk.end(commands[n]) for n in (2, 1)] == [None, None]
    assert disk.end(commands[0]) is unmap
    assert unmap.error == "SCSI status 08"


@pytest.mark.parametrize(
    ("ends", "again"),
    [
        ([(0, 8), (0, 0x28), (0, 0)], True),
        ([(0, 8), (0, 0x18), (0, 0)], False),
        ([(0, 0x18), (0, 8), (0, 0)], False),
        ([(0, 8), (1, 0), (0, 0)], False),
        ([(1, 0), (0, 8), (0, 8)], False),
    ],
)
def test_one_part_that_fails_for_good_is_enough(ends: list[tuple[int, int]], again: bool) -> None:
    disk = _Disk(URL, DISK)
    unmap = op("U", 1000, 150)
    for command, (response, status) in zip(disk.commands([unmap]), ends, strict=True):
        command.response, command.status = response, status
        disk.end(command)
    assert unmap.error is not None
    assert unmap.again is again


def test_commands() -> None:
    disk = _Disk(URL, DISK)
    read, fua, flush = disk.commands([op("R", 2**33, 7), op("R", 5, 7, fua=True), op("F", 1, 2)])
    assert read.cdb[:14].hex() == "88000000000200000000" + "00000007"
    assert read.read_length == 7 * 512
    assert fua.cdb[:14].hex() == "88080000000000000005" + "00000007"
    assert flush.cdb[0] in (0x35, 0x91)


def test_short_commands_for_a_disk_that_knows_no_long_ones() -> None:
    disk = _Disk(URL, replace(DISK, long_commands=False))
    (read,) = disk.commands([op("R", 0x01020304, 7)])
    assert read.cdb[:10].hex() == "28000102030400000700"


def test_an_operation_is_used_again_as_if_it_were_new() -> None:
    disk = _Disk(URL, DISK)
    used = op("W", 7, 1)
    used.data_out = bytes(512)
    disk.commands([used])
    used.done, used.status, used.response, used.data_pdus, used.offered = True, 2, 1, 3, 512
    used.sense, used.residual, used.arrived, used.r2ts = b"x", 1, 5, 1
    used.data = bytearray(b"old")
    assert disk.end(used) is used
    used.letter, used.lba, used.data_out = "R", 9, b""
    (again,) = disk.commands([used])
    (new,) = disk.commands([op("R", 9, 1)])
    names = ("done", "status", "response", "data_pdus", "offered", "sense", "residual", "arrived",
             "r2ts", "data", "cdb", "read_length", "data_out", "lun")  # fmt: skip
    assert [getattr(again, name) for name in names] == [getattr(new, name) for name in names]
    again.done, again.data, again.data_pdus = True, bytearray(512), 1  # as a plain answer leaves it
    disk.commands([again])
    assert [getattr(again, name) for name in names] == [getattr(new, name) for name in names]


# -- over a wire ---------------------------------------------------------------------------------


@pytest.fixture
def unit() -> InlineRamUnit:
    return InlineRamUnit(block_count=4096)


@pytest.fixture
def port(unit: InlineRamUnit) -> Iterator[DirectPort]:
    name = "iqn.2026-11.io.userdisk:plain"
    server = Server([Target(name, [LogicalUnit(Gate(unit))])], listen=[("127.0.0.1", 0)])
    ((host, number),) = server.start()
    try:
        port = open_iscsi(f"iscsi://{host}:{number}/{name}/0", 30, 1)
        assert isinstance(port, DirectPort)
        yield port
        port.close()
    finally:
        server.stop()


def engine_of(port: DirectPort, mix: str, count: int) -> Engine:
    plan = Plan(1, mix, RANDOM, 8, port.geometry.block_count, port.geometry.max_blocks)
    limits = Limits(count, 16)
    return Engine(port, plan.operations(), limits, Pattern(512, 9), stamped=True, fua=False)


def test_reads_of_what_is_not_known_are_counted(port: DirectPort, unit: InlineRamUnit) -> None:
    engine = engine_of(port, "R", 1000)
    before = unit.calls["read"]
    assert engine.run() is None
    assert port.plain
    (row,) = engine.meter.rows(1)
    assert (row["count"], row["bytes_per_second"]) == (1000, 1000 * 4096)
    assert unit.calls["read"] - before == 1000


def test_a_read_that_fails_among_plain_ones(port: DirectPort, unit: InlineRamUnit) -> None:
    calls = 0

    def bad(name: str, lba: int, blocks: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 777:
            raise MediumError

    unit.fault = bad
    wrong = engine_of(port, "R", 1000).run()
    assert wrong is not None
    assert wrong.startswith("Read(Address=")
    assert wrong.endswith("the disk says 3/11/00")


def test_what_is_known_is_looked_at(port: DirectPort, unit: InlineRamUnit) -> None:
    """Also when it becomes known in the middle of a run, and the operation has read before."""
    assert engine_of(port, "RRRRRRW", 2000).run() is None
    engine = engine_of(port, "R" * 16 + "W" + "R" * 15, 2000)

    def forgets(name: str, lba: int, blocks: int) -> None:
        if name == "read" and unit.calls["write"] > 40:
            unit.memory[:] = bytes(len(unit.memory))

    unit.fault = forgets
    assert "bad buffer after Write" in str(engine.run())


def test_of_an_unread_read_the_length_counts(port: DirectPort) -> None:
    """Whether the answer was plain, or said that less came than there was room for."""
    port.submit([(whole := op("R", 0, 8)), (short := op("R", 8, 8)), (kept := op("R", 16, 8))])
    assert [each.data for each in (whole, short, kept)] == [b""] * 3
    ended: list[Operation] = []
    while len(ended) < 3:
        ended += port.collect()  # type: ignore[arg-type]
    assert port.plain
    for each in (whole, short):
        each.unread = True
    port._disk.commands([whole, short, kept])
    short.read_length = 8192
    port._initiator.submit([whole, short, kept])
    ended.clear()
    while len(ended) < 3:
        ended += port.collect()  # type: ignore[arg-type]
    assert [len(each.data) for each in (whole, short, kept)] == [4096, 4096, 4096]
    assert (short.residual, short.worn) == (4096, True)
    assert not port.plain
