"""The target side of an iSCSI connection: framing, phases, numbering, and who handles which PDU.

RFC 7143: 11.2 (PDU format), 4.2.2 (CmdSN, StatSN), 6.3 (login phase), 11.14 (logout), 11.17
(Reject), 11.18 (NOP), 11.9 (asynchronous messages).

Theory of operation. Sans-I/O: the owner asks `buffer()` where the next bytes go, says
`received(n)`, and sends `take_output()`. All methods run on the owner's thread; whatever comes from
elsewhere (a slow operation's end, another session's reset) is a callable that `post` brings there.

Phases: LOGIN -> FULL_FEATURE -> CLOSING -> CLOSED, never back. In full feature phase a batch is what
one receive brought: the fast path takes the runs of plain reads and writes in it, `_HANDLERS` takes
everything else, one PDU at a time. CLOSING: nothing is read any more, the output is still sent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from userdisk.gate import Gate
from userdisk.iscsi import fast_path, full_feature, pdu
from userdisk.iscsi.digest import digest
from userdisk.iscsi.discovery import Record, TextNegotiation
from userdisk.iscsi.environment import Counters, Environment, Peer
from userdisk.iscsi.login import PENDING, Login, LoginStatus, Negotiated, Opened
from userdisk.iscsi.pdu import InitiatorOpcode, RejectReason, TargetOpcode
from userdisk.iscsi.session import Key, Session
from userdisk.iscsi.tasks import Tasks
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.nexus import Path
from userdisk.unit import Buffer

_LOGIN_BUFFER = 16 << 10  # bytes; login PDUs carry at most 8192
_LOGIN_SEGMENT = 8192
_BUFFER = 256 << 10
_LANDING = 16 << 10  # a data segment of this size on gets a buffer of its own
_AHS_LIMIT = 4 * 255
MAX_SEGMENT = 256 << 10  #: the MaxRecvDataSegmentLength that we declare

#: commands that may be outstanding: times FirstBurstLength (64 KiB) it bounds unsolicited data
COMMAND_WINDOW = 128
_IMMEDIATE_EXTRA = 8  # immediate commands beyond the window

PING_AFTER = 30.0  #: seconds without a PDU until the target asks with a NOP-In
PING_LIMIT = 30.0  #: seconds to answer it
LOGIN_LIMIT = 15.0  #: seconds from connect to full feature phase


class Phase(enum.Enum):
    """Where the connection is; see the module's theory of operation."""

    LOGIN = enum.auto()
    FULL_FEATURE = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


class Pdu(NamedTuple):
    """A request's header fields (pdu.GENERIC) with the header and data segment themselves."""

    opcode: int
    flags: int
    lengths: int
    lun: int
    itt: int
    word20: int
    cmd_sn: int
    exp_stat_sn: int
    cdb: bytes
    header: bytes
    data: memoryview

    @property
    def immediate(self) -> bool:
        """Whether the request is outside the CmdSN order."""
        return bool(self.opcode & pdu.IMMEDIATE)


class _Landing:
    """A large data segment on its way into a buffer of its own."""

    __slots__ = ("data_length", "destination", "got", "header", "placed")

    def __init__(
        self, header: bytes, destination: memoryview, got: int, data_length: int, placed: bool
    ) -> None:
        self.header = header
        self.destination = destination
        self.got = got
        self.data_length = data_length
        self.placed = placed  # the destination is the command's own buffer


class ProtocolError(Exception):
    """The peer broke a rule that ends its connection; the text is for the log."""


