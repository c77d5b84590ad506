"""A disk in a SQLite database: a row for each block that was written.

    userdisk serve examples/sqlite_disk.py:SqliteDisk --option path=disk.db --size 1G

A flush is a commit, so after a crash the disk is as it was at the last flush. The disk is thin:
unmapped blocks are deleted rows, and blocks without a row read as zeros.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Sequence

from userdisk import Extent, OutOfSpace, StorageUnit, UsageError, WriteError

_SCHEMA = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS geometry (block_count INTEGER, block_length INTEGER);
    CREATE TABLE IF NOT EXISTS blocks (lba INTEGER PRIMARY KEY, data BLOB NOT NULL);
"""


class SqliteDisk(StorageUnit):
    """A disk in the database `path`; it keeps the size it was made with."""

    product_id = "SqliteDisk"
    block_length = 4096

    def __init__(self, path: str = "disk.db", block_count: int = 262144) -> None:
        super().__init__(block_count=block_count)
        self._path = path

    def open(self) -> None:
        # Calls come from several threads, but one at a time: the unit is not `concurrent`.
        try:
            self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise UsageError(f"{self._path}: {error}") from None
        given = (self.block_count, self.block_length)
        made = self._db.execute("SELECT * FROM geometry").fetchone()
        if made is None:
            self._db.execute("INSERT INTO geometry VALUES (?, ?)", given)
        elif made != given:
            self._db.close()
            raise UsageError(
                f"{self._path}: made with {made[0]} blocks of {made[1]} bytes,"
                f" not {given[0]} of {given[1]}"
            )
        self._db.execute("BEGIN")

    def close(self) -> None:
        self._db.close()

    def read(self, lba: int, blocks: int, fua: bool) -> bytearray:
        data = bytearray(blocks * self.block_length)
        for number, block in self._db.execute(
            "SELECT lba, data FROM blocks WHERE lba >= ? AND lba < ?", (lba, lba + blocks)
        ):
            offset = (number - lba) * self.block_length
            data[offset : offset + self.block_length] = block
        return data

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        size = self.block_length
        rows = ((lba + i // size, data[i : i + size]) for i in range(0, len(data), size))
        try:
            self._db.executemany("INSERT OR REPLACE INTO blocks VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise _storage_error(error) from error
        if fua:
            self.flush()

    def flush(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("COMMIT")
            self._db.execute("BEGIN")
        except sqlite3.Error as error:
            raise _storage_error(error) from error

    def unmap(self, extents: Sequence[tuple[int, int]]) -> None:
        ranges = ((lba, lba + blocks) for lba, blocks in extents)
        try:
            self._db.executemany("DELETE FROM blocks WHERE lba >= ? AND lba < ?", ranges)
        except sqlite3.Error as error:
            raise _storage_error(error) from error

    def extents(self, lba: int, blocks: int) -> Iterator[Extent]:
        end = lba + blocks
        rows = self._db.execute(
            "SELECT lba FROM blocks WHERE lba >= ? AND lba < ? ORDER BY lba LIMIT 10000", (lba, end)
        ).fetchall()
        numbers = [number for (number,) in rows]
        # Neighbours have the same difference between the block's number and its place.
        for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
            run_of = [number for _, number in run]
            if run_of[0] > lba:
                yield Extent(lba, run_of[0] - lba, mapped=False, zero=True)
            yield Extent(run_of[0], len(run_of))
            lba = run_of[-1] + 1
        if lba < end and len(numbers) < 10000:
            yield Extent(lba, end - lba, mapped=False, zero=True)


def _storage_error(error: sqlite3.Error) -> Exception:
    if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
        return OutOfSpace(str(error))
    return WriteError(str(error))
