"""Operations as commands: an unmap that is too long for one command."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from userdisk.backend.iscsi_disk import Disk
from userdisk.initiator_url import parse_url
from userdisk.stgtest.over_iscsi import Operation, _Disk

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
    used.letter, used.lba, used.data_out = "R", 9, b""
    (again,) = disk.commands([used])
    (new,) = disk.commands([op("R", 9, 1)])
    names = ("done", "status", "response", "data_pdus", "offered", "sense", "residual", "arrived",
             "r2ts", "data", "cdb", "read_length", "data_out", "lun")  # fmt: skip
    assert [getattr(again, name) for name in names] == [getattr(new, name) for name in names]
