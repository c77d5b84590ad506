"""One unit over iSCSI and NBD at the same time: the same bytes, and one flush for both."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.kit.link import TARGET
from tests.kit.modes import control, header, select
from tests.kit.reservations import basic
from tests.kit.sockets import connect
from tests.kit.units import KINDS, ConcurrentRamUnit, RamUnit
from userdisk import errors
from userdisk.errors import StorageError
from userdisk.gate import Gate
from userdisk.initiator_client import Initiator, ScsiError, sense_codes
from userdisk.nbd.export import Export
from userdisk.nbd.uri import Uri
from userdisk.nbd.wire import Command
from userdisk.nbd_client import Client, Request
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target

BLOCK = 512


@contextmanager
def all_ends(unit: RamUnit) -> Iterator[tuple[Initiator, Initiator, Client]]:
    """Two sessions and a connection, to one unit."""
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
        with (
            connect(address) as one,
            connect(address, isid=2) as two,
            Client(uri) as client,
        ):
            yield one, two, client
    finally:
        server.stop()


@contextmanager
def both(unit: RamUnit) -> Iterator[tuple[Initiator, Client]]:
    """A session and a connection, to one unit."""
    with all_ends(unit) as (initiator, _, client):
        yield initiator, client


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


class History(ConcurrentRamUnit):
    """Remembers the data of every write, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        super().write(lba, data, fua)
        self.written.append(bytes(data))


def _block(version: int, count: int) -> bytes:
    return struct.pack(">II", version, count) * (BLOCK // 8)


def test_compare_and_write_against_nbd_writes_loses_nothing() -> None:
    unit = History()
    swapped = 0
    with both(unit) as (initiator, client):

        def versions() -> None:
            for version in range(1, 200):
                client.call(Request(Command.WRITE, 0, data=_block(version, 0)), timeout=10)

        writer = threading.Thread(target=versions)
        writer.start()
        while writer.is_alive() or not swapped:
            seen = initiator.read(0, 1)
            version, count = struct.unpack_from(">II", seen)
            assert seen == _block(version, count)
            cdb = struct.pack(">BxQ3xBxx", 0x89, 0, 1)
            try:
                initiator.execute(cdb, data_out=seen + _block(version, count + 1))
                swapped += 1
            except ScsiError as error:
                assert sense_codes(error.sense) == (0xE, 0x1D, 0)
        writer.join()
    before = (0, 0)
    for data in unit.written:
        version, count = struct.unpack_from(">II", data)
        assert data == _block(version, count)
        assert count == 0 or before == (version, count - 1)
        before = (version, count)
    assert swapped == len(unit.written) - 199


# -- errors ----------------------------------------------------------------------------------------

#: What is done over both: a CDB with data-out, bytes to read, and a request.
ACTIONS: dict[str, tuple[bytes, bytes, int, Callable[[], Request]]] = {
    "read": (struct.pack(">BxQIxx", 0x88, 8, 1), b"", BLOCK,
             lambda: Request(Command.READ, 8 * BLOCK, BLOCK)),
    "write": (struct.pack(">BxQIxx", 0x8A, 8, 1), bytes(BLOCK), 0,
              lambda: Request(Command.WRITE, 8 * BLOCK, data=bytes(BLOCK))),
    "unmap": (bytes.fromhex("42000000000000001800"),
              struct.pack(">HH4xQI4x", 22, 16, 8, 1), 0,
              lambda: Request(Command.TRIM, 8 * BLOCK, BLOCK)),
    "zero": (struct.pack(">BBQIxx", 0x93, 1, 8, 1), b"", 0,
             lambda: Request(Command.WRITE_ZEROES, 8 * BLOCK, BLOCK)),
    "flush": (struct.pack(">BxQIxx", 0x91, 0, 0), b"", 0, lambda: Request(Command.FLUSH)),
}  # fmt: skip
CONFLICT = "reservation conflict"
GOOD = None


def over_scsi(initiator: Initiator, action: str) -> object:
    """Sense codes, a reservation conflict, or GOOD."""
    cdb, data, length, _ = ACTIONS[action]
    try:
        initiator.execute(cdb, data_out=data, read_length=length)
    except ScsiError as error:
        return CONFLICT if error.status == 0x18 else sense_codes(error.sense)
    return GOOD


def over_nbd(client: Client, action: str) -> object:
    """The NBD error, or GOOD."""
    try:
        client.call(ACTIONS[action][3](), timeout=10)
    except StorageError as error:
        return error.nbd_error
    return GOOD


def compare(two: Initiator, client: Client, scsi: object, nbd: int, refused: set[str]) -> None:
    """Both are refused these actions, in their words, and may do all others."""
    for action in ACTIONS:
        expected = (scsi, nbd) if action in refused else (GOOD, GOOD)
        assert (over_scsi(two, action), over_nbd(client, action)) == expected, action


CHANGING = {"write", "unmap", "zero"}


@pytest.mark.parametrize("kind", KINDS)
def test_software_write_protection_binds_both(kind: str) -> None:
    with all_ends(KINDS[kind]()) as (one, two, client):
        compare(two, client, None, 0, set())
        for swp, refused in ((True, CHANGING), (False, set())):
            pages = header() + control(swp=swp)
            one.execute(select(len(pages)), data_out=pages)
            with suppress(ScsiError):
                two.execute(bytes(6))  # mode parameters changed
            compare(two, client, (7, 0x27, 2), 1, refused)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("number", "refused"),
    [
        (1, CHANGING | {"flush"}),
        (3, set(ACTIONS)),
        (5, CHANGING | {"flush"}),
        (6, set(ACTIONS)),
        (7, CHANGING | {"flush"}),
        (8, set(ACTIONS)),
    ],
)
def test_a_persistent_reservation_binds_both(kind: str, number: int, refused: set[str]) -> None:
    with all_ends(KINDS[kind]()) as (one, two, client):

        def reserve_out(action: int, parameters: bytes) -> None:
            cdb = struct.pack(">BBB2xI2x", 0x5F, action, number, len(parameters))
            one.execute(cdb[:10], data_out=parameters)

        reserve_out(0, basic(0, 7))
        compare(two, client, CONFLICT, 1, set())
        reserve_out(1, basic(7, 0))
        compare(two, client, CONFLICT, 1, refused)
        assert over_scsi(one, "write") is GOOD
        reserve_out(2, basic(7, 0))
        with suppress(ScsiError):
            two.execute(bytes(6))  # reservations released, perhaps
        compare(two, client, CONFLICT, 1, set())


