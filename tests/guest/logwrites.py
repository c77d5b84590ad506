"""Reads what the device mapper target log-writes recorded, and replays it.

The log is a superblock and entries, each a sector of header and then its data; numbers are
little-endian, and count sectors of the superblock's size. A write is logged when a flush that
came after its end has ended, a FUA write when it has ended itself, a mark when it is made: any
prefix of the log is a state in which a crash may leave the medium (Documentation/admin-guide/
device-mapper/log-writes.rst of Linux).
"""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

MAGIC = 0x6A736677736872
VERSION = 1

_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


class Flag(enum.IntFlag):
    """What an entry is; none of these: a plain write."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8
    METADATA = 16


class Entry(NamedTuple):
    """One entry: offsets and lengths in bytes; `data` is a mark's text, too."""

    flags: Flag
    offset: int
    length: int
    data: bytes

    @property
    def mark(self) -> str | None:
        """The mark's text, or None."""
        return self.data.decode() if Flag.MARK in self.flags else None


class LogError(Exception):
    """The log is not one, or is cut off."""


def read_log(path: Path) -> Iterator[Entry]:
    """The entries in the order in which they reached the medium. Raises LogError."""
    with path.open("rb") as file:
        magic, version, count, sector = _SUPER.unpack(_exactly(file, _SUPER.size))
        if (magic, version) != (MAGIC, VERSION) or sector not in (512, 1024, 2048, 4096):
            raise LogError(f"{path}: no log-writes superblock")
        file.seek(sector)
        for _ in range(count):
            header = _exactly(file, sector)
            first, sectors, bits, inline = _ENTRY.unpack_from(header)
            flags = Flag(bits)
            if Flag.MARK in flags:
                data = header[_ENTRY.size : _ENTRY.size + inline]
            else:
                data = b"" if Flag.DISCARD in flags else _exactly(file, sectors * sector)
            yield Entry(flags, first * sector, sectors * sector, data)


def _exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise LogError(f"{file.name}: ends in the middle of an entry")
    return data


class Replay:
    """A file that gets the log's writes, one after another; starts as `size` zeros."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.ftruncate(self._descriptor, size)

    def apply(self, entry: Entry) -> None:
        """Do what the entry says; marks and empty flushes do nothing."""
        if Flag.MARK in entry.flags:
            return
        data = entry.data if Flag.DISCARD not in entry.flags else bytes(entry.length)
        os.pwrite(self._descriptor, data, entry.offset)

    def close(self) -> None:
        """Close the file; it stays."""
        os.close(self._descriptor)
