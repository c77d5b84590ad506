"""The NBD client over a socket, against servers that a test writes line by line."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from userdisk.backend.nbd import NbdUnit
from userdisk.errors import NotReady, OutOfRange, UserdiskError, WriteError
from userdisk.nbd import wire
from userdisk.nbd.client_negotiation import Wishes
from userdisk.nbd.uri import Uri
from userdisk.nbd.wire import Command
from userdisk.nbd_client import Client, ConnectionLost, NbdError, Request

PLAIN = Wishes(extended=False, structured=False, go=False)
SIZE = 1 << 20
Script = Callable[[socket.socket], None]


@contextmanager
def serving(path: Path, script: Script) -> Iterator[Uri]:
    """One connection is answered by `script`."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(20)
                script(sock)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Uri(socket=str(path))
        finally:
            thread.join()


def take(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := sock.recv(size - len(data))):
        data += more
    return data


def greet(sock: socket.socket) -> None:
    """Negotiate by EXPORT_NAME."""
    sock.sendall(wire.GREETING.pack(wire.NBD_MAGIC, wire.OPTION_MAGIC, 3))
    take(sock, wire.CLIENT_FLAGS.size + wire.OPTION.size)
    sock.sendall(wire.EXPORT_NAME_REPLY.pack(SIZE, wire.TransmissionFlag.HAS_FLAGS))


def asked(sock: socket.socket) -> tuple[int, bytes]:
    """The next request: its command and cookie."""
    _, _, command, cookie, _, _ = wire.REQUEST.unpack(take(sock, wire.REQUEST.size))
    return command, cookie


def answer(sock: socket.socket, cookie: bytes, data: bytes = b"") -> None:
    sock.sendall(wire.SIMPLE_REPLY.pack(wire.SIMPLE_REPLY_MAGIC, 0, cookie) + data)


def test_answers_in_another_order_and_a_goodbye(tmp_path: Path) -> None:
    commands = []

    def script(sock: socket.socket) -> None:
        greet(sock)
        cookies = [asked(sock)[1] for _ in range(10)]
        for number, cookie in reversed(list(enumerate(cookies))):
            answer(sock, cookie, bytes([number]) * 512)
        commands.append(asked(sock)[0])
        assert not sock.recv(1)

    with serving(tmp_path / "s", script) as uri, Client(uri, wishes=PLAIN) as client:
        ended: list[Request] = []
        requests = [Request(Command.READ, 512 * n, 512) for n in range(10)]
        for request in requests:
            client.submit(request, ended.append)
    assert ended == requests[::-1]
    assert [request.result for request in requests] == [bytes([n]) * 512 for n in range(10)]
    assert commands == [Command.DISC]


def test_what_is_under_way_ends_with_the_connection(tmp_path: Path) -> None:
    def script(sock: socket.socket) -> None:
        greet(sock)
        asked(sock)
        asked(sock)

    with serving(tmp_path / "s", script) as uri:
        client = Client(uri, wishes=PLAIN)
        ended = threading.Semaphore(0)
        requests = [Request(Command.READ, 0, 512) for _ in range(2)]
        for request in requests:
            client.submit(request, lambda _: ended.release())
        for _ in requests:
            assert ended.acquire(timeout=20)
        assert all(isinstance(request.error, ConnectionLost) for request in requests)
        assert client.lost
        with pytest.raises(ConnectionLost, match="closed the connection"):
            client.call(Request(Command.READ, 0, 512))
        client.close()
        client.close()


def test_a_server_that_lies_loses_the_connection(tmp_path: Path) -> None:
    def script(sock: socket.socket) -> None:
        greet(sock)
        asked(sock)
        sock.sendall(bytes(64))
        assert not sock.recv(1)

    with serving(tmp_path / "s", script) as uri, Client(uri, wishes=PLAIN) as client:
        read = Request(Command.READ, 0, 512)
        with pytest.raises(ConnectionLost, match="is not one"):
            client.call(read)
        assert client.lost


def test_a_server_that_is_silent_is_given_up(tmp_path: Path) -> None:
    def script(sock: socket.socket) -> None:
        greet(sock)
        asked(sock)
        assert not sock.recv(1)

    with serving(tmp_path / "s", script) as uri, Client(uri, wishes=PLAIN) as client:
        with pytest.raises(OutOfRange):
            client.call(Request(Command.READ, SIZE, 512))
        with pytest.raises(ConnectionLost, match="no answer"):
            client.call(Request(Command.READ, 0, 512), timeout=0.1)


def test_a_negotiation_that_stops_has_an_end(tmp_path: Path) -> None:
    with serving(tmp_path / "s", lambda sock: (take(sock, 1), None)[1]) as uri:  # noqa: SIM117
        with pytest.raises(NbdError, match=r"no answer in 0\.2 seconds"):
            Client(uri, timeout=0.2)


def test_a_server_that_hangs_up(tmp_path: Path) -> None:
    with serving(tmp_path / "s", lambda sock: None) as uri:  # noqa: SIM117
        with pytest.raises(NbdError, match=r"unix:.*closed the connection"):
            Client(uri)


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserdiskError, match="cannot connect: No such file"):
        Client(Uri(socket=str(tmp_path / "s")))


def test_fua_fails_when_the_connection_drops_between_write_and_flush(tmp_path: Path) -> None:
    flags = wire.TransmissionFlag

    def script(sock: socket.socket) -> None:
        sock.sendall(wire.GREETING.pack(wire.NBD_MAGIC, wire.OPTION_MAGIC, 0))
        take(sock, wire.CLIENT_FLAGS.size + wire.OPTION.size)
        agreed = flags.HAS_FLAGS | flags.SEND_FLUSH
        sock.sendall(wire.EXPORT_NAME_REPLY.pack(SIZE, agreed) + bytes(124))
        command, cookie = asked(sock)
        assert command == Command.WRITE
        take(sock, 512)
        answer(sock, cookie)

    with serving(tmp_path / "s", script) as uri:
        unit = NbdUnit(uri, timeout=0.5)
        with pytest.raises((NotReady, WriteError)):
            unit.write(0, memoryview(bytes(512)), fua=True)
        unit.close()
