"""Our own initiator against tgt, a target that knows nothing of us."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.requires import find_program, requires
from userdisk.initiator_client import (
    DEFAULT_NAME,
    Initiator,
    ScsiError,
    discover,
    read_image,
    sense_codes,
    write_image,
)
from userdisk.iscsi.initiator_login import LoginBroken, LoginRefused, Settings

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
