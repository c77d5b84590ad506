"""The registry file that makes Explorer's "Mount" and "Eject" call userdisk (not run on Windows).

Pure. A .reg file is UTF-16 or, as here, ASCII: text outside ASCII is written as hex(1), the bytes
of UTF-16. All keys are the user's own (HKEY_CURRENT_USER), so no administrator is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from userdisk.errors import UsageError

_HEADER: Final = "Windows Registry Editor Version 5.00"
_CLASSES: Final = r"HKEY_CURRENT_USER\Software\Classes"
_PROG_ID: Final = "userdisk.DiskImage"
_EJECT: Final = rf"{_CLASSES}\Drive\shell\userdisk.eject"
_FIXED_DRIVE_ICON: Final = "shell32.dll,8"

#: The ending that is ours; others belong to somebody, and get an entry under "Open with".
_OWN: Final = ".rawdisk"


def registry(program: str, extensions: Sequence[str]) -> str:
    """The text that adds the verbs. `program` is userdisk.exe; lines end with CR LF.

    Raises `UsageError` for a path that Windows cannot have.
    """
    if any(each in program for each in '"<>|?*\r\n\0'):
        raise UsageError(f"--program {program!r}: no path on Windows")
    prog_id = rf"{_CLASSES}\{_PROG_ID}"
    quoted = f'"{program}"'
    keys: dict[str, dict[str, str]] = {
        prog_id: {"": "Disk image"},
        rf"{prog_id}\DefaultIcon": {"": _FIXED_DRIVE_ICON},
        rf"{prog_id}\shell": {"": "open"},
        rf"{prog_id}\shell\open": {"": "Mount", "MultiSelectModel": "Document"},
        rf"{prog_id}\shell\open\command": {"": f'{quoted} open -- "%1"'},
        _EJECT: {"": "Eject disk image"},
        # %1 is E:\, and a backslash before a quote would take it for text
        rf"{_EJECT}\command": {"": f'{quoted} desktop eject -- "%1."'},
    }
    for extension in extensions:
        if extension == _OWN:
            keys[rf"{_CLASSES}\{extension}"] = {"": _PROG_ID}
        keys[rf"{_CLASSES}\{extension}\OpenWithProgids"] = {_PROG_ID: ""}
    lines = [_HEADER, ""]
    for key, values in keys.items():
        lines.append(f"[{key}]")
        lines += [f"{_name(name)}={_value(value)}" for name, value in values.items()]
        lines.append("")
    return "\r\n".join(lines)


def removal(extensions: Sequence[str]) -> str:
    """The text that takes the verbs away again."""
    lines = [_HEADER, "", rf"[-{_CLASSES}\{_PROG_ID}]", "", f"[-{_EJECT}]", ""]
    for extension in extensions:
        if extension == _OWN:
            lines += [rf"[-{_CLASSES}\{extension}]", ""]
        else:
            lines += [
                rf"[{_CLASSES}\{extension}\OpenWithProgids]",
                f"{_name(_PROG_ID)}=-",
                "",
            ]
    return "\r\n".join(lines)


def _name(name: str) -> str:
    return f'"{_escape(name)}"' if name else "@"


def _value(value: str) -> str:
    if value.isascii():
        return f'"{_escape(value)}"'
    data = (value + "\0").encode("utf-16-le")
    return "hex(1):" + ",".join(f"{byte:02x}" for byte in data)


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"")
