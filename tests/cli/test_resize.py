"""`userdisk resize` on disks that the real `userdisk serve` offers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.serving import LIMIT, serving
from userdisk.initiator_client import Initiator
from userdisk.initiator_url import parse_url, settings_for

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path / "run"))


def resize(*arguments: str | Path, folder: Path | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "userdisk", "resize", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def image(path: Path) -> Path:
    path.touch()
    os.truncate(path, MIB)
    return path


def test_an_image_grows_and_initiators_are_told(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img")
    with serving("disk.img", folder=tmp_path) as server:
        url = parse_url(server.urls[0])
        with Initiator(("127.0.0.1", server.port), settings_for(url)) as initiator:
            assert initiator.capacity().block_count == 2048
            assert resize(path, "3M") == (0, f"{path}: 1 MiB, now 3 MiB\n", "")
            initiator.run(lambda: bool(initiator.session.events))
            assert initiator.capacity().block_count == 6144
            assert resize("disk.img", "+1M") == (0, "disk.img: 3 MiB, now 4 MiB\n", "")
            assert path.stat().st_size == 4 * MIB
            status, _, err = resize(path, "2M")
            assert (status, path.stat().st_size) == (2, 4 * MIB)
            assert "all beyond 2 MiB would be lost; --shrink does it" in err
            assert resize(path, "2M", "--shrink")[0] == 0
            assert (path.stat().st_size, initiator.capacity().block_count) == (2 * MIB, 4096)
        assert server.stop()[0] == 0
    status, out, err = resize(path, "8M")
    assert (status, out) == (1, "")
    assert err.startswith(f"userdisk: {path}: no running userdisk serve")
    assert err.count("\n") == 1


def test_memory_exports_and_target_names(tmp_path: Path) -> None:
    one = image(tmp_path / "one.img")
    names = ("--name", "iqn.2026-11.org.example:a", "--name", "iqn.2026-11.org.example:b")
    exports = ("--nbd=127.0.0.1:0", "--export", "first", "--export", "second")
    with serving(one, "ram:1M", "--each", *names, *exports):
        assert resize("iqn.2026-11.org.example:b", "2M")[1].endswith("1 MiB, now 2 MiB\n")
        assert resize("second", "3M")[1] == "second: 2 MiB, now 3 MiB\n"
        assert resize("ram:1M", "3M")[1] == "ram:1M: has 3 MiB already\n"
        assert resize("first", "5M")[0] == 0
        assert one.stat().st_size == 5 * MIB


def test_a_read_only_image_and_a_class_that_cannot_are_refused(tmp_path: Path) -> None:
    (tmp_path / "fixed.py").write_text(
        "from userdisk import StorageUnit\n"
        "class Fixed(StorageUnit):\n"
        "    block_count = 2048\n"
        "    def read(self, lba, blocks, fua):\n"
        "        return bytes(blocks * 512)\n"
        "    def write(self, lba, data, fua):\n"
        "        pass\n"
    )
    path = image(tmp_path / "disk.img")
    with serving(path, "--read-only"), serving(tmp_path / "fixed.py:Fixed"):
        status, _, err = resize(path, "2M")
        assert (status, path.stat().st_size) == (1, MIB)
        assert "read-only" in err
        status, _, err = resize(tmp_path / "fixed.py:Fixed", "2M")
        assert status == 1
        assert "Fixed cannot be resized" in err


@pytest.mark.parametrize(("size", "word"), [("2GB", "decimal or binary"), ("much", "not a size")])
def test_a_size_that_is_none_is_a_usage_error(size: str, word: str) -> None:
    status, _, err = resize("disk.img", size)
    assert status == 2
    assert word in err
    assert len(err.splitlines()) == 1


def test_a_size_of_no_whole_blocks_changes_nothing(tmp_path: Path) -> None:
    path = image(tmp_path / "disk.img")
    with serving(path):
        status, _, err = resize(path, "1048577")
        assert status == 2
        assert "not a multiple" in err
    assert path.stat().st_size == MIB
