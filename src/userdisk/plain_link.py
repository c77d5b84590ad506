"""A client's bytes over a socket: one thread receives while others send. (tls_link: inside TLS.)"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from userdisk.unit import Buffer


class PlainLink:
    """The socket itself. Blocks as the socket does; raises OSError."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def receive(self, buffer: memoryview) -> int:
        """Bytes received into `buffer`; 0: the end."""
        return self.socket.recv_into(buffer)

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Send all of it. One thread at a time."""
        sent = self.socket.sendmsg(buffers)
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            if sent < view.nbytes:
                self.socket.sendall(view[sent:])
            sent = max(0, sent - view.nbytes)
