"""Units that misbehave on purpose, for `userdisk serve units.py:CLASS`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from userdisk.backend.file import FileUnit
from userdisk.unit import StorageUnit


class SlowFlush(StorageUnit):
    """A small disk in memory whose flush sleeps once for as long as $SLOW_FLUSH_FILE says."""

    block_count = 4096

    def __init__(self) -> None:
        super().__init__()
        self.seconds_file = Path(os.environ["SLOW_FLUSH_FILE"])
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

    path = "/run/crash/faulty/mount/disk.img"

    def __init__(self) -> None:
        super().__init__(self.path)

    def flush(self) -> None:
        pass

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        super().write(lba, data, False)


class NoSyncNbd(NoSync):
    """The same over NBD, on a medium of its own."""

    path = "/run/crash/nbdfaulty/mount/disk.img"
