"""A storage device that speaks WinSpd's pipe protocol as a disk (`spd:PATH`).

See `userdisk.backend.remote`. A device without a cache makes every write durable before it answers,
as long as each says FUA: so each does.
"""

from __future__ import annotations

from userdisk.backend.remote import Found, RemoteUnit
from userdisk.errors import HardwareError
from userdisk.spd import wire
from userdisk.spd.client import Request
from userdisk.spd.wire import Flag, Kind
from userdisk.spd_client import Client
from userdisk.unit import Buffer, Extents

_ANSWER_SECONDS = 120.0  # a device that is silent for longer is given up


class SpdUnit(RemoteUnit[str, Client]):
    """A disk that is a storage device behind a pipe, at the path of its Unix socket.

    See `RemoteUnit`.
    """

    product_id = "pipe device"
    unmap_zeroes = False  # devices are not asked to

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        request = Request(Kind.READ, lba, blocks, fua=fua or not self._cached)
        return self._connected().call(request, timeout=_ANSWER_SECONDS)

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        blocks = data.nbytes // self.block_length
        self._store(Request(Kind.WRITE, lba, blocks, data=data, fua=fua or not self._cached))

    def unmap(self, extents: Extents) -> None:
        most = self._device.max_transfer_length // wire.DESCRIPTOR.size
        pieces = [
            (lba + at, min(blocks - at, wire.MOST_BLOCKS))
            for lba, blocks in extents
            for at in range(0, blocks, wire.MOST_BLOCKS)
        ]
        for at in range(0, len(pieces), most):
            self._store(Request(Kind.UNMAP, extents=pieces[at : at + most]))

    # -- the connection --------------------------------------------------------------------------

    def _locate(self, address: str) -> str:
        self.path = address
        return f"spd:{address}"

    def _connect(self) -> Client:
        return Client(self.path, timeout=self._timeout)

    def _examine(self, client: Client, block_length: int | None) -> Found:
        self._device = device = client.parameters
        self._cached = Flag.CACHE_SUPPORTED in device.flags
        return Found(
            device.block_count * device.block_length,
            device.block_length,
            device.block_length,
            device.max_transfer_length,
            Flag.WRITE_PROTECTED in device.flags,
            self._cached,
            unmaps=Flag.UNMAP_SUPPORTED in device.flags,
            guid=str(device.guid) if device.guid.int else None,
            product_id=device.product_id or None,
            product_revision=device.product_revision or None,
        )

    def _check_same(self, client: Client) -> None:
        if client.parameters != self._device:
            raise HardwareError(f"{self._where}: another device is there now: serve it anew")

    def _make_durable(self, client: Client) -> None:
        if self._cached:
            client.call(Request(Kind.FLUSH), timeout=_ANSWER_SECONDS)

    def _store(self, request: Request) -> None:
        """Send something that changes the disk, and remember that it is not flushed."""
        client = self._connected()
        epoch = self._epoch
        client.call(request, timeout=_ANSWER_SECONDS)
        if self._cached and not request.fua:
            self._answered(epoch)
