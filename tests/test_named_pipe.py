"""Named pipes as sockets, with another kind of message connection in their place."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from multiprocessing import connection as messages
from pathlib import Path
from typing import Any

import pytest

from tests.kit.spd_link import FLUSH, READ, WRITE, decode, request
from tests.kit.units import InlineRamUnit
from userdisk import listening, named_pipe
from userdisk.errors import UsageError, UserdiskError
from userdisk.gate import Gate
from userdisk.named_pipe import NamedPipeListener
from userdisk.server import Server
from userdisk.spd_client import Client

UNIX = "AF_UNIX"  # its connections are of messages, too


@contextlib.contextmanager
def served(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[tuple[str, InlineRamUnit]]:
    path = str(folder / "pipe")
    unit = InlineRamUnit()
    monkeypatch.setattr(listening, "is_named_pipe", lambda address: True)
    monkeypatch.setattr(
        listening, "NamedPipeListener", lambda address: NamedPipeListener(address, family=UNIX)
    )
    with Server([], listen=(), pipes={Path(path): Gate(unit)}):
        yield path, unit


def test_a_client_of_messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with served(monkeypatch, tmp_path) as (path, unit):
        pipe: Any = messages.Client(path, UNIX)
        assert len(pipe.recv_bytes()) == 128
        pipe.send_bytes(request(WRITE, 1, 3, 1, payload=b"x" * 512)[4:])
        assert decode(pipe.recv_bytes()).sense is None
        pipe.send_bytes(request(READ, 2, 3, 1)[4:])
        assert decode(pipe.recv_bytes()).data == b"x" * 512
        pipe.send_bytes(b"short")
        with pytest.raises((EOFError, OSError)):
            pipe.recv_bytes()
        pipe.close()
        assert unit.calls["read"] == 1


def test_both_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with served(monkeypatch, tmp_path) as (path, _):
        near = named_pipe.connect(path, family=UNIX)
        assert struct.unpack("<I", near.recv(4, socket.MSG_WAITALL)) == (128,)
        near.recv(128, socket.MSG_WAITALL)
        near.sendall(request(FLUSH, 7) + request(READ, 8, 0, 1))
        for hint, size in ((7, 48), (8, 560)):
            assert struct.unpack("<I", near.recv(4, socket.MSG_WAITALL)) == (size,)
            assert decode(near.recv(size, socket.MSG_WAITALL)).hint == hint
        near.close()


def test_clients_that_go_leave_no_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with served(monkeypatch, tmp_path) as (path, _):
        for _ in range(5):
            pipe: Any = messages.Client(path, UNIX)
            pipe.recv_bytes()
            pipe.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread


@pytest.mark.skipif(hasattr(messages, "PipeListener"), reason="this system has named pipes")
def test_elsewhere_there_are_none() -> None:
    name = named_pipe.PREFIX + "disk"
    with pytest.raises(UsageError, match="only Windows has named pipes"):
        listening.listen(name)
    with pytest.raises(UserdiskError, match="only Windows has named pipes"):
        Client(name)
