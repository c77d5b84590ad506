"""A logical unit behind an iSCSI target as a port.

Theory of operation. One connection is driven by the engine's own thread: no hand-over between
threads, and many commands with one send. Several are sessions of their own, each with a thread.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from itertools import cycle

from userdisk.backend.iscsi_disk import Disk, probe
from userdisk.errors import UserdiskError
from userdisk.initiator_client import Initiator
from userdisk.initiator_url import Url, parse_url, settings_for
from userdisk.iscsi.initiator_task import Task
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.iscsi_client import Client
from userdisk.scsi import sense
from userdisk.scsi.opcodes import Opcode
from userdisk.stgtest.port import MOST_BYTES, Geometry, Inbox, Op, passes

_READ = struct.Struct(">BBQIxx").pack
_READ_16 = int(Opcode.READ_16)
_ATTENTIONS = 16  # in a row
_MOMENT = 0.1  # seconds
_CHECK_CONDITION = 2


class _Command(Task):
    """A command that knows its operation."""

    __slots__ = ("op",)  # there are many: no dictionary for each

    op: Op
    others: list[int] | None = None  #: how many more commands of the same operation must end


class _Disk:
    """What both ports know of the disk, and how its commands are made and understood."""

    def __init__(self, url: Url, disk: Disk) -> None:
        self.disk = disk
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

    def command(self, op: Op) -> _Command:
        """An operation as a command."""
        disk, letter, lun = self.disk, op.letter, self._lun
        if letter == "R":
            cdb = disk.read(op.lba, op.blocks, fua=op.fua)
            task = _Command(cdb, op.blocks * self._length, b"", lun)
        elif letter == "W":
            task = _Command(disk.write(op.lba, op.blocks, fua=op.fua), 0, op.data, lun)
        else:
            task = _Command(disk.flush(), 0, b"", lun)
        task.op = op
        return task

    def commands(self, operations: Sequence[Op]) -> list[_Command]:
        """Operations as commands: an unmap may take several."""
        command = self.command
        made: list[_Command] = []
        lun, length, plain = self._lun, self._length, self._plain
        for op in operations:
            if op.letter == "R" and plain and not op.fua:  # most of a busy disk
                cdb = _READ(_READ_16, 0, op.lba, op.blocks)
                task = _Command(cdb, op.blocks * length, b"", lun)
                task.op = op
                made.append(task)
                continue
            if op.letter != "U":
                made.append(command(op))
                continue
            parts = list(self.disk.unmap([(op.lba, op.blocks)]))
            others = [len(parts)]
            for cdb, data in parts:
                task = _Command(cdb, 0, data, self._lun)
                task.op, task.others = op, others
                made.append(task)
        return made

    def end(self, task: Task) -> Op | None:
        """A command has ended: its operation, if that was all of it."""
        assert isinstance(task, _Command)
        op = task.op
        if task.response:
            op.error, op.again = task.problem, False
        elif task.status:
            again = passes(task.status, _key(task))
            op.again = again and (op.error is None or op.again)  # one that fails for good is enough
            op.error = _status(task)
        else:
            op.result = task.data
        if task.others is not None:
            task.others[0] -= 1
            if task.others[0]:
                return None
        return op


class DirectPort:
    """One session, on the caller's thread. The constructor blocks. Raises `UserdiskError`.

    Args:
        timeout: seconds for connecting, and to wait for the next operation to end.
    """

    def __init__(self, url: Url, timeout: float) -> None:
        self._initiator = Initiator(url.address, settings_for(url), lun=url.lun, timeout=timeout)
        try:
            self._disk = _Disk(url, _probed(url, self._initiator))
        except BaseException:
            self._initiator.socket.close()
            raise
        self.geometry = self._disk.geometry

    def submit(self, operations: Sequence[Op]) -> None:
        """See `Port.submit`."""
        self._initiator.submit(self._disk.commands(operations))

    def collect(self) -> list[Op]:
        """See `Port.collect`."""
        ended: list[Op] = []
        append, end = ended.append, self._disk.end
        for task in self._initiator.completed():
            assert type(task) is _Command
            if task.status or task.response or task.others is not None:
                if (whole := end(task)) is not None:
                    append(whole)
            else:
                op = task.op
                op.result = task.data
                append(op)
        return ended

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
