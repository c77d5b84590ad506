"""A storage device that speaks WinSpd's pipe protocol as a disk (`spd:PATH`).

Theory of operation. One connection, on which all workers have requests under way. When it is lost,
what was under way fails, and the next operation connects again. Writes that were answered but not
flushed may be gone with the old device: then one flush fails and says so, like the one after a
failed fdatasync. A device without a cache makes every write durable before it answers, as long as
each says FUA: so each does.
"""

from __future__ import annotations

import threading

from userdisk import identity
from userdisk.errors import (
    HardwareError,
    NotReady,
    StorageError,
    UsageError,
    UserdiskError,
    WriteError,
)
from userdisk.spd import wire
from userdisk.spd.client import Request
from userdisk.spd.wire import Flag, Kind, Parameters
from userdisk.spd_client import Client
from userdisk.unit import Buffer, Extents, StorageUnit

_ANSWER_SECONDS = 120.0  # a device that is silent for longer is given up
_TRANSFER = 1 << 20
_BLOCK_LENGTHS = (512, 1024, 2048, 4096)


class SpdUnit(StorageUnit):
    """A disk that is a storage device behind a pipe. It is connected at once; `close` ends that.

    Args:
        path: of the device's Unix socket.
        timeout: seconds to wait for a connection.
        guid: the disk's identity; without it the device's own.

    Operations block until the device answers, and may overlap. Raises `UsageError` for sizes that
    do not fit, `UserdiskError` for a device that cannot be used.
    """

    concurrent = True
    workers = 16
    unmap_zeroes = False  # devices are not asked to
    persistent = True

    def __init__(
        self,
        path: str,
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
        self.path = path
        self._timeout = timeout
        self._connecting = threading.Lock()
        self._written = 0  # changes that are answered and not durable for sure
        self._flushed = 0  # how many of them a flush has made durable
        self._gone = False  # some were lost with a connection, and nobody was told
        self._closed = False
        self._client = client = Client(path, timeout=timeout)
        try:
            self._device = device = client.parameters
            _check(path, device, size, block_length)
            self._cached = Flag.CACHE_SUPPORTED in device.flags
            if Flag.UNMAP_SUPPORTED not in device.flags:
                unmap_supported = False
            most = min(_TRANSFER, device.max_transfer_length)
            super().__init__(
                guid=guid or (str(device.guid) if device.guid.int and not new_guid else None),
                block_count=device.block_count,
                block_length=device.block_length,
                physical_block_length=physical_block_length,
                product_id=product_id or device.product_id or "pipe device",
                product_revision=product_revision or device.product_revision or None,
                write_protected=read_only or Flag.WRITE_PROTECTED in device.flags,
                cache_supported=self._cached,
                removable=removable,
                unmap_supported=unmap_supported,
                soft_threshold=soft_threshold,
                max_transfer_length=most - most % device.block_length,
            )
            if guid is None and (new_guid or not device.guid.int):
                identity.identify(self, identity.named(f"spd:{path}"), new_guid=new_guid)
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
        request = Request(Kind.READ, lba, blocks, fua=fua or not self._cached)
        return self._connected().call(request, timeout=_ANSWER_SECONDS)

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        blocks = data.nbytes // self.block_length
        self._store(Request(Kind.WRITE, lba, blocks, data=data, fua=fua or not self._cached))

    def flush(self) -> None:
        """Raises `WriteError` once when a lost connection may have taken writes along."""
        client = self._connected()
        with self._connecting:
            gone, self._gone = self._gone, False
            count = self._written
        if gone:
            raise WriteError(
                f"{self.path}: the connection was lost with writes that were not flushed:"
                " they may be lost, and this is said once"
            )
        if not self._cached:
            return
        client.call(Request(Kind.FLUSH), timeout=_ANSWER_SECONDS)
        with self._connecting:
            if client is self._client:
                self._flushed = max(self._flushed, count)

    def unmap(self, extents: Extents) -> None:
        most = self._device.max_transfer_length // wire.DESCRIPTOR.size
        pieces = [
            (lba + at, min(blocks - at, wire.MOST_BLOCKS))
            for lba, blocks in extents
            for at in range(0, blocks, wire.MOST_BLOCKS)
        ]
        for at in range(0, len(pieces), most):
            self._store(Request(Kind.UNMAP, extents=pieces[at : at + most]))

    # -- the connection ------------------------------------------------------------------------

    def _store(self, request: Request) -> None:
        """Send something that changes the disk, and remember that it is not flushed."""
        client = self._connected()
        client.call(request, timeout=_ANSWER_SECONDS)
        with self._connecting:
            if self._cached and not request.fua:
                self._written += 1
                if client is not self._client:  # answered before the connection was lost
                    self._gone = True

    def _connected(self) -> Client:
        """The connection, or a new one when it was lost."""
        client = self._client
        if not client.lost:
            return client
        with self._connecting:
            if self._closed:
                raise NotReady(f"{self.path}: is closed")
            if not self._client.lost:
                return self._client
            self._client.close()
            try:
                client = Client(self.path, timeout=self._timeout)
            except UserdiskError as error:
                raise NotReady(str(error)) from None
            if problem := self._changed(client.parameters):
                client.close()
                raise problem
            if self._written > self._flushed:
                self._gone = True
            self._flushed = self._written
            self._client = client
            return client

    def _changed(self, device: Parameters) -> StorageError | None:
        if device != self._device:
            return HardwareError(f"{self.path}: another device is there now: serve it anew")
        return None


def _check(path: str, device: Parameters, size: int | None, block_length: int | None) -> None:
    """Raise `UsageError` unless the device can be a disk of what was asked for."""
    if device.block_length not in _BLOCK_LENGTHS:
        raise UsageError(
            f"spd:{path}: the device's blocks have {device.block_length} bytes;"
            " a disk's have 512, 1024, 2048 or 4096"
        )
    if block_length not in (None, device.block_length):
        raise UsageError(
            f"spd:{path}: the device's blocks have {device.block_length} bytes, not {block_length}"
        )
    if size not in (None, device.block_count * device.block_length):
        have = device.block_count * device.block_length
        raise UsageError(f"spd:{path}: the device has {have} bytes, not {size} as asked for")
