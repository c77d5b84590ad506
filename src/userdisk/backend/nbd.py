"""An export of any NBD server as a disk (`nbd:URI`).

Theory of operation. One connection, on which all workers have requests under way. When it is lost,
what was under way fails, and the next operation connects again. Writes that were answered but not
flushed may be gone with the old server: then one flush fails and says so, like the one after a
failed fdatasync.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator

from userdisk import identity
from userdisk.errors import (
    HardwareError,
    NotReady,
    StorageError,
    UsageError,
    UserdiskError,
    WriteError,
)
from userdisk.nbd.client_request import Result
from userdisk.nbd.uri import Uri, parse_uri
from userdisk.nbd.wire import Allocation, Command, CommandFlag, TransmissionFlag
from userdisk.nbd_client import Client, Request
from userdisk.unit import Buffer, Extent, Extents, StorageUnit

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 120.0  # a server that is silent for longer is given up
_TRANSFER = 1 << 20
_STEP = 1 << 30  # bytes that are trimmed or asked about at once; requests have 32 bits for it
_BLOCK_LENGTHS = (512, 1024, 2048, 4096)


class NbdUnit(StorageUnit):
    """A disk that is an export of an NBD server. It is connected at once; `close` ends that.

    Args:
        uri: as text or taken apart.
        block_length: bytes; a multiple of the server's smallest block.
        timeout: seconds to wait for a connection.
        guid, new_guid: the disk's identity; without them the one that belongs to the URI.

    Operations block until the server answers, and may overlap. Raises `UsageError` for sizes
    that do not fit, `UserdiskError` for a server that cannot be used.
    """

    product_id = "NBD export"
    concurrent = True
    workers = 16
    unmap_zeroes = False
    persistent = True

    def __init__(
        self,
        uri: Uri | str,
        *,
        size: int | None = None,
        block_length: int | None = None,
        physical_block_length: int | None = None,
        guid: str | None = None,
        new_guid: bool = False,
        product_id: str | None = None,
        product_revision: str | None = None,
        read_only: bool = False,
        removable: bool | None = None,
        unmap_supported: bool | None = None,
        soft_threshold: int | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.uri = parse_uri(uri) if isinstance(uri, str) else uri
        self._timeout = timeout
        self._connecting = threading.Lock()
        self._written = 0  # writes that are answered and not durable for sure
        self._flushed = 0  # how many of them a flush has made durable
        self._gone = False  # some were lost with a connection, and nobody was told
        self._closed = False
        self._client = client = Client(self.uri, timeout=timeout)
        try:
            self._size = client.size
            length = _block_length(self.uri, client, size, block_length)
            flags = client.flags
            if TransmissionFlag.SEND_TRIM not in flags:
                unmap_supported = False
            physical = min(max(client.preferred, length), 4096)
            super().__init__(
                guid=guid,
                block_count=client.size // length,
                block_length=length,
                physical_block_length=physical_block_length or physical,
                product_id=product_id,
                product_revision=product_revision,
                write_protected=read_only or client.read_only,
                cache_supported=TransmissionFlag.SEND_FLUSH in flags,
                removable=removable,
                unmap_supported=unmap_supported,
                soft_threshold=soft_threshold,
                max_transfer_length=max(min(_TRANSFER, client.maximum) // length, 1) * length,
            )
            if guid is None:
                identity.identify(self, identity.named(str(self.uri)), new_guid=new_guid)
        except BaseException:
            client.close()
            raise

    def open(self) -> None:
        """It is connected already; after `close`, connect again at the next operation."""
        self._closed = False

    def close(self) -> None:
        """End the connection. Blocks until what is under way has ended."""
        with self._connecting:
            self._closed = True
            self._client.close()

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

    def flush(self) -> None:
        """Raises `WriteError` once when a lost connection may have taken writes along."""
        client = self._connected()
        with self._connecting:
            gone, self._gone = self._gone, False
            count = self._written
        if gone:
            raise WriteError(
                f"{self.uri}: the connection was lost with writes that were not flushed:"
                " they may be lost, and this is said once"
            )
        if TransmissionFlag.SEND_FLUSH not in client.flags:
            return
        client.call(Request(Command.FLUSH), timeout=_ANSWER_SECONDS)
        with self._connecting:
            if client is self._client:
                self._flushed = max(self._flushed, count)

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

    def _step(self) -> int:
        """Bytes of one READ or WRITE."""
        most = min(self._client.maximum, _TRANSFER)
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
        if fua and TransmissionFlag.SEND_FUA in client.flags:
            request.flags |= CommandFlag.FUA
        client.call(request, timeout=_ANSWER_SECONDS)
        with self._connecting:
            if TransmissionFlag.SEND_FLUSH in client.flags and not request.flags & CommandFlag.FUA:
                self._written += 1
                if client is not self._client:  # answered before the connection was lost
                    self._gone = True
        return client

    def _connected(self) -> Client:
        """The connection, or a new one when it was lost."""
        client = self._client
        if not client.lost:
            return client
        with self._connecting:
            if self._closed:
                raise NotReady(f"{self.uri}: is closed")
            if not self._client.lost:
                return self._client
            self._client.close()
            try:
                client = Client(self.uri, timeout=self._timeout)
            except UserdiskError as error:
                raise NotReady(str(error)) from None
            if problem := self._changed(client):
                client.close()
                raise problem
            if self._written > self._flushed:
                self._gone = True
            self._flushed = self._written
            self._client = client
            return client

    def _changed(self, client: Client) -> StorageError | None:
        if client.size != self._size:
            return HardwareError(
                f"{self.uri}: the export had {self._size} bytes and has {client.size} now:"
                " serve it anew"
            )
        if self.block_length % client.minimum:
            return HardwareError(
                f"{self.uri}: the server's smallest block is {client.minimum} bytes now"
            )
        return None


def _block_length(uri: Uri, client: Client, size: int | None, given: int | None) -> int:
    """The block length in bytes, once all sizes are known to fit."""
    if client.minimum > _BLOCK_LENGTHS[-1]:
        raise UsageError(
            f"{uri}: the server's smallest block is {client.minimum} bytes;"
            f" a disk's block has {_BLOCK_LENGTHS[-1]} at most"
        )
    length = given or max(client.minimum, _BLOCK_LENGTHS[0])
    if length % client.minimum:
        raise UsageError(
            f"{uri}: block_length {length} is not a multiple of"
            f" the server's smallest block, {client.minimum}"
        )
    if size is not None and size != client.size:
        raise UsageError(f"{uri}: the export has {client.size} bytes, not {size} as asked for")
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
        if TransmissionFlag.SEND_FUA in client.flags:
            continue
        if TransmissionFlag.SEND_FLUSH in client.flags:
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
