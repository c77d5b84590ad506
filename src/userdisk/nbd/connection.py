"""The server's side of an NBD connection: its phases, and who handles what.

Theory of operation. Sans-I/O: the owner asks `buffer()` where the next bytes go, says
`received(n)`, and sends `take_output()`. All methods run on the owner's thread; the end of a slow
operation is a callable that `post` brings there.

Phases: NEGOTIATION -> TRANSMISSION -> LEAVING -> CLOSING -> CLOSED, never back. In transmission a
batch is what one receive brought: the fast path takes the runs of plain reads and writes in it, the
table of `requests` everything else. LEAVING: nothing is read any more, what is under way is still
answered (DISC, or the server stops). CLOSING: only the output is still sent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from userdisk.counters import Tally
from userdisk.gate import Gate
from userdisk.nbd import fast_path, wire
from userdisk.nbd.environment import Environment
from userdisk.nbd.export import MAX_PAYLOAD
from userdisk.nbd.incoming import Incoming
from userdisk.nbd.negotiation import Agreed, Negotiation
from userdisk.nbd.outgoing import Outgoing
from userdisk.nbd.replies import Replies, Request
from userdisk.nbd.requests import Service
from userdisk.nbd.tasks import Tasks
from userdisk.nbd.wire import Command, CommandFlag
from userdisk.operation import Era
from userdisk.unit import Buffer

_BUFFER = 64 << 10  # bytes, in negotiation
NEGOTIATION_LIMIT = 30.0  #: seconds from connect to transmission
_UNSEEN = 5.0  # seconds between ticks, after which nobody knows what the client did
PAYLOAD_LIMIT = 60.0  #: seconds without a byte in the middle of a request


class Phase(enum.Enum):
    """Where the connection is; see the module's theory of operation."""

    NEGOTIATION = enum.auto()
    TRANSMISSION = enum.auto()
    LEAVING = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


