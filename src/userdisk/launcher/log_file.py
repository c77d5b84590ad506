"""What the processes of an instance print: two files that stay bounded, however much comes.

What comes too fast is dropped, and the number of bytes noted: a program that floods its log costs
neither the disk nor the processor, and waits at most a moment for that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import threading
import time
from pathlib import Path
from typing import Final

LOG: Final = "log"
_RATE: Final = 1 << 20  # bytes/s on average
_BURST: Final = 1 << 20  # bytes
_CHUNK: Final = 64 << 10
_PIPE: Final = 1 << 20
_PAUSE: Final = 0.02  # seconds
_SETTLE_SECONDS: Final = 0.5
_LONGEST_TAIL: Final = 1 << 20  # bytes


class LogFile:
    """Takes what is written to `descriptor`, until all who have it are gone. Thread-safe.

    Args:
        folder: of `log`, and of `log.1`, which has what was before.
        limit: bytes of both together.
        as_json: the lines of the shim's own are JSON, as those of the other processes.
    """

    def __init__(self, folder: Path, limit: int, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._path = folder / LOG
        self._older = folder / f"{LOG}.1"
        self._limit = max(limit // 2, 4096)
        self._lock = threading.Lock()
        self._tokens, self._filled, self._dropped = float(_BURST), time.monotonic(), 0
        self._file = self._open()
        self._turn = threading.Lock()  # of who takes from the pipe
        self._reader, self.descriptor = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # so that nobody waits for this process in a burst
            fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, _PIPE)
        threading.Thread(target=self._copy, name="log", daemon=True).start()

    def note(self, line: str) -> None:
        """A line of the shim's own."""
        text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} launcher: {line}"
        if self._as_json:
            now = time.time()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
            fields = {"time": f"{stamp}.{int(now % 1 * 1000):03}Z", "level": "info"}
            text = json.dumps({**fields, "logger": "userdisk.launcher", "message": line})
        self._write(f"{text}\n".encode(errors="backslashreplace"))

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)

    def settle(self) -> None:
        """Return when what has been printed up to now is in the file; soon in any case."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < deadline:
            with self._turn:
                if not select.select([self._reader], [], [], 0)[0]:
                    return
            time.sleep(0.001)

    def _copy(self) -> None:
        while True:
            select.select([self._reader], [], [])
            with self._turn:
                part = os.read(self._reader, _CHUNK if self._tokens > _CHUNK else _PIPE)
                if not part:
                    return
                kept = self._take(len(part))
                if kept:
                    self._write(part)
            if not kept:
                time.sleep(_PAUSE)  # what floods waits a little, at a full pipe

    def _take(self, length: int) -> bool:
        """Whether so many bytes more are not too many."""
        now = time.monotonic()
        self._tokens = min(self._tokens + (now - self._filled) * _RATE, _BURST)
        self._filled = now
        if length > self._tokens:
            self._dropped += length
            return False
        self._tokens -= length
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.note(f"{dropped} bytes came too fast and were dropped")
        return True

    def _write(self, data: bytes) -> None:
        data = data[-self._limit :]
        with self._lock, contextlib.suppress(OSError):  # a full disk: nobody must wait for a log
            if os.fstat(self._file).st_size + len(data) > self._limit:
                os.replace(self._path, self._older)
                os.close(self._file)
                self._file = self._open()
            os.write(self._file, data)


#: A place in a log: the file's inode number, and the offset in it.
Position = tuple[int, int]


def tail(folder: Path, lines: int) -> list[str]:
    """The last lines of an instance's log, the oldest first; as text, whatever is in it."""
    return last(folder, lines)[0]


def last(folder: Path, lines: int) -> tuple[list[str], Position]:
    """The last lines, and where they end."""
    data = b""
    position = (0, 0)
    for name in (f"{LOG}.1", LOG):
        with contextlib.suppress(OSError), open(folder / name, "rb") as file:
            found = os.fstat(file.fileno())
            start = max(found.st_size - _LONGEST_TAIL, 0)
            file.seek(start)
            part = file.read(_LONGEST_TAIL)
            data += part
            position = found.st_ino, start + len(part)
    text = data.decode(errors="replace").splitlines()
    return text[-lines:] if lines > 0 else [], position


def since(folder: Path, position: Position) -> tuple[str, Position]:
    """What was printed since, and where that ends; raises `OSError` when there is no log."""
    data = b""
    inode, offset = position
    with open(folder / LOG, "rb") as file:
        now = os.fstat(file.fileno()).st_ino
        if now != inode:  # it has become the older file
            with contextlib.suppress(OSError), open(folder / f"{LOG}.1", "rb") as older:
                if os.fstat(older.fileno()).st_ino == inode:
                    older.seek(offset)
                    data = older.read(_LONGEST_TAIL)
            offset = 0
        file.seek(offset)
        more = file.read(_LONGEST_TAIL)
    return (data + more).decode(errors="replace"), (now, offset + len(more))
