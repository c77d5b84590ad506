"""What the unit's process tells its shim while it runs: that the disk has another size.

A pipe, since that process may belong to a user who can reach no socket of the shim. A line is
`{"pid": ..., "size": ...}`, in bytes; what it says is believed of its own disk only.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import Final

_PIECE: Final = 64 << 10
_PAUSE: Final = 0.1  # seconds; of many sizes only the last one counts


class News:
    """The shim's end. `descriptor` is for the unit's processes, one after the other.

    Args:
        resized: called with the process and its size, on a thread; it may block.
    """

    def __init__(self, resized: Callable[[int, int], None]) -> None:
        self._resized = resized
        self._read, self.descriptor = os.pipe2(os.O_CLOEXEC)
        threading.Thread(target=self._listen, name="news", daemon=True).start()

    def _listen(self) -> None:
        rest = b""
        while piece := os.read(self._read, _PIECE):
            lines, newline, rest = (rest + piece).rpartition(b"\n")
            rest = rest[:_PIECE]  # nobody sends such a line
            if newline and (said := _decoded(lines.rpartition(b"\n")[2])) is not None:
                self._resized(*said)
                time.sleep(_PAUSE)


def _decoded(line: bytes) -> tuple[int, int] | None:
    """None for what is not meant."""
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        said = json.loads(line)
        pid, size = said["pid"], said["size"]
        if isinstance(pid, int) and isinstance(size, int) and 0 < size < 1 << 63:
            return pid, size
    return None


def tell(descriptor: int, size: Callable[[], int]) -> Callable[[], None]:
    """The end of the unit's process; returns what is to be called when the size has changed.

    That does not block: a thread asks for the `size` and writes it.
    """
    os.set_inheritable(descriptor, False)
    changed = threading.Event()

    def write() -> None:
        while changed.wait():
            changed.clear()
            with contextlib.suppress(OSError):  # the shim was killed
                line = json.dumps({"pid": os.getpid(), "size": size()})
                os.write(descriptor, line.encode() + b"\n")

    threading.Thread(target=write, name="news", daemon=True).start()
    return changed.set
