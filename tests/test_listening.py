"""Listening on Unix sockets: whose file it is, and what is said if it cannot be had."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from userdisk import listening
from userdisk.errors import UsageError
from userdisk.listening import Listener, listen


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
        assert client.connect_ex(str(path)) == 0
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


def dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))


def test_of_many_that_replace_a_dead_one_one_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds the dead socket; who removes it must not remove what another just made of it."""
    probe = listening._make_room

    def slow(path: Path, where: str) -> None:
        probe(path, where)
        time.sleep(0.01)  # everybody else looks now, too

    monkeypatch.setattr(listening, "_make_room", slow)
    path = tmp_path / "s"
    dead_socket(path)
    start = threading.Barrier(4)
    won: list[Listener] = []
    lost: list[str] = []

    def listen() -> None:
        start.wait(10)
        try:
            won.append(Listener(path))
        except UsageError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=listen) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert len(won) == 1
    assert lost == [f"cannot listen on unix:{path}: another server listens there"] * 3
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
    won[0].close()


def test_who_keeps_the_folder_locked_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_PATIENCE", 0.05)
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    dead_socket(tmp_path / "s")
    listener = Listener(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        assert client.connect_ex(str(tmp_path / "s")) == 0
    os.close(folder)
    listener.close()


def test_the_file_goes_while_its_socket_still_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another server could replace it between the look and the removal."""
    path = tmp_path / "s"
    listener = Listener(path)
    remove = os.unlink

    def unlink(found: Path) -> None:
        with pytest.raises(UsageError, match="another server listens there"):
            Listener(path)
        remove(found)

    monkeypatch.setattr(os, "unlink", unlink)
    listener.close()
    monkeypatch.undo()
    assert not path.exists()


@pytest.mark.parametrize("unix", [False, True])
def test_an_inherited_socket_goes_on_listening(unix: bool, tmp_path: Path) -> None:
    """Who takes it over takes those who came meanwhile, too."""
    path = tmp_path / "socket"
    held = socket.socket(socket.AF_UNIX) if unix else socket.create_server(("127.0.0.1", 0))
    with held:
        if unix:
            held.bind(str(path))
            held.listen()
        address: tuple[str, int] | str = held.getsockname()
        other_name = (
            tmp_path / "linked" / path.name
        )  # it need not be bound by the one it is known by
        asked = other_name if unix else ("", 0)
        first = listen(asked, socket.socket(fileno=os.dup(held.fileno())))
        assert first.address == (other_name if unix else address)
        assert first.where == (f"unix:{other_name}" if unix else f"127.0.0.1:{address[1]}")
        with socket.socket(held.family) as client:
            client.connect(address)
            taken, _ = first.socket.accept()
            taken.close()
        first.close()
        with pytest.raises(OSError):
            first.socket.accept()
        with socket.socket(held.family) as waits:
            waits.connect(address)  # while nobody accepts
            second = listen(asked, socket.socket(fileno=os.dup(held.fileno())))
            taken, _ = second.socket.accept()
            taken.sendall(b"x")
            assert waits.recv(1) == b"x"
            taken.close()
        second.close()
        with pytest.raises(OSError):
            second.socket.accept()
        second.close()
