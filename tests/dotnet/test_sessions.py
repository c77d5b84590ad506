"""Clients that come, go, break off, lie about lengths, wait for each other; a disk's end."""

from __future__ import annotations

import os
import signal
import socket
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from tests.dotnet.disk import FLUSH, READ, WRITE, Client, serve
from tests.kit.requires import requires

pytestmark = requires("mcs", "mono", "make")

_READ = struct.Struct("<QB7xQII16x")


def test_answers_come_when_they_are_ready(built: Path, tmp_path: Path) -> None:
    with serve(built, tmp_path / "s", threads=2) as disk, disk.client() as client:
        slow = client.ask(READ, 102, 1)
        disk.told("waits")
        assert client.call(READ, 0, 1).status == 0
        ends_it = client.ask(READ, 103, 1)
        assert {client.answer().hint, client.answer().hint} == {slow, ends_it}


@pytest.mark.parametrize("kind", [READ, FLUSH, 9])
def test_a_hint_that_is_under_way_ends_the_client(built: Path, tmp_path: Path, kind: int) -> None:
    """An answer could be taken for that of the other request."""
    with serve(built, tmp_path / "s", threads=2) as disk:
        with disk.client() as client:
            client.ask(READ, 102, 2, hint=5)
            disk.told("waits")
            client.ask(kind, 0, 1, hint=5)
            assert client.ended()
        # Nobody else is served until that request has ended; this disk's does at its end only.
        disk.process.kill()
        _, _, errors = disk.stop()
    assert errors == "userdisk: a client was ended: it used the hint 5 of a request under way\n"


def test_many_requests_at_once(built: Path, tmp_path: Path) -> None:
    """More than there are slots: the rest waits in the socket."""
    with serve(built, tmp_path / "s", threads=2, blocks=4096) as disk, disk.client() as client:
        for block in range(200, 300):
            client.ask(WRITE, block, 1, bytes([block - 200]) * 512)
        assert {client.answer().status for _ in range(100)} == {0}
        hints = {client.ask(READ, block, 1): block for block in range(200, 300)}
        for _ in range(100):
            answer = client.answer()
            assert answer.data == bytes([hints.pop(answer.hint) - 200]) * 512
        assert not hints


def test_requests_in_small_pieces(built: Path, tmp_path: Path) -> None:
    with serve(built, tmp_path / "s") as disk, disk.client() as client:
        message = _READ.pack(1, WRITE, 0, 1, 0) + b"p" * 512
        for byte in struct.pack("<I", len(message)) + message:
            client.socket.send(bytes([byte]))
        assert client.answer().status == 0
        assert client.call(READ, 0, 1).data == b"p" * 512


@pytest.mark.parametrize("length", [0, 1, 47, 48 + 65536 + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_message_of_a_wrong_length_ends_that_client(
    built: Path, tmp_path: Path, length: int
) -> None:
    with serve(built, tmp_path / "s") as disk:
        with disk.client() as client:
            client.call(WRITE, 0, 1, b"k" * 512)
            client.socket.sendall(struct.pack("<I", length) + bytes(40))
            assert client.ended()
        with disk.client() as client:
            assert client.call(READ, 0, 1).data == b"k" * 512
        status, _, errors = disk.stop()
    assert status == 0
    assert errors == (
        f"userdisk: a client was ended: it sent a message of {length} bytes; 48 to 65584 can be\n"
    )


def test_the_longest_message(built: Path, tmp_path: Path) -> None:
    with serve(built, tmp_path / "s") as disk, disk.client() as client:
        assert client.call(WRITE, 0, 128, b"l" * 65536).status == 0
        assert client.call(READ, 0, 128).data == b"l" * 65536


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 51, 52, 53, 563])
def test_a_message_that_breaks_off(built: Path, tmp_path: Path, cut: int) -> None:
    """A write of which a part is missing is not done."""
    message = struct.pack("<I", 560) + _READ.pack(1, WRITE, 0, 1, 0) + b"x" * 512
    with serve(built, tmp_path / "s") as disk:
        with disk.client() as client:
            client.socket.sendall(message[:cut])
        with disk.client() as client:
            assert client.call(READ, 0, 1).data == bytes(512)
        status, told, errors = disk.stop()
    assert (status, errors) == (0, "")
    assert "Write" not in told


