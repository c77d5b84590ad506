"""What a connection sends: the replies of a batch."""

from __future__ import annotations

from userdisk.unit import Buffer

#: a batch of output ends at this many buffers or bytes: send, then go on
OUTPUT_BUFFERS = 512
OUTPUT_BYTES = 1 << 20


class Outgoing:
    """The output of one connection; the fast path changes the attributes directly."""

    __slots__ = ("buffers", "live", "size")

    def __init__(self) -> None:
        self.buffers: list[Buffer] = []
        self.size = 0  #: bytes in `buffers`
        self.live = False  #: `buffers` has views of live memory

    @property
    def full(self) -> bool:
        """Whether the batch ends here: send first."""
        return self.size >= OUTPUT_BYTES or len(self.buffers) >= OUTPUT_BUFFERS - 1

    def add(self, buffers: list[Buffer]) -> None:
        """Queue buffers of bytes."""
        self.buffers += buffers
        self.size += sum(map(len, buffers))

    def settle(self) -> None:
        """Copy the views of live memory: what they show is about to change."""
        self.buffers[:] = [bytes(b) if type(b) is memoryview else b for b in self.buffers]
        self.live = False
