"""A logical unit behind an iSCSI target as a port.

Theory of operation. One connection is driven by the engine's own thread: no hand-over between
threads, and many commands with one send. Several are sessions of their own, each with a thread.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from itertools import cycle
from typing import cast

from userdisk.backend.iscsi_disk import Disk, probe
from userdisk.errors import UserdiskError
from userdisk.initiator_client import Initiator
from userdisk.initiator_url import Url, parse_url, settings_for
from userdisk.iscsi.initiator_task import BlockRead, Task
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.iscsi_client import Client
from userdisk.scsi import sense
from userdisk.scsi.opcodes import Opcode
from userdisk.stgtest.port import MOST_BYTES, Geometry, Inbox, Op, passes

_READ = struct.Struct(">HQIxx").pack
_READ_16 = Opcode.READ_16 << 8
_ATTENTIONS = 16  # in a row
_MOMENT = 0.1  # seconds
_CHECK_CONDITION = 2


class Operation(Op, BlockRead):
    """An operation that is its command, too. `worn`: it has not ended by a plain answer."""

    def __init__(self, letter: str, number: int, lba: int, blocks: int, *, fua: bool) -> None:
        BlockRead.__init__(self)
        self.worn = False
        Op.__init__(self, letter, number, lba, blocks, fua=fua)


class _Part(Task):
    """A command of an unmap, of which `others` are to end, too."""

    op: Operation
    others: list[int]


class _Disk:
    """What both ports know of the disk, and how its commands are made and understood."""

    def __init__(self, url: Url, disk: Disk) -> None:
        self.disk = disk
        self.split = False  #: operations may have been several commands
        self.worn = False  #: some may be worn
        self._lun = url.lun
        self._plain = disk.long_commands
        self._length = length = disk.block_length
        self.geometry = Geometry(
            disk.block_count,
            length,
            max(1, min(disk.max_transfer_blocks, MOST_BYTES // length)),
            cached=disk.volatile_cache,
            fua=disk.fua,
            flushes=True,
            unmaps=disk.unmap_blocks > 0,
            zeroes=disk.unmap_zeroes,
            read_only=disk.write_protected,
        )
        if not length or length % 8 or not disk.block_count:
            raise UserdiskError(f"{url}: blocks of {length} bytes cannot be tested")

    def commands(self, operations: Sequence[Op]) -> Sequence[Task]:
        """Operations as commands: an unmap may take several."""
        disk, lun, length, plain = self.disk, self._lun, self._length, self._plain
        mine = cast("Sequence[Operation]", operations)  # the engine makes them as our kind
        parts: list[_Part] = []
        for op in mine:
            op.lun = lun
            if op.letter == "R":
                if op.worn:
                    op.renew()
                    op.worn = False
                else:  # a plain answer has changed nothing else
                    op.done, op.data, op.data_pdus = False, b"", 0
                blocks = op.blocks
                op.read_length = blocks * length
                if plain and not op.fua:  # most of a busy disk
                    op.cdb = _READ(_READ_16, op.lba, blocks)
                else:
                    op.cdb = disk.read(op.lba, blocks, fua=op.fua)
                continue
            op.renew()
            op.read_length = 0
            if op.letter == "W":
                op.cdb = disk.write(op.lba, op.blocks, fua=op.fua)
            elif op.letter == "F":
                op.cdb = disk.flush()
            else:
                parts += self._parts(op)
        if not parts:
            return mine
        return [op for op in mine if op.letter != "U"] + parts

    def are_reads(self, operations: Sequence[Op]) -> bool:
        """Whether all of them are reads of the simplest kind, none of them worn."""
        if self.worn or not self._plain:
            return False
        return {(op.letter, op.fua) for op in operations} == {("R", False)}

    def _parts(self, op: Operation) -> list[_Part]:
        self.split = True
        made = []
        others: list[int] = []
        for cdb, data in self.disk.unmap([(op.lba, op.blocks)]):
            part = _Part(cdb, 0, data, self._lun)
            part.op, part.others = op, others
            made.append(part)
        others.append(len(made))
        return made

    def end(self, task: Task) -> Op | None:
        """A command has ended: its operation, if that was all of it."""
        op = task.op if isinstance(task, _Part) else task
        assert isinstance(op, Operation)
        op.worn = self.worn = True
        if task.response:
            op.error, op.again = task.problem, False
        elif task.status:
            again = passes(task.status, _key(task))
            op.again = again and (op.error is None or op.again)  # one that fails for good is enough
            op.error = _status(task)
        if isinstance(task, _Part):
            task.others[0] -= 1
            if task.others[0]:
                return None
        return op


class DirectPort:
    """One session, on the caller's thread. The constructor blocks. Raises `UserdiskError`.

    Args:
        timeout: seconds for connecting, and to wait for the next operation to end.
    """

    kind = Operation

    def __init__(self, url: Url, timeout: float) -> None:
        self._initiator = Initiator(url.address, settings_for(url), lun=url.lun, timeout=timeout)
        try:
            self._disk = _Disk(url, _probed(url, self._initiator))
        except BaseException:
            self._initiator.socket.close()
            raise
        self.geometry = self._disk.geometry
        self.plain = False

    def submit(self, operations: Sequence[Op]) -> None:
        """See `Port.submit`."""
        disk = self._disk
        if disk.are_reads(operations):
            reads = cast("Sequence[Operation]", operations)
            self._initiator.submit_reads(reads, self.geometry.block_length)
        else:
            self._initiator.submit(disk.commands(operations))

    def collect(self) -> list[Op]:
        """See `Port.collect`."""
        ended = self._initiator.completed()
        self.plain = self._initiator.session.plain and not self._disk.split
        if self.plain:
            return cast("list[Op]", ended)
        end = self._disk.end
        return [op for task in ended if (op := end(task)) is not None]

    def close(self, *, stuck: bool = False) -> None:
        """See `Port.close`."""
        if stuck:
            self._initiator.socket.close()
        else:
            self._initiator.close()


class SessionsPort:
    """Some sessions, which operations take in turn. The constructor blocks.

    Args:
        timeout: seconds for connecting, and to wait for the next operation to end.

    Raises `UserdiskError`.
    """

    kind = Operation
    plain = False

    def __init__(self, url: Url, timeout: float, connections: int) -> None:
        self._inbox = Inbox(str(url), timeout)
        self.collect = self._inbox.collect
        with Initiator(url.address, settings_for(url), lun=url.lun, timeout=timeout) as initiator:
            self._disk = _Disk(url, _probed(url, initiator))
        self.geometry = self._disk.geometry
        self._clients: list[Client] = []
        try:
            for _ in range(connections):
                client = Client(url.address, settings_for(url), lun=url.lun, timeout=timeout)
                self._clients.append(client)
                _read_attentions(client)
        except BaseException:
            self.close()
            raise
        self._next = cycle(self._clients)

    def submit(self, operations: Sequence[Op]) -> None:
        """See `Port.submit`."""
        share = -(-len(operations) // len(self._clients))
        for first in range(0, len(operations), share):
            tasks = self._disk.commands(operations[first : first + share])
            next(self._next).submit(tasks, self._ended)

    def _ended(self, tasks: list[Task]) -> None:
        for task in tasks:
            if (op := self._disk.end(task)) is not None:
                self._inbox.put(op)

    def close(self, *, stuck: bool = False) -> None:
        """See `Port.close`."""
        for client in () if stuck else self._clients:  # closing waits for answers
            client.close()


def open_iscsi(name: str, timeout: float, connections: int) -> DirectPort | SessionsPort:
    """The port for a URL."""
    url = parse_url(name)
    try:
        if connections == 1:
            return DirectPort(url, timeout)
        return SessionsPort(url, timeout, connections)
    except InitiatorError as error:
        if str(url) in str(error):
            raise
        raise UserdiskError(f"{url}: {str(error).removeprefix('iscsi: ')}") from None


def _probed(url: Url, initiator: Initiator) -> Disk:
    """All about the disk; unit attentions are read past."""
    steps = probe(str(url))
    task = next(steps)
    try:
        while True:
            for _ in range(_ATTENTIONS):
                again = Task(task.cdb, task.read_length, task.data_out, url.lun)
                initiator.submit([again])
                initiator.finish(again)
                if not _refused(again):
                    break
            task = steps.send(again)
    except StopIteration as stop:
        disk: Disk = stop.value
        return disk


def _read_attentions(client: Client) -> None:
    for _ in range(_ATTENTIONS):
        if not _refused(client.execute(bytes(6))):
            return


def _refused(task: Task) -> bool:
    """The disk has not begun it; a moment later, if it is busy."""
    if task.response or not passes(task.status, _key(task)):
        return False
    if task.status != _CHECK_CONDITION:
        time.sleep(_MOMENT)
    return True


def _key(task: Task) -> int | None:
    """The sense key of a CHECK CONDITION."""
    if task.status != _CHECK_CONDITION:
        return None
    try:
        return sense.decode(task.sense).key
    except ValueError:
        return None


def _status(task: Task) -> str:
    if task.status == _CHECK_CONDITION:
        try:
            return f"the disk says {sense.decode(task.sense)}"
        except ValueError:
            return "the disk says CHECK CONDITION without valid sense data"
    return f"SCSI status {task.status:02x}"
