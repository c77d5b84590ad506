"""A disk that another program has: what NBD exports, iSCSI units and devices behind pipes share.

Theory of operation. One connection, on which all workers have requests under way. When it is lost,
what was under way fails, and the next operation connects again. Writes that were answered but not
flushed may be gone with the program: then one flush fails and says so, like the one after a failed
fdatasync. So writes that only a flush makes durable are counted; and each time that a cache may
have been lost begins a new epoch, in which what an older one answered is not worth anything.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from userdisk import identity
from userdisk.errors import NotReady, UsageError, UserdiskError, WriteError
from userdisk.unit import StorageUnit

TRANSFER = 1 << 20  #: bytes of one read or write at most
_BLOCK_LENGTHS = (512, 1024, 2048, 4096)


class _Client(Protocol):
    @property
    def lost(self) -> object: ...

    def close(self) -> None: ...


A = TypeVar("A")
C = TypeVar("C", bound=_Client)


@dataclass(frozen=True, slots=True)
class Found:
    """What the other side says of the disk. Lengths are in bytes; None: it does not say."""

    size: int
    block_length: int
    physical_block_length: int
    max_transfer_length: int
    read_only: bool
    cached: bool
    unmaps: bool
    guid: str | None = None
    product_id: str | None = None
    product_revision: str | None = None


class RemoteUnit(StorageUnit, Generic[A, C]):
    """A disk at an address. It is connected at once; `close` ends that.

    Args:
        address: as text or taken apart.
        timeout: seconds to wait for a connection.
        guid, new_guid: the disk's identity; without them its own, or one that belongs to the
            address.

    Operations block until the other side answers, and may overlap. Raises `UsageError` for sizes
    that do not fit, `UserdiskError` for what cannot be used.
    """

    concurrent = True
    workers = 16
    persistent = True

    def __init__(
        self,
        address: A | str,
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
        self._where = self._locate(address)
        self._timeout = timeout
        self._connecting = threading.RLock()
        self._written = 0  # changes that are answered and not durable for sure
        self._flushed = 0  # how many of them a flush has made durable
        self._gone = False  # some may be lost, and nobody was told
        self._epoch = 0
        self._closed = False
        self._client = client = self._connect()
        try:
            found = self._examine(client, block_length)
            self._check_sizes(found, size, block_length)
            length = found.block_length
            most = min(TRANSFER, found.max_transfer_length)
            own_guid = None if new_guid else found.guid
            super().__init__(
                guid=own_guid if guid is None else guid,
                block_count=found.size // length,
                block_length=length,
                physical_block_length=physical_block_length or found.physical_block_length,
                product_id=found.product_id if product_id is None else product_id,
                product_revision=(
                    found.product_revision if product_revision is None else product_revision
                ),
                write_protected=read_only or found.read_only,
                cache_supported=found.cached,
                removable=removable,
                unmap_supported=unmap_supported if found.unmaps else False,
                soft_threshold=soft_threshold,
                max_transfer_length=max(most // length, 1) * length,
            )
            if guid is None and own_guid is None:
                identity.identify(self, identity.named(self._where), new_guid=new_guid)
        except BaseException:
            client.close()
            raise

    def _check_sizes(self, found: Found, size: int | None, block_length: int | None) -> None:
        where, length = self._where, found.block_length
        if length not in _BLOCK_LENGTHS:
            raise UsageError(
                f"{where}: blocks of {length} bytes; a disk's have 512, 1024, 2048 or 4096"
            )
        if block_length not in (None, length):
            raise UsageError(f"{where}: its blocks have {length} bytes, not {block_length}")
        if size not in (None, found.size):
            raise UsageError(f"{where}: has {found.size} bytes, not {size} as asked for")

    # -- what a subclass says --------------------------------------------------------------------

    @abstractmethod
    def _locate(self, address: A | str) -> str:
        """Keep the address; returns what messages and the identity call it. First of all."""

    @abstractmethod
    def _connect(self) -> C:
        """A new connection. Raises `UserdiskError`."""

    @abstractmethod
    def _examine(self, client: C, block_length: int | None) -> Found:
        """Find out what is there, at the first connection; `block_length`: if one is asked for."""

    @abstractmethod
    def _check_same(self, client: C) -> None:
        """Raise `HardwareError` if a later connection has not the same disk."""

    @abstractmethod
    def _make_durable(self, client: C) -> None:
        """Have it flush, if it has a cache."""

    # -- the connection --------------------------------------------------------------------------

    def open(self) -> None:
        """It is connected already; after `close`, connect again at the next operation."""
        self._closed = False

    def close(self) -> None:
        """End the connection. Blocks until what is under way has ended."""
        with self._connecting:
            self._closed = True
            self._client.close()

    def _connected(self) -> C:
        """The connection, or a new one when it was lost."""
        client = self._client
        if not client.lost:
            return client
        with self._connecting:
            if self._closed:
                raise NotReady(f"{self._where}: is closed")
            if not self._client.lost:
                return self._client
            self._client.close()
            try:
                client = self._connect()
                try:
                    self._check_same(client)
                except BaseException:
                    client.close()
                    raise
            except UserdiskError as error:
                raise NotReady(str(error)) from None
            self._cache_lost()
            self._client = client
            return client

    # -- what is not durable ---------------------------------------------------------------------

    def flush(self) -> None:
        """Raises `WriteError` once when a lost cache may have taken writes along."""
        client = self._connected()
        with self._connecting:
            gone, self._gone = self._gone, False
            count, epoch = self._written, self._epoch
            dirty = count > self._flushed
        if gone:
            raise self._loss()
        self._make_durable(client)
        with self._connecting:
            if epoch == self._epoch:
                self._flushed = max(self._flushed, count)
                return
            if count == self._written:  # or the next one tells of the rest
                self._gone = False
        if dirty:
            raise self._loss()

    def _loss(self) -> WriteError:
        return WriteError(
            f"{self._where}: it or the connection went down with writes that were not flushed:"
            " they may be lost, and this is said once"
        )

    def _answered(self, epoch: int) -> None:
        """A change that only a flush makes durable is done; it was sent in this epoch."""
        with self._connecting:
            self._written += 1
            if epoch != self._epoch:
                self._gone = True

    def _cache_lost(self) -> None:
        """What was answered and not flushed may be gone."""
        with self._connecting:
            self._epoch += 1
            if self._written > self._flushed:
                self._gone = True
            self._flushed = self._written
