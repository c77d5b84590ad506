"""What a disk says of itself, and the commands for it: the SCSI of `iscsi:URL` (SBC-4, SPC-5).

Pure: `probe` is a generator that yields commands and is sent their tasks; the rest makes CDBs and
reads answers. Nothing that the disk says is believed without a check of its length and range.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from userdisk.errors import HardwareError, UserdiskError
from userdisk.iscsi.initiator_task import Task
from userdisk.scsi.opcodes import Opcode, ServiceActionIn16
from userdisk.unit import Extent, Extents

_CDB_10 = struct.Struct(">BBIBHB").pack
_CDB_16 = struct.Struct(">BBQIBB").pack
_INQUIRY_LENGTH = 255
_FUA = 0x08
_UNMAP = 0x08  # WRITE SAME
_MAX_SHORT_LBA = 1 << 32
_MAX_DESCRIPTORS = 256  # of one UNMAP
_STATUS_LENGTH = 8 + 16 * 256  # GET LBA STATUS


@dataclass(frozen=True, slots=True)
class Disk:
    """What a disk can do. Lengths are in bytes unless they say blocks.

    `unmap_blocks`, `unmap_descriptors`: of one UNMAP; 0 blocks: it knows none. `same_blocks`: of
    one WRITE SAME. `identity`: two disks with another one are not the same.
    """

    block_count: int
    block_length: int
    physical_block_length: int
    long_commands: bool
    write_protected: bool
    volatile_cache: bool
    fua: bool
    max_transfer_blocks: int
    unmap_blocks: int
    unmap_descriptors: int
    same_unmaps: bool
    same_blocks: int
    unmap_zeroes: bool
    removable: bool
    identity: bytes

    @property
    def unmaps(self) -> bool:
        """Blocks can be unmapped, one way or the other."""
        return self.unmap_blocks > 0 or self.same_unmaps

    def read(self, lba: int, blocks: int, *, fua: bool) -> bytes:
        """READ."""
        return self._cdb(Opcode.READ_16, Opcode.READ_10, lba, blocks, _FUA if fua else 0)

    def write(self, lba: int, blocks: int, *, fua: bool) -> bytes:
        """WRITE."""
        return self._cdb(Opcode.WRITE_16, Opcode.WRITE_10, lba, blocks, _FUA if fua else 0)

    def flush(self) -> bytes:
        """SYNCHRONIZE CACHE of everything."""
        return self._cdb(Opcode.SYNCHRONIZE_CACHE_16, Opcode.SYNCHRONIZE_CACHE_10, 0, 0, 0)

    def write_same(self, lba: int, blocks: int, *, unmap: bool = False) -> bytes:
        """WRITE SAME of one block of data-out; `unmap`: the blocks may be unmapped."""
        flags = _UNMAP if unmap else 0
        return self._cdb(Opcode.WRITE_SAME_16, Opcode.WRITE_SAME_10, lba, blocks, flags)

    def _cdb(self, long: int, short: int, lba: int, blocks: int, flags: int) -> bytes:
        if self.long_commands:
            return _CDB_16(long, flags, lba, blocks, 0, 0)
        return _CDB_10(short, flags, lba, 0, blocks, 0)

    def unmap(self, extents: Extents) -> Iterator[tuple[bytes, bytes]]:
        """UNMAP commands, each with its parameter list, within the disk's limits."""
        descriptors: list[bytes] = []
        room = self.unmap_blocks
        most = min(self.unmap_descriptors, _MAX_DESCRIPTORS)
        for lba, blocks in extents:
            while blocks:
                if not room or len(descriptors) == most:
                    yield _unmap(descriptors)
                    descriptors, room = [], self.unmap_blocks
                count = min(blocks, room)
                descriptors.append(struct.pack(">QI4x", lba, count))
                lba, blocks, room = lba + count, blocks - count, room - count
        if descriptors:
            yield _unmap(descriptors)

    def steps(self, extents: Extents, most: int) -> Iterator[tuple[int, int]]:
        """The extents in pieces of at most `most` blocks."""
        for lba, blocks in extents:
            while blocks:
                count = min(blocks, most)
                yield lba, count
                lba, blocks = lba + count, blocks - count


def _unmap(descriptors: Sequence[bytes]) -> tuple[bytes, bytes]:
    body = b"".join(descriptors)
    data = struct.pack(">HH4x", 6 + len(body), len(body)) + body
    return struct.pack(">BB5xHx", Opcode.UNMAP, 0, len(data)), data


# -- what a disk says of itself --------------------------------------------------------------------

Probe = Generator[Task, Task, Disk]