@pytest.mark.parametrize("kind", KINDS)
def test_reserve_binds_both(kind: str) -> None:
    with all_ends(KINDS[kind]()) as (one, two, client):
        one.execute(bytes.fromhex("160000000000"))
        compare(two, client, CONFLICT, 1, set(ACTIONS))
        one.execute(bytes.fromhex("170000000000"))
        compare(two, client, CONFLICT, 1, set())


@pytest.mark.parametrize("kind", KINDS)
def test_an_ejected_medium_is_away_for_both(kind: str) -> None:
    with all_ends(KINDS[kind](removable=True)) as (one, two, client):
        one.execute(bytes.fromhex("1b0000000200"))
        compare(two, client, (2, 0x3A, 0), 5, set(ACTIONS))
        one.execute(bytes.fromhex("1b0000000300"))
        with suppress(ScsiError):
            two.execute(bytes(6))  # the medium may have changed
        compare(two, client, None, 0, set())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("raised", "scsi", "nbd"),
    [
        (OSError(28, "full"), (7, 0x27, 7), 28),
        (errors.OutOfMemory(), (0xB, 0x55, 3), 12),
        (errors.WriteProtected(), (7, 0x27, 0), 1),
        (errors.NotReady(), (2, 4, 0), 5),
        (ValueError("a bug"), (4, 0x44, 0), 5),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else None,
)
def test_what_a_unit_raises_is_told_over_both(
    kind: str, raised: Exception, scsi: object, nbd: int
) -> None:
    unit = KINDS[kind]()

    def fault(name: str, lba: int, blocks: int) -> None:
        raise raised

    with all_ends(unit) as (_, two, client):
        unit.fault = fault
        compare(two, client, scsi, nbd, set(ACTIONS))
        unit.fault = None
        compare(two, client, None, 0, set())


@pytest.mark.parametrize("kind", KINDS)
def test_past_the_end_of_a_disk_that_is_resized(kind: str) -> None:
    unit = KINDS[kind]()
    with all_ends(unit) as (_, two, client):
        read = struct.pack(">BxQIxx", 0x88, 1500, 1)
        unit.resized(1024)
        with suppress(ScsiError):
            two.execute(bytes(6))
        with pytest.raises(ScsiError) as told:
            two.execute(read, read_length=BLOCK)
        assert sense_codes(told.value.sense) == (5, 0x21, 0)
        with pytest.raises(StorageError) as refused:
            client.call(Request(Command.READ, 1500 * BLOCK, BLOCK), timeout=10)
        assert refused.value.nbd_error == 22
        with pytest.raises(StorageError) as refused:
            client.call(Request(Command.WRITE, 1500 * BLOCK, data=bytes(BLOCK)), timeout=10)
        assert refused.value.nbd_error == 28
        unit.resized(2048)
        with suppress(ScsiError):
            two.execute(bytes(6))
        assert two.execute(read, read_length=BLOCK) == bytes(BLOCK)
        assert client.call(Request(Command.READ, 1500 * BLOCK, BLOCK), timeout=10) == bytes(BLOCK)


@pytest.mark.parametrize("kind", KINDS)
def test_both_at_once_on_blocks_of_their_own(kind: str) -> None:
    unit = KINDS[kind]()
    failures: list[BaseException] = []

    def work(
        number: int, write: Callable[[int, bytes], object], read: Callable[[int, int], Any]
    ) -> None:
        chance = random.Random(number)
        model = bytearray(1024 * BLOCK)
        base = number * 1024
        try:
            for _ in range(150):
                blocks = chance.randrange(1, 40)
                lba = chance.randrange(1024 - blocks)
                part = slice(lba * BLOCK, (lba + blocks) * BLOCK)
                if chance.random() < 0.5:
                    model[part] = data = chance.randbytes(blocks * BLOCK)
                    write(base + lba, data)
                else:
                    assert read(base + lba, blocks) == model[part]
            assert unit.memory[base * BLOCK : (base + 1024) * BLOCK] == model
        except BaseException as error:
            failures.append(error)

    with both(unit) as (initiator, client):
        threads = [
            threading.Thread(target=work, args=(0, initiator.write, initiator.read)),
            threading.Thread(
                target=work,
                args=(
                    1,
                    lambda lba, data: client.call(
                        Request(Command.WRITE, lba * BLOCK, data=data), timeout=10
                    ),
                    lambda lba, blocks: client.call(
                        Request(Command.READ, lba * BLOCK, blocks * BLOCK), timeout=10
                    ),
                ),
            ),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failures
