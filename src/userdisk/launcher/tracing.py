"""Passing on what a unit's process says of its commands, as they end; without a thread.

Nothing is kept here: who reads slowly makes the unit's process wait, which leaves commands out and
counts them, and closes after some seconds.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from userdisk import control
from userdisk.errors import UsageError, UserdiskError

_REQUEST: Final = b'{"verb": "trace"}\n'
_ANSWER_SECONDS: Final = 10.0  # a process says something each second
_TRIES: Final = 8
_PAUSE: Final = 0.3  # seconds
_LONGEST: Final = 64 << 10  # bytes of a line
_CREDENTIALS: Final = struct.Struct("=iII")  # pid, uid, gid


class TooMany(UserdiskError):
    """As many as can be watch or listen already."""


async def begin(path: Path, user: int, seconds: float) -> AsyncGenerator[bytes, None]:
    """Lines of JSON for so many seconds, or until the process ends.

    Args:
        path: its control socket.
        user: who it has to belong to: the path comes from a process that runs a user's code.

    Raises `TooMany` when others watch already, `UserdiskError` when it does not answer, and as it
    does.
    """
    for _ in range(_TRIES - 1):  # it sees only after a while that somebody has gone
        try:
            return await _begin(path, user, seconds)
        except TooMany:
            await asyncio.sleep(_PAUSE)
    return await _begin(path, user, seconds)


async def _begin(path: Path, user: int, seconds: float) -> AsyncGenerator[bytes, None]:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await _connect(path, user)
            try:
                writer.write(_REQUEST)
                first = await reader.readline()
                _check(first)
            except BaseException:
                writer.close()
                raise
    except (OSError, TimeoutError, ValueError) as error:
        raise UserdiskError(f"it does not answer: {error or 'not in time'}") from None
    return _lines(first, reader, writer, seconds)


async def _connect(path: Path, user: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    with control.short(path) as name:
        reader, writer = await asyncio.open_unix_connection(name, limit=_LONGEST)
    peer: socket.socket = writer.get_extra_info("socket")
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    if _CREDENTIALS.unpack(raw)[1] != user:
        writer.close()
        raise UserdiskError(f"{path}: another user answers there")
    return reader, writer


def _check(line: bytes) -> None:
    """Raises as the process says, and `ValueError` for what is no answer."""
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ValueError("an answer that is none")
    if "error" in answer:
        said = str(answer["error"])
        if said.endswith("watch already"):
            raise TooMany(said)
        raise (UsageError if answer.get("usage") else UserdiskError)(said)


async def _lines(
    piece: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    rest = b""
    try:
        while piece and len(rest) < _LONGEST:
            lines, newline, rest = (rest + piece).rpartition(b"\n")
            if newline:
                yield lines + newline
            left = min(end - loop.time(), _ANSWER_SECONDS)
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    piece = await reader.read(_LONGEST)
            except (TimeoutError, OSError):
                return
    finally:
        writer.close()
