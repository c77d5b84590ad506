"""mimeapps.list: which application opens a type (Association between MIME types and applications).

Pure: text in, text out. Lines that are not about us stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_DEFAULTS: Final = "Default Applications"
_GROUPS: Final = {_DEFAULTS, "Added Associations"}


def with_default(text: str, types: Iterable[str], entry: str) -> str:
    """The text in which `entry` opens each of `types`; what did before comes second."""
    lines = text.splitlines()
    start = next((at for at, line in enumerate(lines) if _group(line) == _DEFAULTS), None)
    if start is None:
        if lines and lines[-1].strip():
            lines.append("")
        lines.append(f"[{_DEFAULTS}]")
        start = len(lines) - 1
    end = next((at for at in range(start + 1, len(lines)) if _group(lines[at])), len(lines))
    while end > start + 1 and not lines[end - 1].strip():
        end -= 1
    for kind in types:
        at = next((at for at in range(start + 1, end) if _key(lines[at]) == kind), None)
        if at is None:
            lines.insert(end, f"{kind}={entry};")
            end += 1
        else:
            name, _, value = _less(lines[at], entry).partition("=")
            lines[at] = f"{name}={entry};{value.lstrip()}"
    return "\n".join(lines) + "\n"


def is_default(text: str, types: Iterable[str], entry: str) -> bool:
    """Whether `entry` is the first to open each of `types`."""
    group = ""
    first: dict[str, str] = {}
    for line in text.splitlines():
        group = _group(line) or group
        if group == _DEFAULTS and (values := _values(line)):
            first.setdefault(_key(line), values[0])
    return all(first.get(kind) == entry for kind in types)


def without(text: str, entry: str) -> str:
    """The text in which `entry` opens nothing. A group that this leaves empty goes, too."""
    kept: list[str] = []
    group = ""
    changed: set[str] = set()
    for line in text.splitlines():
        group = _group(line) or group
        if group in _GROUPS and "=" in line and entry in (values := _values(line)):
            changed.add(group)
            if len(values) > values.count(entry):
                kept.append(_less(line, entry))
        else:
            kept.append(line)
    if not changed:
        return text
    for name in changed:
        start = next(at for at, line in enumerate(kept) if _group(line) == name)
        end = next((at for at in range(start + 1, len(kept)) if _group(kept[at])), len(kept))
        if not any(line.strip() for line in kept[start + 1 : end]):
            del kept[start:end]
    while kept and not kept[-1].strip():
        kept.pop()
    return "\n".join(kept) + "\n" if kept else ""


def _less(line: str, entry: str) -> str:
    """A line without `entry`; the rest of it as it is."""
    name, _, value = line.partition("=")
    parts = value.split(";")
    return f"{name}={';'.join(part for part in parts if part.strip() != entry)}"


def _group(line: str) -> str:
    stripped = line.strip()
    return stripped[1:-1] if stripped.startswith("[") and stripped.endswith("]") else ""


def _key(line: str) -> str:
    return "" if line.lstrip().startswith("#") else line.partition("=")[0].strip()


def _values(line: str) -> list[str]:
    if line.lstrip().startswith("#"):
        return []
    return [each.strip() for each in line.partition("=")[2].split(";") if each.strip()]