def probe(where: str) -> Probe:
    """Ask a disk for all of `Disk`. Raises `UserdiskError` if it is none that can be used."""
    standard = yield from _inquiry(None)
    if len(standard) < 36 or standard[0] != 0:
        raise UserdiskError(f"{where}: is not a disk (peripheral {_kind(standard)})")
    pages = yield from _inquiry(0x00)
    known = set(pages[4 : 4 + int.from_bytes(pages[2:4])]) if len(pages) >= 4 else set()
    page: dict[int, bytes] = {}
    for number in (0x80, 0x83, 0xB0, 0xB2):
        if number in known:
            page[number] = yield from _inquiry(number)
    capacity, long = yield from read_capacity()
    if len(capacity) < (16 if long else 8):
        raise UserdiskError(f"{where}: does not say how large it is")
    last, length = struct.unpack_from(">QI" if long else ">II", capacity)
    if not long and last == _MAX_SHORT_LBA - 1:
        raise UserdiskError(f"{where}: is too large for a disk without READ CAPACITY(16)")
    exponent = capacity[13] & 0x0F if long else 0
    thin = capacity[14] if long else 0
    protected, fua, cached = yield from _modes()
    limits, provisioning = page.get(0xB0, b"").ljust(64, b"\0"), page.get(0xB2, b"").ljust(8, b"\0")
    most, unmap_blocks, descriptors = (
        struct.unpack_from(">I", limits, at)[0] for at in (8, 20, 24)
    )
    (same,) = struct.unpack_from(">Q", limits, 36)
    thin_unmaps = bool(thin & 0x80 and provisioning[5] & 0x80)
    return Disk(
        block_count=last + 1,
        block_length=length,
        physical_block_length=length << exponent,
        long_commands=long,
        write_protected=protected,
        volatile_cache=cached,
        fua=fua,
        max_transfer_blocks=min(most or 0xFFFF, 0xFFFF),
        unmap_blocks=unmap_blocks if thin_unmaps and descriptors else 0,
        unmap_descriptors=descriptors,
        same_unmaps=long and bool(thin & 0x80 and provisioning[5] & 0x40),
        same_blocks=min(same or 0xFFFF, 0xFFFF),
        unmap_zeroes=bool(thin & 0x40),
        removable=bool(standard[1] & 0x80),
        identity=page.get(0x80, b"") + page.get(0x83, b""),
    )


def read_capacity() -> Generator[Task, Task, tuple[bytes, bool]]:
    """READ CAPACITY data, and whether it is that of the 16-byte form."""
    cdb = _CDB_16(Opcode.SERVICE_ACTION_IN_16, ServiceActionIn16.READ_CAPACITY_16, 0, 32, 0, 0)
    task = yield Task(cdb, 32)
    if not task.status:
        return bytes(task.data), True
    task = yield Task(_CDB_10(Opcode.READ_CAPACITY_10, 0, 0, 0, 0, 0), 8)
    return (b"" if task.status else bytes(task.data)), False


def _inquiry(page: int | None) -> Generator[Task, Task, bytes]:
    """Standard data or a VPD page; empty if there is none."""
    evpd, number = (0, 0) if page is None else (1, page)
    cdb = struct.pack(">BBBHx", Opcode.INQUIRY, evpd, number, _INQUIRY_LENGTH)
    task = yield Task(cdb, _INQUIRY_LENGTH)
    data = b"" if task.status else bytes(task.data)
    if page is not None and (len(data) < 4 or data[1] != page):
        return b""
    return data


def _modes() -> Generator[Task, Task, tuple[bool, bool, bool]]:
    """Write protection, DPOFUA, and whether there is a volatile cache: yes, if nothing is said."""
    for header, cdb in (
        (4, struct.pack(">BBBxBx", Opcode.MODE_SENSE_6, 0x08, 0x08, 192)),
        (8, struct.pack(">BBB4xHx", Opcode.MODE_SENSE_10, 0x08, 0x08, 192)),
    ):
        task = yield Task(cdb, 192)
        data = bytes(task.data)
        if task.status or len(data) < header:
            continue
        flags = data[2] if header == 4 else data[3]
        skipped = data[3] if header == 4 else int.from_bytes(data[6:8])
        caching = data[header + skipped :]
        cached = len(caching) < 3 or caching[0] & 0x3F != 0x08 or bool(caching[2] & 0x04)
        return bool(flags & 0x80), bool(flags & 0x10), cached
    return False, False, True


def _kind(standard: bytes) -> str:
    return f"{standard[0]:02x}" if standard else "without INQUIRY data"


# -- GET LBA STATUS --------------------------------------------------------------------------------


def lba_status(lba: int) -> Task:
    """GET LBA STATUS from `lba` on."""
    action = ServiceActionIn16.GET_LBA_STATUS
    cdb = _CDB_16(Opcode.SERVICE_ACTION_IN_16, action, lba, _STATUS_LENGTH, 0, 0)
    return Task(cdb, _STATUS_LENGTH)


def extents(data: bytes, lba: int, blocks: int, *, zeroes: bool) -> Sequence[Extent]:
    """Its answer, cut to the blocks that were asked about. Raises `HardwareError` for nonsense."""
    found: list[Extent] = []
    end = lba + blocks
    length = min(len(data), 4 + int.from_bytes(data[:4]))
    for at in range(8, length - 15, 16):
        start, count, status = struct.unpack_from(">QIB", data, at)
        if start > lba or start + count <= lba:
            break
        last = min(start + count, end)
        mapped = status & 0x0F == 0
        found.append(Extent(lba, last - lba, mapped, not mapped and zeroes))
        lba = last
        if lba == end:
            break
    if not found:
        raise HardwareError(f"GET LBA STATUS does not say anything about block {lba}")
    return found
