"""Units that misbehave on purpose, for `userdisk serve units.py:CLASS`."""

from __future__ import annotations

import time
from pathlib import Path

from userdisk.backend.file import FileUnit
from userdisk.unit import StorageUnit


class SlowFlush(StorageUnit):
    """A small disk in memory whose flush sleeps for as long as a file says, once."""

    block_count = 4096
    seconds_file = Path()

    def __init__(self, seconds_file: str) -> None:
        super().__init__()
        self.seconds_file = Path(seconds_file)
        self.data = bytearray(self.block_count * self.block_length)

    def read(self, lba: int, blocks: int, fua: bool) -> bytes:
        start = lba * self.block_length
        return bytes(self.data[start : start + blocks * self.block_length])

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        start = lba * self.block_length
        self.data[start : start + len(data)] = data

    def flush(self) -> None:
        try:
            seconds = float(self.seconds_file.read_text())
        except FileNotFoundError:
            return
        self.seconds_file.unlink()
        time.sleep(seconds)
        self.seconds_file.with_suffix(".slept").touch()


class NoSync(FileUnit):
    """A file whose data is never made durable: the fault that the crash test must find."""

    def flush(self) -> None:
        pass

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        super().write(lba, data, False)
