"""`userdisk open` and `userdisk desktop` as commands: what they print, and their exit status."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.desktop.fake_launcher import FakeLauncher, serve
from userdisk.cli.main import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no Unix sockets")


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No desktop, no launcher, and a short folder for its socket."""
    folder = Path(tempfile.mkdtemp())
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USERDISK_RUN", str(folder))
    monkeypatch.setenv("HOME", str(folder / "home"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def launcher(_nowhere: Path) -> Iterator[FakeLauncher]:
    fake = FakeLauncher([{"name": "image", "opens": [".img"]}], mount_in="/run/media/me/disk")
    with serve(fake, _nowhere / "launcher" / "api"):
        yield fake


@pytest.fixture
def image(tmp_path: Path) -> str:
    (tmp_path / "disk.img").touch()
    return str(tmp_path / "disk.img")


def test_open_and_eject(
    launcher: FakeLauncher, image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["open", image]) == 0
    assert capsys.readouterr() == ("/run/media/me/disk\n", "")
    assert main(["eject", "--timeout", "7", "/run/media/me/disk"]) == 0
    assert capsys.readouterr() == (f"{image} is ejected\n", "")
    assert launcher.requests[-1][1].endswith("?force=false&timeout=7.0")
    assert main(["open", image]) == 0
    assert main(["desktop", "eject", image]) == 0


def test_each_file_is_tried(
    launcher: FakeLauncher, image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "disk.other"
    other.touch()
    missing = str(tmp_path / "none.img")
    assert main(["open", str(other), missing, image]) == 1
    out, err = capsys.readouterr()
    assert out == "/run/media/me/disk\n"
    assert [line.split(": ")[1] for line in err.splitlines()] == [str(other), missing]
    assert main(["open", missing]) == 2
    assert main(["open"]) == 2


def test_without_a_launcher(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["open", image]) == 1
    assert capsys.readouterr().err == (
        f"userdisk: {image}: no launcher runs; `sudo userdisk launcher install` makes one of the"
        " system\n"
    )
    assert main(["desktop", "eject", image]) == 1


def test_a_message_for_who_has_no_terminal(
    launcher: FakeLauncher,
    image: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = tmp_path / "said"
    program = tmp_path / "bin" / "notify-send"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nfor each; do echo "$each"; done >> {said}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("DISPLAY", ":none")
    launcher.refuse["POSTinstances"] = (403, "you may not start it")
    assert main(["open", "--no-show", image]) == 1
    assert said.read_text().splitlines()[-1] == f"{image}: you may not start it"


def test_the_folder_is_shown(
    launcher: FakeLauncher, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    program = tmp_path / "bin" / "xdg-open"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$1" > {said}\nexit $(cat {said}.status)\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("WAYLAND_DISPLAY", "none")
    Path(f"{said}.status").write_text("0")
    assert main(["open", image]) == 0
    assert said.read_text() == "/run/media/me/disk\n"
    Path(f"{said}.status").write_text("3")
    assert main(["open", image]) == 1
    program.unlink()
    monkeypatch.setenv("PATH", str(program.parent))
    assert main(["open", image]) == 1


def test_the_registry_file(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["desktop", "windows", "--program", r"C:\u\userdisk.exe"]) == 0
    added = capfdbinary.readouterr().out
    assert added.startswith(b"Windows Registry Editor Version 5.00\r\n\r\n[HKEY_CURRENT_USER")
    assert added.endswith(b"\r\n") and b"\n" not in added.replace(b"\r\n", b"")
    assert main(["desktop", "windows", "--remove"]) == 0
    assert b"[-HKEY_CURRENT_USER" in capfdbinary.readouterr().out
    assert main(["desktop", "windows", "--program", 'a"b']) == 2


def test_a_python_that_others_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    python = closed / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main(["desktop", "status", "--system"]) == 1
    assert f"other users may not use {closed}" in capsys.readouterr().err
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["desktop", "status", "--system"]) == 1
    assert "needs root" in capsys.readouterr().err
