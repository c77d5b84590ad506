"""Units for instances: one that keeps what it has in memory, and one that misbehaves as told."""

from __future__ import annotations

import os
import time
from pathlib import Path

from userdisk import StorageUnit


class Caching(StorageUnit):
    """Writes stay in memory until a flush has written them out, atomically."""

    block_count = 1 << 16
    block_length = 512
    persistent = True

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = Path(path)
        length = self.block_count * self.block_length
        self._data = bytearray(self._path.read_bytes() if self._path.exists() else length)

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        return bytes(self._data[lba * 512 : (lba + blocks) * 512])

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self._data[lba * 512 : lba * 512 + len(data)] = data
        if fua:
            self.flush()

    def flush(self) -> None:
        new = self._path.with_suffix(".new")
        with open(new, "wb") as file:
            file.write(self._data)
            os.fsync(file.fileno())
        new.replace(self._path)


class Obedient(StorageUnit):
    """`folder`/orders says what it does: lines "WHEN WHAT", e.g. "open hang", "close 5"; with
    "once" behind it all is forgotten then."""

    block_count = 2048
    block_length = 512
    persistent = True

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._orders = Path(folder) / "orders"
        self._data = bytearray(1 << 20)

    def open(self) -> None:
        self._obey("open")

    def close(self) -> None:
        self._obey("close")

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        self._obey("read")
        return bytes(self._data[lba * 512 : (lba + blocks) * 512])

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self._data[lba * 512 : lba * 512 + len(data)] = data

    def flush(self) -> None:
        self._obey("flush")

    def _obey(self, when: str) -> None:
        if not self._orders.exists():
            return
        for line in self._orders.read_text().splitlines():
            name, what, *once = line.split()
            if name != when:
                continue
            if once:
                self._orders.unlink()
            if what == "exit":
                os._exit(3)
            time.sleep(600 if what == "hang" else float(what))
