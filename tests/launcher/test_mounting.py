"""Where a disk may be mounted, by whom."""

from __future__ import annotations

import os

import pytest

from userdisk.errors import UsageError
from userdisk.launcher.mounting import place
from userdisk.launcher.rights import Caller, Refused
from userdisk.launcher.spec import Attach, Spec

ROOT = Caller(0, 0)
SOMEBODY = Caller(os.getuid() + 12345, 12345, 77)
MOUNTED = Spec("img", "x", "img.x", attach=Attach(True, "/run/media/ada/x"))
BARE = Spec("img", "x", "img.x", attach=Attach(True))
SERVED = Spec("img", "x", "img.x")


@pytest.mark.parametrize("caller", [ROOT, SOMEBODY, Caller(os.getuid(), os.getgid())])
def test_everybody_has_the_folder_of_the_class(caller: Caller) -> None:
    assert place(MOUNTED, "", caller) == "/run/media/ada/x"
    assert place(MOUNTED, "/run/media/ada/x", caller) == "/run/media/ada/x"


@pytest.mark.parametrize("given", [MOUNTED, BARE])
def test_only_who_rules_names_another(given: Spec) -> None:
    assert place(given, "/mnt/here", ROOT) == "/mnt/here"
    for folder in ("/etc", "/run/media/ada", "/run/media/ada/x/y", "/home/ada/own"):
        with pytest.raises(Refused, match=f"may not mount img.x on '{folder}'"):
            place(given, folder, SOMEBODY)


@pytest.mark.parametrize(
    "folder", ["mnt", "./x", "/mnt/../etc", "/mnt/.", "/mnt//x", "/mnt/", "/a\0b", " "]
)
@pytest.mark.parametrize("caller", [ROOT, SOMEBODY])
def test_a_folder_is_written_in_one_way(folder: str, caller: Caller) -> None:
    with pytest.raises(UsageError, match="must be an absolute path"):
        place(MOUNTED, folder, caller)


def test_what_has_no_device_or_no_folder() -> None:
    with pytest.raises(UsageError, match="class img names none"):
        place(BARE, "", ROOT)
    for folder in ("", "/mnt"):
        with pytest.raises(UsageError, match=r"class img has no \[attach\]"):
            place(SERVED, folder, ROOT)
