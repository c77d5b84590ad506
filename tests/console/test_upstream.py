"""Launchers that do not answer as they should: the browser gets a 502 with a reason, soon."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("h11")

from userdisk.console import upstream
from userdisk.console.upstream import Absent, Broken, Upstream, finished

Reply = Callable[[socket.socket], None]


@contextlib.contextmanager
def launcher(path: Path, reply: Reply) -> Iterator[Upstream]:
    """One that replies like this to each connection, behind a path where nobody is."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer, contextlib.suppress(OSError):
                    peer.settimeout(60)
                    reply(peer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Upstream(lambda: [path.with_name("nobody"), path])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(60)
        listener.close()


def says(text: bytes) -> Reply:
    def reply(peer: socket.socket) -> None:
        if peer.recv(65536):
            peer.sendall(text)

    return reply


def says_and_waits(text: bytes) -> Reply:
    def reply(peer: socket.socket) -> None:
        peer.recv(65536)
        peer.sendall(text)
        peer.recv(1)  # until the other end closes

    return reply


async def read(found: Upstream, target: str, seconds: float) -> tuple[int, bytes]:
    """Status and body, within so many seconds for each."""
    answer = await found.ask("GET", target, seconds=seconds)
    try:
        return answer.status, await finished(answer, seconds)
    finally:
        answer.close()


def _read(path: Path, reply: Reply, seconds: float = 30) -> tuple[int, bytes]:
    with launcher(path, reply) as found:
        return asyncio.run(read(found, "/v1/service", seconds))


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def test_an_answer(tmp_path: Path) -> None:
    plain = says(OK + b"Content-Length: 2\r\n\r\n{}")
    chunks = says(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n")
    for number, reply in enumerate((plain, chunks, says(OK + b"\r\n{}"))):
        assert _read(tmp_path / f"api{number}", reply) == (200, b"{}")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"HTTP/1.1 200",
        b"nonsense\r\n\r\n",
        OK + b"Content-Length: 9\r\n\r\n{}",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK + b"X: " + b"y" * 300000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
    ],
)
def test_what_is_no_answer(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(Broken):
        _read(tmp_path / "api", says(text))


def test_what_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "LARGEST", 1 << 20)

    def endless(peer: socket.socket) -> None:
        peer.recv(65536)
        peer.sendall(OK + b"\r\n")
        while True:
            peer.sendall(b"x" * 65536)

    with pytest.raises(Broken, match="longer than 1 MiB"):
        _read(tmp_path / "api", endless)


def test_what_comes_too_late(tmp_path: Path) -> None:
    with pytest.raises(Broken, match=r"has not answered within 0\.2 s"):
        _read(tmp_path / "api", says_and_waits(b""), 0.2)
    with pytest.raises(Broken, match=r"has not ended within 0\.2 s"):
        _read(tmp_path / "api2", says_and_waits(OK + b"Content-Length: 9\r\n\r\n{"), 0.2)


def test_nobody_is_there(tmp_path: Path) -> None:
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    paths = [tmp_path / "none/api", dead]
    with pytest.raises(Absent) as caught:
        asyncio.run(read(Upstream(lambda: paths), "/", 1))
    assert str(caught.value) == (
        f"no launcher at {paths[0]} or {paths[1]}: start it with userdisk launcher run"
    )


def test_a_path_that_no_socket_takes(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()

    with launcher(tmp_path / "api", says(OK + b"Content-Length: 2\r\n\r\n{}")):
        (tmp_path / "api").rename(folder / "api")
        found = Upstream(lambda: [folder / "api"])
        assert asyncio.run(read(found, "/", 30)) == (200, b"{}")


@pytest.mark.parametrize("target", ["/v1 /x", "/v1\r\nX: y", "/\u00e9", "/\0"])
def test_a_target_that_cannot_be_sent(tmp_path: Path, target: str) -> None:
    with (
        launcher(tmp_path / "api", says(OK + b"\r\n")) as found,
        pytest.raises(Broken),
    ):
        asyncio.run(found.ask("GET", target))


def test_close_ends_who_reads(tmp_path: Path) -> None:
    async def closed(found: Upstream) -> None:
        answer = await found.ask("GET", "/v1/events")
        reading = asyncio.create_task(finished(answer, 60))
        await asyncio.sleep(0)
        answer.close()
        with pytest.raises(Broken):
            await reading

    chunk = OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    with launcher(tmp_path / "api", says_and_waits(chunk)) as found:
        asyncio.run(closed(found))
