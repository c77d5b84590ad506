"""Data-out of a command as one: parameter lists, and what has to be written in one piece."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from userdisk.scsi import sense
from userdisk.target.command import CheckCondition, Command, Receive


def receive_all(command: Command, length: int) -> Generator[Receive, Any, bytes]:
    """Data-out of `length` bytes as one; raises CheckCondition if less was announced."""
    if command.data_out_length < length:
        raise CheckCondition(sense.data_out_too_short(), length)
    pieces = []
    left = length
    while left:
        data = yield Receive(left)
        if not data:
            raise CheckCondition(sense.data_out_too_short(), length)
        pieces.append(bytes(data))
        left -= len(data)
    return b"".join(pieces)
