"""A logical unit of any iSCSI target as a disk (`iscsi://[user@]host[:port]/target/lun`).

Theory of operation. As in `userdisk.backend.remote`, but whoever finds the session lost logs in
again under the same ISID, so that the target first ends what was left of the old session; then the
command is sent once more: reads, writes and unmaps of the same blocks may be repeated.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from userdisk.backend import iscsi_disk
from userdisk.backend.iscsi_disk import Disk
from userdisk.backend.remote import Found, RemoteUnit
from userdisk.errors import (
    Aborted,
    HardwareError,
    NotReady,
    ReservationConflict,
    StorageError,
    Unsupported,
    from_sense,
)
from userdisk.initiator_url import Url, parse_url, settings_for
from userdisk.iscsi.initiator_task import Task
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.iscsi_client import Client, SessionLost
from userdisk.scsi import sense
from userdisk.scsi.sense import Asc, SenseKey
from userdisk.unit import Buffer, Extent, Extents

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ANSWER_SECONDS = 60.0  # a target that takes longer for a command is given up
_ATTENTIONS = 16  # unit attentions in a row
_BUSY = 20  # times that a busy target is asked again
_BUSY_SECONDS = 0.1

_GOOD, _CHECK_CONDITION, _TASK_ABORTED = 0x00, 0x02, 0x40
_CONFLICT, _BUSY_STATUSES = 0x18, (0x08, 0x28)
#: unit attentions after which the disk's cache may be empty
_POWER_ON = (Asc.POWER_ON_OR_RESET, Asc.POWER_ON)
#: and after which it may have another size
_RESIZED = (Asc.CAPACITY_CHANGED, Asc.MEDIUM_MAY_HAVE_CHANGED)


class IscsiUnit(RemoteUnit[Url, Client]):
    """A disk that is a logical unit of an iSCSI target, at a URL; see `RemoteUnit`.

    The secret is not in the URL, see `userdisk.initiator_url`.
    """

    product_id = "iSCSI disk"
    _no_status = _no_same = False  # commands that the disk turned out not to have

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
                _, epoch = self._run(make(), client, lba, writing=True)
                if cached:
                    self._answered(epoch)
                if settle and cached:  # by the same session: a later one has not what this one lost
                    self._run(Task(self._disk.flush()), client, writing=True)
                    if epoch != self._epoch:
                        raise SessionLost(f"{self.url}: the disk lost its cache")
                return
            except SessionLost as error:
                if last:
                    raise NotReady(str(error)) from None

    def _repeat(self, make: Callable[[], Task], lba: int | None = None) -> Task:
        """Run something that changes nothing, on a new session if the old one was lost."""
        with contextlib.suppress(SessionLost):
            return self._run(make(), self._connected(), lba)[0]
        try:
            return self._run(make(), self._connected(), lba)[0]
        except SessionLost as error:
            raise NotReady(str(error)) from None

    def _run(
        self, task: Task, client: Client, lba: int | None = None, *, writing: bool = False
    ) -> tuple[Task, int]:
        """Run a command, again after unit attentions and while the target is busy.

        Returns also the epoch in which it ran. Raises the table's entry for what the disk says,
        and `SessionLost`.
        """
        attentions = busy = 0
        while True:
            epoch = self._epoch
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
                return done, epoch
            if done.status == _CHECK_CONDITION:
                found = _sense(done)
                if found.key == SenseKey.RECOVERED_ERROR:
                    return done, epoch
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
            self._cache_lost()
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

    def _locate(self, address: Url | str) -> str:
        self.url = parse_url(address) if isinstance(address, str) else address
        self._settings = settings_for(self.url)
        return str(self.url)

    def _connect(self) -> Client:
        url = self.url
        return Client(url.address, self._settings, lun=url.lun, timeout=self._timeout)

    def _examine(self, client: Client, block_length: int | None) -> Found:
        self._disk = disk = self._probe(client)
        self.unmap_zeroes = disk.unmap_zeroes and disk.unmaps
        length = disk.block_length
        return Found(
            disk.block_count * length,
            length,
            min(disk.physical_block_length, 1 << 20),
            disk.max_transfer_blocks * length,
            disk.write_protected,
            disk.volatile_cache,
            disk.unmaps,
        )

    def _check_same(self, client: Client) -> None:
        disk = self._probe(client)
        if disk.identity != self._disk.identity or disk.block_length != self.block_length:
            raise HardwareError(f"{self.url}: is another disk now: serve it anew")
        if disk.block_count != self.block_count:
            self.resized(disk.block_count, wait=False)
        self._disk = disk

    def _make_durable(self, client: Client) -> None:
        if not self._disk.volatile_cache:
            return
        try:
            self._run(Task(self._disk.flush()), client, writing=True)
        except SessionLost as error:
            raise NotReady(str(error)) from None

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
