"""launcher/places.py: the name of an instance's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.errors import UsageError
from userdisk.launcher import places


def test_a_plain_name_can_be_read_in_the_id() -> None:
    assert places.instance_id("rawdisk", "disk1") == "rawdisk.disk1"


@given(st.text(min_size=1, max_size=300).filter(lambda name: "\0" not in name))
def test_any_name_makes_one_plain_folder(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    id_ = places.instance_id("img", name)
    assert Path(id_).name == id_ and not id_.startswith(".")
    assert len(id_.encode()) < 130
    assert all(c.isascii() and (c.isalnum() or c in "._-") for c in id_)


def test_names_that_look_alike_have_ids_of_their_own() -> None:
    names = ["/a/b.img", "/a-b.img", "a b.img", "a/b.img", "a-b.img", ".", "..", "-", "a\nb.img"]
    ids = {places.instance_id("img", name) for name in names}
    assert len(ids) == len(names)


@pytest.mark.parametrize(
    ("class_", "name"),
    [("", "x"), ("A", "x"), ("a/b", "x"), ("-a", "x"), ("a" * 64, "x"), ("a", ""),
     ("a", "x" * 1025), ("a", "\u00e9" * 513), ("a", "x\0y"), (".pid.", "1")],
)  # fmt: skip
def test_what_is_no_name_is_refused(class_: str, name: str) -> None:
    with pytest.raises(UsageError):
        places.instance_id(class_, name)