class Connection:
    """One connection, as its owner sees it; see `userdisk.protocol.Connection`.

    Args:
        environment: what all connections of the server share.
        post: brings a callable to the owner's thread; may be called from any thread.
        now: seconds, from the clock that `tick` will be called with.
    """

    def __init__(
        self, environment: Environment, post: Callable[[Callable[[], None]], None], now: float
    ) -> None:
        self.environment = environment
        self.post = post
        self.phase = Phase.NEGOTIATION
        self.reason = ""
        self.out = Outgoing()
        self.counters = Tally(environment.clock)
        self.sampler = self.counters.sampler
        self.more = False
        self.quiet = False
        self.service: Service
        self.lane: tuple[Any, ...]
        self.incoming: Incoming
        self.tasks: Tasks
        self._negotiation: Negotiation | None = Negotiation(environment)
        self._joined: Gate | None = None
        self._buffer = bytearray(_BUFFER)
        self._filled = 0
        self._held: Gate | None = None
        self._landing: Request | None = None  # a plain WRITE whose data is being received
        self._landing_era = Era()  # in which it was asked for
        self._skipped = 0  # bytes of payload that are still to come and of no use
        self._withheld: list[Buffer] = []  # the reply to that request
        self._deadline = now + NEGOTIATION_LIMIT
        self._received = self._received_seen = 0
        self._heard = self._looked = now
        self._take_negotiation()

    # -- the owner's side ----------------------------------------------------------------------

    @property
    def opening(self) -> bool:
        """See `protocol.Connection.opening`, as for all that follow."""
        return self.phase is Phase.NEGOTIATION

    @property
    def closing(self) -> bool:
        """Only the output is still sent."""
        return self.phase is Phase.CLOSING

    @property
    def closed(self) -> bool:
        """Not even output is sent."""
        return self.phase is Phase.CLOSED

    @property
    def pending(self) -> bool:
        """Operations are under way elsewhere, or there is no memory for the next."""
        return self._joined is not None and (self.tasks.operating > 0 or self.tasks.starved)

    @property
    def paused(self) -> bool:
        """Enough is under way, or nothing more is wanted, or what comes next has no place yet."""
        if not self.pending:
            return False
        tasks = self.tasks
        return self.phase is Phase.LEAVING or tasks.full or tasks.starved or tasks.receiver_works

    @property
    def secures(self) -> bool:
        """STARTTLS was acknowledged."""
        return self._negotiation is not None and self._negotiation.secures

    def secured(self) -> None:
        """TLS has begun."""
        assert self._negotiation is not None
        self._negotiation.secured()
        self._take_negotiation()

    def buffer(self) -> memoryview:
        """Where the next bytes from the peer go; never empty."""
        if self._negotiation is not None:
            return memoryview(self._buffer)[self._filled :]
        incoming = self.incoming
        self.tasks.share.sent()
        self.quiet = (
            self._landing is None
            and not (incoming.approaching or self._skipped or self.tasks.count)
            and self.phase is Phase.TRANSMISSION
            and incoming.start == incoming.end
        )
        return incoming.room()

    def received(self, count: int) -> None:
        """`count` bytes are in `buffer()`: handle what is complete."""
        self._received += 1
        if self._received >= self.sampler.next:
            self.sampler.begin(self._received)
        if self.quiet:
            incoming = self.incoming
            incoming.end = count
            try:
                fast_path.run(self)
            finally:
                if self._held is not None:
                    self._held.leave()
                    self._held = None
            if incoming.start == count:
                incoming.start = incoming.end = 0
                return
            self.quiet = False
            self.resume()
            return
        if self._negotiation is not None:
            self._filled += count
            self._negotiate()
            return
        if self.incoming.received(count):
            self.resume()

    def resume(self) -> None:
        """Go on with what is already received, after the output was sent (`more`)."""
        self.more = False
        if self._negotiation is not None:
            self._negotiate()
            return
        self.tasks.share.sent()  # the owner has nothing left to send, or it would not call this
        try:
            self._process()
        finally:
            self.leave()

    def handle(self, action: Callable[[], None]) -> None:
        """Run what was posted, and go on with what waited for it."""
        self.quiet = False
        try:
            action()
            if self.phase is Phase.TRANSMISSION:
                self._process()
            self._left()
        finally:
            self.leave()

    def take_output(self) -> list[Buffer]:
        """What is to be sent now, in order; what was taken before has been sent."""
        out = self.out
        buffers = out.buffers
        out.buffers = []
        out.size = 0
        out.live = False
        if self._joined is not None and self.tasks.share.owes:
            self.tasks.share.taken()
        return buffers

    def tick(self, now: float) -> None:
        """Check time limits; call it about once a second. `now` in seconds."""
        waiting = self._joined is not None and (self.tasks.operating or self.tasks.starved)
        self.sampler.next = 0
        if self._received != self._received_seen or waiting or now - self._looked > _UNSEEN:
            self._received_seen = self._received
            self._heard = now  # or it is not the client who keeps the other waiting
        self._looked = now
        if self.phase is Phase.NEGOTIATION:
            if now > self._deadline:
                self.fail("the negotiation took too long")
        elif self.phase is Phase.TRANSMISSION:
            if now - self._heard > PAYLOAD_LIMIT and self._inside:
                self.fail(f"no more bytes of a request for {PAYLOAD_LIMIT:g} s")
            elif self.tasks.starved:  # there may be memory again
                self.resume()

    def request_end(self, seconds: int) -> None:
        """The server stops: answer what is under way, then end."""
        if self.phase is Phase.TRANSMISSION:
            self._leave("the server stops")
        else:
            self.fail("the server stops")

    def fail(self, reason: str) -> None:
        """End the connection after what is already queued; `reason` is for the log."""
        if self.phase in (Phase.NEGOTIATION, Phase.TRANSMISSION, Phase.LEAVING):
            self.phase = Phase.CLOSING
            self.quiet = False
            self.reason = self.reason or reason
            self.more = False

    def lost(self, reason: str) -> None:
        """The peer is gone: give up what it asked for; `finished` says when all has ended."""
        self.phase = Phase.CLOSED
        self.reason = self.reason or reason
        self.take_output()
        if self._joined is not None:
            self._drop_landing()
            self.tasks.abandon()

    @property
    def finished(self) -> bool:
        """After `lost`: nothing of the connection is left in any unit."""
        return self._joined is None or not self.tasks.operating

    def end(self) -> None:
        """After `finished`: the last call."""
        if self._joined is not None:
            self.tasks.share.sent()
            self._joined.part()
            self._joined = None

    # -- for tasks and the fast path -------------------------------------------------------------

    def enter(self, gate: Gate) -> bool:
        """Hold the gate until the end of the batch, if that needs no long waiting."""
        if self._held is not None:
            return True
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
        """Whether replies may still be sent."""
        return self.phase in (Phase.TRANSMISSION, Phase.LEAVING)

    # -- negotiation -----------------------------------------------------------------------------

    def _negotiate(self) -> None:
        negotiation = self._negotiation
        assert negotiation is not None
        if self.phase is not Phase.NEGOTIATION:
            return
        with memoryview(self._buffer) as view:
            used = negotiation.received(view[: self._filled])
            rest = bytes(view[used : self._filled])
            view[: len(rest)] = rest
        self._filled = len(rest)
        self._take_negotiation()
        if negotiation.failed:
            self.fail(negotiation.failed)
        elif negotiation.secures and rest:
            self.fail("plaintext came behind STARTTLS")
        elif negotiation.agreed is not None:
            self._begin(negotiation.agreed, rest)
        elif self._filled == _BUFFER and not used:
            self.fail("an option that is longer than any may be")
        else:
            self.more = bool(used and rest)

    def _take_negotiation(self) -> None:
        negotiation = self._negotiation
        assert negotiation is not None
        self.out.add(negotiation.out)
        negotiation.out = []

    def _begin(self, agreed: Agreed, rest: bytes) -> None:
        """Transmission begins, with bytes that have come already."""
        gate = agreed.export.gate
        gate.join()
        self._joined = gate
        self._negotiation = None
        self._buffer = bytearray()
        self.phase = Phase.TRANSMISSION
        self.service = Service(agreed.export, agreed.replies, allocation=agreed.allocation)
        self.lane = tuple(fast_path.lane(self.service, self.counters[gate]))
        self.incoming = Incoming(self.environment.buffers)
        self.tasks = Tasks(self)
        self.incoming.room()[: len(rest)] = rest
        self.incoming.received(len(rest))
        self.more = bool(rest)

    # -- transmission ----------------------------------------------------------------------------

    @property
    def owed(self) -> int:
        """In transmission: bytes of the last request's payload that nobody has taken yet."""
        if self._landing is not None:
            return self._landing.length
        receiver = self.tasks.receiver
        return self._skipped if receiver is None else receiver.left

    @property
    def _inside(self) -> bool:
        """Whether part of a request has come."""
        return bool(self._skipped or self._landing or self.tasks.receiver) or (
            self.incoming.start != self.incoming.end
        )

    def _process(self) -> None:
        incoming, tasks, out = self.incoming, self.tasks, self.out
        while self.phase is Phase.TRANSMISSION:
            if self._landing is not None and not self._land(self._landing):
                return
            if self._skipped:
                self._skipped -= incoming.skip(self._skipped)
                if self._skipped:
                    return
                out.add(self._withheld)
                self._withheld = []
            if tasks.receiver is not None and not tasks.feed():
                return
            if tasks.receiver is None and not self._skipped:
                if tasks.count and tasks.full:
                    return
                if not incoming.approaching:  # else it would only find that most is not here
                    fast_path.run(self)
                if incoming.start == incoming.end:
                    return
            if out.full:
                self.more = True
                return
            if tasks.receiver is None and not self._skipped and not self._next():
                return

    def _next(self) -> bool:
        """Start the next request, if it is here and memory allows."""
        incoming, service = self.incoming, self.service
        extended = service.replies is Replies.EXTENDED
        layout = wire.EXTENDED_REQUEST if extended else wire.REQUEST
        if incoming.end - incoming.start < layout.size:
            return False
        magic, *fields = layout.unpack_from(incoming.buffer, incoming.start)
        if magic != (wire.EXTENDED_REQUEST_MAGIC if extended else wire.REQUEST_MAGIC):
            self.fail(f"a request began with {magic:#010x}")
            return False
        request = Request._make(fields)
        payload = self._payload(request, extended)
        if payload > MAX_PAYLOAD:
            self.fail(f"a payload of {payload} bytes")
            return False
        if (
            extended
            and request.command == Command.WRITE
            and not request.flags & CommandFlag.PAYLOAD_LEN
        ):
            self.fail("a WRITE that does not say whether payload follows")
            return False
        if not self.tasks.admit(request):
            self.more = self.tasks.share.owes  # its own replies may be in the way
            return False
        incoming.start += layout.size
        incoming.approaching = False
        if request.command == Command.DISC:
            self._leave("disconnected by the client")
            return False
        if payload and fast_path.lands(service, request):
            self._landing, self._landing_era = request, service.gate.era
        else:
            self.tasks.start(request, payload)
        return True

    def _land(self, request: Request) -> bool:
        """Go on with a plain WRITE, if all of its data is here."""
        data = self.incoming.gather(request.length)
        if data is None:
            return False
        self._landing = None
        if not fast_path.landed(self, request, data, self._landing_era):
            self.incoming.start -= request.length
            self.tasks.start(request, request.length, self._landing_era)
        return True

    def _drop_landing(self) -> None:
        if self._landing is not None:
            self.incoming.drop_landing()
            self.tasks.forgo(self._landing)
            self._landing = None

    def _payload(self, request: Request, extended: bool) -> int:
        """Bytes that follow the request."""
        if extended:
            return request.length if request.flags & CommandFlag.PAYLOAD_LEN else 0
        return request.length if request.command == Command.WRITE else 0

    def skip(self, count: int, reply: list[Buffer]) -> None:
        """The next `count` bytes are payload that nobody wants; the reply is sent after them.

        Clients take a reply to a request that they have not sent whole for an error of the server.
        """
        if count:
            self._skipped, self._withheld = count, reply
        else:
            self.out.add(reply)

    def _leave(self, reason: str) -> None:
        self.phase = Phase.LEAVING
        self.reason = reason
        self._drop_landing()
        self.tasks.drop_receiver()
        self._left()

    def _left(self) -> None:
        """LEAVING ends when everything is answered."""
        if self.phase is Phase.LEAVING and not self.tasks.count:
            self.phase = Phase.CLOSING
