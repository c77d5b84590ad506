"""Our own initiator against tgt, a target that knows nothing of us."""

from __future__ import annotations

import os
import queue
import random
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.requires import find_program, requires
from userdisk import nbd_client
from userdisk.backend import open_unit
from userdisk.errors import UsageError
from userdisk.gate import Gate
from userdisk.initiator_client import (
    DEFAULT_NAME,
    Client,
    Initiator,
    ScsiError,
    Task,
    discover,
    read_image,
    sense_codes,
    write_image,
)
from userdisk.iscsi.initiator_login import LoginBroken, LoginRefused, Settings
from userdisk.nbd.export import Export
from userdisk.nbd.wire import Command
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target
from userdisk.testing import check_storage_unit

pytestmark = [
    requires("tgtd", "tgtadm"),
    pytest.mark.skipif(os.name == "posix" and os.geteuid() != 0, reason="tgtd runs as root only"),
]

_OPEN, _CHAP = "iqn.2026-11.io.userdisk:open", "iqn.2026-11.io.userdisk:chap"
_SIZE = 32 << 20
_CONTROL = "4711"


@pytest.fixture(scope="module")
def tgt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A tgtd with an open target and one with mutual CHAP; its portal."""
    image: Path = tmp_path_factory.mktemp("tgt") / "disk.img"
    with image.open("wb") as file:
        file.truncate(_SIZE)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    daemon, tgtadm = find_program("tgtd"), find_program("tgtadm")
    assert daemon and tgtadm
    process = subprocess.Popen(
        [daemon, "-f", "-C", _CONTROL, "--iscsi", f"portal=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def admin(*words: str) -> bool:
        command = [tgtadm, "-C", _CONTROL, "--lld", "iscsi", *words]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    try:
        deadline = time.monotonic() + 10
        while not admin("--op", "show", "--mode", "target") and time.monotonic() < deadline:
            time.sleep(0.05)
        for tid, name in (("1", _OPEN), ("2", _CHAP)):
            target = ("--tid", tid)
            assert admin("--mode", "target", "--op", "new", *target, "-T", name)
            unit = ("--lun", "1", "-b", str(image))
            assert admin("--mode", "logicalunit", "--op", "new", *target, *unit)
            assert admin("--mode", "target", "--op", "bind", *target, "-I", "ALL")
        for user, secret, direction in (
            ("anna", "a secret of anna", ()),
            ("disk", "the disk's secret", ("--outgoing",)),
        ):
            account = ("--mode", "account", "--user", user)
            assert admin(*account, "--op", "new", "--password", secret)
            assert admin(*account, "--op", "bind", "--tid", "2", *direction)
        yield "127.0.0.1", port
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def settings(target: str | None, **more: Any) -> Settings:
    return Settings(DEFAULT_NAME, target, **more)


def test_discovery(tgt: tuple[str, int]) -> None:
    assert discover(tgt, settings(None)) == {
        _OPEN: [f"127.0.0.1:{tgt[1]},1"],
        _CHAP: [f"127.0.0.1:{tgt[1]},1"],
    }


@pytest.mark.parametrize(
    "offer",
    [
        {},
        {"header_digest": True, "data_digest": True},
        {"initial_r2t": True, "immediate_data": False},
        {"max_recv_segment": 8192, "max_burst_length": 65536, "first_burst_length": 4096},
    ],
)
def test_read_and_write(tgt: tuple[str, int], offer: dict[str, Any], tmp_path: Path) -> None:
    data = random.Random(3).randbytes(5 << 20)
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(data)
    with Initiator(tgt, settings(_OPEN, **offer), lun=1) as initiator:
        assert initiator.capacity().block_count * 512 == _SIZE
        initiator.write(8, data[: 700 * 512])
        assert initiator.read(8, 700) == data[: 700 * 512]
        steps: list[int] = []
        assert write_image(initiator, str(source), progress=steps.append) == len(data)
        assert steps == sorted(steps)
        assert steps[-1] == len(data)
        assert read_image(initiator, str(back)) == _SIZE
        assert back.read_bytes() == data + bytes(_SIZE - len(data))
        assert initiator.finish(initiator.session.ping(b"hello")).data == b"hello"
        assert initiator.finish(initiator.session.task_management(5, lun=1)).response == 0
        write_image(initiator, "/dev/null")
        source.write_bytes(bytes(len(data)))
        write_image(initiator, str(source))


def test_a_failed_command_says_why(tgt: tuple[str, int]) -> None:
    with Initiator(tgt, settings(_OPEN), lun=1) as initiator:
        with pytest.raises(ScsiError) as failed:
            initiator.read(_SIZE // 512, 1)
        assert sense_codes(failed.value.sense) == (5, 0x21, 0)
        assert initiator.read(0, 1) == bytes(512)


def test_chap(tgt: tuple[str, int]) -> None:
    one = {"user": "anna", "secret": b"a secret of anna"}
    both = {**one, "mutual_user": "disk", "mutual_secret": b"the disk's secret"}
    for good in (one, both):
        with Initiator(tgt, settings(_CHAP, **good), lun=1) as initiator:
            assert initiator.capacity().block_length == 512
    for bad in ({}, {**one, "secret": b"another"}):
        with pytest.raises(LoginRefused) as refused:
            Initiator(tgt, settings(_CHAP, **bad))
        assert refused.value.status == 0x0201
    with pytest.raises(LoginBroken, match="does not know its CHAP secret"):
        Initiator(tgt, settings(_CHAP, **{**both, "mutual_secret": b"wrong"}))
    with pytest.raises(LoginBroken, match="did not ask"):
        Initiator(tgt, settings(_OPEN, **one))


def test_no_such_target(tgt: tuple[str, int]) -> None:
    with pytest.raises(LoginRefused, match="no such target"):
        Initiator(tgt, settings("iqn.2026-11.io.userdisk:none"))


def iscsi_url(tgt: tuple[str, int], name: str = _OPEN, user: str = "", more: str = "") -> str:
    return f"iscsi://{user}{tgt[0]}:{tgt[1]}/{name}/1{more}"


def test_many_commands_of_many_threads(tgt: tuple[str, int]) -> None:
    found: queue.SimpleQueue[list[Task]] = queue.SimpleQueue()
    data = random.Random(4).randbytes(1 << 20)
    with Client(tgt, settings(_OPEN), lun=1) as client:
        while client.execute(bytes(6)).status:
            pass
        pieces = [data[at : at + 32768] for at in range(0, 1 << 20, 32768)]
        writes = [
            Task(struct.pack(">BxQIxx", 0x8A, 64 * number, 64), 0, piece, 1)
            for number, piece in enumerate(pieces)
        ]
        reads = [
            Task(struct.pack(">BxQIxx", 0x88, 64 * number, 64), 32768, b"", 1)
            for number in range(len(pieces))
        ]
        for tasks in (writes, reads):
            client.submit(tasks, found.put)
            left = len(tasks)
            while left:
                left -= len(found.get(timeout=20))
            assert not any(task.response or task.status for task in tasks)
        assert b"".join(task.data for task in reads) == data
        assert client.ping(b"hello") == b"hello"
        for function, responses in ((2, {0}), (4, {0, 5}), (5, {0}), (6, {0, 5})):  # 5: has none
            assert client.task_management(function, lun=1) in responses
        assert client.task_management(1, lun=1, about=reads[0]) in (0, 1)
        past_the_end = client.execute(
            struct.pack(">BxQIxx", 0x88, _SIZE // 512, 1), read_length=512, lun=1
        )
        while sense_codes(past_the_end.sense)[0] == 6:
            past_the_end = client.execute(past_the_end.cdb, read_length=512, lun=1)
        assert sense_codes(past_the_end.sense) == (5, 0x21, 0)


def test_the_disk_as_a_unit(tgt: tuple[str, int], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for more in ("", "?digest=both"):
        check_storage_unit(open_unit(iscsi_url(tgt, more=more)), operations=200)


def test_the_secret_of_a_unit(tgt: tuple[str, int], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    secrets = tmp_path / "secrets"
    secrets.write_text("user anna a secret of anna\nmutual disk the disk's secret\n")
    secrets.chmod(0o600)
    for user in ("", "anna@"):
        open_unit(iscsi_url(tgt, _CHAP, user, f"?chap-file={secrets}")).close()
    with pytest.raises(UsageError, match="no user berta"):
        open_unit(iscsi_url(tgt, _CHAP, "berta@", f"?chap-file={secrets}"))
    secrets.chmod(0o644)
    with pytest.raises(UsageError, match="other users may read"):
        open_unit(iscsi_url(tgt, _CHAP, "", f"?chap-file={secrets}"))
    monkeypatch.setenv("USERDISK_ISCSI_SECRET", "a secret of anna")
    open_unit(iscsi_url(tgt, _CHAP, "anna@")).close()
    monkeypatch.setenv("USERDISK_ISCSI_MUTUAL_USER", "disk")
    with pytest.raises(UsageError, match="belong together"):
        open_unit(iscsi_url(tgt, _CHAP, "anna@"))
    monkeypatch.setenv("USERDISK_ISCSI_MUTUAL_SECRET", "another secret")
    with pytest.raises(UsageError, match="does not know its CHAP secret"):
        open_unit(iscsi_url(tgt, _CHAP, "anna@"))
    monkeypatch.setenv("USERDISK_ISCSI_SECRET", "not her secret")
    with pytest.raises(UsageError, match="authentication failed"):
        open_unit(iscsi_url(tgt, _CHAP, "anna@"))


def test_the_disk_again_over_nbd(tgt: tuple[str, int], tmp_path: Path, monkeypatch: Any) -> None:
    """tgt's disk, through userdisk, to an NBD client: the same bytes both ways."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    data = random.Random(5).randbytes(3 << 20)
    with Initiator(tgt, settings(_OPEN), lun=1) as initiator:
        initiator.write(0, data[: 1 << 20])
    gate = Gate(open_unit(iscsi_url(tgt)))
    target = Target("iqn.2026-11.io.userdisk:again", [LogicalUnit(gate)])
    path = tmp_path / "nbd"
    with (
        Server([target], listen=[], exports=[Export("disk", gate)], nbd=[path]),
        nbd_client.Client(nbd_client.Uri(socket=str(path), export="disk")) as client,
    ):
        assert client.size == _SIZE
        assert client.call(nbd_client.Request(Command.READ, 0, 1 << 20)) == data[: 1 << 20]
        for at in range(0, len(data), 1 << 18):
            piece = memoryview(data)[at : at + (1 << 18)]
            client.call(nbd_client.Request(Command.WRITE, (4 << 20) + at, data=piece))
        client.call(nbd_client.Request(Command.FLUSH))
    with Initiator(tgt, settings(_OPEN), lun=1) as initiator:
        found = b"".join(initiator.read(8192 + 512 * n, 512) for n in range(12))
        assert found == data
