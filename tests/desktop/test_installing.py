"""Installing into a home folder: all of it, twice, after a crash, and away again to the byte."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from userdisk.desktop import files
from userdisk.desktop.installing import Installer
from userdisk.desktop.pieces import OPENER, REMARK
from userdisk.desktop.places import places
from userdisk.errors import UserdiskError

_PROGRAM = ["/opt/user disk/python", "-m", "userdisk"]
_THUNAR = (
    '<?xml version="1.0"?>\n<actions>\n  <action>\n    <name>Terminal</name>\n'
    "    <unique-id>1</unique-id>\n    <directories/>\n  </action>\n</actions>"
)
_MIMEAPPS = "[Default Applications]\napplication/x-raw-disk-image=mounter.desktop;\n"


def _tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What is there: names, modes, and contents of files."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def installer(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installer]:
    """For a user; the tools that make databases are not run."""
    monkeypatch.setattr("userdisk.desktop.installing.shutil.which", lambda name: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    globs = tmp_path / "share" / "mime" / "globs2"
    globs.parent.mkdir(parents=True)
    globs.write_text("# weights\n50:application/x-raw-disk-image:*.img\n80:a/b:*.iso\n")
    variables = {
        "HOME": str(home),
        "XDG_DATA_DIRS": str(tmp_path / "share"),
        "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
    }
    yield Installer(places(variables, system=False), _PROGRAM, [".vault", ".iso"])


def _user_files(home: Path) -> None:
    files.replace(home / ".config/Thunar/uca.xml", _THUNAR, 0o600)
    files.replace(home / ".config/mimeapps.list", _MIMEAPPS, 0o640)
    files.replace(home / ".local/share/applications/mine.desktop", "[Desktop Entry]\n")
    (home / ".local/share/nautilus").mkdir()
    (home / ".local/state").mkdir()


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_there_and_back(home: Path, installer: Installer, used: bool) -> None:
    if used:
        _user_files(home)
    before = _tree(home)
    installer.install(default=True)
    assert {each.state for each in installer.status()} == {"installed"}
    once = _tree(home)
    installer.install(default=True)
    assert _tree(home) == once
    assert all("is not installed" in remark for remark in installer.uninstall())
    assert _tree(home) == before
    installer.uninstall()
    assert _tree(home) == before


def test_every_crash_can_be_undone_and_repeated(
    home: Path, installer: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends at each change that it makes, one after the other."""
    _user_files(home)
    before = _tree(home)
    installer.install(default=True)
    complete = _tree(home)
    installer.uninstall()

    def install() -> list[str]:
        return installer.install(default=True)

    for act, undo, goal in (
        (install, True, complete),
        (install, False, complete),
        (installer.uninstall, True, before),
    ):
        _crash_everywhere(home, installer, monkeypatch, act, undo, before, goal)


class _Crash(BaseException):
    """The process ends here."""


