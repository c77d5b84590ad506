"""A disk in memory that writes down what it is asked, and misbehaves as a file tells it."""

from __future__ import annotations

import time
from pathlib import Path

from userdisk import StorageUnit, errors


class Probe(StorageUnit):
    """Keeps a line for each operation in `folder`/operations.

    `folder`/orders holds lines "OPERATION WHAT": the name of a class of userdisk.errors, `bug`, or
    a number of seconds to sleep.
    """

    def __init__(self, folder: str, block_length: int = 512, size: int = 64 << 20) -> None:
        super().__init__(block_length=block_length, block_count=size // block_length)
        self._folder = Path(folder)
        self._data = bytearray(size)

    def open(self) -> None:
        self._obey("open")

    def close(self) -> None:
        self._obey("close")

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        self._obey("read", lba, blocks)
        length = self.block_length
        return bytes(self._data[lba * length : (lba + blocks) * length])

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        self._obey("write", lba, len(data) // self.block_length)
        start = lba * self.block_length
        self._data[start : start + len(data)] = data

    def flush(self) -> None:
        self._obey("flush")

    def unmap(self, extents: list[tuple[int, int]]) -> None:
        for lba, blocks in extents:
            self._obey("unmap", lba, blocks)
            length = self.block_length
            self._data[lba * length : (lba + blocks) * length] = bytes(blocks * length)

    def _obey(self, operation: str, *arguments: int) -> None:
        with (self._folder / "operations").open("a") as file:
            print(operation, *arguments, file=file)
        try:
            orders = (self._folder / "orders").read_text()
        except FileNotFoundError:
            return
        for line in orders.splitlines():
            name, what = line.split()
            if name != operation:
                continue
            if what == "bug":
                raise ZeroDivisionError("ordered")
            if hasattr(errors, what):
                raise getattr(errors, what)("ordered")
            time.sleep(float(what))
