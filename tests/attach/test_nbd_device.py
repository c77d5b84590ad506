"""A unit behind NBD as a block device: kept changes, losses, errors; without the kernel."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attach.conftest import wait_until
from tests.kit.units import RamUnit
from userdisk.attach.disk import Disk
from userdisk.attach.nbd_device import NbdDevice
from userdisk.errors import Aborted, HardwareError, MediumError, OutOfSpace, UserdiskError
from userdisk.gate import Gate
from userdisk.nbd.export import Export
from userdisk.nbd.uri import Uri
from userdisk.nbd_client import Client
from userdisk.operation import Kind, Operation
from userdisk.server import Server
from userdisk.unit import Extent

SIZE = 1 << 20


class Host:
    """A server in this process whose unit keeps what was flushed; it can die and come back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "socket"
        self.durable = bytes(SIZE)
        self.revived = 0
        self.fault_at_start = ""
        self.troubles: list[str] = []
        self.down = threading.Event()
        self.start()

    def start(self) -> None:
        self.unit = unit = RamUnit(block_count=len(self.durable) // 512)
        unit.memory[:] = self.durable
        self.dead = False

        def fault(name: str, lba: int, blocks: int) -> None:
            if name == self.fault_at_start:
                raise OutOfSpace("full")
            if name == "flush" and not self.dead:
                self.durable = bytes(unit.memory)

        unit.fault = fault
        self.server = Server([], listen=(), exports=[Export("disk", Gate(unit))], nbd=[self.path])
        self.server.start()

    def grow(self, size: int) -> None:
        more = bytes(size - len(self.durable))
        self.durable += more
        self.unit.memory += more
        self.unit.resized(size // 512)

    def die(self, device: NbdDevice, client: Client | None = None) -> None:
        self.down.clear()
        # No answer comes any more.
        (client or device._client)._socket.shutdown(socket.SHUT_RDWR)
        self.dead = True  # what it flushes from now on does not count
        self.server.stop()
        self.down.set()

    def why_lost(self) -> str:
        assert self.down.wait(30)
        return "it died"

    def revive(self, left: float) -> None:
        assert left > 0
        if self.dead:
            self.revived += 1
            self.start()

    def device(self, *, persistent: bool = True, kept: int = 64 << 20) -> NbdDevice:
        return NbdDevice(
            Disk("disk", SIZE, 512, read_only=False, unmaps=True, persistent=persistent),
            Uri(export="disk", socket=str(self.path)),
            revive=self.revive,
            why_lost=self.why_lost,
            trouble=self.troubles.append,
            wait=5,
            kept=kept,
        )


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("nbd"))
    yield host
    host.server.stop()


def run(device: NbdDevice, operation: Operation) -> Operation:
    ended = threading.Event()
    if not device.submit(operation, lambda _: ended.set()):
        assert ended.wait(30)
    return operation


def write(device: NbdDevice, lba: int, data: bytes) -> Operation:
    lent = bytearray(data)
    operation = Operation(Kind.WRITE, lba, len(data) // 512, data=memoryview(lent).toreadonly())
    run(device, operation)
    lent[:] = b"?" * len(lent)  # whoever lent it uses it again
    return operation


def read(device: NbdDevice, lba: int, blocks: int) -> bytes:
    operation = run(device, Operation(Kind.READ, lba, blocks))
    assert operation.error is None
    return bytes(operation.result)


def test_every_kind_reaches_the_unit(host: Host) -> None:
    device = host.device()
    assert write(device, 2, b"a" * 1024).error is None
    assert read(device, 2, 2) == b"a" * 1024
    for operation in (
        Operation(Kind.FLUSH),
        Operation(Kind.ZERO, 2, 1),
        Operation(Kind.UNMAP, extents=[(3, 1), (9, 4)]),
    ):
        assert run(device, operation).error is None
    assert read(device, 2, 2) == bytes(1024)
    found = run(device, Operation(Kind.EXTENTS, 4, 8)).result
    assert found == [Extent(4, 8)]
    names = [entry[:3] for entry in host.unit.log]
    assert ("unmap", 3, 1) in names and ("unmap", 9, 4) in names
    device.close()
    assert host.unit.calls["flush"] >= 2


def test_errors_are_those_of_the_table(host: Host) -> None:
    device = host.device()

    def fault(name: str, lba: int, blocks: int) -> None:
        raise OutOfSpace("full") if name == "write" else MediumError("scratched")

    before, host.unit.fault = host.unit.fault, fault
    assert isinstance(write(device, 0, bytes(512)).error, OutOfSpace)
    failed = run(device, Operation(Kind.READ, 0, 1)).error
    assert failed is not None and failed.errno == MediumError.errno
    host.unit.fault = before
    device.close()


def test_what_was_answered_is_repeated_in_its_order(host: Host) -> None:
    device = host.device()
    write(device, 0, b"a" * 4096)
    run(device, Operation(Kind.FLUSH))
    write(device, 0, b"b" * 2048)
    write(device, 2, b"c" * 512)
    run(device, Operation(Kind.UNMAP, extents=[(7, 1)]))
    host.die(device)
    assert read(device, 0, 8) == b"b" * 1024 + b"c" * 512 + b"b" * 512 + b"a" * 1536 + bytes(512)
    assert host.revived == 1 and host.troubles == ["it died; waiting for it", ""]
    assert host.unit.calls["write"] == 2  # what was flushed is not repeated
    device.close()


def test_at_the_bound_it_flushes_by_itself(host: Host) -> None:
    device = host.device(kept=64 << 10)
    for lba in range(256):
        assert write(device, lba, bytes([lba]) * 512).error is None
    assert host.unit.calls["flush"] > 0
    host.die(device)
    expected = b"".join(bytes([lba]) * 512 for lba in range(256))
    assert read(device, 0, 256) == expected
    assert host.unit.calls["write"] <= 64  # 1 KiB each, with what is kept beside the data
    device.close()


def test_a_flush_of_its_own_that_failed_is_told_to_the_next(host: Host) -> None:
    device = host.device(kept=64 << 10)
    flushed = threading.Event()
    before = host.unit.fault

    def fault(name: str, lba: int, blocks: int) -> None:
        if name == "flush":
            flushed.set()
            raise MediumError("scratched")

    host.unit.fault = fault
    for lba in range(40):
        write(device, lba, bytes(512))
    assert flushed.wait(10)
    read(device, 0, 1)
    host.unit.fault = before
    for lba in range(200):  # there is room again
        assert write(device, lba, bytes(512)).error is None
    assert run(device, Operation(Kind.FLUSH)).error is not None
    assert run(device, Operation(Kind.FLUSH)).error is None
    device.close()


def test_a_repetition_that_fails_loses_the_disk(host: Host) -> None:
    device = host.device()
    write(device, 0, b"a" * 512)
    host.fault_at_start = "write"
    host.die(device)
    failed = run(device, Operation(Kind.READ, 0, 1)).error
    assert isinstance(failed, HardwareError) and "cannot be repeated" in str(failed)
    assert host.troubles[-1].startswith("lost: ")
    assert run(device, Operation(Kind.FLUSH)).error is failed
    with pytest.raises(HardwareError):
        device.close()


def test_what_is_not_persistent_is_lost_at_once(host: Host) -> None:
    device = host.device(persistent=False)
    write(device, 0, b"a" * 512)
    host.die(device)
    failed = run(device, Operation(Kind.READ, 0, 1)).error
    assert isinstance(failed, HardwareError) and "what it held is lost" in str(failed)
    assert host.revived == 0


def test_one_that_waits_can_be_taken_back(host: Host) -> None:
    device = host.device()
    gate = threading.Event()
    before = host.unit.fault

    def fault(name: str, lba: int, blocks: int) -> None:
        if name == "write":
            gate.wait(30)

    host.unit.fault = fault
    ended: list[Operation] = []
    first, second = (
        Operation(Kind.WRITE, 0, 1, data=memoryview(bytes([value]) * 512)) for value in (1, 2)
    )
    for operation in (first, second):
        assert not device.submit(operation, ended.append)
    device.cancel(second)
    assert ended == [second] and isinstance(second.error, Aborted)
    device.cancel(first)  # the server has it
    assert ended == [second]
    gate.set()
    host.unit.fault = before
    assert read(device, 0, 1) == b"\1" * 512
    device.close()
    assert first.error is None


def test_another_disk_is_refused(host: Host) -> None:
    disk = Disk("disk", SIZE * 2, 512, read_only=False, unmaps=True, persistent=True)
    with pytest.raises(UserdiskError, match="the disk has changed"):
        NbdDevice(disk, Uri(export="disk", socket=str(host.path)), revive=host.revive, why_lost=str)


def test_a_slow_unit_is_not_given_up(host: Host) -> None:
    device = host.device()
    sock = device._client._socket
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) == bytes(16)
    device.close()


def test_a_disk_grows(host: Host) -> None:
    device = host.device()
    write(device, 0, b"a" * 512)
    with pytest.raises(UserdiskError, match="its unit has 1048576 bytes, not 2097152"):
        device.grow(2 * SIZE)
    assert device.size == SIZE and read(device, 0, 1) == b"a" * 512
    host.grow(2 * SIZE)
    assert write(device, 3000, b"b" * 512).error is not None  # this connection does not know
    before = device._client
    device.grow(2 * SIZE)
    assert device.size == 2 * SIZE
    assert before.lost  # nothing was under way on it
    assert write(device, 3000, b"b" * 512).error is None
    host.die(device)
    assert read(device, 3000, 1) + read(device, 0, 1) == b"b" * 512 + b"a" * 512
    host.grow(3 * SIZE)
    device.grow(3 * SIZE)
    assert write(device, 6143, b"c" * 512).error is None
    device.close()


def held(host: Host, go: threading.Event) -> None:
    """Its reads wait from now on."""
    before = host.unit.fault

    def fault(name: str, lba: int, blocks: int) -> None:
        if name == "read":
            assert go.wait(30)
        assert before is not None
        before(name, lba, blocks)

    host.unit.fault = fault


def test_what_is_under_way_when_a_disk_grows_ends_where_it_began(host: Host) -> None:
    device, go = host.device(), threading.Event()
    write(device, 0, b"a" * 512)
    host.grow(2 * SIZE)
    held(host, go)
    ended: queue.SimpleQueue[Operation] = queue.SimpleQueue()
    assert not device.submit(Operation(Kind.READ, 0, 1), ended.put)
    earlier = device._client
    device.grow(2 * SIZE)
    assert not earlier.lost
    with pytest.raises(UserdiskError, match="from before it last grew"):
        device.grow(2 * SIZE)
    assert not device.submit(Operation(Kind.FLUSH), ended.put)  # on the new one
    go.set()
    assert {type(ended.get(timeout=30).error) for _ in range(2)} == {type(None)}
    wait_until(lambda: earlier.lost, 30)
    device.grow(2 * SIZE)
    device.close()


@pytest.mark.parametrize("which", ["earlier", "newer"])
def test_a_loss_while_both_connections_are_used(host: Host, which: str) -> None:
    device, go = host.device(), threading.Event()
    write(device, 0, b"a" * 512)
    host.grow(2 * SIZE)
    held(host, go)
    ended: queue.SimpleQueue[Operation] = queue.SimpleQueue()
    assert not device.submit(Operation(Kind.READ, 0, 1), ended.put)
    earlier = device._client
    device.grow(2 * SIZE)
    wait_until(lambda: host.unit.calls["read"] == 1, 30)
    assert not device.submit(Operation(Kind.WRITE, 3000, 1, data=memoryview(b"b" * 512)), ended.put)
    dying = threading.Thread(
        target=host.die, args=(device, earlier if which == "earlier" else device._client)
    )
    dying.start()
    wait_until(lambda: not device._connected, 30)
    with pytest.raises(UserdiskError):
        device.grow(3 * SIZE)
    go.set()
    dying.join(30)
    operations = [ended.get(timeout=30) for _ in range(2)]
    assert [operation.error for operation in operations] == [None, None]
    assert ended.empty()  # each ended once
    assert read(device, 3000, 1) + read(device, 0, 1) == b"b" * 512 + b"a" * 512
    assert host.revived == 1 and device._earlier == {}
    device.close()


def test_a_disk_that_comes_back_larger_shows_what_it_did(host: Host) -> None:
    device = host.device()
    write(device, 0, b"a" * 512)
    host.durable += bytes(SIZE)
    host.die(device)
    assert read(device, 0, 1) == b"a" * 512 and device.size == SIZE
    device.close()


def test_a_process_that_is_replaced_while_a_disk_grows_keeps_its_connection(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = host.device()
    write(device, 0, b"a" * 512)
    host.grow(2 * SIZE)
    connect, calls = device._connect, []

    def replaced() -> Client:
        client = connect()
        calls.append(client)
        if len(calls) == 1:
            host.die(device)
            assert read(device, 0, 1) == b"a" * 512  # it is back
        return client

    monkeypatch.setattr(device, "_connect", replaced)
    with pytest.raises(UserdiskError, match="was started again meanwhile; try again"):
        device.grow(2 * SIZE)
    assert calls[0].lost and not device._client.lost
    device.grow(2 * SIZE)
    assert read(device, 4095, 1) == bytes(512) and host.revived == 1
    device.close()
