"""Linux's NBD driver against the server: sizes and limits, file systems, discard, flush, FUA.

The server is in the test's process, so that what reaches the unit can be seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.guest.nbd import NbdDisk
from tests.guest.session import Guest
from tests.kit.requires import requires
from tests.kit.units import RamUnit
from userdisk import errors
from userdisk.backend.ram import RamUnit as SparseRam
from userdisk.gate import Gate
from userdisk.nbd.export import Export
from userdisk.server import Server
from userdisk.unit import Extents, StorageUnit

pytestmark = [
    pytest.mark.timeout(180),
    requires("nbd-client", "fio", "mkfs.ext4", "e2fsck", "blkdiscard", "fallocate", "fstrim"),
]

SIZE = 32 << 20
MIB = 1 << 20
#: What one request may ask to discard or zero: 32 bits of bytes, in whole sectors.
LONGEST = (1 << 32) - 512

LIMITS = (
    "queue/discard_max_bytes",
    "queue/discard_granularity",
    "queue/write_zeroes_max_bytes",
)

FILES = "/run/nbd/mount"
FILL = f"""set -e
mkfs.ext4 -q -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 DISK
mkdir -p {FILES}; mount DISK {FILES}
for i in 1 2 3; do dd if=/dev/urandom of={FILES}/$i bs=700k count=$i status=none; done
cd {FILES}; md5sum ?
"""


@contextmanager
def served(unit: StorageUnit, *, read_only: bool = False) -> Iterator[tuple[Server, int]]:
    """The unit as export `disk`; the server, and its port on 127.0.0.1."""
    exports = [Export("disk", Gate(unit), "a disk", read_only)]
    server = Server([], listen=(), exports=exports, nbd=[("127.0.0.1", 0)])
    server.start()
    (address,) = server.nbd_addresses
    assert isinstance(address, tuple)
    try:
        yield server, address[1]
    finally:
        server.stop()


def since(unit: RamUnit, start: int, name: str) -> list[tuple[int, int]]:
    """Ranges in bytes of the operations `name` that the unit saw from number `start` on."""
    length = unit.block_length
    calls = unit.log[start:]
    return [(lba * length, blocks * length) for what, lba, blocks, _ in calls if what == name]


def not_durable(unit: RamUnit) -> list[tuple[str, int, int, bool]]:
    """Changes without FUA that the unit saw after its last flush."""
    names = [call[0] for call in unit.log]
    last = len(names) - names[::-1].index("flush")
    return [call for call in unit.log[last:] if call[0] != "read" and not call[3]]


@pytest.mark.parametrize(("block_length", "connections"), [(512, 4), (4096, 1)])
def test_a_file_system(guest: Guest, block_length: int, connections: int) -> None:
    unit = RamUnit(block_length=block_length, block_count=SIZE // block_length)
    with served(unit) as (server, port):
        disk = NbdDisk(guest, port, "disk", connections=connections, block_length=block_length)
        guest.check("dmesg --clear")
        with disk:
            assert server.connections == connections
            paths = ["size", "ro", "queue/logical_block_size", "queue/write_cache", "queue/fua"]
            told = disk.sys(*paths, *LIMITS)
            assert told[:5] == [str(SIZE // 512), "0", str(block_length), "write back", "1"]
            assert told[5:] == [str(LONGEST), str(block_length), str(LONGEST)]
            disk.run(
                "fio --name=verify --filename=DISK --rw=randwrite --bsrange=4k-256k --size=6M"
                " --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --do_verify=1"
                " --verify_fatal=1 --randseed=7 --output-format=terse",
                90,
            )
            sums = disk.run(FILL, 60)
            start = len(unit.log)
            disk.run(f"dd if=/dev/zero of={FILES}/durable bs=4k count=1 conv=fsync status=none")
            assert since(unit, start, "write") and since(unit, start, "flush")
            assert not_durable(unit) == []
            disk.run(f"rm {FILES}/durable {FILES}/3; sync {FILES}")
            start = len(unit.log)
            trimmed = disk.run(f"fstrim -v {FILES}")
            total = sum(length for _, length in since(unit, start, "unmap"))
            assert f"({total} bytes) trimmed" in trimmed
            assert total > SIZE // 3
            disk.run(f"umount {FILES}")
        assert not_durable(unit) == []
        with disk:
            kept = "\n".join(sums.splitlines()[:2])
            disk.run(f"e2fsck -fn DISK && mount -o ro DISK {FILES}", 60)
            assert disk.run(f"cd {FILES}; md5sum ?") == kept
            disk.run(f"umount {FILES}")
        complaints = guest.check("dmesg -l emerg,alert,crit,err,warn")
        assert "rror" not in complaints, complaints


@pytest.fixture
def small(guest: Guest) -> Iterator[tuple[RamUnit, NbdDisk]]:
    """A unit, and the disk in the guest that it is."""
    unit = RamUnit(block_count=SIZE // 512)
    with served(unit) as (_, port), NbdDisk(guest, port, "disk", connections=2) as disk:
        yield unit, disk


def test_discard_and_zeroes(small: tuple[RamUnit, NbdDisk]) -> None:
    unit, disk = small
    unit.memory[:] = b"\xff" * SIZE
    disk.run("blkdiscard -o 1M -l 3M DISK")
    assert since(unit, 0, "unmap") == [(MIB, 3 * MIB)]
    assert since(unit, 0, "write") == []

    # Zeroes that must stay allocated, then zeroes that need not.
    disk.run(f"blkdiscard -z -o 8M -l {2 * MIB + 512} DISK")
    assert since(unit, 0, "unmap") == [(MIB, 3 * MIB)]
    assert sum(length for _, length in since(unit, 0, "write")) == 2 * MIB + 512
    disk.run("fallocate -p -o 16M -l 1M DISK")
    assert since(unit, 0, "unmap")[1:] == [(16 * MIB, MIB)]

    zeros = [(MIB, 3 * MIB), (8 * MIB, 2 * MIB + 512), (16 * MIB, MIB)]
    expected = bytearray(b"\xff" * SIZE)
    for offset, length in zeros:
        expected[offset : offset + length] = bytes(length)
    assert unit.memory == expected
    digest = disk.run("blockdev --flushbufs DISK; cksum < DISK")
    disk.run("blkdiscard -f DISK")
    assert unit.memory == bytes(SIZE)
    assert disk.run("blockdev --flushbufs DISK; cksum < DISK") != digest


def test_fua_reaches_the_unit(small: tuple[RamUnit, NbdDisk]) -> None:
    unit, disk = small
    disk.run("dd if=/dev/urandom of=DISK bs=4k count=1 seek=5 oflag=direct,dsync status=none")
    assert ("write", 40, 8, True) in unit.log
    disk.run("dd if=/dev/urandom of=DISK bs=4k count=1 seek=6 oflag=direct status=none")
    assert ("write", 48, 8, False) in unit.log


def test_errors_of_the_unit_are_errors_of_a_request(small: tuple[RamUnit, NbdDisk]) -> None:
    unit, disk = small
    disk.run("blockdev --flushbufs DISK")

    def fault(name: str, lba: int, blocks: int) -> None:
        if name == "flush":
            raise errors.MediumError("cannot flush")
        if lba <= 2048 < lba + blocks:
            raise errors.MediumError(f"cannot {name}")

    unit.fault = fault
    for command in (
        "dd if=DISK of=/dev/null bs=4k count=1 skip=256 iflag=direct status=none",
        "dd if=/dev/zero of=DISK bs=4k count=1 seek=256 oflag=direct status=none",
        "blkdiscard -f -o 1M -l 1M DISK",
        "sync DISK",
    ):
        code, said = disk.try_(command)
        assert code and "Input/output error" in said, (command, code, said)
    disk.run("dd if=DISK of=/dev/null bs=4k count=1 skip=255 iflag=direct status=none")
    unit.fault = None
    disk.run("dd if=DISK of=/dev/null bs=4k count=1 skip=256 iflag=direct status=none; sync DISK")


def test_read_only(guest: Guest) -> None:
    unit = RamUnit(block_count=SIZE // 512)
    # A device of its own: the kernel keeps some limits of an earlier connection.
    with (
        served(unit, read_only=True) as (_, port),
        NbdDisk(guest, port, "disk", number=1) as disk,
    ):
        assert disk.sys(*LIMITS, "ro") == ["0", "0", "0", "1"]
        code, said = disk.try_("dd if=/dev/zero of=DISK bs=4k count=1 status=none")
        assert code and "not permitted" in said, said
        disk.run("dd if=DISK of=/dev/null bs=1M status=none")
        assert set(unit.calls) == {"read"}


class Vast(SparseRam):
    """More than 32 bits of bytes; remembers what it was told to forget."""

    def __init__(self) -> None:
        super().__init__(size=6 << 30)
        self.unmapped: list[tuple[int, int]] = []

    def unmap(self, extents: Extents) -> None:
        self.unmapped += [(lba * 512, blocks * 512) for lba, blocks in extents]
        super().unmap(extents)


def test_more_than_a_request_can_discard(guest: Guest) -> None:
    unit = Vast()
    with served(unit) as (_, port), NbdDisk(guest, port, "disk") as disk:
        assert disk.sys("size") == [str((6 << 30) // 512)]
        far = (5 << 30) // 4096
        write = "dd if=/dev/urandom of=DISK bs=4k count=1 oflag=direct status=none"
        disk.run(f"{write} seek={far}; {write} seek=7")
        assert any(unit.read(far * 8, 8, False)) and any(unit.read(56, 8, False))
        disk.run("blkdiscard -f DISK", 60)
        ranges = sorted(unit.unmapped)
        assert len(ranges) > 1
        end = 0
        for offset, length in ranges:
            assert offset == end
            end += length
        assert end == 6 << 30
        assert not any(unit.read(far * 8, 8, False)) and not any(unit.read(56, 8, False))
