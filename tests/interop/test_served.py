"""Our own initiator against a served unit, over TCP: what the tools of others do not offer."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.server import Served, serve
from userdisk.initiator_client import DEFAULT_NAME, Initiator, discover, read_image, write_image
from userdisk.iscsi.initiator_login import LoginRefused, Settings
from userdisk.iscsi.initiator_wire import InitiatorError

_SIZE = 32 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("served") / "disk.img"
    with serve(str(path), options=("--size", "32M")) as server:
        yield server


def connect(served: Served, *, lun: int = 0, **offer: Any) -> Initiator:
    url = served.address
    settings = Settings(**{"initiator": DEFAULT_NAME, "target": url.target, **offer})
    return Initiator((url.host, url.port), settings, lun=lun)


@pytest.mark.parametrize(
    "offer",
    [
        {},
        {"header_digest": True},
        {"data_digest": True},
        {"header_digest": True, "data_digest": True, "initial_r2t": True},
        {"initial_r2t": True, "immediate_data": False},
        {"immediate_data": False},
        {"max_recv_segment": 4096, "max_burst_length": 65536, "first_burst_length": 5120},
    ],
)
def test_image_round_trip(served: Served, offer: dict[str, Any], tmp_path: Path) -> None:
    data = random.Random(str(offer)).randbytes(5 << 20)
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(data + bytes(_SIZE - len(data)))
    with connect(served, **offer) as initiator:
        parameters = initiator.session.parameters
        for name, value in offer.items():
            if name != "max_recv_segment":
                assert getattr(parameters, name) == value
        assert write_image(initiator, str(source)) == _SIZE
        assert read_image(initiator, str(back)) == _SIZE
    assert back.read_bytes() == source.read_bytes()


def test_discovery_names_the_address_that_was_reached(served: Served) -> None:
    url = served.address
    found = discover((url.host, url.port), Settings(DEFAULT_NAME))
    assert found == {url.target: [f"{url.host}:{url.port},1"]}


def test_a_second_login_replaces_the_first(served: Served) -> None:
    first = connect(served, isid=0x80_0000_0000_77)
    try:
        first.execute(bytes(6))
        with connect(served, isid=0x80_0000_0000_77) as second:
            second.execute(bytes(6))
            with pytest.raises(InitiatorError):
                for _ in range(100):
                    first.execute(bytes(6))
            second.execute(bytes(6))
        with connect(served, isid=0x80_0000_0000_78) as other:
            other.execute(bytes(6))
    finally:
        first.socket.close()


def test_a_client_that_does_not_read_stalls_nobody(served: Served) -> None:
    """It asks for 64 MiB and takes nothing; another session works meanwhile."""
    with connect(served, initiator=DEFAULT_NAME + "-lazy") as lazy:
        lazy.execute(bytes(6))
        for _ in range(64):
            cdb = struct.pack(">BBQIxx", 0x88, 0, 0, 2048)
            lazy.session.command(cdb, read_length=1 << 20)
        lazy.send()
        with connect(served) as other:
            other.execute(bytes(6))
            started = time.monotonic()
            for _ in range(50):
                other.read(0, 8)
            assert time.monotonic() - started < 5
        lazy.run(lambda: not lazy.session.tasks)


def test_half_open_connections_do_not_keep_others_out(served: Served) -> None:
    url = served.address
    silent = [socket.create_connection((url.host, url.port)) for _ in range(40)]
    try:
        with connect(served) as initiator:
            assert initiator.capacity().block_count == _SIZE // 512
    finally:
        for connection in silent:
            connection.close()


def test_a_scanner_gets_no_answer(served: Served) -> None:
    url = served.address
    with socket.create_connection((url.host, url.port), 10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: " + b"x" * 200 + b"\r\n\r\n")
        assert connection.recv(1024) == b""


def test_only_listed_initiators() -> None:
    listed = "iqn.2026-11.example:friend"
    with serve("ram:1M", options=("--initiator", listed)) as served:
        with connect(served, initiator=listed) as initiator:
            assert initiator.capacity().block_count == 2048
        with pytest.raises(LoginRefused) as refused:
            connect(served)
        assert refused.value.status == 0x0202


def test_stopping_asks_for_a_logout(tmp_path: Path) -> None:
    """A server that ends tells its initiators, and what was written is in the file."""
    path = tmp_path / "disk.img"
    with serve(str(path), options=("--size", "1M")) as served:
        initiator = connect(served)
        initiator.execute(bytes(6))
        initiator.write(3, b"kept" * 128)
        served.process.terminate()
        initiator.run(lambda: bool(initiator.session.events))
        assert initiator.session.events[0][0] == 1
        initiator.close()
        assert served.process.wait(20) == 0
    assert path.read_bytes()[3 * 512 : 4 * 512] == b"kept" * 128
