"""Whose connection it is."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from userdisk.console import peers

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1FBB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   1: 0100007F:C350 0100007F:1FBB 01 00000000:00000000 00:00000000 00000000  1000        0 2 1 0
   2: 0100007F:1FBB 0100007F:C350 01 00000000:00000000 00:00000000 00000000     7        0 3 1 0
   3: 0100007F:C351 0100007F:1FBB 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0
"""
TABLE_6 = """\
 sl  local_address                         remote_address                        st tx_queue rx_qu
  0: 0000000000000000FFFF00000100007F:C350 0000000000000000FFFF00000100007F:1FBB 01 0:0 0:0 0 1001 0
  1: 00000000000000000000000001000000:C350 00000000000000000000000001000000:1FBB 01 0:0 0:0 0 1002 0
"""
OWN = ("127.0.0.1", 0x1FBB)


@pytest.mark.skipif(sys.byteorder != "little", reason="the table above is of a PC")
def test_the_table() -> None:
    lines = TABLE.splitlines()
    assert peers.find_user(lines, ("127.0.0.1", 0xC350), OWN) == 1000
    assert peers.find_user(lines, ("127.0.0.1", 0xC351), OWN) is None, "closed: nobody's"
    assert peers.find_user(lines, ("127.0.0.1", 0xC352), OWN) is None
    assert peers.find_user(["", "a b"], ("127.0.0.1", 0xC350), OWN) is None


@pytest.mark.skipif(sys.byteorder != "little", reason="the table above is of a PC")
def test_the_table_of_ipv6() -> None:
    lines = TABLE_6.splitlines()
    assert peers.find_user(lines, ("127.0.0.1", 0xC350), OWN) == 1001
    assert (
        peers.find_user(lines, ("::ffff:127.0.0.1", 0xC350), ("::ffff:127.0.0.1", 0x1FBB)) == 1001
    )
    assert peers.find_user(lines, ("::1", 0xC350), ("::1", 0x1FBB)) == 1002
    assert peers.find_user(lines, ("::2", 0xC350), ("::1", 0x1FBB)) is None


@pytest.mark.parametrize(
    ("host", "own", "who"),
    [
        ("127.0.0.1", "127.0.0.1", peers.UNKNOWN),
        ("127.0.0.2", "192.0.2.1", peers.UNKNOWN),
        ("::1", "::1", peers.UNKNOWN),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", peers.UNKNOWN),
        ("192.0.2.1", "192.0.2.1", peers.UNKNOWN),  # this machine, by its address
        ("::ffff:192.0.2.1", "192.0.2.1", peers.UNKNOWN),
        ("192.0.2.2", "192.0.2.1", "ip:192.0.2.2"),
        ("::ffff:192.0.2.2", "::ffff:192.0.2.1", "ip:192.0.2.2"),
        ("fe80::2%lo", "fe80::1%lo", "ip:fe80::2"),
    ],
)
def test_who_is_in_no_table_is_of_this_machine_or_of_another(
    host: str, own: str, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_TABLES", ())
    assert peers.who((host, 50000), (own, 80)) == who


@pytest.fixture(params=["127.0.0.1", "::1", "::"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    try:
        sock = socket.create_server((request.param, 0), family=family,
                                    dualstack_ipv6=request.param == "::")  # fmt: skip
    except OSError:
        pytest.skip(f"{request.param} is no address of this machine")
    with sock:
        sock.settimeout(60)
        yield sock


def _near(listener: socket.socket) -> tuple[str, int]:
    host, port = listener.getsockname()[:2]
    return ("127.0.0.1" if host == "::" else host), port


def test_a_connection_of_this_user(listener: socket.socket) -> None:
    with socket.create_connection(_near(listener)) as client:
        server, peer = listener.accept()
        with server:
            assert peers.who(peer[:2], server.getsockname()[:2]) == f"uid:{os.getuid()}"
            client.shutdown(socket.SHUT_WR)
            client.close()
            server.recv(1)
            assert peers.who(peer[:2], server.getsockname()[:2]) == peers.UNKNOWN


def test_a_connection_of_another_user(listener: socket.socket) -> None:
    if os.getuid() != 0:
        pytest.skip("not root: cannot be another user")
    child = os.fork()
    if not child:
        try:
            os.setuid(65534)
            with socket.create_connection(_near(listener), 60) as client:
                client.recv(1)
        finally:
            os._exit(0)
    try:
        server, peer = listener.accept()
        with server:
            assert peers.who(peer[:2], server.getsockname()[:2]) == "uid:65534"
    finally:
        os.waitpid(child, 0)


def test_another_machine() -> None:
    assert peers.who(("192.0.2.1", 5), ("192.0.2.2", 6)) == "ip:192.0.2.1"
    assert peers.who(("2001:db8::1%eth0", 5), ("2001:db8::2", 6)) == "ip:2001:db8::1"
    assert peers.who(("127.0.0.1", 1), ("127.0.0.1", 2)) == peers.UNKNOWN
