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


def test_a_message_that_is_too_long_ends_the_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with served(monkeypatch, tmp_path) as (path, unit):
        pipe: Any = messages.Client(path, UNIX)
        pipe.recv_bytes()
        with pytest.raises((EOFError, OSError)):
            pipe.send_bytes(bytes((1 << 20) + 49))
            pipe.recv_bytes()
        pipe.close()
        assert not unit.calls
        other: Any = messages.Client(path, UNIX)
        assert len(other.recv_bytes()) == 128
        other.close()


class Windows:
    """What the listener asks of Windows, with Windows' own numbers."""

    PIPE_ACCESS_DUPLEX, FILE_FLAG_OVERLAPPED = 3, 0x40000000
    FILE_FLAG_FIRST_PIPE_INSTANCE = 0x80000
    PIPE_TYPE_MESSAGE, PIPE_READMODE_MESSAGE, PIPE_WAIT = 4, 2, 0
    PIPE_UNLIMITED_INSTANCES, NMPWAIT_WAIT_FOREVER, NULL = 255, 0xFFFFFFFF, 0

    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []

    def CreateNamedPipe(self, *arguments: Any) -> int:  # noqa: N802
        self.made.append(arguments)
        return len(self.made)


def test_clients_of_other_machines_are_rejected() -> None:
    class Base:
        """Like the standard library's: it makes one instance at once, one for each client."""

        def __init__(self, address: str) -> None:
            self._address = address
            self._new_handle(first=True)
            self._new_handle()

        def _new_handle(self, first: bool = False) -> int:
            raise AssertionError("this one lets everybody in")

    windows = Windows()
    named_pipe.local_only(Base, windows)(named_pipe.PREFIX + "disk")
    first, second = windows.made
    assert first == (named_pipe.PREFIX + "disk", 0x40080003, 4 | 2 | 8, 255, 8192, 8192,
                     0xFFFFFFFF, 0)  # fmt: skip
    assert second[1] == 0x40000003
    assert second[2] == first[2]


def test_the_listener_for_windows_is_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Base:
        def __init__(self, address: str) -> None:
            made.append(type(self).__name__)

        def accept(self) -> None:
            raise AssertionError

    monkeypatch.setattr(messages, "PipeListener", Base, raising=False)
    monkeypatch.setattr(messages, "_winapi", Windows(), raising=False)
    listener = NamedPipeListener(named_pipe.PREFIX + "disk")
    assert made == ["LocalPipeListener"]
    with pytest.raises(OSError, match="gone"):
        listener.accept()


@pytest.mark.skipif(hasattr(messages, "PipeListener"), reason="this system has named pipes")
def test_elsewhere_there_are_none() -> None:
    name = named_pipe.PREFIX + "disk"
    with pytest.raises(UsageError, match="only Windows has named pipes"):
        listening.listen(name)
    with pytest.raises(UserdiskError, match="only Windows has named pipes"):
        Client(name)
