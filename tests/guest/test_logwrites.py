"""The reader of log-writes logs, on bytes laid out as the kernel's documentation says."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.guest.logwrites import Entry, Flag, LogError, Replay, read_log

SECTOR = 512


def _entry(sector: int, sectors: int, flags: int, data: bytes = b"", inline: bytes = b"") -> bytes:
    header = struct.pack("<QQQQ", sector, sectors, flags, len(inline)) + inline
    return header.ljust(SECTOR, b"\0") + data


def _log(path: Path, *entries: bytes) -> Path:
    head = bytes.fromhex("7268737766736a00")  # the magic as it lies on the disk
    path.write_bytes(
        (head + struct.pack("<QQI", 1, len(entries), SECTOR)).ljust(SECTOR, b"\0")
        + b"".join(entries)
    )
    return path


def test_entries_of_every_kind(tmp_path: Path) -> None:
    log = _log(
        tmp_path / "log",
        _entry(8, 2, 0, b"a" * 1024),
        _entry(0, 0, 1),
        _entry(0, 0, 8, inline=b"after flush"),
        _entry(9, 1, 2, b"b" * 512),
        _entry(8, 16, 4),
    )
    assert list(read_log(log)) == [
        Entry(Flag(0), 4096, 1024, b"a" * 1024),
        Entry(Flag.FLUSH, 0, 0, b""),
        Entry(Flag.MARK, 0, 0, b"after flush"),
        Entry(Flag.FUA, 4608, 512, b"b" * 512),
        Entry(Flag.DISCARD, 4096, 8192, b""),
    ]
    assert [entry.mark for entry in read_log(log)] == [None, None, "after flush", None, None]


def test_replay(tmp_path: Path) -> None:
    replay = Replay(tmp_path / "disk", 4096)
    replay.apply(Entry(Flag(0), 512, 1024, b"a" * 1024))
    replay.apply(Entry(Flag.MARK, 0, 0, b"mark"))
    replay.apply(Entry(Flag.DISCARD, 512, 512, b""))
    replay.close()
    assert replay.path.read_bytes() == bytes(1024) + b"a" * 512 + bytes(2560)


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(4096))
    with pytest.raises(LogError, match="no log-writes superblock"):
        list(read_log(path))
    cut = _log(tmp_path / "cut", _entry(0, 1, 0, b"x" * 100))
    with pytest.raises(LogError, match="ends in the middle"):
        list(read_log(cut))
