"""launcher/places.py: the folders, and the name of an instance's."""

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


NAMES = ("USERDISK_RUN", "USERDISK_STATE", "USERDISK_CLASSES", "XDG_RUNTIME_DIR", "XDG_STATE_HOME",
         "XDG_CONFIG_HOME")  # fmt: skip
ROOT = ("/run/userdisk", "/var/lib/userdisk/instances", "/etc/userdisk/classes.d")
XDG = {"XDG_RUNTIME_DIR": "/r", "XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"}
GIVEN = {"USERDISK_RUN": "/R", "USERDISK_STATE": "/S", "USERDISK_CLASSES": "/C"}


@pytest.mark.parametrize(
    ("uid", "given", "folders"),
    [
        (0, {}, ROOT),
        (0, XDG, ROOT),  # as `sudo -E` leaves them
        (7, XDG, ("/r/userdisk", "/s/userdisk/instances", "/c/userdisk/classes.d")),
        (7, {}, ("/tmp/userdisk-7", "/h/.local/state/userdisk/instances",
                 "/h/.config/userdisk/classes.d")),
        (0, GIVEN, ("/R", "/S/instances", "/C")),
        (7, XDG | GIVEN, ("/R", "/S/instances", "/C")),
    ],
)  # fmt: skip
def test_the_folders_of_root_and_of_users(
    uid: int,
    given: dict[str, str],
    folders: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places.os, "getuid", lambda: uid)
    monkeypatch.setenv("HOME", "/h")
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    run, state, classes = map(Path, folders)
    assert (places.run_folder(), places.state_folder()) == (run, state)
    assert places.classes_folder() == classes
    assert places.api_socket() == run / "launcher/api"
    assert places.instance_folder("img.one") == run / "instances/img.one"
    asked = [Path("/run/userdisk/launcher/api"), run / "launcher/api"]
    assert list(places.api_sockets()) == (
        asked if uid and "USERDISK_RUN" not in given else asked[1:]
    )


def test_folders_that_are_given_are_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES[:3]:
        monkeypatch.setenv(name, "x")
    here = tmp_path / "x"
    assert (places.run_folder(), places.classes_folder()) == (here, here)
    assert places.state_folder() == here / "instances"


def test_a_long_name_keeps_its_end() -> None:
    id_ = places.instance_id("img", "/" + "a" * 200 + "/holiday.img")
    assert id_.startswith("img.") and "-holiday-img-" in id_
    assert len(id_.removeprefix("img.")) <= 40 + 1 + 8
    assert places.instance_id("img", "/").startswith("img.disk-")
    assert places.instance_id("img", "x" * 61) == "img." + "x" * 61
    assert places.instance_id("img", "x" * 62) != "img." + "x" * 62
    assert places.instance_id("a" * 63, "x" * 1024).startswith("a" * 63 + ".")


def test_what_is_an_id_of_an_instance() -> None:
    for name in ("disk1", "..", "--", "/a/holiday.img", "x" * 1024, "\udcff", "-", "_.", "é"):
        assert places.is_instance_id(places.instance_id("img", name)), name
    for text in ("", "img", "img.", ".x", "..", "img..", "img./", "img.a\0", "IMG.a", "img.a\n",
                 "img.é", "img." + "x" * 62):  # fmt: skip
        assert not places.is_instance_id(text), text
