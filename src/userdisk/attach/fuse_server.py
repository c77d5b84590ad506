"""The thread between /dev/fuse and a block device."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable

from userdisk.attach import fuse
from userdisk.attach.device import BlockDevice
from userdisk.operation import Operation

log = logging.getLogger("userdisk")

#: Long writes that may be with the unit at a time, each with a buffer of its own.
_MAX_BUFFERS = 32

# The request was taken back before it was read, or while it was answered.
_GONE = frozenset({errno.ENOENT, errno.EINTR, errno.EAGAIN})


class FuseServer:
    """Serves one FUSE mount with one thread; the unit's threads send their own replies.

    Args:
        descriptor: an open /dev/fuse, mounted or about to be; the caller closes it at the end.
        device: the disk.
        disk: the protocol's state.
        ended: called on the thread when the mount has gone.
    """

    def __init__(
        self,
        descriptor: int,
        device: BlockDevice,
        disk: fuse.FuseDisk,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._descriptor = descriptor
        self._device = device
        self._disk = disk
        self._ended = ended
        self._spare = [bytearray(fuse.BUFFER_LENGTH)]
        self._made = 1
        self._returned = threading.Condition()
        self._waiting: dict[int, Operation] = {}  # request -> its operation, for INTERRUPT
        self._thread = threading.Thread(target=self._serve, name="fuse", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait until the mount has gone, at most `timeout` seconds; whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        try:
            while self._serve_one():
                pass
        except Exception:
            log.exception("serving /dev/fuse failed")
        finally:
            self._ended()

    def _serve_one(self) -> bool:
        buffer = self._take_buffer()
        kept = False
        try:
            length = os.readv(self._descriptor, [buffer])
            message = memoryview(buffer)[:length]
            kept = self._handle(message, buffer)
        except OSError as error:
            if error.errno in _GONE:
                return True
            if error.errno == errno.ENODEV:  # unmounted
                return False
            raise
        finally:
            if not kept:
                self._return_buffer(buffer)
        return length > 0

    def _handle(self, message: memoryview, buffer: bytearray) -> bool:
        """Whether the unit still refers to the buffer."""
        target = fuse.interrupted(message)
        if target is not None:
            operation = self._waiting.get(target)
            if operation is not None:
                self._device.cancel(operation)
            return False
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
        keeps = len(message) > fuse.COPIED
        return (
            not self._advance(fuse.unique_of(message), answer, buffer if keeps else None) and keeps
        )

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

    def _take_buffer(self) -> bytearray:
        with self._returned:
            if not self._spare and self._made < _MAX_BUFFERS:
                self._made += 1
                return bytearray(fuse.BUFFER_LENGTH)
            self._returned.wait_for(lambda: self._spare)
            return self._spare.pop()

    def _return_buffer(self, buffer: bytearray) -> None:
        with self._returned:
            self._spare.append(buffer)
            self._returned.notify()
