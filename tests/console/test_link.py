"""The file with the link: nobody else's, of the console that lives, and whole."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from userdisk.console import link
from userdisk.console.link import Link
from userdisk.errors import UserdiskError

URL = "http://127.0.0.1:1/#login=x"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run/launcher"


def test_one_at_a_time(folder: Path) -> None:
    first, second = Link(folder), Link(folder)
    assert first.acquire() and not second.acquire()
    first.write(URL)
    assert second.read() == URL
    second.release()
    assert (folder / "console").exists(), "it was not its own"
    first.release()
    assert not (folder / "console").exists()
    assert second.acquire()
    second.release()


def test_who_asks_early_waits_for_the_link(folder: Path) -> None:
    first, second = Link(folder), Link(folder)
    assert first.acquire()
    late = threading.Timer(0.2, first.write, [URL])
    late.start()
    assert second.read() == URL
    late.join()
    first.release()


def test_the_link_of_a_killed_one_is_gone(folder: Path) -> None:
    killed, next_ = Link(folder), Link(folder)
    assert killed.acquire()
    killed.write(URL)
    assert killed._lock is not None
    os.close(killed._lock)
    assert next_.acquire()
    assert not (folder / "console").exists()
    next_.release()


def test_only_this_user_can_read_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        mine = Link(folder)
        assert mine.acquire()
        mine.write(URL)
    finally:
        os.umask(before)
    for name in ("console", "console.lock"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert json.loads((folder / "console").read_text()) == {"pid": os.getpid(), "url": URL}
    (folder / "console").chmod(0o644)
    monkeypatch.setattr(link, "_WAIT", 0.1)
    with pytest.raises(UserdiskError, match="a console runs, but does not say where"):
        mine.read()
    mine.release()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url"', "\0"])
def test_a_file_that_is_none(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_WAIT", 0.1)
    mine = Link(folder)
    (folder / "console").write_text(text)
    (folder / "console").chmod(0o600)
    with pytest.raises(UserdiskError, match="does not say where"):
        mine.read()


@pytest.mark.parametrize("name", ["run", "run/launcher"])
def test_a_folder_of_others_is_none(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run/launcher"
    folder.mkdir(parents=True)
    (tmp_path / name).chmod(0o775)
    with pytest.raises(UserdiskError, match="nobody else may write there"):
        Link(folder)
    (tmp_path / name).chmod(0o755)
    if os.getuid() == 0:
        os.chown(tmp_path / name, 12345, 12345)
        with pytest.raises(UserdiskError, match="must belong to this user"):
            Link(folder)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserdiskError, match=r"run/launcher: (Not a directory|File exists)"):
        Link(tmp_path / "run/launcher")


def test_a_link_to_a_lock_is_not_followed(folder: Path, tmp_path: Path) -> None:
    mine = Link(folder)
    (folder / "console.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        mine.acquire()
    assert not (tmp_path / "elsewhere").exists()