def _crash_everywhere(
    home: Path,
    installer: Installer,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[], list[str]],
    undo: bool,
    before: dict[str, tuple[int, bytes]],
    goal: dict[str, tuple[int, bytes]],
) -> None:
    for number in range(100):
        if goal == before:
            installer.install(default=True)
        else:
            installer.uninstall()
        left = iter(range(number))

        def spend(left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise _Crash

        with monkeypatch.context() as context:
            for name in ("replace", "remove"):
                real = getattr(files, name)

                def counted(*arguments: object, real: Callable[..., object] = real) -> object:
                    spend()
                    return real(*arguments)

                context.setattr(files, name, counted)

            def rmdir(path: Path, spend: Callable[[], None] = spend) -> None:
                spend()
                os.rmdir(path)

            context.setattr(Path, "rmdir", rmdir)
            try:
                act()
            except _Crash:
                crashed = True
            else:
                crashed = False
        if undo:
            installer.uninstall()
            assert _tree(home) == before, number
        else:
            act()
            assert _tree(home) == goal, number
        if not crashed:
            assert number > 5
            return
    raise AssertionError("no end")


def test_a_file_that_is_not_ours_stays(home: Path, installer: Installer) -> None:
    mine = home / ".local/share/applications" / OPENER
    files.replace(mine, "[Desktop Entry]\nName=Mine\n")
    before = _tree(home)
    with pytest.raises(UserdiskError, match="is not userdisk's"):
        installer.install()
    assert _tree(home) == before
    assert any("left as it is" in remark for remark in installer.uninstall())
    assert _tree(home) == before
    assert [each.state for each in installer.status() if each.path == mine] == ["not ours"]


def test_a_list_of_thunar_that_is_broken_stays(home: Path, installer: Installer) -> None:
    files.replace(home / ".config/Thunar/uca.xml", "<actions>")
    before = _tree(home)
    with pytest.raises(UserdiskError, match=r"uca\.xml: not well-formed"):
        installer.install()
    assert _tree(home) == before


def test_what_was_changed_is_said_and_repaired(home: Path, installer: Installer) -> None:
    installer.install()
    opener = home / ".local/share/applications" / OPENER
    opener.write_text(opener.read_text() + "# more\n")
    (home / ".config/Thunar/uca.xml").unlink()
    states = {each.path.name: each.state for each in installer.status()}
    assert states[OPENER] == "different" and states["uca.xml"] == "missing"
    installer.install()
    states = {each.path.name: each.state for each in installer.status()}
    assert states[OPENER] == states["uca.xml"] == "installed"


def test_the_systems_actions_of_thunar_are_kept(
    home: Path, installer: Installer, tmp_path: Path
) -> None:
    """A list of the user's own hides that of the system."""
    files.replace(tmp_path / "xdg/Thunar/uca.xml", _THUNAR)
    installer.install()
    text = (home / ".config/Thunar/uca.xml").read_text()
    assert "<name>Terminal</name>" in text and "userdisk-eject" in text
    installer.uninstall()
    assert not (home / ".config").exists()


def test_a_link_stays_a_link(home: Path, installer: Installer) -> None:
    real = home / "dotfiles" / "mimeapps.list"
    files.replace(real, _MIMEAPPS)
    (home / ".config").mkdir()
    (home / ".config/mimeapps.list").symlink_to(real)
    installer.install(default=True)
    assert (home / ".config/mimeapps.list").is_symlink()
    assert OPENER in real.read_text()
    installer.uninstall()
    assert real.read_text() == _MIMEAPPS


def test_endings(home: Path, installer: Installer) -> None:
    """Ours are those that nobody has; who loses none is told how to open them."""
    remarks = installer.install()
    text = (home / ".local/share/mime/packages/userdisk.xml").read_text()
    assert "*.rawdisk" in text and "*.vault" in text
    assert "*.img" not in text and "*.iso" not in text
    assert any("*.iso stays a/b" in remark for remark in remarks)


def test_endings_that_are_patterns_are_left_out(home: Path, installer: Installer) -> None:
    odd = [".*", ".?", ".[a]", ".a b", ".", "", ".x/y", ".tar.gz"]
    dataclasses.replace(installer, extensions=odd).install()
    text = (home / ".local/share/mime/packages/userdisk.xml").read_text()
    assert text.count("<glob") == 1 and "*.rawdisk" in text


def test_endings_stay_while_the_launcher_does_not_run(home: Path, installer: Installer) -> None:
    odd = dataclasses.replace(installer, extensions=[".vault", ".a&b", ".it's", '."q"'])
    odd.install()
    later = dataclasses.replace(installer, extensions=[])
    assert all(each.well for each in later.status())
    before = (home / ".local/share/mime/packages/userdisk.xml").read_bytes()
    later.install()
    assert (home / ".local/share/mime/packages/userdisk.xml").read_bytes() == before


def test_a_record_that_cannot_be_understood(home: Path, installer: Installer) -> None:
    installer.install()
    (home / ".local/state/userdisk/desktop.json").write_text("[]")
    with pytest.raises(UserdiskError, match="cannot be understood"):
        installer.uninstall()


def test_xdg_variables(tmp_path: Path) -> None:
    variables = {
        "HOME": "/home/me",
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CONFIG_HOME": "relative",
        "XDG_DATA_DIRS": "/a/share:rel:/b",
    }
    found = places(variables, system=False)
    assert found.data == tmp_path / "data"
    assert found.config == Path("/home/me/.config")
    assert found.state == Path("/home/me/.local/state/userdisk")
    assert found.other_data == (Path("/a/share"), Path("/b"))
    system = places({}, system=True)
    assert system.data == Path("/usr/local/share")
    assert system.config == Path("/etc/xdg")
    assert places(variables, system=True).data == Path("/a/share")
    with pytest.raises(UserdiskError, match="HOME"):
        places({}, system=False)


def test_the_system_has_no_actions_that_only_users_have(
    installer: Installer, tmp_path: Path
) -> None:
    before = _tree(tmp_path)
    variables = {
        "XDG_DATA_DIRS": str(tmp_path / "share"),
        "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
        "USERDISK_STATE": str(tmp_path / "state"),
    }
    of_system = Installer(places(variables, system=True), _PROGRAM)
    remarks = of_system.install()
    assert any("each user's home folder" in remark for remark in remarks)
    assert not (tmp_path / "xdg").exists()
    assert not (tmp_path / "share" / "nautilus").exists()
    of_system.uninstall()
    assert _tree(tmp_path) == before


def test_the_files_say_whose_they_are(home: Path, installer: Installer) -> None:
    installer.install()
    record = json.loads((home / ".local/state/userdisk/desktop.json").read_text())
    assert str(home / ".local") in record["folders"]
    for each in installer.status():
        if each.state == "installed" and each.path.name != "uca.xml":
            assert REMARK in each.path.read_text()


def test_the_script_of_nautilus(home: Path, installer: Installer, tmp_path: Path) -> None:
    """A shell runs it with what is selected, whatever the names are."""
    program = tmp_path / "it's a program"
    program.write_text('#!/bin/sh\nfor each; do printf "%s\\n" "$each"; done\n')
    program.chmod(0o755)
    Installer(installer.places, [str(program), "-m"]).install()
    [script] = (home / ".local/share/nautilus/scripts").iterdir()
    names = ["a b", "-c", "$HOME", "'"]
    said = subprocess.check_output([script, *names], text=True, env={"PATH": os.defpath})
    assert said.splitlines() == ["-m", "desktop", "eject", "--", *names]


def test_the_class_of_images(installer: Installer, tmp_path: Path) -> None:
    """It is added for the system's launcher; what an administrator changes in it stays."""
    with_class = dataclasses.replace(installer, classes=tmp_path / "classes.d")
    path = tmp_path / "classes.d" / "image.toml"
    with_class.install()
    content = tomllib.loads(path.read_text())
    assert content["opens"] == [".rawdisk", ".img"]
    assert content["user"] == "%u", "images are opened with the rights of who opens them"
    assert {"nosuid", "nodev"} <= set(content["attach"]["mount-options"])
    with_class.uninstall()
    assert not path.parent.exists()
    with_class.install()
    changed = path.read_text().replace('["*"]', '["@staff"]')
    path.write_text(changed)
    assert all(each.well for each in with_class.status())
    with_class.install()
    assert path.read_text() == changed
    assert any("was changed" in remark for remark in with_class.uninstall())
    assert path.read_text() == changed
