"""An NBD export as a port, over any number of connections."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import cycle

from userdisk.errors import UserdiskError
from userdisk.nbd.client_request import Request
from userdisk.nbd.uri import parse_uri
from userdisk.nbd.wire import Command, CommandFlag, TransmissionFlag
from userdisk.nbd_client import Client
from userdisk.stgtest.port import MOST_BYTES, Geometry, Inbox, Op

_COMMANDS = {"R": Command.READ, "W": Command.WRITE, "F": Command.FLUSH, "U": Command.TRIM}
_BLOCK = 512  # bytes, of an export with no block size of its own


class NbdPort:
    """Connections to an export; operations take them in turn. The constructor blocks.

    Args:
        timeout: seconds for connecting, and to wait for the next operation to end.

    Raises `UserdiskError`.
    """

    kind = Op
    plain = False

    def __init__(self, name: str, timeout: float, connections: int) -> None:
        uri = parse_uri(name)
        self._inbox = Inbox(name, timeout)
        self.collect = self._inbox.collect
        self._clients: list[Client] = []
        try:
            for _ in range(connections):
                self._clients.append(Client(uri, timeout=timeout, send_timeout=max(1.0, timeout)))
            first = self._clients[0]
            if connections > 1 and not first.flags & TransmissionFlag.CAN_MULTI_CONN:
                raise UserdiskError(
                    f"{name}: the server does not offer several connections to one disk"
                )
            self.geometry = _geometry(name, first)
        except BaseException:
            self.close(stuck=True)
            raise
        self._length = self.geometry.block_length
        self._next = cycle(self._clients)

    def submit(self, operations: Sequence[Op]) -> None:
        """See `Port.submit`."""
        length = self._length
        for op in operations:
            flush, write = op.letter == "F", op.letter == "W"
            request = Request(
                _COMMANDS[op.letter],
                0 if flush else op.lba * length,
                0 if flush or write else op.blocks * length,
                data=op.data_out if write else None,
                flags=CommandFlag.FUA if op.fua and write else 0,
            )
            next(self._next).submit(request, partial(self._end, op))

    def _end(self, op: Op, request: Request) -> None:
        if request.error is not None:
            op.error = str(request.error) or type(request.error).__name__
        elif op.letter == "R":
            assert isinstance(request.result, bytes | bytearray)
            op.data = request.result
        self._inbox.put(op)

    def close(self, *, stuck: bool = False) -> None:
        """See `Port.close`."""
        for client in () if stuck else self._clients:  # closing waits for answers
            client.close()


def _geometry(name: str, client: Client) -> Geometry:
    length = max(client.minimum, _BLOCK)
    if client.size < length:
        raise UserdiskError(f"{name}: the export has {client.size} bytes: no block to test")
    flags = client.flags
    flushes = bool(flags & TransmissionFlag.SEND_FLUSH)
    return Geometry(
        client.size // length,
        length,
        max(1, min(client.maximum, MOST_BYTES) // length),
        cached=flushes,
        fua=bool(flags & TransmissionFlag.SEND_FUA),
        flushes=flushes,
        unmaps=bool(flags & TransmissionFlag.SEND_TRIM),
        zeroes=False,
        read_only=client.read_only,
    )
