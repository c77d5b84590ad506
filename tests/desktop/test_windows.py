"""The registry file, as text: regedit's grammar, and what each value says once it is read."""

from __future__ import annotations

import re

import pytest

from userdisk.desktop.windows import registry, removal
from userdisk.errors import UsageError

_CLASSES = r"HKEY_CURRENT_USER\Software\Classes"


def _read(text: str) -> dict[str, dict[str, str | None]]:
    """Keys and values as regedit takes them; None is a value to be deleted."""
    lines = text.split("\r\n")
    assert lines[:2] == ["Windows Registry Editor Version 5.00", ""]
    keys: dict[str, dict[str, str | None]] = {}
    values: dict[str, str | None] = {}
    for line in lines[2:]:
        if not line:
            continue
        if header := re.fullmatch(r"\[(-?HKEY_CURRENT_USER\\.+)\]", line):
            assert header[1] not in keys
            values = keys[header[1]] = {}
            continue
        match = re.fullmatch(
            r'(@|"(?:[^"\\]|\\.)*")=(-|"(?:[^"\\]|\\.)*"|hex\(1\):[0-9a-f,]+)', line
        )
        assert match, line
        name = "" if match[1] == "@" else re.sub(r"\\(.)", r"\1", match[1][1:-1])
        if match[2] == "-":
            values[name] = None
        elif match[2].startswith("hex"):
            data = bytes.fromhex(match[2][7:].replace(",", ""))
            values[name] = data.decode("utf-16-le").removesuffix("\0")
        else:
            values[name] = re.sub(r"\\(.)", r"\1", match[2][1:-1])
    return keys


def _arguments(line: str) -> list[str]:
    """A command line as Microsoft's C runtime splits it."""
    arguments, word, quoted, inside, at = [], "", False, False, 0
    while at < len(line):
        slashes = len(line[at:]) - len(line[at:].lstrip("\\"))
        after = line[at + slashes : at + slashes + 1]
        if slashes and after == '"':
            word += "\\" * (slashes // 2) + ('"' if slashes % 2 else "")
            at += slashes + slashes % 2
        elif slashes:
            word += "\\" * slashes
            at += slashes
        elif after == '"':
            quoted, inside, at = not quoted, True, at + 1
        elif after in " \t" and not quoted:
            if word or inside:
                arguments.append(word)
            word, inside, at = "", False, at + 1
        else:
            word, at = word + after, at + 1
    return [*arguments, word] if word or inside else arguments


@pytest.mark.parametrize(
    "program",
    [r"C:\Program Files\userdisk\userdisk.exe", "userdisk.exe", r"C:\Übung\ディスク\u.exe"],
)
def test_verbs(program: str) -> None:
    text = registry(program, (".rawdisk", ".img"))
    assert text.isascii()
    keys = _read(text)
    prog_id = rf"{_CLASSES}\userdisk.DiskImage"
    assert keys[rf"{prog_id}\shell\open"][""] == "Mount"
    mount = keys[rf"{prog_id}\shell\open\command"][""]
    assert mount is not None
    image = r"D:\my images\-a.rawdisk"
    assert _arguments(mount.replace("%1", image)) == [program, "open", "--", image]
    eject = keys[rf"{_CLASSES}\Drive\shell\userdisk.eject\command"][""]
    assert eject is not None
    assert _arguments(eject.replace("%1", "E:\\")) == [program, "desktop", "eject", "--", r"E:\."]


def test_endings_of_others_are_not_taken() -> None:
    keys = _read(registry("userdisk.exe", (".rawdisk", ".img")))
    assert keys[rf"{_CLASSES}\.rawdisk"] == {"": "userdisk.DiskImage"}
    assert rf"{_CLASSES}\.img" not in keys
    assert keys[rf"{_CLASSES}\.img\OpenWithProgids"] == {"userdisk.DiskImage": ""}


def test_removal_takes_away_what_was_added() -> None:
    extensions = (".rawdisk", ".img")
    removed = _read(removal(extensions))
    whole = [key[1:] for key in removed if key.startswith("-")]
    for key, values in _read(registry("userdisk.exe", extensions)).items():
        if any(key == each or key.startswith(each + "\\") for each in whole):
            continue
        assert removed[key] == dict.fromkeys(values), key
    assert all(key.startswith(_CLASSES) for key in whole)


@pytest.mark.parametrize("program", ['a"b', "a\nb", "a|b", "a\0b"])
def test_what_is_no_path(program: str) -> None:
    with pytest.raises(UsageError, match="no path on Windows"):
        registry(program, (".img",))
