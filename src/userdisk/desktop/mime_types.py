"""The types of disk images: which are known, and the one that userdisk adds (shared-mime-info)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from xml.sax.saxutils import quoteattr, unescape

#: What userdisk calls an image that nothing else has a name for.
OWN_TYPE: Final = "application/vnd.userdisk.disk-image"
#: What shared-mime-info calls a raw image, in older and newer releases.
RAW_TYPES: Final = ("application/x-raw-disk-image", "application/vnd.efi.img")
#: The types that the opener opens.
TYPES: Final = (OWN_TYPE, *RAW_TYPES)
#: Endings of raw images that are always asked for; classes may open more.
EXTENSIONS: Final = (".rawdisk", ".img")

_PACKAGE: Final = "userdisk.xml"
_MAX_GLOBS: Final = 8 << 20
_PLAIN: Final = re.compile(r"\.[^\s*?\[\]\\/.]+")
_GLOB: Final = re.compile(r'<glob pattern=(?:"|\')\*([^\n]*)(?:"|\')/>')


def package(folder: Path) -> Path:
    """Our file below a folder of data."""
    return folder / "mime" / "packages" / _PACKAGE


def known_types(folders: Iterable[Path], extension: str) -> set[str]:
    """The types, but ours, that the databases in these folders of data give to `*EXTENSION`."""
    pattern = f"*{extension}".lower()
    found = set()
    for folder in folders:
        try:
            with (folder / "mime" / "globs2").open(encoding="utf-8", errors="replace") as file:
                text = file.read(_MAX_GLOBS)
        except OSError:
            continue
        for line in text.splitlines():
            weight, _, rest = line.partition(":")
            kind, _, glob = rest.partition(":")
            if weight.isdigit() and glob.split(":")[0].lower() == pattern:
                found.add(kind)
    return found - {OWN_TYPE}


def own_extensions(extensions: Iterable[str], folders: Sequence[Path]) -> list[str]:
    """Those that no type has yet: ours gets them, and takes none from another.

    What a pattern would take for more than itself is left out.
    """
    every = dict.fromkeys([*EXTENSIONS, *(each.lower() for each in extensions)])
    plain = [each for each in every if _PLAIN.fullmatch(each)]
    return [each for each in plain if not known_types(folders, each)]


def taken(extensions: Iterable[str], folders: Sequence[Path]) -> dict[str, str]:
    """Those that belong to a type which the opener does not open, with that type."""
    types = {each: known_types(folders, each) for each in extensions}
    return {
        each: min(kinds)
        for each, kinds in types.items()
        if kinds and not kinds.intersection(RAW_TYPES)
    }


def extensions_in(text: str) -> list[str]:
    """The endings that a text of `xml` has."""
    return [unescape(each, {"&quot;": '"'}) for each in _GLOB.findall(text)]


def xml(extensions: Iterable[str], remark: str) -> str:
    """The text of the package: our type and the endings that mean it."""
    globs = "".join(f"    <glob pattern={quoteattr('*' + each)}/>\n" for each in extensions)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<!-- {remark} -->\n"
        '<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">\n'
        f'  <mime-type type="{OWN_TYPE}">\n'
        "    <comment>disk image</comment>\n"
        f'    <sub-class-of type="{RAW_TYPES[0]}"/>\n'
        '    <icon name="drive-harddisk"/>\n'
        '    <generic-icon name="drive-harddisk"/>\n'
        f"{globs}"
        "  </mime-type>\n"
        "</mime-info>\n"
    )
