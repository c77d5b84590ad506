"""What a connection sends: PDUs with their numbers, digests and padding.

RFC 7143 4.2.2 (StatSN, ExpCmdSN, MaxCmdSN), 11.9 (asynchronous messages), 11.17 (Reject).
"""

from __future__ import annotations

from collections.abc import Sequence

from userdisk.iscsi import pdu
from userdisk.iscsi.digest import digest
from userdisk.iscsi.pdu import RejectReason, TargetOpcode
from userdisk.unit import Buffer

#: commands that may be outstanding: times FirstBurstLength (64 KiB) it bounds unsolicited data
COMMAND_WINDOW = 128

#: a batch of output ends at this many buffers or bytes: send, then go on
OUTPUT_BUFFERS = 512
OUTPUT_BYTES = 1 << 20


class Outgoing:
    """The output of one connection and the numbers that every response carries.

    The fast path reads and writes the attributes directly.
    """

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.size = 0  #: bytes in `buffers`
        self.live = False  #: `buffers` has views of live memory
        self.exp_cmd_sn = 0
        self.stat_sn = 0
        self.window = COMMAND_WINDOW - 1  #: MaxCmdSN - ExpCmdSN, if that may go up
        self.header_digest = self.data_digest = False
        self._max_cmd_sn = 0

    def begin(self, exp_cmd_sn: int, stat_sn: int, digests: tuple[bool, bool]) -> None:
        """Full feature phase begins with these numbers, and header and data digests."""
        self.exp_cmd_sn = exp_cmd_sn
        self.stat_sn = stat_sn
        self.header_digest, self.data_digest = digests
        self._max_cmd_sn = (exp_cmd_sn + self.window) & 0xFFFFFFFF

    @property
    def full(self) -> bool:
        """Whether the batch ends here: send first."""
        return self.size >= OUTPUT_BYTES or len(self.buffers) >= OUTPUT_BUFFERS - 1

    def take(self) -> list[Buffer]:
        """What is to be sent now, in order. Views in it stay valid until it is sent."""
        buffers = self.buffers
        self.buffers = []
        self.size = 0
        self.live = False
        return buffers

    def settle(self) -> None:
        """Copy the views of live memory: what they show is about to change."""
        self.buffers[:] = [bytes(b) if type(b) is memoryview else b for b in self.buffers]
        self.live = False

    def set_outstanding(self, commands: int) -> None:
        """`commands` that have a CmdSN are not answered: the window shrinks by as many."""
        self.window = COMMAND_WINDOW - 1 - commands

    @property
    def max_cmd_sn(self) -> int:
        """The last CmdSN that the initiator may use; never goes back (4.2.2.1)."""
        value = (self.exp_cmd_sn + self.window) & 0xFFFFFFFF
        if pdu.serial_less(self._max_cmd_sn, value):
            self._max_cmd_sn = value
        return self._max_cmd_sn

    @property
    def closed(self) -> bool:
        """By what it was told last, the initiator may send no command."""
        return pdu.serial_less(self._max_cmd_sn, self.exp_cmd_sn)

    def numbers(self, *, status: bool = True) -> tuple[int, int, int]:
        """StatSN, ExpCmdSN and MaxCmdSN of a PDU; only one with `status` uses its StatSN up."""
        stat_sn = self.stat_sn
        if status:
            self.stat_sn = (stat_sn + 1) & 0xFFFFFFFF
        return stat_sn, self.exp_cmd_sn, self.max_cmd_sn

    def send(self, header: bytes, data: Buffer = b"") -> None:
        """Queue a PDU with its digests and padding."""
        buffers = self.buffers
        buffers.append(header)
        if self.header_digest:
            buffers.append(digest(header))
            self.size += pdu.DIGEST_LENGTH
        length = len(data)
        if length:
            if self.data_digest and self.live:
                data = bytes(data)  # it must not change after its digest was computed
            buffers.append(data)
            padding = pdu.PADDING[length & 3]
            if padding:
                buffers.append(padding)
            if self.data_digest:
                buffers.append(digest(data, padding))
                self.size += pdu.DIGEST_LENGTH
        self.size += pdu.BHS_LENGTH + pdu.padded(length)

    def add_digests(self, first: int) -> None:
        """Put digests into what is queued from index `first` on: headers, each with data or not.

        Data is a multiple of four bytes long, so that it has no padding.
        """
        added: list[Buffer] = []
        for buffer in self.buffers[first:]:
            is_header = len(buffer) == pdu.BHS_LENGTH
            added.append(buffer)
            if self.header_digest if is_header else self.data_digest:
                added.append(digest(buffer))
                self.size += pdu.DIGEST_LENGTH
        self.buffers[first:] = added

    def add(self, pdus: Sequence[bytes]) -> None:
        """Queue complete PDUs."""
        self.buffers += pdus
        self.size += sum(map(len, pdus))

    def reject(self, reason: RejectReason, header: bytes) -> None:
        """11.17: refuse a PDU, whose header goes back as data."""
        self.send(
            pdu.REJECT.pack(
                TargetOpcode.REJECT,
                pdu.FINAL,
                reason,
                len(header),
                pdu.RESERVED_TAG,
                *self.numbers(),
                0,
            ),
            header,
        )

    def async_message(
        self,
        event: pdu.AsyncEvent,
        lun: int = 0,
        data: bytes = b"",
        parameters: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        """11.9: tell the initiator something that it did not ask for."""
        self.send(
            pdu.ASYNC_MESSAGE.pack(
                TargetOpcode.ASYNC_MESSAGE,
                pdu.FINAL,
                len(data),
                lun,
                pdu.RESERVED_TAG,
                *self.numbers(),
                event,
                0,
                *parameters,
            ),
            data,
        )
