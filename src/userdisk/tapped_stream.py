"""A stream whose bytes others see, too: captures, and live commands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from userdisk.transport import Stream
from userdisk.unit import Buffer

log = logging.getLogger("userdisk")


class Tap(Protocol):
    """Sees what one connection receives and sends, inside TLS; on its owner's thread, briefly."""

    def received(self, data: memoryview) -> None:
        """These bytes came; the connection has not handled them yet."""

    def sent(self, buffers: Sequence[Buffer]) -> None:
        """These go out, whole messages as a rule."""

    def closed(self) -> None:
        """Nothing more comes or goes."""


class Observer(Protocol):
    """Who wants to see connections. Called on their owners' threads."""

    def joined(
        self, connection: Any, local: tuple[str, int], remote: tuple[str, int]
    ) -> Tap | None:
        """A connection with these ends is there: what sees its bytes, or None."""


class TappedStream:
    """See `transport.Stream`: another stream, with taps."""

    def __init__(self, stream: Stream, taps: Sequence[Tap]) -> None:
        self.stream = stream
        self._taps = list(taps)

    @property
    def rest(self) -> bool:
        """See `transport.Stream`."""
        return self.stream.rest

    @property
    def buffered(self) -> bool:
        """See `transport.Stream`."""
        return self.stream.buffered

    def receive(self, buffer: memoryview) -> int:
        """See `transport.Stream`."""
        count = self.stream.receive(buffer)
        if count > 0:
            self._tell(lambda tap: tap.received(buffer[:count]))
        return count

    def send(self, buffers: list[Buffer], size: int = -1, *, live: bool = False) -> None:
        """See `transport.Stream`."""
        self._tell(lambda tap: tap.sent(buffers))
        self.stream.send(buffers, size, live=live)

    def _tell(self, call: Callable[[Tap], None]) -> None:
        """A bug in who looks is not the connection's."""
        for tap in list(self._taps):
            try:
                call(tap)
            except Exception:
                log.exception("a connection is not looked at any more")
                self._taps.remove(tap)

    def flush(self) -> None:
        """See `transport.Stream`."""
        self.stream.flush()

    def finish(self) -> None:
        """See `transport.Stream`."""
        self.stream.finish()


class Taps:
    """The taps of one connection; belongs to its owner's thread."""

    def __init__(self) -> None:
        self._taps: dict[Observer, Tap] = {}

    def join(
        self, observer: Observer, connection: Any, local: tuple[str, int], remote: tuple[str, int]
    ) -> None:
        """Let an observer see the connection, if it wants to."""
        tap = None if observer in self._taps else observer.joined(connection, local, remote)
        if tap is not None:
            self._taps[observer] = tap

    def leave(self, observer: Observer) -> None:
        """It sees no more."""
        tap = self._taps.pop(observer, None)
        if tap is not None:
            tap.closed()

    def end(self) -> None:
        """The connection ends."""
        for observer in list(self._taps):
            self.leave(observer)

    def on(self, stream: Stream) -> Stream:
        """The stream with these taps; itself if there are none."""
        plain = stream.stream if isinstance(stream, TappedStream) else stream
        return TappedStream(plain, list(self._taps.values())) if self._taps else plain
