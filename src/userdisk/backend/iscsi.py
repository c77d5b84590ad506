"""A logical unit of any iSCSI target as a disk (`iscsi://[user@]host[:port]/target/lun`).

Theory of operation. One session, on which all workers have commands under way. When it is lost, the
next command logs in again, under the same ISID, so that the target first ends what was left of the
old session; then it is sent once more: reads, writes and unmaps of the same blocks may be repeated.
Writes that were answered but not flushed may be gone, if it was the target that went down: then
one flush fails and says so, like the one after a failed fdatasync.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from userdisk import identity
from userdisk.backend import iscsi_disk
from userdisk.backend.iscsi_disk import Disk
from userdisk.errors import (
    Aborted,
    HardwareError,
    NotReady,
    ReservationConflict,
    StorageError,
    Unsupported,
    UsageError,
    UserdiskError,
    WriteError,
    from_sense,
)
from userdisk.initiator_url import Url, parse_url, settings_for
from userdisk.iscsi.initiator_task import Task
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.iscsi_client import Client, SessionLost
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, SenseKey
from userdisk.unit import Buffer, Extent, Extents, StorageUnit

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 60.0  # a target that takes longer for a command is given up
_TRANSFER = 1 << 20
_BLOCK_LENGTHS = (512, 1024, 2048, 4096)
_ATTENTIONS = 16  # unit attentions in a row
_BUSY = 20  # times that a busy target is asked again
_BUSY_SECONDS = 0.1

_GOOD, _CHECK_CONDITION, _TASK_ABORTED = 0x00, 0x02, 0x40
_CONFLICT, _BUSY_STATUSES = 0x18, (0x08, 0x28)
#: unit attentions after which the disk's cache may be empty
_POWER_ON = (Asc.POWER_ON_OR_RESET, Asc.POWER_ON)
#: and after which it may have another size
_RESIZED = (Asc.CAPACITY_CHANGED, Asc.MEDIUM_MAY_HAVE_CHANGED)


class IscsiUnit(StorageUnit):
    """A disk that is a logical unit of an iSCSI target. It is logged in at once; `close` ends that.

    Args:
        url: as text or taken apart. The secret is not in it, see `userdisk.initiator_url`.
        timeout: seconds to wait for a session.
        guid, new_guid: the disk's identity; without them the one that belongs to the URL.

    Operations block until the target answers, 60 seconds at most, and may overlap. Raises
    `UsageError` for sizes that do not fit, `UserdiskError` for a target that cannot be used.
    """

    product_id = "iSCSI disk"
    concurrent = True
    workers = 16
    persistent = True

    def __init__(
        self,
        url: Url | str,
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
        self.url = parse_url(url) if isinstance(url, str) else url
        self._settings = settings_for(self.url)
        self._timeout = timeout
        self._connecting = threading.RLock()
        self._written = 0  # writes that are answered and not durable for sure
        self._flushed = 0  # how many of them a flush has made durable
        self._gone = False  # some may be lost, and nobody was told
        self._closed = False
        self._no_status = self._no_same = False  # commands that the disk turned out not to have
        self._client = client = self._login()
        try:
            self._disk = disk = self._probe(client)
            _check(self.url, disk, size, block_length)
            most = min(_TRANSFER // disk.block_length, disk.max_transfer_blocks)
            self.unmap_zeroes = disk.unmap_zeroes and disk.unmaps
            super().__init__(
                guid=guid,
                block_count=disk.block_count,
                block_length=disk.block_length,
                physical_block_length=physical_block_length
                or min(disk.physical_block_length, 1 << 20),
                product_id=product_id,
                product_revision=product_revision,
                write_protected=read_only or disk.write_protected,
                cache_supported=disk.volatile_cache,
                removable=removable,
                unmap_supported=disk.unmaps and unmap_supported is not False,
                soft_threshold=soft_threshold,
                max_transfer_length=most * disk.block_length,
            )
            if guid is None:
                identity.identify(self, identity.named(str(self.url)), new_guid=new_guid)
        except BaseException:
            client.close()
            raise

    def open(self) -> None:
        """It is logged in already; after `close`, log in again at the next operation."""
        self._closed = False

    def close(self) -> None:
        """Log out. Blocks until what is under way has ended."""
        with self._connecting:
            self._closed = True
            self._client.close()

    # -- operations ------------------------------------------------------------------------------

    def read(self, lba: int, blocks: int, fua: bool) -> Buffer:
        disk = self._disk
        if fua and disk.volatile_cache and not disk.fua:
            self._repeat(lambda: Task(disk.flush()))
        length = blocks * disk.block_length
        task = self._repeat(lambda: Task(disk.read(lba, blocks, fua=fua and disk.fua), length), lba)
        if len(task.data) != length:
            raise HardwareError(f"{self.url}: {len(task.data)} bytes read instead of {length}")
        return task.data

    def write(self, lba: int, data: memoryview, fua: bool) -> None:
        disk = self._disk
        cdb = disk.write(lba, data.nbytes // disk.block_length, fua=fua and disk.fua)
        self._store(lambda: Task(cdb, 0, data), lba, durable=fua and disk.fua, settle=fua)

    def flush(self) -> None:
        """Raises `WriteError` once when a lost session may have taken writes along."""
        client = self._connected()
        with self._connecting:
            gone, self._gone = self._gone, False
            count = self._written
        if gone:
            raise WriteError(
                f"{self.url}: the target or the session went down with writes that were not"
                " flushed: they may be lost, and this is said once"
            )
        if not self._disk.volatile_cache:
            return
        try:
            self._run(Task(self._disk.flush()), client, writing=True)
        except SessionLost as error:
            raise NotReady(str(error)) from None
        with self._connecting:
            if client is self._client:
                self._flushed = max(self._flushed, count)

    def unmap(self, extents: Extents) -> None:
        disk = self._disk
        if disk.unmap_blocks:
            for cdb, data in disk.unmap(extents):
                self._store(lambda cdb=cdb, data=data: Task(cdb, 0, data))  # type: ignore[misc]
            return
        for lba, blocks in disk.steps(extents, disk.same_blocks):
            self._same(lba, blocks, unmap=True)

    def zero(self, lba: int, blocks: int, fua: bool) -> None:
        if not self._no_same:
            try:
                for first, count in self._disk.steps([(lba, blocks)], self._disk.same_blocks):
                    self._same(first, count, settle=fua)
                return
            except Unsupported:
                self._no_same = True
        self.write(lba, memoryview(bytes(blocks * self.block_length)), fua)

    def extents(self, lba: int, blocks: int) -> Iterable[Extent]:
        """What GET LBA STATUS says; without it all blocks are mapped."""
        if self._no_status or not self._disk.unmaps:
            return [Extent(lba, blocks)]
        try:
            task = self._repeat(lambda: iscsi_disk.lba_status(lba), lba)
        except Unsupported:
            self._no_status = True
            return [Extent(lba, blocks)]
        zeroes = self._disk.unmap_zeroes
        return iscsi_disk.extents(bytes(task.data), lba, blocks, zeroes=zeroes)

    def measure(self) -> None:
        """Ask how large the disk is now."""
        self._measure(self._connected(), wait=True)

    def _same(self, lba: int, blocks: int, *, unmap: bool = False, settle: bool = False) -> None:
        cdb = self._disk.write_same(lba, blocks, unmap=unmap)
        block = bytes(self.block_length)
        self._store(lambda: Task(cdb, 0, block), lba, settle=settle)

    # -- commands --------------------------------------------------------------------------------

    def _store(
        self,
        make: Callable[[], Task],
        lba: int | None = None,
        *,
        durable: bool = False,
        settle: bool = False,
    ) -> None:
        """Run something that changes the disk, and remember it until it is flushed.

        `durable`: the command says so itself. `settle`: it has to be durable afterwards.
        """
        cached = self._disk.volatile_cache and not durable
        for last in (False, True):
            client = self._connected()
            try:
                self._run(make(), client, lba, writing=True)
                if cached:
                    with self._connecting:
                        self._written += 1
                        if client is not self._client:  # answered before the session was lost
                            self._gone = True
                if settle and cached:  # by the same session: a later one has not what this one lost
                    self._run(Task(self._disk.flush()), client, writing=True)
                return
            except SessionLost as error:
                if last:
                    raise NotReady(str(error)) from None

    def _repeat(self, make: Callable[[], Task], lba: int | None = None) -> Task:
        """Run something that changes nothing, on a new session if the old one was lost."""
        try:
            return self._run(make(), self._connected(), lba)
        except SessionLost:
            pass
        try:
            return self._run(make(), self._connected(), lba)
        except SessionLost as error:
            raise NotReady(str(error)) from None

    def _run(
        self, task: Task, client: Client, lba: int | None = None, *, writing: bool = False
    ) -> Task:
        """Run a command, again after unit attentions and while the target is busy.

        Raises the table's entry for what the disk says, and `SessionLost`.
        """
        attentions = busy = 0
        while True:
            try:
                done = client.execute(
                    task.cdb,
                    data_out=task.data_out,
                    read_length=task.read_length,
                    timeout=_ANSWER_SECONDS,
                )
            except SessionLost:
                raise
            except InitiatorError as error:
                raise Aborted(str(error)) from None
            if done.status == _GOOD:
                return done
            if done.status == _CHECK_CONDITION:
                found = _sense(done)
                if found.key == SenseKey.RECOVERED_ERROR:
                    return done
                if found.key != SenseKey.UNIT_ATTENTION:
                    raise self._error(task, found, lba, writing=writing)
                attentions += 1
                self._attention(found, client)
                if attentions > _ATTENTIONS:
                    raise NotReady(f"{self.url}: unit attentions without end")
            elif done.status in _BUSY_STATUSES or done.status == _TASK_ABORTED:
                busy += 1
                if busy > _BUSY:
                    raise NotReady(f"{self.url}: the target is busy")
                time.sleep(_BUSY_SECONDS)
            elif done.status == _CONFLICT:
                raise ReservationConflict(f"{self.url}: somebody else has the disk reserved")
            else:
                raise HardwareError(f"{self.url}: SCSI status {done.status:02x}")

    def _error(
        self, task: Task, found: sense.Sense, lba: int | None, *, writing: bool
    ) -> StorageError:
        where = None
        if lba is not None and found.information is not None:
            where = found.information if lba <= found.information < self._disk.block_count else None
        codes = (found.key, found.code >> 8, found.code & 0xFF)
        message = f"{self.url}: command {task.cdb[0]:02x}: the disk says {found}"
        return from_sense(codes, message, writing=writing, lba=where)

    def _attention(self, found: sense.Sense, client: Client) -> None:
        """Something has happened to the disk; the command that was told so did not run."""
        if found.code in _POWER_ON:
            with self._connecting:
                if self._written > self._flushed:
                    self._gone = True
                self._flushed = self._written
        if found.code in _RESIZED:
            self._measure(client, wait=False)

    def _measure(self, client: Client, *, wait: bool) -> None:
        steps = iscsi_disk.read_capacity()
        data, long = _drive(steps, lambda task: self._ask(client, task))
        if len(data) < (12 if long else 8):
            return
        count = int.from_bytes(data[: 8 if long else 4]) + 1
        length = int.from_bytes(data[8:12] if long else data[4:8])
        if length != self.block_length:
            raise HardwareError(f"{self.url}: the disk's blocks have {length} bytes now")
        if count != self.block_count:
            _log.info("%s: the disk has %d blocks now", self.url, count)
            self.resized(count, wait=wait)

    # -- the session -----------------------------------------------------------------------------

    def _login(self) -> Client:
        url = self.url
        return Client(url.address, self._settings, lun=url.lun, timeout=self._timeout)

    def _probe(self, client: Client) -> Disk:
        """All about the disk. Raises `UserdiskError`."""
        return _drive(iscsi_disk.probe(str(self.url)), lambda task: self._ask(client, task))

    def _ask(self, client: Client, task: Task) -> Task:
        """Run a command of a probe, past unit attentions; the disk may not have it."""
        for _ in range(_ATTENTIONS):
            cdb, length = task.cdb, task.read_length
            done = client.execute(cdb, read_length=length, timeout=self._timeout)
            if done.status != _CHECK_CONDITION or _sense(done).key != SenseKey.UNIT_ATTENTION:
                return done
        raise InitiatorError(f"{self.url}: unit attentions without end")

    def _connected(self) -> Client:
        """The session, or a new one when it was lost."""
        client = self._client
        if not client.lost:
            return client
        with self._connecting:
            if self._closed:
                raise NotReady(f"{self.url}: is closed")
            if not self._client.lost:
                return self._client
            self._client.close()
            try:
                client = self._login()
                try:
                    self._check_same(self._probe(client))
                except BaseException:
                    client.close()
                    raise
            except UserdiskError as error:
                raise NotReady(str(error)) from None
            if self._written > self._flushed:
                self._gone = True
            self._flushed = self._written
            self._client = client
            return client

    def _check_same(self, disk: Disk) -> None:
        if disk.identity != self._disk.identity or disk.block_length != self.block_length:
            raise HardwareError(f"{self.url}: is another disk now: serve it anew")
        if disk.block_count != self.block_count:
            self.resized(disk.block_count, wait=False)
        self._disk = disk


def _drive(steps: Generator[Task, Task, T], run: Callable[[Task], Task]) -> T:
    """Run what a generator asks for, until it has its result."""
    try:
        task = next(steps)
        while True:
            task = steps.send(run(task))
    except StopIteration as stop:
        result: T = stop.value
        return result


def _sense(task: Task) -> sense.Sense:
    try:
        return sense.decode(task.sense)
    except ValueError:
        return sense.INTERNAL_TARGET_FAILURE


def _check(url: Url, disk: Disk, size: int | None, block_length: int | None) -> None:
    """Whether all sizes fit."""
    if disk.block_length not in _BLOCK_LENGTHS:
        raise UsageError(
            f"{url}: the disk's blocks have {disk.block_length} bytes; 512 to 4096 fit"
        )
    if block_length not in (None, disk.block_length):
        raise UsageError(f"{url}: the disk's blocks have {disk.block_length} bytes")
    length = disk.block_count * disk.block_length
    if size not in (None, length):
        raise UsageError(f"{url}: the disk has {length} bytes, not {size} as asked for")
