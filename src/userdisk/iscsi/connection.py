"""The target side of an iSCSI connection: its phases, and who handles which PDU.

RFC 7143: 4.2.2 (CmdSN), 6.3 (login phase), 7.8 (digest errors), 11.18 and 11.19 (pings).

Theory of operation. Sans-I/O: the owner asks `buffer()` where the next bytes go, says
`received(n)`, and sends `take_output()`. All methods run on the owner's thread; whatever comes from
elsewhere (a slow operation's end, another session's reset) is a callable that `post` brings there.

Phases: LOGIN -> FULL_FEATURE -> CLOSING -> CLOSED, never back. In full feature phase a batch is
what one receive brought: the fast path takes the runs of plain reads and writes in it, the handlers
of `full_feature` take everything else, one PDU at a time. CLOSING: nothing is read any more, the
output is still sent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from userdisk.counters import Tally
from userdisk.gate import Gate
from userdisk.iscsi import fast_path, full_feature, pdu
from userdisk.iscsi.discovery import Portal, Record, TextNegotiation
from userdisk.iscsi.environment import Environment, Peer
from userdisk.iscsi.incoming import Incoming, Pdu, ProtocolError, SegmentError
from userdisk.iscsi.login import PENDING, Login, LoginStatus, Negotiated, Opened
from userdisk.iscsi.outgoing import COMMAND_WINDOW, Outgoing
from userdisk.iscsi.pdu import InitiatorOpcode, RejectReason
from userdisk.iscsi.session import Key, Session
from userdisk.iscsi.tasks import Tasks
from userdisk.target.nexus import Path
from userdisk.unit import Buffer

_LOGIN_BUFFER = 16 << 10  # bytes
_LOGIN_SEGMENT = 8192  # the default of MaxRecvDataSegmentLength (13.12)
_BUFFER = 256 << 10
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
        self.session: Session | None = None  #: None in a discovery session
        self.negotiated: Negotiated
        self.text: TextNegotiation
        self.paths: dict[int, Path] = {}
        self.counters = Tally(environment.clock)
        self.sampler = self.counters.sampler
        self.out = Outgoing()
        self.tasks: Tasks = Tasks(self)
        self.incoming = Incoming(_LOGIN_BUFFER, _LOGIN_SEGMENT, self.tasks.destination)
        self.recent: Path | None = None  #: the path that the fast path took last
        self.quiet = False  # see `userdisk.protocol.Connection`: the owner asks every time
        self.more = False  #: `resume` has work that does not need another byte
        self._login: Login | None = environment.login(self._open_session, peer.tag)
        self._held: Gate | None = None
        self._fast = False
        self._deadline = now + LOGIN_LIMIT
        self._batches = self._batches_seen = 0
        self._heard = now
        self._ping = 0

    # -- the owner's side ------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Where the next bytes from the peer go; never empty."""
        return self.incoming.room()

    def received(self, count: int) -> None:
        """`count` bytes are in `buffer()`: handle every complete PDU."""
        self._batches += 1
        if self._batches >= self.sampler.next:
            self.sampler.begin(self._batches)
        self.incoming.received(count)
        self.resume()

    def resume(self) -> None:
        """Go on with what is already received, after the output was sent (`more`)."""
        try:
            self._process()
        except ProtocolError as error:
            self._broken(error)
        finally:
            self.leave()

    def handle(self, action: Callable[[], None]) -> None:
        """Run what was posted."""
        try:
            action()
        except ProtocolError as error:
            self._broken(error)
        finally:
            self.leave()

    def take_output(self) -> list[Buffer]:
        """What is to be sent now, in order. Views in it stay valid until it is sent."""
        return self.out.take()

    paused = False  #: tasks beyond the window are never begun
    secures = False  #: iSCSI has no STARTTLS

    def secured(self) -> None:
        """Never called."""

    @property
    def opening(self) -> bool:
        """It has not logged in."""
        return self.phase is Phase.LOGIN

    @property
    def closing(self) -> bool:
        """Only the output is still sent."""
        return self.phase is Phase.CLOSING

    @property
    def pending(self) -> bool:
        """Whether something may be posted soon: wait for the inbox too, not only for the peer."""
        return self.tasks.pending or self._login is not None

    def tick(self, now: float) -> None:
        """Check time limits; call it about once a second. `now` in seconds."""
        if self.phase is Phase.LOGIN and now > self._deadline:
            self.fail("login took too long")
        elif self.phase is Phase.FULL_FEATURE:
            if self._batches != self._batches_seen:
                self._batches_seen = self._batches
                self._heard = now
                self._ping = 0
                self.sampler.next = 0
            elif self._ping and now - self._heard > PING_AFTER + PING_LIMIT:
                self.fail("no answer to a ping")
            elif not self._ping and now - self._heard > PING_AFTER:
                self._ping = 1
                full_feature.ping(self, self._ping)
            self.tasks.retry()
            self.leave()

    def request_end(self, seconds: int) -> None:
        """Ask the initiator to log out within `seconds`, because the server stops."""
        if self.phase is Phase.FULL_FEATURE and self.session is not None:
            self.out.async_message(pdu.AsyncEvent.LOGOUT_REQUEST, parameters=(0, 0, seconds))
        else:
            self.fail("the server stops")

    def tell_window(self) -> None:
        """Tell the initiator that it may send commands again, with a NOP-In (11.19)."""
        full_feature.ping(self, pdu.RESERVED_TAG)

    def lost(self, reason: str) -> None:
        """The peer is gone: give up its tasks; `finished` says when all have left."""
        self.phase = Phase.CLOSED
        self.reason = self.reason or reason
        self.session = self.environment.sessions.forget(self.drop)
        self.out.take()
        self.tasks.abandon()

    @property
    def closed(self) -> bool:
        """Whether not even output is to be sent any more."""
        return self.phase is Phase.CLOSED

    @property
    def finished(self) -> bool:
        """After `lost`: nothing of the connection is left in any unit."""
        return not self.tasks.count

    def end(self) -> None:
        """After `finished`: give up the session. May wake the login that waits for it."""
        if self.session is not None:
            session, self.session = self.session, None
            self.environment.sessions.close(session)

    # -- for handlers, tasks and the fast path -----------------------------------------------------

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

    @property
    def open(self) -> bool:
        """Whether responses may still be sent."""
        return self.phase is Phase.FULL_FEATURE

    def sequence(self, request: Pdu) -> bool:
        """4.2.2.1: whether a request is to be handled now; takes its CmdSN.

        Outside the window it is ignored. A gap cannot be filled on the only connection of a
        session without recovery, so that it ends the connection.
        """
        out = self.out
        if request.opcode & pdu.IMMEDIATE:
            if self.tasks.count > COMMAND_WINDOW + _IMMEDIATE_EXTRA:
                out.reject(RejectReason.IMMEDIATE_COMMAND_REJECT, request.header)
                return False
            return True
        if request.cmd_sn == out.exp_cmd_sn and not pdu.serial_less(out.max_cmd_sn, request.cmd_sn):
            out.exp_cmd_sn = (out.exp_cmd_sn + 1) & 0xFFFFFFFF
            return True
        if pdu.serial_less(request.cmd_sn, out.exp_cmd_sn) or pdu.serial_less(
            out.max_cmd_sn, request.cmd_sn
        ):
            return False
        raise ProtocolError(f"CmdSN {request.cmd_sn} came when {out.exp_cmd_sn} was due")

    def fail(self, reason: str) -> None:
        """End the connection after what is already queued; `reason` is for the log."""
        if self.phase in (Phase.LOGIN, Phase.FULL_FEATURE):
            self.phase = Phase.CLOSING
            self.reason = reason
            self.more = False

    def drop(self) -> None:
        """End the connection, because its session is to end; from any thread.

        At once: what is queued may be for a peer that does not read any more.
        """
        self.post(self._cut)

    def _cut(self) -> None:
        self.fail("the session was ended by another")
        self.phase = Phase.CLOSED

    # -- PDUs --------------------------------------------------------------------------------------

    def _process(self) -> None:
        incoming, out = self.incoming, self.out
        if self.more:
            self.more = False
            self.tasks.retry()
        while self.phase is Phase.FULL_FEATURE or self.phase is Phase.LOGIN:
            if self._fast and not incoming.landing:
                fast_path.run(self)
                if incoming.start == incoming.end:
                    return
            if out.full:
                self.more = True
                return
            request = incoming.next()
            if request is None:
                return
            self._dispatch(request)

    def _dispatch(self, request: Pdu) -> None:
        opcode = request.opcode & 0x3F
        if self.phase is Phase.LOGIN:
            self._login_request(opcode, request)
        elif request.digest_error:
            self._digest_error(request, opcode)
        elif opcode in full_feature.HANDLERS:
            full_feature.HANDLERS[opcode](self, request)
        else:
            self.out.reject(RejectReason.COMMAND_NOT_SUPPORTED, request.header)

    def _digest_error(self, request: Pdu, opcode: int) -> None:
        """7.8: the PDU is rejected, and the command of a Data-Out fails."""
        self.out.reject(RejectReason.DATA_DIGEST_ERROR, request.header)
        if opcode != InitiatorOpcode.DATA_OUT:
            raise ProtocolError("data digest error")  # its CmdSN would be missing for ever
        self.tasks.data_out_failed(request)

    def _broken(self, error: ProtocolError) -> None:
        if isinstance(error, SegmentError) and self.phase is Phase.FULL_FEATURE:
            self.out.reject(RejectReason.PROTOCOL_ERROR, error.header)
        self.fail(str(error))

    # -- login -------------------------------------------------------------------------------------

    def _login_request(self, opcode: int, request: Pdu) -> None:
        if opcode != InitiatorOpcode.LOGIN or self._login is None:
            raise ProtocolError(f"opcode {opcode:#04x} before the login was complete")
        self.out.add(self._login.request(request.header, bytes(request.data)))
        self._login_progress()

    def _open_session(self, negotiated: Negotiated) -> Opened:
        """The login's last question: the session's TSIH, a refusal, or PENDING."""
        if negotiated.target is None:
            return 1  # a discovery session is not registered
        key = Key(
            negotiated.target, negotiated.initiator, negotiated.isid, negotiated.portal_group_tag
        )
        target = self.environment.targets[negotiated.target]
        session = self.environment.sessions.open(key, target, self.drop, self._session_ready)
        if session is None:
            return LoginStatus.OUT_OF_RESOURCES
        if isinstance(session, bool):
            return PENDING
        self.session = session
        return session.tsih

    def _tell(self, lun: int, sense_data: bytes) -> None:
        """A SCSI asynchronous event (11.9.1, event 0); from any thread."""

        def send() -> None:
            if self.open:
                data = len(sense_data).to_bytes(2, "big") + sense_data
                self.out.async_message(pdu.AsyncEvent.SCSI, lun, data)

        self.post(send)

    def _session_ready(self, session: Session) -> None:
        """The session that this login replaces has ended; on another connection's thread."""

        def go_on() -> None:
            self.session = session
            if self.phase is Phase.LOGIN and self._login is not None:
                self.out.add(self._login.resume(session.tsih))
                self._login_progress()

        self.post(go_on)

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
        self.counters.client = negotiated.initiator
        digests = negotiated.header_digest, negotiated.data_digest
        self.out.begin(negotiated.exp_cmd_sn, negotiated.stat_sn, digests)
        incoming = self.incoming
        incoming.header_digest, incoming.data_digest = digests
        self.text = TextNegotiation(
            self._records, negotiated.target, negotiated.max_recv_data_segment_length
        )
        if self.session is not None:
            self.session.nexus.tell = self._tell
            self.paths = self.session.nexus.paths
            self._fast = True
            incoming.max_segment = self.environment.max_segment
            incoming.resize(_BUFFER)

    def _records(self) -> list[Record]:
        """The targets, at the addresses that this initiator can reach (appendix C)."""
        return self.environment.records(Portal(*self.peer.local, self.peer.tag))
