"""What a target says without being asked: asynchronous messages and rejects (RFC 7143 11.9, 11.17).

Only the last of each are kept: a target may send as many as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.iscsi.pdu import AsyncEvent

T = TypeVar("T")

_KEPT = 256


class Events:
    """The last messages and rejects. Not thread-safe."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, int, int, int]] = []
        self.sense: list[bytes] = []
        self.rejects: list[tuple[int, bytes]] = []
        self.count = 0
        self.logout_wanted = False

    def message(self, event: int, parameters: Sequence[int], segment: bytes) -> bool:
        """Take an asynchronous message; True if the target wants to renegotiate.

        Raises `InitiatorError` when it is dropping the connection.
        """
        self.count += 1
        _keep(self.messages, (event, parameters[0], parameters[1], parameters[2]))
        if len(segment) >= 2 and (length := int.from_bytes(segment[:2])):
            _keep(self.sense, segment[2 : 2 + length])
        if event == AsyncEvent.LOGOUT_REQUEST:
            self.logout_wanted = True
        elif event in (AsyncEvent.DROP_CONNECTION, AsyncEvent.DROP_ALL_CONNECTIONS):
            raise InitiatorError("iscsi: the target says that it drops the connection")
        return event == AsyncEvent.RENEGOTIATE

    def reject(self, reason: int, header: bytes) -> None:
        """Take a reject of the PDU with this header."""
        _keep(self.rejects, (reason, header))


def _keep(kept: list[T], new: T) -> None:
    kept.append(new)
    del kept[:-_KEPT]
