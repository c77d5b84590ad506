"""Streams that are noise, and requests with bytes changed: answered, or the end of that client."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from tests.dotnet.disk import READ, WRITE, Client, serve
from tests.kit.requires import requires

pytestmark = requires("mcs", "mono", "make")

_REQUEST = struct.Struct("<QB7xQII16x")
_STREAMS = 200  # for each seed
_BLOCKS = 64  # the test's disk fails at block 100


def _request(chance: random.Random, hint: int) -> bytes:
    kind, blocks = chance.randint(1, 4), chance.choice((0, 1, 2, 128))
    payload = b""
    if kind == WRITE:
        payload = chance.randbytes(512 * blocks)
    elif kind == 4:
        payload = struct.pack("<QII", chance.randrange(_BLOCKS), 1, 0)
        message = struct.pack("<QB7xI28x", hint, 4, 1) + payload
        return struct.pack("<I", len(message)) + message
    message = _REQUEST.pack(hint, kind, chance.randrange(_BLOCKS), blocks, chance.randrange(2))
    message += payload
    return struct.pack("<I", len(message)) + message


def _mutated(chance: random.Random, stream: bytes) -> bytes:
    changed = bytearray(stream)
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        # Most of a write is data: changes are of use in front.
        at = chance.randrange(min(len(changed), chance.choice((4, 64, len(changed)))))
        changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(changed[: len(changed) - chance.choice((0, 0, 0, 1, 40))])


def _answers(client: Client) -> int:
    """How many there are until the server ends this client; all are well formed."""
    number = 0
    while True:
        try:
            answer = client.answer()
        except (EOFError, ConnectionResetError):
            return number
        assert answer.status == 0 or not answer.data
        assert len(answer.data) <= 65536
        number += 1


@pytest.mark.parametrize("seed", range(4))
def test_noise(built: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    answers = 0
    with serve(built, tmp_path / "s", blocks=_BLOCKS, threads=2) as disk:
        for _ in range(_STREAMS):
            stream = b"".join(_request(chance, hint) for hint in range(1, chance.randint(2, 8)))
            if chance.random() < 0.1:
                stream = chance.randbytes(200)
            with disk.client() as client:
                try:
                    client.socket.sendall(_mutated(chance, stream))
                    client.socket.shutdown(1)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # it did not like what it had
                answers += _answers(client)
        with disk.client() as client:
            assert client.call(WRITE, 0, 1, b"n" * 512).status == 0
            assert client.call(READ, 0, 1).data == b"n" * 512
        status, _, errors = disk.stop()
    assert status == 0
    assert answers > _STREAMS  # many are requests still
    assert "Exception" not in errors
