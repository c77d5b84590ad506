"""What an initiator has under way: a SCSI command, or anything else with an initiator task tag."""

from __future__ import annotations

from collections.abc import Callable

from userdisk.iscsi.pdu import InitiatorOpcode
from userdisk.unit import Buffer

#: Added to what the target says in `Task.response`, so that 0 means: the target has done it.
REJECTED = 0x100  #: the target rejected the PDU; with the reason (RFC 7143 11.17.1)
ABORTED = 0x200  #: a task management function of this initiator ended it: there is no status
LOST = 0x400  #: the session ended first: it may be done or not

_RESPONSES: dict[int, str] = {
    0x01: "the target failed to run it (iSCSI response 01)",
    ABORTED: "it was aborted",
    LOST: "the session ended before the answer came",
}

_SIMPLE = 1


class Task:
    """A SCSI command as a value; a session fills in how it ended. It is used once, or `renew`ed.

    Args:
        cdb: up to 16 bytes.
        read_length: bytes of data-in that there is room for.
        data_out: what is sent; it must not change until the task has ended.
        lun: a small number; 256 and more in flat space addressing (SAM-6 4.7.7.4).
        callback: for owners with a thread of their own, see `userdisk.iscsi_client.Client.submit`.

    `unread`, which may be set, says that only the length of what is read matters.

    `done` says that it has ended. Then `response` is 0 when the target has run it, `status` the
    SCSI status, `data` what was read, and `residual` is negative for an overflow (there was more),
    positive for an underflow. `problem` puts another `response` into words.
    """

    # Making and ending a task has to be cheap: what every command needs are slots, what few need
    # are class attributes until they are set.
    __slots__ = ("__dict__", "callback", "cdb", "cmd_sn", "data", "data_out", "data_pdus",
                 "deadline", "done", "itt", "lun", "offered", "read_length", "response",
                 "status", "unread")  # fmt: skip

    opcode: int = int(InitiatorOpcode.SCSI_COMMAND)
    attribute: int = _SIMPLE
    expected: int | None = None  #: the announced length, if it is not that of the data
    immediate: bool = False
    special: bool = False  #: one of the three above is not as usual
    sense: bytes = b""
    residual: int = 0
    arrived: int = 0  #: bytes of data-in, as long as more may come
    r2ts: int = 0
    rounds: int = 0  #: answers of a text negotiation
    renegotiates: bool = False  #: a text negotiation that the target asked for
    function: int = 0  #: of task management
    about: Task | None = None  #: the command that it is about

    def __init__(
        self,
        cdb: bytes = b"",
        read_length: int = 0,
        data_out: Buffer = b"",
        lun: int = 0,
        callback: Callable[[list[Task]], object] | None = None,
    ) -> None:
        self.cdb = cdb
        self.read_length = read_length
        if type(data_out) is not bytes:
            data_out = memoryview(data_out).cast("B").toreadonly()
        self.data_out: bytes | memoryview = data_out
        self.lun = lun
        self.callback = callback
        self.unread = False
        self.deadline = 0.0  #: for owners with a clock
        self.itt = self.cmd_sn = 0
        self.done = False
        self.response = self.status = 0
        self.data: bytes | bytearray = b""
        self.data_pdus = 0  #: Data-In PDUs
        self.offered = 0  #: bytes of data_out that were sent

    def renew(self) -> None:
        """Forget how it ended, so that it may be submitted again: cheaper than another."""
        self.done = False
        self.response = self.status = self.data_pdus = self.offered = 0
        self.data = self.sense = b""
        self.arrived = self.r2ts = self.residual = 0

    @property
    def problem(self) -> str | None:
        """Why the target did not run it, in words; None if it did."""
        if not self.response:
            return None
        if self.response & REJECTED:
            return f"the target rejects it (reason {self.response & 0xFF:02x})"
        return _RESPONSES.get(self.response, f"iSCSI response {self.response:02x}")


class BlockRead(Task):
    """A read of whole blocks, whose command is made where it is sent."""

    lba: int
    blocks: int
