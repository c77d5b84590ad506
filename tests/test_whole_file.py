"""Files that are replaced whole: full disks, modes, crashes between the steps, names."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from userdisk import whole_file

_STEPS = ("write", "chmod", "fsync", "replace")


def _replace(path: Path, text: str, **options: str) -> None:
    whole_file.replace(path, text.encode(), mode=0o600, **options)


@pytest.mark.parametrize("scratch", ["", "file.new"])
def test_a_file_is_made_and_replaced(tmp_path: Path, scratch: str) -> None:
    path = tmp_path / "file"
    for text in ("long old content", "new", ""):
        whole_file.replace(path, text.encode(), mode=0o600, scratch=scratch)
        assert path.read_text() == text
        assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o755])
@pytest.mark.parametrize("mask", [0, 0o77])
def test_the_mode_is_the_one_asked_for(tmp_path: Path, mode: int, mask: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o666)
    before = os.umask(mask)
    try:
        whole_file.replace(path, b"new", mode=mode)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


def test_it_is_private_until_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    chmod = os.chmod

    def seen(path: str, mode: int) -> None:
        modes.append(os.stat(path).st_mode & 0o777)
        chmod(path, mode)

    monkeypatch.setattr(os, "chmod", seen)
    before = os.umask(0)
    try:
        whole_file.replace(tmp_path / "file", b"new", mode=0o644)
    finally:
        os.umask(before)
    assert modes == [0o600]


@pytest.mark.parametrize("scratch", ["", "file.new"])
@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_a_failure_leaves_the_old_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, scratch: str
) -> None:
    path = tmp_path / "file"
    _replace(path, "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr(os, step, full)
        with pytest.raises(OSError, match="No space left"):
            _replace(path, "new", scratch=scratch)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes from the kernel, when the buffer is written."""
    path = tmp_path / "file"
    _replace(path, "old")
    really = os.open

    def redirected(name: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            os.close(really(name, flags, mode))
            return really("/dev/full", os.O_WRONLY)
        return really(name, flags, mode)

    monkeypatch.setattr(os, "open", redirected)
    with pytest.raises(OSError, match="No space left"):
        _replace(path, "new" * 100_000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", _STEPS)
def test_a_crash_between_the_steps_leaves_the_old_one(tmp_path: Path, step: str) -> None:
    """The process ends there, as by SIGKILL; the next one is not disturbed by what was left."""
    path = tmp_path / "file"
    _replace(path, "old")
    hook = (
        "import builtins\n"
        "class Dying:\n"
        "    def __init__(self, *a): os._exit(9)\n"
        "builtins.open = Dying\n"
        if step == "write"
        else f"os.{step} = lambda *a: os._exit(9)\n"
    )
    code = (
        "import os, sys\nfrom userdisk import whole_file\n" + hook + "whole_file.replace"
        "(sys.argv[1], b'new' * 1000, mode=0o600, scratch='file.new')\n"
    )
    crashed = subprocess.run([sys.executable, "-c", code, path], timeout=60, check=False)
    assert crashed.returncode == 9
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", "file.new"]
    _replace(path, "newer", scratch="file.new")
    assert path.read_text() == "newer"
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_replaced_is_synced_before_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    _replace(path, "old")
    seen: list[tuple[str, str]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.read_text()))
        assert os.stat(descriptor).st_size > 0  # its content has left the process
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    _replace(path, "new", scratch="file.new")
    assert seen == [(str(tmp_path / "file.new"), "old"), (str(tmp_path), "new")]


def test_a_name_that_somebody_waits_with_is_not_followed(tmp_path: Path) -> None:
    """Names are not guessable, and one that is there is never opened."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "shared" / "file"
    path.parent.mkdir()
    with pytest.MonkeyPatch.context() as context:
        context.setattr(os, "urandom", lambda count: bytes(count))
        (path.parent / f".file.{bytes(8).hex()}").symlink_to(victim)
        with pytest.raises(FileExistsError):
            _replace(path, "new")
    assert victim.read_text() == "precious"
    assert os.listdir(path.parent) == [f".file.{bytes(8).hex()}"]


def test_a_link_is_replaced_not_what_it_leads_to(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_text("precious")
    path.symlink_to(victim)
    _replace(path, "new")
    assert victim.read_text() == "precious"
    assert not path.is_symlink()


def test_the_longest_name_and_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole_file.sync_folder("")
    for name in ("n" * 255, "\N{LINEAR B SYLLABLE B008 A}" * 63):
        whole_file.replace(name, b"new", mode=0o600)
        assert Path(name).read_bytes() == b"new"


def test_a_missing_folder_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        _replace(tmp_path / "missing" / "file", "new")
