"""The client's side of the pipe protocol, with no I/O.

Theory of operation. `encode` registers a request under a hint and gives what to send. The owner
receives into `buffer()` and says how much with `received`; `finished` collects the requests that
have ended, in the order of their responses. Whatever the device gets wrong ends the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from userdisk.errors import StorageError, from_sense
from userdisk.spd import wire
from userdisk.spd.wire import Kind, Parameters, ProtocolError, Response
from userdisk.unit import Buffer

_ROOM = 64 << 10  # bytes that the receive buffer has beyond the longest message
_CHANGES = frozenset({Kind.WRITE, Kind.FLUSH, Kind.UNMAP})


class Request:
    """One request; `error` or `result` (what a READ found) is set when it has ended.

    `status` is what the device said, if it has answered.

    Args:
        extents: of an UNMAP, as (lba, blocks).
    """

    __slots__ = (
        "blocks", "data", "done", "error", "extents", "fua", "kind", "lba", "result", "status"
    )  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        lba: int = 0,
        blocks: int = 0,
        *,
        data: Buffer = b"",
        extents: Sequence[tuple[int, int]] = (),
        fua: bool = False,
    ) -> None:
        self.kind = kind
        self.lba = lba
        self.blocks = blocks
        self.data = data
        self.extents = extents
        self.fua = fua
        self.result: bytes = b""
        self.status = wire.GOOD
        self.error: StorageError | None = None
        self.done: Callable[[Request], None] | None = None


class Exchange:
    """Requests under way on one connection to a device.

    `encode` may be called on any thread, one at a time; the rest on the thread that receives.
    `received` raises `ProtocolError` when the device breaks the protocol: then call `lost`.
    """

    def __init__(self) -> None:
        self.parameters: Parameters | None = None  #: when they have come
        self.outstanding: dict[int, Request] = {}
        self.finished: list[Request] = []
        self._hints = count(1)
        self._longest = wire.PARAMETERS_SIZE
        self._resize()
        self._start = self._end = 0

    def _resize(self) -> None:
        size = wire.LENGTH.size + self._longest + _ROOM
        self._buffer = memoryview(bytearray(size))

    # -- sending -------------------------------------------------------------------------------

    def encode(self, request: Request) -> list[Buffer]:
        """What to send for a request that is within the device's limits."""
        hint = next(self._hints)
        self.outstanding[hint] = request
        payload: Buffer = request.data
        if request.kind is Kind.UNMAP:
            descriptor = wire.DESCRIPTOR.pack
            payload = b"".join(descriptor(lba, blocks, 0) for lba, blocks in request.extents)
            head = wire.UNMAP_REQUEST.pack(hint, request.kind, len(request.extents))
        else:
            fua = wire.FUA if request.fua else 0
            head = wire.REQUEST.pack(hint, request.kind, request.lba, request.blocks, fua)
        size = wire.LENGTH.pack(len(head) + len(payload))
        return [size + head, payload] if payload else [size + head]

    def lost(self, error: StorageError) -> None:
        """The connection is gone: whatever is under way ends with this error."""
        while self.outstanding:
            _, request = self.outstanding.popitem()
            request.error = error
            self.finished.append(request)

    # -- receiving -----------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Where the next bytes from the device go; never empty."""
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._start < wire.LENGTH.size + self._longest:
            rest = self._end - self._start
            self._buffer[:rest] = bytes(self._buffer[self._start : self._end])
            self._start, self._end = 0, rest
        return self._buffer[self._end :]

    def received(self, size: int) -> None:
        """`size` bytes are in `buffer()`."""
        self._end += size
        while (message := self._message()) is not None:
            if self.parameters is None:
                self._begin(message)
            else:
                self._response(message)

    def _message(self) -> memoryview | None:
        """The next message, if all of it is here."""
        at, here = self._start, self._end - self._start
        if here < wire.LENGTH.size:
            return None
        (length,) = wire.LENGTH.unpack_from(self._buffer, at)
        if length > self._longest:
            raise ProtocolError(f"the device sends a message of {length} bytes")
        if here < wire.LENGTH.size + length:
            return None
        self._start = at + wire.LENGTH.size + length
        return self._buffer[at + wire.LENGTH.size : self._start]

    def _begin(self, message: memoryview) -> None:
        self.parameters = wire.decode_parameters(message)
        if self._start != self._end:
            raise ProtocolError("the device answers before it is asked")
        self._longest = wire.HEADER + self.parameters.max_transfer_length
        self._resize()
        self._start = self._end = 0

    def _response(self, message: memoryview) -> None:
        if len(message) < wire.HEADER:
            raise ProtocolError(f"the device sends a response of {len(message)} bytes")
        response = wire.decode_response(message)
        request = self.outstanding.pop(response.hint, None)
        if request is None:
            raise ProtocolError(f"the device answers to the hint {response.hint:#x}, not in use")
        if response.kind != request.kind:
            self.outstanding[response.hint] = request
            raise ProtocolError(f"the device answers a {request.kind.name} as another request")
        request.status = response.status
        if response.status.scsi:
            request.error = _failure(response, request)
        elif request.kind is Kind.READ:
            assert self.parameters is not None
            size = request.blocks * self.parameters.block_length
            if len(message) != wire.HEADER + size:
                self.outstanding[response.hint] = request
                raise ProtocolError(
                    f"the device answers a READ of {size} bytes with {len(message) - wire.HEADER}"
                )
            request.result = bytes(message[wire.HEADER :])
        self.finished.append(request)


def _failure(response: Response, request: Request) -> StorageError:
    scsi, key, asc, ascq, information = response.status
    message = f"the device says {key:x}/{asc:02x}/{ascq:02x}, SCSI status {scsi:02x}"
    lba = information
    if lba is not None and not request.lba <= lba < request.lba + request.blocks:
        lba = None
    return from_sense((key, asc, ascq), message, writing=request.kind in _CHANGES, lba=lba)
