"""The FUSE protocol (Linux uapi/linux/fuse.h, 7.31) of a file system with one file, the disk.

Pure: messages as read from /dev/fuse go in, replies and operations come out; no system call.

Theory of operation. `receive` answers what needs no unit at once. READ, WRITE, FSYNC, FALLOCATE and
LSEEK become steps: a generator that yields one operation after the other, each of which has ended
when the generator is resumed, and returns the reply. The file is opened with FOPEN_DIRECT_IO: the
page cache belongs to the block device on top of it, and a request here is a request there.
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Callable, Generator, Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from userdisk.attach.device import BlockDevice
from userdisk.errors import StorageError
from userdisk.operation import Kind, Operation

if TYPE_CHECKING:
    from userdisk.unit import Buffer

Reply: TypeAlias = "list[Buffer]"
Steps: TypeAlias = Generator[Operation, None, Reply]

ROOT: Final = 1
DISK: Final = 2
FILE_NAME: Final = b"disk"

#: The longest payload of a READ or WRITE.
MAX_TRANSFER: Final = 1 << 20
#: A message up to this length is not referred to any more when `receive` has returned.
COPIED: Final = 32 << 10
#: The kernel demands a read buffer that holds the largest message with its headers.
BUFFER_LENGTH: Final = MAX_TRANSFER + 4096

_MAJOR: Final = 7
_MINOR: Final = 31
_MIN_MAX_WRITE: Final = 4096  # the kernel raises anything lower to this
_PAGE: Final = 4096
_MAX_BACKGROUND: Final = 128
_FOREVER: Final = 1 << 30  # seconds that names, and the folder's attributes, stay valid
_EXTENT_WINDOW: Final = 1 << 30  # bytes asked of `extents` at a time


class Code(IntEnum):
    """Operation codes that are answered; every other one is ENOSYS."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    LSEEK = 46


class Flag(IntEnum):
    """INIT flags that are asked for if the kernel offers them."""

    ASYNC_READ = 1 << 0
    BIG_WRITES = 1 << 5
    ASYNC_DIO = 1 << 15
    MAX_PAGES = 1 << 22


_FOPEN_DIRECT_IO: Final = 1 << 0
_FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6
_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_ZERO_RANGE: Final = 0x10
_SEEK_DATA: Final = 3
_SEEK_HOLE: Final = 4

_IN: Final = struct.Struct("=IIQQIIIHH")  # length code unique node uid gid pid extensions padding
_OUT: Final = struct.Struct("=IiQ")  # length error unique
_INIT_IN: Final = struct.Struct("=IIII")  # major minor max_readahead flags
_INIT_OUT: Final = struct.Struct("=IIIIHHIIHHII24x")
_ATTRIBUTES: Final = struct.Struct("=QQQQQQIIIIIIIIII")
_VALID: Final = struct.Struct("=QII")  # seconds nanoseconds padding
_ENTRY: Final = struct.Struct("=QQQQII")  # node generation entry_valid attr_valid nanoseconds
_OPEN_OUT: Final = struct.Struct("=QII")  # handle flags backing
_TRANSFER: Final = struct.Struct("=QQII")  # handle offset size flags (of READ, WRITE, READDIR)
_TRANSFER_LENGTH: Final = 40
_WRITE_OUT: Final = struct.Struct("=II")
_FALLOCATE: Final = struct.Struct("=QQQII")  # handle offset length mode padding
_LSEEK: Final = struct.Struct("=QQII")  # handle offset whence padding
_OFFSET: Final = struct.Struct("=Q")
_STATFS: Final = struct.Struct("=QQQQQIIII24x")
_DIRENT: Final = struct.Struct("=QQII")  # node next_offset name_length type

HEADER_LENGTH: Final = _IN.size


class Malformed(Exception):
    """The message is not what a kernel sends."""


