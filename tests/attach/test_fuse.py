"""The FUSE protocol against messages that Linux 6.18 sent, and the thread that serves it."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.attach.gate_device import GateDevice
from userdisk.attach import fuse
from userdisk.attach.fuse_server import FuseServer
from userdisk.errors import MediumError, OutOfSpace
from userdisk.gate import Gate
from userdisk.operation import Kind, Operation
from userdisk.unit import Extent, Inline, StorageUnit

#: A 1 MiB disk's conversation with the kernel: what it sent, and the reply it took.
INIT = bytes.fromhex(
    "680000001a000000020000000000000000000000000000000000000000000000000000000000000007000000"
    "2d00000000000200fbffff73fd05" + "00" * 46
)
LOOKUP = bytes.fromhex(
    "2d00000001000000100000000000000001000000000000000000000000000000c2400000000000006469736b00"
)
GETATTR = bytes.fromhex(
    "3800000003000000080000000000000001000000000000000000000000000000c240000000000000" + "00" * 16
)
READDIR = bytes.fromhex(
    "500000001c0000000a0000000000000001000000000000000000000000000000c240000000000000"
    "00000000000000000000000000000000008000000000000000000000000000000088010000000000"
)
OPEN = bytes.fromhex(
    "300000000e000000120000000000000002000000000000000000000000000000c2400000000000000280000000000000"
)
WRITE = (  # 512 bytes at 512
    bytes.fromhex(
        "5002000010000000140000000000000002000000000000000000000000000000c240000000000000"
        "000000000000000000020000000000000002000002000000aa06997fa7504cc60280000000000000"
    )
    + b"A" * 512
)
READ = bytes.fromhex(  # 1024 bytes at 512
    "500000000f000000160000000000000002000000000000000000000000000000c240000000000000"
    "000000000000000000020000000000000004000002000000aa06997fa7504cc60280000000000000"
)
FSYNC = bytes.fromhex(
    "3800000014000000180000000000000002000000000000000000000000000000c240000000000000" + "00" * 16
)
GETXATTR = bytes.fromhex(
    "44000000160000001a0000000000000002000000000000000000000000000000c240000000000000"
    "000000000000000073656375726974792e6361706162696c69747900"
)
PUNCH_HOLE = bytes.fromhex(  # 512 bytes at 512
    "480000002b0000001c0000000000000002000000000000000000000000000000c240000000000000"
    "0000000000000000000200000000000000020000000000000300000000000000"
)
ZERO_RANGE = bytes.fromhex(
    "480000002b0000001e0000000000000002000000000000000000000000000000c240000000000000"
    "0000000000000000000200000000000000020000000000001100000000000000"
)
SEEK_HOLE = bytes.fromhex(
    "400000002e000000200000000000000002000000000000000000000000000000c240000000000000"
    "000000000000000000000000000000000400000000000000"
)
STATFS = bytes.fromhex(
    "2800000011000000040000000000000001000000000000000000000000000000c240000000000000"
)


class FakeDevice:
    """A disk that gives the answers it was told, and keeps what it was asked."""

    def __init__(self, **changes: object) -> None:
        self.size = 1 << 20
        self.block_length = 512
        self.max_transfer_length = 1 << 20
        self.read_only = False
        self.unmaps = True
        self.asked: list[tuple[object, ...]] = []
        self.answer: Callable[[Operation], object] = lambda operation: None
        vars(self).update(changes)

    def submit(self, operation: Operation, done: object) -> bool:
        self.asked.append((operation.kind, operation.lba, operation.blocks))
        if operation.data is not None:
            self.asked[-1] = (operation.kind, operation.lba, bytes(operation.data))
        if operation.kind is Kind.UNMAP:
            self.asked[-1] = (operation.kind, *operation.extents)
        answer = self.answer(operation)
        if isinstance(answer, Exception):
            operation.error = answer
        else:
            operation.result = answer
        return True

    def cancel(self, operation: Operation) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


def converse(device: FakeDevice, message: bytes, disk: fuse.FuseDisk | None = None) -> bytes:
    answer = (disk or fuse.FuseDisk(device)).receive(memoryview(message))
    assert answer is not None
    while not isinstance(answer, list):
        try:
            device.submit(next(answer), None)
        except StopIteration as end:
            answer = end.value
    return b"".join(answer)


def reply_of(request: bytes, payload: str | bytes = b"", error: int = 0) -> bytes:
    data = bytes.fromhex(payload) if isinstance(payload, str) else payload
    return struct.pack("=Ii", 16 + len(data), -error) + request[8:16] + data


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (
            INIT,
            "070000001f0000000000020021804000800060000000100001000000000100" + "00" * 33,
        ),
        (STATFS, "0008" + "00" * 22 + "01" + "00" * 15 + "00020000ff00000000020000" + "00" * 28),
        (
            READDIR,
            "0100000000000000010000000000000001000000040000002e00000000000000"
            "0100000000000000020000000000000002000000040000002e2e000000000000"
            "0200000000000000030000000000000004000000080000006469736b00000000",
        ),
        (OPEN, "00000000000000004100000000000000"),
        (WRITE, "0002000000000000"),
        (FSYNC, ""),
        (PUNCH_HOLE, ""),
        (ZERO_RANGE, ""),
    ],
    ids=["INIT", "STATFS", "READDIR", "OPEN", "WRITE", "FSYNC", "PUNCH_HOLE", "ZERO_RANGE"],
)
def test_replies_that_the_kernel_took(request_: bytes, payload: str) -> None:
    assert converse(FakeDevice(), request_) == reply_of(request_, payload)


def test_lookup_and_getattr_show_the_size_and_the_kind() -> None:
    reply = converse(FakeDevice(), LOOKUP)
    node, size, mode = (
        struct.unpack_from("=Q", reply, 16)[0],
        struct.unpack_from("=Q", reply, 16 + 40 + 8)[0],
        struct.unpack_from("=I", reply, 16 + 40 + 60)[0],
    )
    assert (len(reply), node, size, oct(mode)) == (144, 2, 1 << 20, "0o100600")
    folder = converse(FakeDevice(), GETATTR)
    assert (len(folder), oct(struct.unpack_from("=I", folder, 16 + 16 + 60)[0])) == (120, "0o40500")
    assert converse(FakeDevice(), LOOKUP[:-5] + b"disc\0") == reply_of(LOOKUP, error=errno.ENOENT)


def test_another_size_is_shown_and_holds() -> None:
    device = FakeDevice()
    disk = fuse.FuseDisk(device)
    getattr_ = GETATTR[:16] + struct.pack("=Q", fuse.DISK) + GETATTR[24:]
    for size in (4 << 20, 512):
        disk.resize(size)
        reply = converse(device, getattr_, disk)
        # The kernel may not keep what it was told: it would not ask again.
        assert struct.unpack_from("=Q8xQQ", reply, 16) == (0, fuse.DISK, size)
    assert converse(device, WRITE, disk) == reply_of(WRITE, error=errno.ENOSPC)  # at 512
    entry = converse(device, LOOKUP, disk)
    entry_valid, attributes_valid = struct.unpack_from("=QQ", entry, 16 + 16)
    assert entry_valid > 0 and attributes_valid == 0
    disk.resize(1024)
    assert converse(device, WRITE, disk) == reply_of(WRITE, struct.pack("=II", 512, 0))


def test_what_is_not_known_is_enosys() -> None:
    assert converse(FakeDevice(), GETXATTR) == reply_of(GETXATTR, error=errno.ENOSYS)


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        (READ, (Kind.READ, 1, 2)),
        (WRITE, (Kind.WRITE, 1, b"A" * 512)),
        (FSYNC, (Kind.FLUSH, 0, 0)),
        (PUNCH_HOLE, (Kind.UNMAP, (1, 1))),
        (ZERO_RANGE, (Kind.ZERO, 1, 1)),
    ],
)
def test_a_request_becomes_an_operation(request_: bytes, asked: tuple[object, ...]) -> None:
    device = FakeDevice(answer=lambda operation: bytes(operation.blocks * 512))
    converse(device, request_)
    assert device.asked == [asked]


def test_a_read_returns_what_the_unit_returned() -> None:
    device = FakeDevice(answer=lambda operation: b"B" * 1024)
    assert converse(device, READ) == reply_of(READ, b"B" * 1024)


def test_requests_are_split_for_the_unit() -> None:
    device = FakeDevice(
        max_transfer_length=512, answer=lambda operation: bytes([operation.lba]) * 512
    )
    assert converse(device, READ) == reply_of(READ, b"\1" * 512 + b"\2" * 512)
    assert device.asked == [(Kind.READ, 1, 1), (Kind.READ, 2, 1)]


def test_the_kernel_is_told_the_longest_transfer() -> None:
    reply = converse(FakeDevice(max_transfer_length=66048), INIT)
    assert struct.unpack_from("=I", reply, 16 + 20)[0] == 65536  # whole pages


@pytest.mark.parametrize("error", [MediumError(), OutOfSpace()])
@pytest.mark.parametrize("request_", [READ, WRITE, FSYNC, PUNCH_HOLE, ZERO_RANGE, SEEK_HOLE])
def test_errors_are_those_of_the_table(request_: bytes, error: MediumError | OutOfSpace) -> None:
    device = FakeDevice(answer=lambda operation: error)
    assert converse(device, request_) == reply_of(request_, error=error.errno)
    assert error.errno == {MediumError: errno.EIO, OutOfSpace: errno.ENOSPC}[type(error)]


def at(request_: bytes, offset: int, length: int | None = None) -> bytes:
    """A recorded request with another address (READ's length field is 4 bytes, FALLOCATE's 8)."""
    changed = bytearray(request_)
    struct.pack_into("=Q", changed, 48, offset)
    if length is not None:
        struct.pack_into("=I", changed, 56, length)
    return bytes(changed)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (at(WRITE, 100), errno.EINVAL),
        (at(READ, 512, 100), errno.EINVAL),
        (at(PUNCH_HOLE, 513), errno.EINVAL),
        (at(PUNCH_HOLE, 512, 0), errno.EINVAL),
        (at(WRITE, 1 << 20), errno.ENOSPC),
        (at(WRITE, (1 << 64) - 512), errno.ENOSPC),
        (at(PUNCH_HOLE, (1 << 20) - 512, 1024), errno.ENOSPC),
        (at(SEEK_HOLE, 1 << 20), errno.ENXIO),
    ],
)
def test_addresses_outside_the_disk_do_not_reach_the_unit(request_: bytes, error: int) -> None:
    device = FakeDevice()
    assert converse(device, request_) == reply_of(request_, error=error)
    assert device.asked == []


def test_reads_end_at_the_end_of_the_disk() -> None:
    device = FakeDevice(answer=lambda operation: bytes(operation.blocks * 512))
    assert len(converse(device, at(READ, (1 << 20) - 512, 4096))) == 16 + 512
    assert converse(device, at(READ, 1 << 40)) == reply_of(READ)


@pytest.mark.parametrize("request_", [WRITE, PUNCH_HOLE, ZERO_RANGE])
def test_a_read_only_disk_refuses_changes(request_: bytes) -> None:
    device = FakeDevice(read_only=True)
    assert converse(device, request_) == reply_of(request_, error=errno.EROFS)
    assert device.asked == []


def test_no_hole_if_the_unit_cannot_unmap_to_zeros_but_zeroing_in_steps() -> None:
    device = FakeDevice(unmaps=False, max_transfer_length=4096)
    assert converse(device, PUNCH_HOLE) == reply_of(PUNCH_HOLE, error=errno.EOPNOTSUPP)
    assert converse(device, at(ZERO_RANGE, 0, 12288)) == reply_of(ZERO_RANGE)
    assert device.asked == [(Kind.ZERO, 0, 8), (Kind.ZERO, 8, 8), (Kind.ZERO, 16, 8)]


@pytest.mark.parametrize(
    ("extents", "hole"),
    [
        ([Extent(0, 16), Extent(16, 8, mapped=False)], 16 * 512),
        ([Extent(0, 16), Extent(16, 8, zero=True)], 16 * 512),
        ([Extent(0, 2048)], 1 << 20),
    ],
)
def test_seek_hole(extents: list[Extent], hole: int) -> None:
    device = FakeDevice(answer=lambda operation: extents)
    assert converse(device, SEEK_HOLE) == reply_of(SEEK_HOLE, struct.pack("=Q", hole))


def test_extents_that_do_not_go_forward_are_an_error() -> None:
    device = FakeDevice(answer=lambda operation: [])
    assert converse(device, SEEK_HOLE) == reply_of(SEEK_HOLE, error=errno.EIO)


def test_the_last_release_is_told() -> None:
    told: list[bool] = []
    device = FakeDevice()
    disk = fuse.FuseDisk(device, released=lambda: told.append(True))
    release = struct.pack("=IIQQIIIHH", 64, fuse.Code.RELEASE, 9, 2, 0, 0, 0, 0, 0) + bytes(24)
    for message in (OPEN, OPEN, release):
        converse(device, message, disk)
    assert not told
    converse(device, release, disk)
    assert told


@pytest.mark.parametrize("message", [b"", READ[:39], READ[:-1], WRITE + b"A", b"\x2c" + READ[1:44]])
def test_malformed_messages(message: bytes) -> None:
    with pytest.raises(fuse.Malformed):
        fuse.FuseDisk(FakeDevice()).receive(memoryview(message))


class SlowUnit(StorageUnit):
    """Waits in each write until it is let go; reads are inline."""

    block_count = 2048
    inline = Inline.READ
    concurrent = True

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray(1 << 20)
        self.go = threading.Semaphore(0)

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        return bytes(self.data[lba * 512 : (lba + blocks) * 512])

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self.go.acquire()
        self.data[lba * 512 : lba * 512 + len(data)] = data


class Kernel:
    """Stands for the kernel: packets of a socket pair keep messages apart, as /dev/fuse does."""

    def __init__(self, unit: StorageUnit) -> None:
        self._gate = Gate(unit)
        self._gate.open()
        self._socket, self._served = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(10)
        self._server = FuseServer(self._served.fileno(), GateDevice(self._gate))
        self._server.start()
        self.send = self._socket.send

    def receive(self) -> bytes:
        return self._socket.recv(2 << 20)

    def close(self) -> None:
        self._gate.close()
        self._socket.close()
        assert self._server.join(10)
        self._served.close()


@pytest.fixture
def unit() -> SlowUnit:
    return SlowUnit()


@pytest.fixture
def kernel(unit: SlowUnit) -> Iterator[Kernel]:
    kernel = Kernel(unit)
    yield kernel
    for _ in range(8):
        unit.go.release()
    kernel.close()


def long_write(unique: int, lba: int, fill: bytes) -> bytes:
    body = struct.pack("=QQIIQII", 0, lba * 512, 65536, 0, 0, 0, 0) + fill * 65536
    return struct.pack("=IIQQIIIHH", 40 + len(body), 16, unique, 2, 0, 0, 0, 0, 0) + body


def test_a_slow_write_keeps_its_buffer_while_others_are_served(
    unit: SlowUnit, kernel: Kernel
) -> None:
    for number in range(4):
        kernel.send(long_write(100 + number, 128 * number, b"%d" % number))
    kernel.send(STATFS)
    assert kernel.receive()[8:16] == STATFS[8:16]  # while the writes wait
    kernel.send(b"too short")  # logged, and served on
    for _ in range(4):
        unit.go.release()
    assert {kernel.receive()[8] for _ in range(4)} == {100, 101, 102, 103}
    for number in range(4):
        kernel.send(at(READ, 65536 * number, 4096))
        assert kernel.receive()[16:] == b"%d" % number * 4096


def test_an_interrupted_request_that_has_not_begun_is_given_up(
    unit: SlowUnit, kernel: Kernel
) -> None:
    kernel.send(long_write(100, 0, b"a"))
    kernel.send(long_write(101, 0, b"b"))
    kernel.send(struct.pack("=IIQQIIIHHQ", 48, 36, 0, 0, 0, 0, 0, 0, 0, 101))
    assert struct.unpack("=IiQ", kernel.receive()) == (16, -errno.EINTR, 101)
    unit.go.release()
    assert struct.unpack_from("=IiQ", kernel.receive()) == (24, 0, 100)
