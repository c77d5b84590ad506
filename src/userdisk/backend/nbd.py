"""An export of any NBD server as a disk (`nbd:URI`); see `userdisk.backend.remote`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from userdisk.backend.remote import TRANSFER, Found, RemoteUnit
from userdisk.errors import HardwareError, UsageError
from userdisk.nbd.client_request import Result
from userdisk.nbd.uri import Uri, parse_uri
from userdisk.nbd.wire import Allocation, Command, CommandFlag, TransmissionFlag
from userdisk.nbd_client import Client, Request
from userdisk.unit import Buffer, Extent, Extents

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 120.0  # a server that is silent for longer is given up
_STEP = 1 << 30  # bytes that are trimmed or asked about at once; requests have 32 bits for it


class NbdUnit(RemoteUnit[Uri, Client]):
    """A disk that is an export of an NBD server, at a URI; see `RemoteUnit`.

    `block_length` is a multiple of the server's smallest block.
    """

    product_id = "NBD export"
    unmap_zeroes = False

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        offset, length = lba * self.block_length, blocks * self.block_length
        step = self._step()
        if length <= step:
            return _data(self._call(Request(Command.READ, offset, length)))
        parts = range(0, length, step)
        return b"".join(
            _data(self._call(Request(Command.READ, offset + at, min(step, length - at))))
            for at in parts
        )

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        offset, step = lba * self.block_length, self._step()
        used = set()
        for at in range(0, data.nbytes, step):
            piece = data[at : at + step]
            used.add(self._store(Request(Command.WRITE, offset + at, data=piece), fua=fua))
        if fua:
            _settle(used)

    def unmap(self, extents: Extents) -> None:
        for lba, blocks in extents:
            for offset, length in self._steps(lba, blocks):
                self._store(Request(Command.TRIM, offset, length), fua=False)

    def zero(self, lba: int, blocks: int, fua: bool) -> None:
        if TransmissionFlag.SEND_WRITE_ZEROES not in self._connected().flags:
            self.write(lba, memoryview(bytes(blocks * self.block_length)), fua)
            return
        used = set()
        for offset, length in self._steps(lba, blocks):
            used.add(self._store(Request(Command.WRITE_ZEROES, offset, length), fua=fua))
        if fua:
            _settle(used)

    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        """Holes of the server are unmapped blocks; without base:allocation all are mapped."""
        client = self._connected()
        if client.found.context is None:
            return [Extent(lba, blocks)]
        offset, length = next(self._steps(lba, blocks))
        found = self._call(Request(Command.BLOCK_STATUS, offset, length))
        assert isinstance(found, list)
        return _extents(found, lba, length // self.block_length, self.block_length)

    # -- the connection --------------------------------------------------------------------------

    def _locate(self, address: Uri | str) -> str:
        self.uri = parse_uri(address) if isinstance(address, str) else address
        return str(self.uri)

    def _connect(self) -> Client:
        return Client(self.uri, timeout=self._timeout)

    def _examine(self, client: Client, block_length: int | None) -> Found:
        self._size = client.size
        length = _block_length(self.uri, client, block_length)
        return Found(
            client.size,
            length,
            min(max(client.preferred, length), 4096),
            client.maximum,
            client.read_only,
            cached=TransmissionFlag.SEND_FLUSH in client.flags,
            unmaps=TransmissionFlag.SEND_TRIM in client.flags,
        )

    def _check_same(self, client: Client) -> None:
        if client.size != self._size:
            raise HardwareError(
                f"{self.uri}: the export had {self._size} bytes and has {client.size} now:"
                " serve it anew"
            )
        if self.block_length % client.minimum:
            raise HardwareError(
                f"{self.uri}: the server's smallest block is {client.minimum} bytes now"
            )

    def _make_durable(self, client: Client) -> None:
        if TransmissionFlag.SEND_FLUSH in client.flags:
            client.call(Request(Command.FLUSH), timeout=_ANSWER_SECONDS)

    # -- requests --------------------------------------------------------------------------------

    def _step(self) -> int:
        """Bytes of one READ or WRITE."""
        most = min(self._client.maximum, TRANSFER)
        return most - most % self._client.minimum

    def _steps(self, lba: int, blocks: int) -> Iterator[tuple[int, int]]:
        offset, end = lba * self.block_length, (lba + blocks) * self.block_length
        while offset < end:
            length = min(_STEP, end - offset)
            yield offset, length
            offset += length

    def _call(self, request: Request) -> Result:
        return self._connected().call(request, timeout=_ANSWER_SECONDS)

    def _store(self, request: Request, *, fua: bool) -> Client:
        """Send something that changes the disk, and remember that it is not flushed.

        Returns the connection that answered.
        """
        client = self._connected()
        epoch = self._epoch
        if fua and TransmissionFlag.SEND_FUA in client.flags:
            request.flags |= CommandFlag.FUA
        client.call(request, timeout=_ANSWER_SECONDS)
        if TransmissionFlag.SEND_FLUSH in client.flags and not request.flags & CommandFlag.FUA:
            self._answered(epoch)
        return client


def _block_length(uri: Uri, client: Client, given: int | None) -> int:
    """The block length in bytes that fits the server's blocks, and the export's size."""
    length = given or max(client.minimum, 512)
    if length % client.minimum:
        raise UsageError(
            f"{uri}: block_length {length} is not a multiple of"
            f" the server's smallest block, {client.minimum}"
        )
    if rest := client.size % length:
        _log.warning(
            "%s: the size is no multiple of the block length, %d: the last %d bytes are left out",
            uri,
            length,
            rest,
        )
    if client.size < length:
        raise UsageError(f"{uri}: the export has {client.size} bytes, less than a block")
    return length


def _settle(used: set[Client]) -> None:
    """Make durable what these connections have written, where the server knows no FUA.

    Only they can: the flush of a later connection does not cover what was lost with an earlier one.
    """
    for client in used:
        flags = client.flags
        if TransmissionFlag.SEND_FLUSH in flags and TransmissionFlag.SEND_FUA not in flags:
            client.call(Request(Command.FLUSH), timeout=_ANSWER_SECONDS)


def _data(result: Result) -> bytes | bytearray:
    assert isinstance(result, (bytes, bytearray))
    return result


def _extents(
    found: list[tuple[int, int]], lba: int, blocks: int, block_length: int
) -> Iterator[Extent]:
    """Bytes become blocks: a block is a hole if all of it is one, and zero likewise."""
    position, start = 0, 0  # bytes and blocks that are done
    hole = zero = True  # of the block that is not whole yet
    for length, flags in found:
        here_hole, here_zero = bool(flags & Allocation.HOLE), bool(flags & Allocation.ZERO)
        if position % block_length:
            hole, zero = hole and here_hole, zero and here_zero
            head = min(length, block_length - position % block_length)
            position += head
            length -= head
            if position % block_length:
                continue
            yield Extent(lba + start, 1, not hole, zero)
            start += 1
        whole = min(length // block_length, blocks - start)
        if whole:
            yield Extent(lba + start, whole, not here_hole, here_zero)
            start += whole
            position += whole * block_length
            length -= whole * block_length
        if start >= blocks:
            return
        if length:
            hole, zero = here_hole, here_zero
            position += length
    if position % block_length:  # nothing was said of the rest of it: it holds data
        yield Extent(lba + start, 1, True, False)
