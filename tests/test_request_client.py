"""A connection with many requests under way, with a protocol that a test can see through."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from userdisk.errors import StorageError
from userdisk.request_client import ConnectionLost, RequestClient
from userdisk.unit import Buffer

SECONDS = 60


class Request:
    """One byte there, one byte back."""

    def __init__(self) -> None:
        self.error: StorageError | None = None
        self.done: Callable[[Request], None] | None = None
        self.answered = False


class Rude(Exception):
    """The peer has sent something else."""


class Protocol:
    """Requests are answered in order, each by an "a"."""

    def __init__(self) -> None:
        self.finished: list[Request] = []
        self.outstanding: list[Request] = []
        self._buffer = bytearray(16)

    def encode(self, request: Request) -> list[Buffer]:
        self.outstanding.append(request)
        return [b"r"]

    def buffer(self) -> memoryview:
        return memoryview(self._buffer)

    def received(self, size: int) -> None:
        for byte in self._buffer[:size]:
            if byte != ord("a"):
                raise Rude("the peer says something else")
            request = self.outstanding.pop(0)
            request.answered = True
            self.finished.append(request)

    def lost(self, error: StorageError) -> None:
        for request in self.outstanding:
            request.error = error
        self.finished += self.outstanding
        self.outstanding = []


class Link:
    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def receive(self, buffer: memoryview) -> int:
        return self.socket.recv_into(buffer)

    def send(self, buffers: Sequence[Buffer]) -> None:
        self.socket.sendall(b"".join(buffers))


class Pair:
    """A client, and the socket of its peer."""

    def __init__(self) -> None:
        near, self.peer = socket.socketpair()
        self.peer.settimeout(SECONDS)
        self.client: RequestClient[Request] = RequestClient(
            "here", Link(near), Protocol(), peer="peer", broken=Rude, timeout=SECONDS
        )

    def submit(self) -> tuple[Request, threading.Event]:
        request, ended = Request(), threading.Event()
        self.client.submit(request, lambda _: ended.set())
        return request, ended


@pytest.fixture
def pair() -> Iterator[Pair]:
    found = Pair()
    yield found
    found.client.close()
    found.peer.close()


def test_requests_end_in_the_order_of_their_answers(pair: Pair) -> None:
    submitted = [pair.submit() for _ in range(3)]
    assert not any(ended.is_set() for _, ended in submitted)
    pair.peer.sendall(b"aaa")
    for request, ended in submitted:
        assert ended.wait(SECONDS)
        assert request.answered
        assert request.error is None
    assert not pair.client.lost


@pytest.mark.parametrize(
    ("do", "why"),
    [
        (lambda pair: pair.peer.close(), "here: the peer closed the connection"),
        (lambda pair: pair.peer.sendall(b"?"), "here: the peer says something else"),
        (lambda pair: pair.client.abort(), "here: was closed"),
    ],
)
def test_what_is_under_way_ends_with_the_connection(
    pair: Pair, do: Callable[[Pair], Any], why: str
) -> None:
    submitted = [pair.submit() for _ in range(3)]
    pair.peer.sendall(b"a")
    assert submitted[0][1].wait(SECONDS)
    assert pair.peer.recv(3, socket.MSG_WAITALL) == b"rrr"
    do(pair)
    for request, ended in submitted[1:]:
        assert ended.wait(SECONDS)
        assert isinstance(request.error, ConnectionLost)
        assert str(request.error) == why
    assert submitted[0][0].error is None
    with pytest.raises(ConnectionLost, match=why):
        pair.client.wait(Request())


def test_a_peer_that_is_silent_is_given_up(pair: Pair) -> None:
    other, ended = pair.submit()
    with pytest.raises(ConnectionLost, match=r"here: no answer in 0\.05 seconds"):
        pair.client.wait(Request(), 0.05)
    assert pair.client.lost
    assert ended.wait(SECONDS)
    assert other.error is not None


def test_closing_waits_for_the_answers_that_are_missing(pair: Pair) -> None:
    request, ended = pair.submit()
    closing = threading.Thread(target=pair.client.close)
    closing.start()
    while not pair.client._idle._waiters:  # type: ignore[attr-defined]
        assert closing.is_alive()
    late = Request()
    with pytest.raises(ConnectionLost, match="was closed"):
        pair.client.wait(late)
    assert not ended.is_set()
    pair.peer.sendall(b"a")
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert request.answered
    assert request.error is None


class _AfterTheReceiver:
    """A lock that the thread which receives has first."""

    def __init__(self, receiver: threading.Thread) -> None:
        self._receiver = receiver
        self._left = threading.Event()
        self.awaited = threading.Event()

    def __enter__(self) -> None:
        if threading.current_thread() is not self._receiver:
            self.awaited.set()
            assert self._left.wait(SECONDS)
            self._receiver.join(SECONDS)

    def __exit__(self, *_: object) -> None:
        self._left.set()


def test_who_sends_when_all_has_been_ended_ends_its_request_itself(pair: Pair) -> None:
    lock = _AfterTheReceiver(pair.client._receiver)
    pair.client._sending = lock  # type: ignore[assignment]
    found: list[tuple[Request, threading.Event]] = []
    sender = threading.Thread(target=lambda: found.append(pair.submit()))
    sender.start()
    assert lock.awaited.wait(SECONDS)
    pair.peer.close()
    sender.join(SECONDS)
    ((request, ended),) = found
    assert ended.is_set()
    assert isinstance(request.error, ConnectionLost)
