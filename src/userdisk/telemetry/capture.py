"""Captures: what connections receive and send, as packets for a sink.

`Capture` observes a server. A sink takes bytes of a pcap file and says whether it has taken them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from userdisk.errors import UsageError
from userdisk.telemetry.boundary import begun
from userdisk.telemetry.pcap import FILE_HEADER, PORTS, Conversation
from userdisk.unit import Buffer

log = logging.getLogger("userdisk")

#: Takes bytes; False: they are lost. Called on owners' threads.
Sink = Callable[[bytes], bool]


class Capture:
    """An observer that gives packets to a sink.

    Args:
        wanted: whether a connection is wanted; called when it is first seen, and if it is new
            again after its login.
    """

    def __init__(self, sink: Sink, wanted: Callable[[Any], bool] = lambda connection: True) -> None:
        self._sink = sink
        self._wanted = wanted
        self._numbers = count()

    def joined(
        self, connection: Any, local: tuple[str, int], remote: tuple[str, int]
    ) -> _Tap | None:
        """See `tapped_stream.Observer`."""
        protocol = connection.counters.protocol
        if protocol not in PORTS or not (connection.opening or self._wanted(connection)):
            return None
        conversation = Conversation(protocol, local, remote, next(self._numbers))
        return _Tap(self._sink, self._wanted, connection, conversation)


class _Tap:
    """See `tapped_stream.Tap`. A connection that has not logged in is seen until it has."""

    def __init__(
        self,
        sink: Sink,
        wanted: Callable[[Any], bool],
        connection: Any,
        conversation: Conversation,
    ) -> None:
        self._sink = sink
        self._wanted = wanted
        self._connection = connection
        self._conversation = conversation
        self._undecided = connection.opening
        self._off = False  # it is not wanted
        self._begun = connection.opening  # where messages begin is known
        self._left = 0  # bytes of a message whose beginning was not seen
        if connection.opening:
            sink(conversation.opened(time.time()))

    def received(self, data: memoryview) -> None:
        """See `tapped_stream.Tap`."""
        if not self._begun:
            found = begun(self._connection)
            if found is None:
                return
            self._begun = True
            self._left = found.rest
            data = memoryview(found.here + bytes(data))
        if self._left:
            skipped = min(self._left, len(data))
            self._left -= skipped
            data = data[skipped:]
        if data and self._is_wanted():
            self._sink(self._conversation.received(time.time(), bytes(data)))

    def sent(self, buffers: Sequence[Buffer]) -> None:
        """See `tapped_stream.Tap`."""
        if self._begun and self._is_wanted():
            self._sink(self._conversation.sent(time.time(), b"".join(buffers)))

    def closed(self) -> None:
        """See `tapped_stream.Tap`."""
        if self._is_wanted():
            self._sink(self._conversation.closed(time.time()))

    def _is_wanted(self) -> bool:
        if self._undecided and not self._connection.opening:
            self._undecided = False
            self._off = not self._wanted(self._connection)
        return not self._off


def _check(path: str) -> None:
    """Whether the file may be overwritten; a pipe has no content that could be lost."""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            first = file.read(4)
        if first not in (b"", FILE_HEADER[:4]):
            raise UsageError(f"{path}: is there, and is no capture; give the name of a new file")
    elif os.path.exists(path) and not stat.S_ISFIFO(os.stat(path).st_mode):
        raise UsageError(f"{path}: is no file")


class CaptureFile:
    """A pcap file of bounded size, which only its user can read: it has the data of the disk.

    Args:
        limit: bytes; what comes after them is left out.
        header: begin with that of a pcap file; else the first packets do.

    Raises `OSError` when it cannot be made, and `UsageError` for a file that is something else: it
    would be lost.
    """

    def __init__(self, path: str, limit: int, *, header: bool = True) -> None:
        _check(path)
        self._path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._file: int | None = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        self._written = 0
        if header:
            self.write(FILE_HEADER)

    def write(self, packets: bytes) -> bool:
        """Append packets; False: it is full, or its disk is. Any thread may call it."""
        with self._lock:
            if self._file is None:
                return False
            if self._written + len(packets) > self._limit:
                self._end(f"has {self._limit} bytes, its limit")
                return False
            try:
                view = memoryview(packets)
                while view:
                    view = view[os.write(self._file, view) :]
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._written)  # no half packet
                self._end(error.strerror or str(error))
                return False
            self._written += len(packets)
            return True

    def _end(self, why: str) -> None:
        log.warning("capture %s ends: %s", self._path, why)
        self._close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
