"""Listening on Unix sockets: whose file it is, and what is said if it cannot be had."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from userdisk.errors import UsageError
from userdisk.listening import Listener


def test_only_the_owner_may_connect_and_the_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = Listener(path)
    assert listener.address == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()
    assert not path.exists()


def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(path))
    dead.close()
    listener = Listener(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
    listener.close()


def test_a_live_one_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = Listener(path)
    with pytest.raises(UsageError, match="another server listens there"):
        Listener(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
    first.close()


def test_a_file_that_is_not_ours_any_more_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = Listener(path)
    path.unlink()
    second = Listener(path)
    first.close()
    assert path.exists()
    second.close()


def test_what_cannot_be_a_socket(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a socket"):
        Listener(tmp_path / "file")
    assert (tmp_path / "file").exists()
    with pytest.raises(UsageError, match="longer than 107 bytes"):
        Listener(Path("/tmp") / ("x" * 108))
    with pytest.raises(UsageError, match="No such file"):
        Listener(tmp_path / "none" / "s")