class Connection:
    """One connection, as its owner sees it.

    Args:
        environment: what all connections of the server share.
        peer: addresses of both ends.
        post: brings a callable to the owner's thread; may be called from any thread.
        now: seconds, from the clock that `tick` will be called with.
    """

    def __init__(
        self,
        environment: Environment,
        peer: Peer,
        post: Callable[[Callable[[], None]], None],
        now: float,
    ) -> None:
        self.environment = environment
        self.peer = peer
        self.post = post
        self.phase = Phase.LOGIN
        self.reason = ""  #: why the connection ended, for the log
        self.session: Session | None = None
        self.negotiated: Negotiated | None = None
        self.counters = Counters()

        self.output: list[Buffer] = []
        self.output_bytes = 0
        self.live = False  #: the output has views of live memory
        self.more = False  #: `resume` has work that does not need another byte

        self.receive_buffer = bytearray(_LOGIN_BUFFER)
        self._writable = memoryview(self.receive_buffer)
        self.receive_view = self._writable.toreadonly()
        self._start = self._end = 0
        self._landing: _Landing | None = None

        self.exp_cmd_sn = 0
        self.stat_sn = 0
        self.window = COMMAND_WINDOW - 1
        self._max_cmd_sn = 0
        self.paths: dict[int, Path] = {}
        self.header_digest = self.data_digest = False
        self._fast = False
        self._max_segment = _LOGIN_SEGMENT

        self._login: Login | None = environment.login(self._open_session)
        self._held: Gate | None = None
        self.tasks: Tasks = Tasks(self)
        self.text: TextNegotiation
        self._deadline = now + LOGIN_LIMIT
        self._batches = self._batches_seen = 0
        self._heard = now
        self._ping = 0

    # -- the owner's side ----------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Where the next bytes from the peer go; never empty."""
        if self._landing is not None:
            return self._landing.destination[self._landing.got :]
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
        elif start and len(self.receive_buffer) - end < _LANDING + _AHS_LIMIT + 64:
            rest = end - start
            self._writable[:rest] = bytes(self._writable[start:end])
            self._start, self._end = 0, rest
        return self._writable[self._end :]

    def received(self, count: int) -> None:
        """`count` bytes are in `buffer()`: handle every complete PDU."""
        self._batches += 1
        landing = self._landing
        if landing is None:
            self._end += count
        else:
            landing.got += count
            if landing.got < len(landing.destination):
                return
            self._landing = None
        try:
            if landing is not None:
                self._dispatch(
                    landing.header, landing.destination, landing.data_length, landing.placed
                )
            self._process()
        except ProtocolError as error:
            self.fail(str(error))
        finally:
            self.leave()

    def resume(self) -> None:
        """Go on with what is already received, after the output was sent (`more`)."""
        try:
            self._process()
        except ProtocolError as error:
            self.fail(str(error))
        finally:
            self.leave()

    def take_output(self) -> list[Buffer]:
        """What is to be sent now, in order. Views in it stay valid until it is sent."""
        output = self.output
        self.output = []
        self.output_bytes = 0
        self.live = False
        return output

    @property
    def pending(self) -> bool:
        """Whether something may be posted soon: wait for the inbox too, not only for the peer."""
        return bool(self.tasks.count) or self._login is not None

    def tick(self, now: float) -> None:
        """Check time limits; call it about once a second. `now` in seconds."""
        if self.phase is Phase.LOGIN:
            if now > self._deadline:
                self.fail("login took too long")
        elif self.phase is Phase.FULL_FEATURE:
            if self._batches != self._batches_seen:
                self._batches_seen = self._batches
                self._heard = now
                self._ping = 0
            elif self._ping and now - self._heard > PING_AFTER + PING_LIMIT:
                self.fail("no answer to a ping")
            elif not self._ping and now - self._heard > PING_AFTER:
                self._ping = self._ping % (pdu.RESERVED_TAG - 1) + 1
                full_feature.ping(self, self._ping)
            self.tasks.retry()

    def request_logout(self, seconds: int) -> None:
        """Ask the initiator to log out within `seconds`, because the server stops."""
        if self.phase is Phase.FULL_FEATURE and self.session is not None:
            self.async_message(pdu.AsyncEvent.LOGOUT_REQUEST, parameters=(0, 0, seconds))
        else:
            self.fail("the server stops")

    def handle(self, action: Callable[[], None]) -> None:
        """Run what was posted."""
        try:
            action()
        except ProtocolError as error:
            self.fail(str(error))
        finally:
            self.leave()

    def lost(self, reason: str) -> None:
        """The peer is gone, or to be gone: give up its tasks; `finished` says when all have left."""
        if self.phase is not Phase.CLOSED:
            self.phase = Phase.CLOSED
            self.reason = self.reason or reason
        self.environment.sessions.forget(self._drop)
        self.output.clear()
        self.tasks.abandon()

    @property
    def finished(self) -> bool:
        """After `lost`: nothing of the connection is left in any unit."""
        return not self.tasks.count

    def end(self) -> None:
        """After `finished`: give up the session. May wake the login that waits for it."""
        if self.session is not None:
            session, self.session = self.session, None
            self.environment.sessions.close(session)

    # -- for the fast path and the tasks ---------------------------------------------------------

    def enter(self, gate: Gate) -> bool:
        """Hold `gate` until the end of the batch, or until another is asked for."""
        if self._held is gate:
            return True
        self.leave()
        if gate.enter():
            self._held = gate
            return True
        return False

    def leave(self) -> None:
        """Give the gate back."""
        if self._held is not None:
            self._held.leave()
            self._held = None

    def inline_limits(self, lu: LogicalUnit) -> tuple[int, int]:
        """The largest read and write in bytes that the fast path may do on `lu`; 0: none."""
        gate = lu.gate
        limit = lu.parameters.max_transfer_length
        negotiated = self.negotiated
        assert negotiated is not None
        read = min(limit, negotiated.max_recv_data_segment_length, negotiated.max_burst_length)
        write = min(limit, negotiated.first_burst_length) if negotiated.immediate_data else 0
        return (
            read if gate.inline_read else 0,
            write if gate.inline_write and not lu.parameters.write_protected else 0,
        )

    def settle(self) -> None:
        """Copy the views of live memory in the output: what they show is about to change."""
        self.output = [bytes(b) if type(b) is memoryview else b for b in self.output]
        self.live = False

    def set_outstanding(self, commands: int) -> None:
        """`commands` that have a CmdSN are not answered: the window shrinks by as many."""
        self.window = COMMAND_WINDOW - 1 - commands

    def sequence(self, request: Pdu) -> bool:
        """4.2.2.1: whether a request is to be handled now; takes its CmdSN.

        Outside the window it is ignored. A gap cannot be filled on the only connection of a
        session without recovery, so that it ends the connection.
        """
        if request.opcode & pdu.IMMEDIATE:
            if self.tasks.count > COMMAND_WINDOW + _IMMEDIATE_EXTRA:
                self.reject(RejectReason.IMMEDIATE_COMMAND_REJECT, request.header)
                return False
            return True
        if request.cmd_sn == self.exp_cmd_sn and not pdu.serial_less(
            self.max_cmd_sn(), request.cmd_sn
        ):
            self.exp_cmd_sn = (self.exp_cmd_sn + 1) & 0xFFFFFFFF
            return True
        if pdu.serial_less(request.cmd_sn, self.exp_cmd_sn) or pdu.serial_less(
            self.max_cmd_sn(), request.cmd_sn
        ):
            return False
        raise ProtocolError(f"CmdSN {request.cmd_sn} came when {self.exp_cmd_sn} was due")

    @property
    def open(self) -> bool:
        """Whether responses may still be sent."""
        return self.phase is Phase.FULL_FEATURE

    def max_cmd_sn(self) -> int:
        """The last CmdSN that the initiator may use; never goes back (4.2.2.1)."""
        value = (self.exp_cmd_sn + self.window) & 0xFFFFFFFF
        if pdu.serial_less(self._max_cmd_sn, value):
            self._max_cmd_sn = value
        return self._max_cmd_sn

    def next_stat_sn(self) -> int:
        """The StatSN of a response that carries status."""
        value = self.stat_sn
        self.stat_sn = (value + 1) & 0xFFFFFFFF
        return value

    def send(self, header: bytes, data: Buffer = b"") -> None:
        """Queue a PDU with its digests and padding."""
        output = self.output
        output.append(header)
        if self.header_digest:
            output.append(digest(header))
        length = len(data)
        if length:
            if self.data_digest and self.live:
                data = bytes(data)  # it must not change after its digest was computed
            output.append(data)
            padding = pdu.PADDING[length & 3]
            if padding:
                output.append(padding)
            if self.data_digest:
                output.append(digest(data, padding))
        self.output_bytes += 48 + length

    def reject(self, reason: RejectReason, header: bytes) -> None:
        """11.17: refuse a PDU, whose header goes back as data."""
        self.send(
            pdu.REJECT.pack(
                TargetOpcode.REJECT,
                pdu.FINAL,
                reason,
                len(header),
                pdu.RESERVED_TAG,
                self.next_stat_sn(),
                self.exp_cmd_sn,
                self.max_cmd_sn(),
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
                self.next_stat_sn(),
                self.exp_cmd_sn,
                self.max_cmd_sn(),
                event,
                0,
                *parameters,
            ),
            data,
        )

    def fail(self, reason: str) -> None:
        """End the connection after what is already queued; `reason` is for the log."""
        if self.phase in (Phase.LOGIN, Phase.FULL_FEATURE):
            self.phase = Phase.CLOSING
            self.reason = reason
            self.more = False

    # -- framing -------------------------------------------------------------------------------

    def _process(self) -> None:
        self.more = False
        while self.phase in (Phase.LOGIN, Phase.FULL_FEATURE) and self._landing is None:
            if self._fast:
                self._start = fast_path.run(self, self._start, self._end)
            if (
                self.output_bytes >= fast_path.OUTPUT_BYTES
                or len(self.output) >= fast_path.OUTPUT_BUFFERS - 1
            ):
                self.more = True
                return
            if not self._one():
                return

    def _one(self) -> bool:
        """Handle the PDU at `_start`; False if it is not complete."""
        buffer, start = self.receive_buffer, self._start
        available = self._end - start
        if available < pdu.BHS_LENGTH:
            return False
        lengths = int.from_bytes(buffer[start + 4 : start + 8], "big")
        header_length = pdu.BHS_LENGTH + 4 * (lengths >> 24)
        data_length = lengths & 0xFFFFFF
        if data_length > self._max_segment:
            header = bytes(buffer[start : start + pdu.BHS_LENGTH])
            if self.phase is Phase.FULL_FEATURE:
                self.reject(RejectReason.PROTOCOL_ERROR, header)
            raise ProtocolError(f"a data segment of {data_length} bytes was not agreed on")
        data_start = start + header_length + (4 if self.header_digest else 0)
        rest = pdu.padded(data_length) + (4 if self.data_digest and data_length else 0)
        if start + available < data_start:
            return False
        header = bytes(buffer[start : start + header_length])
        if self.header_digest and digest(header) != buffer[start + header_length : data_start]:
            raise ProtocolError("header digest error")
        if start + available < data_start + rest:
            if data_length >= _LANDING:
                self._land(header, data_start, data_length, rest)
            return False
        self._start = data_start + rest
        self._dispatch(header, self.receive_view[data_start : data_start + rest], data_length)
        return True

    def _land(self, header: bytes, data_start: int, data_length: int, rest: int) -> None:
        """Give an incomplete large data segment its destination."""
        got = self._end - data_start
        destination = None
        if rest == data_length:
            destination = self.tasks.destination(header, data_length)
        placed = destination is not None
        if destination is None:
            destination = memoryview(bytearray(rest))
        destination[:got] = self._writable[data_start : self._end]
        self._landing = _Landing(header, destination, got, data_length, placed)
        self._start = self._end = 0

    def _dispatch(
        self, header: bytes, segment: memoryview, data_length: int, landed: bool = False
    ) -> None:
        """Check the data digest and hand the PDU to its handler."""
        data = segment[:data_length].toreadonly()
        fields = pdu.GENERIC.unpack_from(header)
        request = Pdu._make((*fields, header, data))
        opcode = request.opcode & 0x3F
        if self.data_digest and data_length and self.phase is Phase.FULL_FEATURE:
            end = pdu.padded(data_length)
            if digest(segment[:end]) != segment[end : end + 4]:
                self._data_digest_error(request, opcode)
                return
        if self.phase is Phase.LOGIN:
            self._login_request(opcode, header, data)
            return
        handler = full_feature.HANDLERS.get(opcode)
        if handler is None:
            self.reject(RejectReason.COMMAND_NOT_SUPPORTED, header)
        elif opcode == InitiatorOpcode.DATA_OUT:
            self.tasks.data_out(request, landed)
        else:
            handler(self, request)

    def _data_digest_error(self, request: Pdu, opcode: int) -> None:
        """7.8: the PDU is rejected; a command with a bad payload fails, others are dropped."""
        self.reject(RejectReason.DATA_DIGEST_ERROR, request.header)
        if opcode == InitiatorOpcode.DATA_OUT:
            self.tasks.data_out_failed(request)
        else:  # ErrorRecoveryLevel 0: its CmdSN would be missing for ever
            raise ProtocolError("data digest error")

    # -- login ---------------------------------------------------------------------------------

    def _login_request(self, opcode: int, header: bytes, data: memoryview) -> None:
        if opcode != InitiatorOpcode.LOGIN or self._login is None:
            raise ProtocolError(f"opcode {opcode:#04x} before the login was complete")
        for response in self._login.request(header, bytes(data)):
            self.output.append(response)
        self._login_progress()

    def _open_session(self, negotiated: Negotiated) -> Opened:
        """The login's last question: the session's TSIH, a refusal, or PENDING."""
        if negotiated.target is None:
            return 1  # a discovery session is not registered
        key = Key(negotiated.target, negotiated.initiator, negotiated.isid)
        target = self.environment.targets[negotiated.target]
        session = self.environment.sessions.open(key, target, self._drop, self._session_ready)
        if session is None:
            return LoginStatus.OUT_OF_RESOURCES
        if isinstance(session, bool):
            return PENDING
        self.session = session
        return session.tsih

    def _session_ready(self, session: Session) -> None:
        """The session that this login replaces has ended; on another connection's thread."""

        def go_on() -> None:
            self.session = session
            if self.phase is Phase.LOGIN and self._login is not None:
                self.output.extend(self._login.resume(session.tsih))
                self._login_progress()

        self.post(go_on)

    def _drop(self) -> None:
        """End the connection, from any thread."""
        self.post(lambda: self.fail("another login of the same initiator replaced the session"))

    def _login_progress(self) -> None:
        login = self._login
        assert login is not None
        if login.failed:
            self.fail(f"login refused: {login.reason}")
        elif login.finished:
            assert login.result is not None
            self._login = None
            self._begin(login.result)

    def _begin(self, negotiated: Negotiated) -> None:
        """Full feature phase begins: take over what was negotiated."""
        self.phase = Phase.FULL_FEATURE
        self.negotiated = negotiated
        self.exp_cmd_sn = negotiated.exp_cmd_sn
        self.stat_sn = negotiated.stat_sn
        self._max_cmd_sn = (self.exp_cmd_sn + self.window) & 0xFFFFFFFF
        self.header_digest = negotiated.header_digest
        self.data_digest = negotiated.data_digest
        self._max_segment = MAX_SEGMENT
        self._fast = self.session is not None and not self.header_digest and not self.data_digest
        self.text = TextNegotiation(
            self._records, negotiated.target, negotiated.max_recv_data_segment_length
        )
        if self.session is not None:
            self.paths = self.session.nexus.paths
            rest = bytes(self._writable[self._start : self._end])
            self.receive_buffer = bytearray(_BUFFER)
            self._writable = memoryview(self.receive_buffer)
            self.receive_view = self._writable.toreadonly()
            self._writable[: len(rest)] = rest
            self._start, self._end = 0, len(rest)

    def _records(self) -> list[Record]:
        """The targets, at the addresses that this initiator can reach (appendix C)."""
        addresses = self.environment.addresses(self.peer.local)
        return [Record(target.name, addresses) for target in self.environment.targets.values()]