def test_answers_stay_with_their_client(built: Path, tmp_path: Path) -> None:
    """The next client is greeted when nothing of the last one is under way."""
    with serve(built, tmp_path / "s", threads=3) as disk:
        first = Client(disk.path)
        first.greeting()
        first.ask(READ, 102, 1, hint=9)
        disk.told("waits")
        second = Client(disk.path)
        second.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            second.socket.recv(1)  # one at a time
        first.ask(WRITE, 103, 1, b"w" * 512)
        first.socket.close()
        second.socket.settimeout(30)
        second.greeting()
        answer = second.call(READ, 103, 1, hint=9)
        assert answer.data in (b"w" * 512, bytes(512))  # of a write that nobody was told of
        with second:
            assert second.call(READ, 0, 1, hint=9).data == bytes(512)


def test_what_was_asked_before_a_client_ends_is_answered(built: Path, tmp_path: Path) -> None:
    with serve(built, tmp_path / "s") as disk, disk.client() as client:
        hints = [client.ask(WRITE, block, 1, b"h" * 512) for block in range(20)]
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.answer().hint for _ in hints] == hints
        assert client.ended()


def test_clients_that_come_and_go(built: Path, tmp_path: Path) -> None:
    with serve(built, tmp_path / "s") as disk:
        for i in range(100):
            with Client(disk.path) as client:
                if i % 3 == 1:
                    client.ask(READ, 0, 128)
                elif i % 3 == 2:
                    client.greeting()
                    assert client.call(READ, 0, 1).status == 0
        with disk.client() as client:
            assert client.call(READ, 0, 1).status == 0
        status, _, errors = disk.stop()
    assert (status, errors) == (0, "")


def test_a_client_that_takes_no_answers_does_not_keep_the_disk_from_ending(
    built: Path, tmp_path: Path
) -> None:
    with serve(built, tmp_path / "s", threads=2) as disk, disk.client() as client:
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while True:
                client.ask(READ, 0, 128)
        assert disk.stop()[0] == 0


def test_the_socket_is_the_owners_and_goes_with_the_disk(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serve(built, path) as disk:
        status = os.lstat(path)
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert disk.stop()[0] == 0
        assert not path.exists()


def test_a_socket_of_somebody_else_stays(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serve(built, path) as disk, socket.socket(socket.AF_UNIX) as other:
        path.unlink()
        other.bind(os.fspath(path))
        assert disk.stop()[0] == 0
        assert path.exists()


def test_a_killed_disk_leaves_a_socket_that_the_next_replaces(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serve(built, path) as disk, disk.client() as client:
        disk.process.send_signal(signal.SIGKILL)
        disk.process.wait()
        assert client.ended()
        assert path.exists()
    with serve(built, path) as disk, disk.client() as client:
        assert client.call(READ, 0, 1).status == 0


def test_the_end_is_in_order(built: Path, tmp_path: Path) -> None:
    with serve(built, tmp_path / "s") as disk:
        with disk.client() as client:
            client.call(WRITE, 0, 1, bytes(512))
        status, told, errors = disk.stop()
    assert (status, errors) == (0, "")
    assert told.split("\n")[-4:] == ["Write 0 1 False", "Flush 0 0", "Stopped", ""]


@pytest.mark.parametrize("values", [{"cache": 0}, {"protected": 1}])
def test_no_last_flush_when_there_is_nothing_to_flush(
    built: Path, tmp_path: Path, values: dict[str, int]
) -> None:
    with serve(built, tmp_path / "s", **values) as disk:
        status, told, errors = disk.stop()
    assert (status, told, errors) == (0, "Stopped\n", "")


def test_a_last_flush_that_fails_is_told(built: Path, tmp_path: Path) -> None:
    with serve(built, tmp_path / "s", lastflush="fails") as disk:
        status, told, errors = disk.stop()
    assert status == 3
    assert told.endswith("Flush 0 0\nStopped\n")
    assert "userdisk: the last flush failed: what was written may be lost\n" in errors
    assert errors.endswith("Wait: the last flush failed: what was written may be lost\n")


def test_a_disk_can_end_itself(built: Path, tmp_path: Path) -> None:
    with serve(built, tmp_path / "s") as disk, disk.client() as client:
        client.ask(READ, 107, 1)
        disk.told("Stopped")
        assert disk.process.wait(30) == 0
        assert client.ended()
    assert not (tmp_path / "s").exists()


def test_of_several_that_find_a_dead_socket_one_serves(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    command = ["mono", str(built / "TestDisk.exe"), "memory", os.fspath(path)]
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    try:
        ready = [process for process in processes if process.stdout and process.stdout.readline()]
        assert len(ready) == 1
        for process in processes:
            if process is not ready[0]:
                assert b"another server listens there" in process.communicate(timeout=30)[1]
        with Client(path) as client:
            client.greeting()
            assert client.call(READ, 0, 1).status == 0
        ready[0].communicate(timeout=30)
        assert ready[0].returncode == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
