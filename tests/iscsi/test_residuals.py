"""Residual counts of every command, whatever the initiator announces (RFC 7143 11.4.5).

Commands come from the operation table (`command_fuzz_valid`). What a command moves is learned from
a run with room for everything, or from its CDB, not from the code that counts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.kit.link import Link, close, environment_of, target_of
from tests.target.command_fuzz import Disk, Reached, World
from tests.target.command_fuzz_valid import extent, valid
from userdisk.scsi.opcodes import Opcode
from userdisk.target import operations
from userdisk.target.row import Direction, Row

ROOM = 1 << 20
READING = [
    row
    for row in operations.ROWS
    # results of a copy are told once: tests/target/test_extended_copy.py, test_tokens.py
    if row.direction is Direction.IN and row.opcode != Opcode.THIRD_PARTY_COPY_IN
]
WRITING = [row for row in operations.ROWS if row.name.startswith(("WRITE(", "WRITE AND VERIFY("))]

#: what they return differs each time, by design
CHANGING = {"REQUEST SENSE", "LOG SENSE"}


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    target = target_of(Disk())
    made = Link(environment_of(target)).login()
    made.ready()
    yield made
    made.end.disconnect()
    close(target)


@pytest.mark.parametrize("row", READING, ids=lambda row: row.name)
def test_data_in(link: Link, row: Row) -> None:
    world = World(1, Reached())
    world.units = [link.end.connection.paths[0].lu.gate.unit]
    lengths = set()
    for _ in range(60):
        cdb, _ = valid(world, row, world.nexuses[0])
        whole = link.command(cdb, read_length=ROOM)
        if whole.status:
            assert whole.residual == ROOM
            continue
        length = ROOM - whole.residual
        lengths.add(length)
        assert len(whole.data) == length
        for expected in {0, 1, length - 1, length, length + 1, length + 512, length // 2}:
            if expected < 0 or row.name in CHANGING:
                continue
            task = link.command(cdb, read_length=expected)
            assert task.status == 0
            assert task.residual == expected - length
            assert bytes(task.data) == bytes(whole.data)[:expected]
    assert lengths or not row.offered(link.end.connection.paths[0].lu)


@pytest.mark.parametrize("row", WRITING, ids=lambda row: row.name)
def test_data_out(link: Link, row: Row) -> None:
    unit = link.end.connection.paths[0].lu.gate.unit
    rng = random.Random(1)
    for blocks in (1, 2, 7, 200):
        wanted = blocks * 512
        for announced in (0, 1, 511, 512, wanted - 512, wanted - 1, wanted, wanted + 1, 2 * wanted):
            unit.memory[:] = bytes(len(unit.memory))
            data = rng.randbytes(announced)
            task = link.command(extent(row, 8, blocks), data_out=data)
            assert task.residual == announced - wanted
            written = bytes(unit.memory[8 * 512 :]).rstrip(b"\0")
            if task.status == 0:
                assert written == data[:wanted].rstrip(b"\0")
            else:
                assert (task.sense[2], task.sense[12:14]) == (5, b"\x0e\x03")
                assert not written


def test_refused_commands_move_nothing(link: Link) -> None:
    task = link.command(bytes.fromhex("28020000000000000100"), read_length=512)
    assert (task.status, task.residual, bytes(task.data)) == (2, 512, b"")
    task = link.command(bytes.fromhex("2a020000000000000100"), data_out=bytes(512))
    assert (task.status, task.residual) == (2, 512)
