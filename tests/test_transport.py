"""Sending, receiving and waking: short sends, odd buffers, time-outs, and wakers that are gone."""

from __future__ import annotations

import ctypes
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from userdisk import transport
from userdisk.transport import Waker
from userdisk.unit import Buffer


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection with small buffers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    with client, server:
        yield server, client


def _drain(sock: socket.socket, into: bytearray) -> threading.Thread:
    def run() -> None:
        while data := sock.recv(65536):
            into.extend(data)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def _odd_buffers(rng: random.Random) -> list[Any]:
    """Buffers of every form that a unit may return."""
    data = rng.randbytes(4096)
    wide = bytearray(len(data) * 2)
    wide[::2] = data
    return [
        data,
        bytearray(data),
        memoryview(data),
        memoryview(data).cast("I"),
        memoryview(data).cast("B", (64, 64)),
        memoryview(wide)[::2],
        (ctypes.c_uint8 * len(data)).from_buffer_copy(data),
        b"",
        memoryview(b""),
        data[:7],
    ]


@pytest.mark.parametrize("vectored", [True, False])
def test_everything_arrives_in_order(
    pair: tuple[socket.socket, socket.socket], vectored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More buffers than one system call takes, more bytes than the socket takes."""
    monkeypatch.setattr(transport, "_VECTORED", vectored)
    server, client = pair
    transport.prepare(server, 0.2, 5)
    rng = random.Random(1)
    buffers: list[Buffer] = [rng.randbytes(rng.randrange(200)) for _ in range(30_000)]
    if vectored:
        for _ in range(20):
            buffers += _odd_buffers(rng)
    expected = b"".join(bytes(buffer) for buffer in buffers)
    rest = transport.send(server, buffers)
    assert rest, "the socket took everything at once: the test shows nothing"
    arrived = bytearray()
    thread = _drain(client, arrived)
    waker = Waker()
    while rest := transport.send(server, rest):
        waker.wait(server, 1, writing=True)
    server.shutdown(socket.SHUT_WR)
    thread.join(10)
    waker.close()
    assert arrived == expected


def test_send_does_not_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    server, _ = pair
    transport.prepare(server, 5, 5)
    before = time.monotonic()
    rest = transport.send(server, [bytes(10 << 20)])
    assert sum(memoryview(each).nbytes for each in rest) > 1 << 20
    assert time.monotonic() - before < 2


def test_receive_says_what_happened(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    transport.prepare(server, 0.05, 5)
    buffer = memoryview(bytearray(100))
    assert transport.receive(server, buffer) == -1
    client.sendall(b"abc")
    assert transport.receive(server, buffer) == 3
    assert buffer[:3] == b"abc"
    client.close()
    assert transport.receive(server, buffer) == 0


def test_a_connection_that_is_reset(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    transport.prepare(server, 0.05, 5)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    with pytest.raises(OSError):
        for _ in range(100):
            transport.send(server, [b"x"])
            time.sleep(0.01)


# -- wakers ----------------------------------------------------------------------------------------


@pytest.fixture(params=["eventfd", "socketpair"])
def waker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waker]:
    if request.param == "socketpair":
        monkeypatch.setattr(transport, "_EVENTFD", False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("no eventfd on this system")
    made = Waker()
    yield made
    made.close()


def test_a_wake_before_the_wait_counts(waker: Waker) -> None:
    for _ in range(3):
        waker.wake()
    before = time.monotonic()
    assert not waker.wait(None, 5)
    assert time.monotonic() - before < 1
    assert not waker.wait(None, 0.05)
    assert time.monotonic() - before >= 0.05, "woken twice"


def test_a_wake_from_another_thread(waker: Waker) -> None:
    timer = threading.Timer(0.05, waker.wake)
    timer.start()
    before = time.monotonic()
    waker.wait(None, 5)
    assert time.monotonic() - before < 2
    timer.join()


def test_waiting_for_a_socket(waker: Waker, pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    assert not waker.wait(server, 0.01)
    assert waker.wait(server, 0.01, writing=True)
    client.sendall(b"x")
    assert waker.wait(server, 5)
    waker.wake()
    assert waker.wait(server, 5), "both are ready"
    client.close()
    assert server.recv(1) == b"x"
    assert waker.wait(server, 5), "the end of the stream"


def test_more_wakes_than_anybody_waits_for(waker: Waker) -> None:
    for _ in range(20_000):
        waker.wake()
    for _ in range(30):  # none is left
        waker.wait(None, 0)
    waiting = threading.Thread(target=waker.wait, args=(None, 600), daemon=True)
    waiting.start()
    waker.wake()
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_waker_that_is_closed_writes_nowhere(waker: Waker, tmp_path: Path) -> None:
    """Its descriptor may be a disk image by then."""
    waker.close()
    path = tmp_path / "image"
    path.write_bytes(bytes(64))
    files = [os.open(path, os.O_RDWR) for _ in range(8)]
    try:
        waker.wake()
        waker.close()
        assert path.read_bytes() == bytes(64)
        for file in files:
            os.fstat(file)
    finally:
        for file in files:
            os.close(file)


def test_waking_and_closing_at_the_same_time(waker: Waker, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(64))
    threads = [threading.Thread(target=lambda: [waker.wake() for _ in range(2000)]) for _ in "ab"]
    for thread in threads:
        thread.start()
    waker.close()
    files = [os.open(path, os.O_RDWR) for _ in range(8)]
    for thread in threads:
        thread.join()
    for file in files:
        os.close(file)
    assert path.read_bytes() == bytes(64)
