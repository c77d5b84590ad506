"""The folders that images are mounted on: names that are safe, and that nobody uses."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.launcher.media import label, unused


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/home/me/holiday.img", "holiday"),
        ("/home/me/a b (2026).tar.img", "a b (2026).tar"),
        ("disk", "disk"),
        ("/home/me/..", "disk"),
        ("/home/me/..img", "img"),
        ("/home/me/.img", "img"),
        ("/home/me/...", "disk"),
        ("/home/me/x/", "x"),
        ("/home/me/a\nb\0c\\%n.img", "a-b-c-n"),
        ("/Bücher/Übung.img", "Übung"),
        ("/", "disk"),
        ("", "disk"),
    ],
)
def test_label(name: str, expected: str) -> None:
    assert label(name) == expected


@given(st.text())
def test_any_label_is_a_name(name: str) -> None:
    found = label(name)
    assert 0 < len(found.encode()) <= 60
    assert "/" not in found and "\0" not in found
    assert not found.startswith(".")
    assert found == found.strip()


def test_unused(tmp_path: Path) -> None:
    wanted = str(tmp_path / "disk")
    assert unused(wanted) == wanted
    Path(wanted).mkdir()
    assert unused(wanted) == wanted  # an empty one may be used
    (Path(wanted) / "file").touch()
    assert unused(wanted) == f"{wanted}-2"
    Path(f"{wanted}-2").touch()
    assert unused(wanted) == f"{wanted}-3"
    assert unused("/proc") == "/proc-2"
