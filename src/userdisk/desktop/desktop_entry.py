"""Desktop entries as text (Desktop Entry Specification 1.5: values, Exec)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from userdisk.errors import UserdiskError

_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", "\t": r"\t", "\r": r"\r"})
_QUOTED: Final = str.maketrans({each: "\\" + each for each in '"`$\\'})
_PLAIN: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+./,:@^"
)


def string(value: str) -> str:
    """A value of type string."""
    escaped = value.translate(_ESCAPES)
    return r"\s" + escaped[1:] if escaped.startswith(" ") else escaped


def strings(values: Iterable[str]) -> str:
    """A value of type strings."""
    return "".join(string(value).replace(";", r"\;") + ";" for value in values)


def exec_value(arguments: Sequence[str], code: str = "") -> str:
    """The value of Exec that runs a program with these arguments, and then a field code (%F).

    Raises `UserdiskError` for a path of the program with "=", which Exec cannot name.
    """
    if "=" in arguments[0]:
        raise UserdiskError(f"{arguments[0]}: a desktop cannot start a program with = in its path")
    words = [argument.replace("%", "%%") for argument in arguments]
    quoted = [
        word if word and _PLAIN.issuperset(word) else f'"{word.translate(_QUOTED)}"'
        for word in words
    ]
    return string(" ".join([*quoted, *([code] if code else [])]))


def entry(groups: Mapping[str, Mapping[str, str]], remark: str) -> str:
    """The text of a file: a remark, and groups of keys. Values are encoded already."""
    lines = [f"# {remark}"]
    for name, keys in groups.items():
        lines += ["", f"[{name}]", *(f"{key}={value}" for key, value in keys.items())]
    return "\n".join(lines).replace("\n\n", "\n", 1) + "\n"
