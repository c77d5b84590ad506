"""A device that speaks WinSpd's pipe protocol (`spd:PATH`) as a port."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import cycle

from userdisk.errors import UserdiskError
from userdisk.spd.client import Request
from userdisk.spd.wire import Flag, Kind
from userdisk.spd_client import Client
from userdisk.stgtest.port import MOST_BYTES, Geometry, Inbox, Op, passes

_KINDS = {"R": Kind.READ, "W": Kind.WRITE, "F": Kind.FLUSH, "U": Kind.UNMAP}
_LONGEST_BLOCK = 64 << 10  # bytes


class PipePort:
    """Connections to a device; operations take them in turn. The constructor blocks.

    Like WinSpd's stgtest it asks for the transfer that the device allows (of several operations at
    a time 1 MiB for each is enough), sets the flush flag of
    reads and writes of a device without a cache, and wants unmapped blocks to read as zeros.

    Args:
        timeout: seconds for connecting, and to wait for the next operation to end.

    Raises `UserdiskError`.
    """

    kind = Op
    plain = False

    def __init__(
        self, name: str, path: str, timeout: float, connections: int, *, depth: int = 1
    ) -> None:
        self._inbox = Inbox(name, timeout)
        self.collect = self._inbox.collect
        self._clients: list[Client] = []
        try:
            for _ in range(connections):
                client = Client(path, timeout=timeout, send_timeout=max(1.0, timeout))
                self._clients.append(client)
        except BaseException:
            self.close(stuck=True)
            raise
        device = self._clients[0].parameters
        most = device.max_transfer_length
        self._cached = Flag.CACHE_SUPPORTED in device.flags
        self.geometry = Geometry(
            device.block_count,
            device.block_length,
            (most if depth == 1 else min(most, MOST_BYTES)) // device.block_length,
            cached=self._cached,
            fua=True,
            flushes=True,
            unmaps=Flag.UNMAP_SUPPORTED in device.flags,
            zeroes=True,
            read_only=Flag.WRITE_PROTECTED in device.flags,
        )
        if device.block_length % 8 or device.block_length > _LONGEST_BLOCK:
            self.close(stuck=True)
            raise UserdiskError(f"{name}: blocks of {device.block_length} bytes cannot be tested")
        self._next = cycle(self._clients)

    def submit(self, operations: Sequence[Op]) -> None:
        """See `Port.submit`."""
        for op in operations:
            request = Request(
                _KINDS[op.letter],
                op.lba,
                op.blocks,
                data=op.data_out if op.letter == "W" else b"",
                extents=((op.lba, op.blocks),) if op.letter == "U" else (),
                fua=op.letter in "RW" and (op.fua or not self._cached),
            )
            next(self._next).submit(request, partial(self._end, op))

    def _end(self, op: Op, request: Request) -> None:
        if request.error is not None:
            op.error = str(request.error) or type(request.error).__name__
            op.again = passes(request.status.scsi, request.status.key)
        op.data = request.result
        self._inbox.put(op)

    def close(self, *, stuck: bool = False) -> None:
        """See `Port.close`."""
        for client in self._clients:
            if stuck:  # closing would wait for the answers that do not come
                client.abort()
            client.close()
