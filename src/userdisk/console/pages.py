"""The page's files: read once, so that a request's path names one of a table and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True)
class Page:
    """A file of the page."""

    content: bytes
    media_type: str


def pages() -> dict[str, Page]:
    """By the path of a request. Reads files."""
    found = dict(_in(files("userdisk.console") / "page", "/"))
    found["/"] = found["/index.html"]
    return found


def _in(folder: Traversable, path: str) -> list[tuple[str, Page]]:
    found: list[tuple[str, Page]] = []
    for each in folder.iterdir():
        if each.is_dir():
            found += _in(each, f"{path}{each.name}/")
            continue
        kind = _TYPES.get(each.name[each.name.rfind(".") :])
        if kind is not None:
            found.append((f"{path}{each.name}", Page(each.read_bytes(), kind)))
    return found
