"""Instances that are remembered: replaced whole or not at all."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from userdisk.errors import UserdiskError
from userdisk.launcher import places, saved
from userdisk.launcher.spec import Spec

ONE = Spec("img", "one", "img.one", "disk.img", options={"size": "1M"}, persistent=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USERDISK_STATE", str(tmp_path / "state"))
    return places.state_folder()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file can have more than 64 bytes: a write fails half-way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_saved_is_loaded_until_it_is_forgotten(folder: Path) -> None:
    assert saved.load() == ([], [])
    saved.save(ONE)
    assert saved.load() == ([ONE], [])
    assert folder.stat().st_mode & 0o777 == 0o700
    saved.forget("img.one")
    saved.forget("img.one")
    assert saved.load() == ([], []) and list(folder.iterdir()) == []


def test_what_is_forgotten_does_not_come_back_after_a_power_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved.save(ONE)
    synced: list[tuple[object, int]] = []
    monkeypatch.setattr(
        saved.whole_file,
        "sync_folder",
        lambda path: synced.append((path, len(list(folder.iterdir())))),
    )
    saved.forget("img.one")
    assert synced == [(folder, 0)], "when it is gone"


def test_a_full_disk_leaves_what_was_there(folder: Path) -> None:
    saved.save(ONE)
    with full_disk():
        with pytest.raises(UserdiskError, match="not remembered for the next start"):
            saved.save(replace(ONE, unit="other.img"))
        with pytest.raises(UserdiskError, match="not remembered"):
            saved.save(replace(ONE, id="img.two"))
        with pytest.raises(UserdiskError):
            saved.resized("img.one", 2 << 20)
    assert saved.load() == ([ONE], [])
    assert [path.name for path in folder.iterdir()] == ["img.one.json"], "and nothing beside it"


def test_a_damaged_file_is_named_and_hides_no_other(folder: Path) -> None:
    saved.save(ONE)
    for name, text in (("a.json", "{"), ("b.json", "[]"), ("c.json", '{"class_": "x"}')):
        (folder / name).write_text(text)
    found, problems = saved.load()
    assert found == [ONE] and len(problems) == 3
    assert all("damaged" in each and "\n" not in each for each in problems)


def test_a_size_is_remembered_of_those_that_have_one() -> None:
    saved.resized("img.one", 4096)
    assert saved.load() == ([], []), "it was not remembered"
    saved.save(ONE)
    saved.save(bare := Spec("img", "bare", "img.bare", "bare.img"))
    for id_ in ("img.one", "img.bare"):
        saved.resized(id_, 2 << 20)
    assert saved.load() == ([bare, replace(ONE, options={"size": str(2 << 20)})], [])
