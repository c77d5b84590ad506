"""One unit over iSCSI and NBD at the same time: the same bytes, and one flush for both."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kit.link import TARGET
from tests.kit.sockets import connect
from tests.kit.units import KINDS, RamUnit
from userdisk.gate import Gate
from userdisk.initiator_client import Initiator
from userdisk.nbd.export import Export
from userdisk.nbd.uri import Uri
from userdisk.nbd.wire import Command
from userdisk.nbd_client import Client, Request
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target

BLOCK = 512


@contextmanager
def both(unit: RamUnit) -> Iterator[tuple[Initiator, Client]]:
    """A session and a connection, to one unit."""
    gate = Gate(unit)
    server = Server(
        [Target(TARGET, [LogicalUnit(gate)])],
        listen=[("127.0.0.1", 0)],
        exports=[Export("d", gate)],
        nbd=[("127.0.0.1", 0)],
    )
    (address, *_) = server.start()
    try:
        (place, *_) = server.nbd_addresses
        uri = Uri(export="d", host="127.0.0.1", port=int(place[1]))
        with connect(address) as initiator, Client(uri) as client:
            yield initiator, client
    finally:
        server.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_over_both_is_one_disk(kind: str) -> None:
    chance = random.Random(20)
    unit = KINDS[kind]()
    model = bytearray(unit.parameters.size)
    with both(unit) as (initiator, client):
        for turn in range(300):
            lba, blocks = chance.randrange(2000), chance.randrange(1, 48)
            at, size = lba * BLOCK, blocks * BLOCK
            action = chance.choice(["write", "write", "zero", "read", "read", "flush"])
            scsi = bool(turn % 2)
            if action == "write":
                data = chance.randbytes(size)
                model[at : at + size] = data
                if scsi:
                    initiator.write(lba, data)
                else:
                    client.call(Request(Command.WRITE, at, data=data), timeout=10)
            elif action == "zero":
                model[at : at + size] = bytes(size)
                if scsi:
                    initiator.unmap(lba, blocks)
                else:
                    client.call(Request(Command.WRITE_ZEROES, at, size), timeout=10)
            elif action == "flush":
                if scsi:
                    initiator.flush()
                else:
                    client.call(Request(Command.FLUSH), timeout=10)
            elif scsi:
                assert initiator.read(lba, blocks) == model[at : at + size]
            else:
                found = client.call(Request(Command.READ, at, size), timeout=10)
                assert found == model[at : at + size]
        assert initiator.read(0, 2048) == model
        assert client.call(Request(Command.READ, 0, len(model)), timeout=10) == model


@pytest.mark.parametrize("kind", KINDS)
def test_a_flush_over_one_covers_writes_of_the_other(kind: str) -> None:
    unit = KINDS[kind]()
    with both(unit) as (initiator, client):
        unit.log.clear()
        initiator.write(8, bytes(BLOCK))
        client.call(Request(Command.FLUSH), timeout=10)
        assert [name for name, *_ in unit.log] == ["write", "flush"]
        unit.log.clear()
        client.call(Request(Command.WRITE, 9 * BLOCK, data=bytes(BLOCK)), timeout=10)
        initiator.flush()
        assert [name for name, *_ in unit.log] == ["write", "flush"]
