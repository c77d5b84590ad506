"""A SCSI command of an iSCSI connection that is not answered yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from userdisk.iscsi import pdu
from userdisk.target.nexus import Nexus
from userdisk.target.task import Port, Task

if TYPE_CHECKING:
    from userdisk.iscsi.data_out import DataOut
    from userdisk.iscsi.incoming import Pdu
    from userdisk.target.command import Receive


class ScsiTask(Task):
    """The engine's task with what its connection keeps of it."""

    __slots__ = ("budgeted", "data", "expected", "immediate", "itt", "kept", "lun", "reading",
                 "reserved", "solicited", "wanted")  # fmt: skip

    def __init__(self, port: Port, nexus: Nexus, request: Pdu, data: DataOut | None) -> None:
        super().__init__(port, nexus, request.flags & pdu.COMMAND_ATTRIBUTE)
        self.itt = request.itt
        self.lun = request.lun
        self.expected = request.word20  #: bytes that the initiator announced
        self.reading = bool(request.flags & pdu.COMMAND_READ)
        self.immediate = request.immediate
        self.data = data
        self.wanted: Receive | None = None  #: what the handler waits for
        self.reserved = 0  #: bytes of data-in, of the session's budget
        self.solicited = 0  #: bytes of the burst under way
        self.budgeted = 0  #: bytes that it takes of both budgets, until it is consumed
        self.kept = 0  #: bytes of both budgets until the end, for data-out that is assembled