class FuseDisk:
    """The protocol's state: one file system, mounted once.

    Args:
        device: what the file's contents are.
        now: the time in seconds that the file shows as its time stamps.
        released: called when the last open file has been closed.
        interrupt: called with the number of a request that nobody waits for any more.
    """

    def __init__(
        self,
        device: BlockDevice,
        *,
        now: int = 0,
        released: Callable[[], None] = lambda: None,
        interrupt: Callable[[int], None] = lambda unique: None,
    ) -> None:
        self._size = device.size
        self._block_length = device.block_length
        self._read_only = device.read_only
        self._unmaps = device.unmaps
        self._step = max(
            device.block_length,
            min(device.max_transfer_length, MAX_TRANSFER)
            // device.block_length
            * device.block_length,
        )
        #: What the kernel sends at most in one READ or WRITE.
        self.max_transfer = max(_MIN_MAX_WRITE, self._step // _PAGE * _PAGE)
        self._now = now
        self._released = released
        self._interrupted = interrupt
        self._open_files = 0
        self._handlers: dict[int, Callable[[int, int, memoryview], Reply | Steps | None]] = {
            Code.LOOKUP: self._lookup,
            Code.FORGET: _no_reply,
            Code.GETATTR: self._getattr,
            Code.OPEN: self._open,
            Code.READ: self._read,
            Code.WRITE: self._write,
            Code.STATFS: self._statfs,
            Code.RELEASE: self._release,
            Code.FSYNC: self._fsync,
            Code.FLUSH: _success,
            Code.INIT: self._init,
            Code.OPENDIR: self._opendir,
            Code.READDIR: self._readdir,
            Code.RELEASEDIR: _success,
            Code.INTERRUPT: self._interrupt,
            Code.DESTROY: _success,
            Code.BATCH_FORGET: _no_reply,
            Code.FALLOCATE: self._fallocate,
            Code.LSEEK: self._lseek,
        }

    def resize(self, size: int) -> None:
        """The disk has so many bytes from now on; the kernel asks for them with GETATTR."""
        self._size = size

    def receive(self, message: memoryview) -> Reply | Steps | None:
        """Handle one message: the reply, the steps that lead to one, or None if none is due.

        A message longer than `COPIED` must stay unchanged until its steps have ended. Raises
        `Malformed`.
        """
        if len(message) < HEADER_LENGTH:
            raise Malformed(f"{len(message)} bytes are too short for a FUSE message")
        length, code, unique, node, *_ = _IN.unpack_from(message)
        if length != len(message):
            raise Malformed(f"a FUSE message of {length} bytes came as {len(message)}")
        handler = self._handlers.get(code)
        if handler is None:
            return failure(unique, errno.ENOSYS)
        try:
            return handler(unique, node, message[HEADER_LENGTH:])
        except struct.error:
            raise Malformed(f"FUSE message {code} has {length} bytes, too few") from None

    # -- the file system -----------------------------------------------------------------------

    def _init(self, unique: int, node: int, body: memoryview) -> Reply:
        major, minor, max_readahead, offered = _INIT_IN.unpack_from(body)
        if major < _MAJOR:
            return failure(unique, errno.EPROTO)
        if major > _MAJOR:  # the kernel sends another INIT
            return success(unique, _INIT_OUT.pack(_MAJOR, _MINOR, *[0] * 10))
        flags = sum(flag & offered for flag in Flag)
        return success(
            unique,
            _INIT_OUT.pack(
                _MAJOR,
                min(minor, _MINOR),
                max_readahead,
                flags,
                _MAX_BACKGROUND,
                _MAX_BACKGROUND * 3 // 4,
                self.max_transfer,
                1,  # nanosecond of time granularity
                self.max_transfer // _PAGE,
                0,
                0,
                0,
            ),
        )

    def _lookup(self, unique: int, node: int, body: memoryview) -> Reply:
        if node != ROOT or bytes(body).rstrip(b"\0") != FILE_NAME:
            return failure(unique, errno.ENOENT)
        entry = _ENTRY.pack(DISK, 0, _FOREVER, _valid(DISK), 0, 0)
        return success(unique, entry + self._attributes(DISK))

    def _getattr(self, unique: int, node: int, body: memoryview) -> Reply:
        if node not in (ROOT, DISK):
            return failure(unique, errno.ENOENT)
        return success(unique, _VALID.pack(_valid(node), 0, 0) + self._attributes(node))

    def _attributes(self, node: int) -> bytes:
        if node == ROOT:
            mode, size, links = stat.S_IFDIR | 0o500, 0, 2
        else:
            mode = stat.S_IFREG | (0o400 if self._read_only else 0o600)
            size, links = self._size, 1
        now = self._now
        return _ATTRIBUTES.pack(
            node, size, (size + 511) // 512, now, now, now, 0, 0, 0, mode, links, 0, 0, 0,
            self._block_length, 0,
        )  # fmt: skip

    def _statfs(self, unique: int, node: int, body: memoryview) -> Reply:
        # The loop driver takes the discard granularity from this block size.
        blocks = self._size // self._block_length
        return success(
            unique,
            _STATFS.pack(blocks, 0, 0, 1, 0, self._block_length, 255, self._block_length, 0),
        )

    def _open(self, unique: int, node: int, body: memoryview) -> Reply:
        if node != DISK:
            return failure(unique, errno.EISDIR)
        self._open_files += 1
        flags = _FOPEN_DIRECT_IO | _FOPEN_PARALLEL_DIRECT_WRITES
        return success(unique, _OPEN_OUT.pack(0, flags, 0))

    def _release(self, unique: int, node: int, body: memoryview) -> Reply:
        self._open_files -= 1
        if self._open_files == 0:
            self._released()
        return success(unique)

    def _opendir(self, unique: int, node: int, body: memoryview) -> Reply:
        if node != ROOT:
            return failure(unique, errno.ENOTDIR)
        return success(unique, _OPEN_OUT.pack(0, 0, 0))

    def _readdir(self, unique: int, node: int, body: memoryview) -> Reply:
        _handle, offset, size, _flags = _TRANSFER.unpack_from(body)
        listing = b""
        entries = ((ROOT, b".", 4), (ROOT, b"..", 4), (DISK, FILE_NAME, 8))
        for number, (child, name, kind) in enumerate(entries, 1):
            entry = _DIRENT.pack(child, number, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if number > offset and len(listing) + len(entry) <= size:
                listing += entry
        return success(unique, listing)

    def _interrupt(self, unique: int, node: int, body: memoryview) -> None:
        self._interrupted(_OFFSET.unpack_from(body)[0])  # a request's number; no reply

    # -- the disk ------------------------------------------------------------------------------

    def _read(self, unique: int, node: int, body: memoryview) -> Reply | Steps:
        _handle, offset, size, _flags = _TRANSFER.unpack_from(body)
        size = min(size, max(self._size - offset, 0), self.max_transfer)
        if size == 0:
            return success(unique)
        if not self._aligned(offset, size):
            return failure(unique, errno.EINVAL)
        return self._read_steps(unique, offset, size)

    def _read_steps(self, unique: int, offset: int, size: int) -> Steps:
        buffers: Reply = []
        for lba, blocks in self._split(offset, size):
            operation = Operation(Kind.READ, lba, blocks)
            yield operation
            if operation.error is not None:
                return failure(unique, _errno(operation))
            buffers.append(operation.result)
        return success(unique, *buffers)

    def _write(self, unique: int, node: int, body: memoryview) -> Reply | Steps:
        _handle, offset, size, _flags = _TRANSFER.unpack_from(body)
        data = body[_TRANSFER_LENGTH:]
        if len(data) != size:
            raise Malformed(f"a write of {size} bytes came with {len(data)}")
        refused = self._refusal(offset, size)
        if refused:
            return failure(unique, refused)
        if size <= COPIED:
            data = memoryview(bytes(data))
        return self._write_steps(unique, offset, data.toreadonly())

    def _write_steps(self, unique: int, offset: int, data: memoryview) -> Steps:
        done = 0
        for lba, blocks in self._split(offset, len(data)):
            length = blocks * self._block_length
            operation = Operation(Kind.WRITE, lba, blocks, data=data[done : done + length])
            yield operation
            if operation.error is not None:
                return failure(unique, _errno(operation))
            done += length
        return success(unique, _WRITE_OUT.pack(done, 0))

    def _fsync(self, unique: int, node: int, body: memoryview) -> Reply | Steps:
        return success(unique) if self._read_only else self._run(unique, Operation(Kind.FLUSH))

    def _fallocate(self, unique: int, node: int, body: memoryview) -> Reply | Steps:
        _handle, offset, length, mode, _padding = _FALLOCATE.unpack_from(body)
        if mode & ~_KEEP_SIZE not in (_PUNCH_HOLE, _ZERO_RANGE):
            return failure(unique, errno.EOPNOTSUPP)
        refused = self._refusal(offset, length)
        if refused:
            return failure(unique, refused)
        if mode & _ZERO_RANGE:
            return self._zero_steps(unique, offset, length)
        if not self._unmaps:
            # The loop driver makes holes of discards, but also of zeroing: a hole must read as
            # zeros. After this refusal the kernel writes zeros where it needs them.
            return failure(unique, errno.EOPNOTSUPP)
        extent = (offset // self._block_length, length // self._block_length)
        return self._run(unique, Operation(Kind.UNMAP, extents=[extent]))

    def _zero_steps(self, unique: int, offset: int, length: int) -> Steps:
        for lba, blocks in self._split(offset, length):
            operation = Operation(Kind.ZERO, lba, blocks)
            yield operation
            if operation.error is not None:
                return failure(unique, _errno(operation))
        return success(unique)

    def _lseek(self, unique: int, node: int, body: memoryview) -> Reply | Steps:
        _handle, offset, whence, _padding = _LSEEK.unpack_from(body)
        if whence not in (_SEEK_DATA, _SEEK_HOLE):
            return failure(unique, errno.EINVAL)
        if offset >= self._size:
            return failure(unique, errno.ENXIO)
        return self._seek_steps(unique, offset, whence)

    def _seek_steps(self, unique: int, offset: int, whence: int) -> Steps:
        length = self._block_length
        lba, end = offset // length, self._size // length
        while lba < end:
            operation = Operation(Kind.EXTENTS, lba, min(end - lba, _EXTENT_WINDOW // length))
            yield operation
            if operation.error is not None:
                return failure(unique, _errno(operation))
            before = lba
            for extent in operation.result:
                if (extent.mapped and not extent.zero) is (whence == _SEEK_DATA):
                    return success(unique, _OFFSET.pack(max(extent.lba * length, offset)))
                lba = extent.lba + extent.blocks
            if lba <= before:  # extents that do not go forward
                return failure(unique, errno.EIO)
        if whence == _SEEK_HOLE:  # there is one behind the end
            return success(unique, _OFFSET.pack(self._size))
        return failure(unique, errno.ENXIO)

    def _run(self, unique: int, operation: Operation) -> Steps:
        yield operation
        if operation.error is not None:
            return failure(unique, _errno(operation))
        return success(unique)

    # -- addresses -----------------------------------------------------------------------------

    def _aligned(self, offset: int, length: int) -> bool:
        return not (offset | length) & (self._block_length - 1)

    def _refusal(self, offset: int, length: int) -> int:
        """The errno for a change of this range, or 0 if it may be tried."""
        if self._read_only:
            return errno.EROFS
        if length == 0 or not self._aligned(offset, length):
            return errno.EINVAL
        return errno.ENOSPC if offset + length > self._size else 0

    def _split(self, offset: int, length: int) -> Iterable[tuple[int, int]]:
        """(lba, blocks) of steps that the unit takes."""
        unit, step = self._block_length, self._step
        if length <= step:
            return ((offset // unit, length // unit),)
        end = offset + length
        return (
            (start // unit, min(step, end - start) // unit) for start in range(offset, end, step)
        )


def unique_of(message: memoryview) -> int:
    """The number of the request that a message is."""
    return int(_IN.unpack_from(message)[2])


def success(unique: int, *payload: Buffer) -> Reply:
    """The reply to a request that went well."""
    length = _OUT.size + sum(map(len, payload))
    return [_OUT.pack(length, 0, unique), *payload]


def failure(unique: int, error: int) -> Reply:
    """The reply to a request that failed with an errno."""
    return [_OUT.pack(_OUT.size, -error, unique)]


def _errno(operation: Operation) -> int:
    return operation.error.errno if isinstance(operation.error, StorageError) else errno.EIO


def _valid(node: int) -> int:
    """Seconds that attributes stay valid: the disk may change its size."""
    return 0 if node == DISK else _FOREVER


def _success(unique: int, node: int, body: memoryview) -> Reply:
    return success(unique)


def _no_reply(unique: int, node: int, body: memoryview) -> None:
    return None
