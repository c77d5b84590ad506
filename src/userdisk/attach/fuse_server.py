"""The thread between /dev/fuse and a block device."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable

from userdisk.attach import fuse
from userdisk.attach.device import BlockDevice
from userdisk.operation import Operation

log = logging.getLogger("userdisk")

#: Long writes that may be with the unit at a time, each with a buffer of its own; and how many
#: buffers are kept for later.
_MAX_LENT = 32
_MAX_SPARE = 4

# The request was taken back before it was read, or while it was answered.
_GONE = frozenset({errno.ENOENT, errno.EINTR, errno.EAGAIN})


class FuseServer:
    """Serves one FUSE mount with one thread; the unit's threads send their own replies.

    Args:
        descriptor: an open /dev/fuse, mounted or about to be; the caller closes it at the end.
        device: the disk.
        released: called on the thread when the last open file has been closed.
        ended: called on the thread when the mount has gone.
    """

    def __init__(
        self,
        descriptor: int,
        device: BlockDevice,
        *,
        released: Callable[[], None] = lambda: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._descriptor = descriptor
        self._device = device
        self._ended = ended
        self._disk = fuse.FuseDisk(
            device, now=int(time.time()), released=released, interrupt=self._interrupt
        )
        self.max_transfer = self._disk.max_transfer  #: bytes, for the mount option max_read
        self._spare: list[bytearray] = []
        self._lent = 0
        self._returned = threading.Condition()
        self._waiting: dict[int, Operation] = {}  # request -> its operation, for INTERRUPT
        self._thread = threading.Thread(target=self._serve, name="fuse", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def resize(self, size: int) -> None:
        """See `FuseDisk.resize`; from any thread."""
        self._disk.resize(size)

    def join(self, timeout: float) -> bool:
        """Wait until the mount has gone, at most `timeout` seconds; whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        buffer = bytearray(fuse.BUFFER_LENGTH)
        try:
            while True:
                try:
                    length = os.readv(self._descriptor, [buffer])
                except OSError as error:
                    if error.errno in _GONE:
                        continue
                    if error.errno == errno.ENODEV:  # unmounted
                        return
                    raise
                if length == 0:
                    return
                if self._keeps(memoryview(buffer)[:length], buffer):
                    buffer = self._another_buffer()
        except Exception:  # a bug; the mount ends
            log.exception("serving /dev/fuse failed")
        finally:
            self._ended()

    def _keeps(self, message: memoryview, buffer: bytearray) -> bool:
        """Handle a message; whether the unit has the buffer now."""
        try:
            answer = self._disk.receive(message)
        except fuse.Malformed as error:
            log.error("/dev/fuse: %s", error)
            if len(message) < fuse.HEADER_LENGTH:
                return False
            answer = fuse.failure(fuse.unique_of(message), errno.EIO)
        if answer is None:
            return False
        if isinstance(answer, list):
            self._send(answer)
            return False
        lent = buffer if len(message) > fuse.COPIED else None
        return not self._advance(fuse.unique_of(message), answer, lent) and lent is not None

    def _interrupt(self, unique: int) -> None:
        operation = self._waiting.get(unique)
        if operation is not None:
            self._device.cancel(operation)

    def _advance(self, unique: int, steps: fuse.Steps, buffer: bytearray | None) -> bool:
        """Run the steps as far as they go on this thread; True if to the reply.

        The buffer that the steps refer to is returned by whoever goes on with them.
        """

        def done(operation: Operation) -> None:
            self._waiting.pop(unique, None)
            if self._advance(unique, steps, buffer) and buffer is not None:
                self._return_buffer(buffer)

        while True:
            try:
                operation = next(steps)
            except StopIteration as end:
                self._send(end.value)
                return True
            except Exception:  # a request without a reply would hang its process for ever
                log.exception("request %d failed", unique)
                self._send(fuse.failure(unique, errno.EIO))
                return True
            self._waiting[unique] = operation
            if not self._device.submit(operation, done):
                return False
            del self._waiting[unique]

    def _send(self, reply: fuse.Reply) -> None:
        try:
            os.writev(self._descriptor, reply)
        except OSError as error:
            if error.errno not in _GONE and error.errno != errno.ENODEV:
                log.error("replying to /dev/fuse failed: %s", error.strerror)

    def _another_buffer(self) -> bytearray:
        """In place of one that was lent to the unit; waits while too many are."""
        with self._returned:
            self._lent += 1
            self._returned.wait_for(lambda: self._lent < _MAX_LENT)
            return self._spare.pop() if self._spare else bytearray(fuse.BUFFER_LENGTH)

    def _return_buffer(self, buffer: bytearray) -> None:
        with self._returned:
            self._lent -= 1
            if len(self._spare) < _MAX_SPARE:
                self._spare.append(buffer)
            self._returned.notify()
