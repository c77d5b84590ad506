"""What the portal asks of a protocol: the server's side of one connection, without I/O.

The owner's thread is the only one that calls these. Whatever comes from elsewhere (the end of a
slow operation, an event of another session) is a callable that the protocol `post`s to its owner,
which hands it to `handle`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from userdisk.unit import Buffer


class Output(Protocol):
    """What is queued to be sent."""

    buffers: list[Buffer]
    size: int  #: bytes in `buffers`
    live: bool  #: `buffers` has views of live memory


class Connection(Protocol):
    """One connection, as its owner sees it. All methods run on the owner's thread."""

    reason: str  #: why it ended, for the log
    #: Nothing but the next bytes is waited for: no other property has anything to say, and `buffer`
    #: is the same view each time, until `received` or `handle` says otherwise.
    quiet: bool

    @property
    def out(self) -> Output:
        """The output, whose attributes the owner reads; `take_output` takes it."""

    @property
    def more(self) -> bool:
        """`resume` has work that does not need another byte."""

    @property
    def opening(self) -> bool:
        """It has not logged in, or not chosen an export: one of those that may be closed first."""

    @property
    def closing(self) -> bool:
        """Nothing is read any more; what is queued is sent, then the socket closed."""

    @property
    def closed(self) -> bool:
        """Not even output is to be sent any more."""

    @property
    def pending(self) -> bool:
        """Something may be posted soon: wait for the inbox too, not only for the peer."""

    @property
    def paused(self) -> bool:
        """Receive nothing until something was posted: enough is under way. Implies `pending`."""

    @property
    def secures(self) -> bool:
        """Send what is queued, then begin TLS and call `secured`; nothing is received before."""

    def secured(self) -> None:
        """TLS has begun (its handshake may still run); all that follows comes through it."""

    def buffer(self) -> memoryview:
        """Where the next bytes from the peer go; never empty."""

    def received(self, count: int) -> None:
        """`count` bytes are in `buffer()`: handle what is complete."""

    def resume(self) -> None:
        """Go on with what is already received, after the output was sent (`more`)."""

    def handle(self, action: Callable[[], None]) -> None:
        """Run what was posted."""

    def take_output(self) -> list[Buffer]:
        """What is to be sent now, in order. Views in it stay valid until it is sent."""

    def tick(self, now: float) -> None:
        """Check time limits; called about once a second. `now` in seconds."""

    def request_end(self, seconds: int) -> None:
        """The server stops: have the peer leave within `seconds`, or end when all is answered."""

    def fail(self, reason: str) -> None:
        """End it after what is already queued; `reason` is for the log."""

    def lost(self, reason: str) -> None:
        """The peer is gone: give up what it asked for; `finished` says when all has ended."""

    @property
    def finished(self) -> bool:
        """After `lost`: nothing of the connection is left in any unit."""

    def end(self) -> None:
        """After `finished`: the last call."""
