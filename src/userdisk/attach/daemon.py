"""What a process that stays behind for an attached disk does first: its log, its memory."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import sys
from pathlib import Path

from userdisk.log_format import FILE, TERMINAL, Wanted

_PR_SET_IO_FLUSHER = 57
_MAX_LOG = 1 << 20  # bytes


def become_io_flusher() -> None:
    """Memory for this process must not wait for a write that only this process can do.

    Holds for this thread and those that it starts.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)  # refused without CAP_SYS_RESOURCE


def log_to(path: Path, wanted: Wanted) -> None:
    """Send all output to a log, which stays bounded; several processes may share it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.stderr = _BoundedLog(descriptor)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(wanted.formatter(FILE))
    logging.basicConfig(level=wanted.level, handlers=[handler], force=True)


def log_to_terminal(wanted: Wanted) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(wanted.formatter(TERMINAL))
    logging.basicConfig(level=wanted.level, handlers=[handler], force=True)


class _BoundedLog(io.TextIOBase):
    """Text to a file that starts again when it has grown to `_MAX_LOG`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if os.fstat(self._descriptor).st_size > _MAX_LOG:
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, b"(older lines were dropped)\n")
        os.write(self._descriptor, text.encode(errors="backslashreplace"))
        return len(text)
