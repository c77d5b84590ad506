"""Text files of users and desktops: read, replaced whole, and removed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from userdisk import whole_file
from userdisk.errors import UserdiskError

_LARGEST: Final = 4 << 20


def read(path: Path) -> str | None:
    """The text of a file, None if there is none.

    Raises `UserdiskError` for what is not a text file, or too large to be one of these.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserdiskError(f"{path}: {error.strerror}") from None
    if len(data) > _LARGEST:
        raise UserdiskError(f"{path}: larger than {_LARGEST} bytes; left as it is")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UserdiskError(f"{path}: not a text file; left as it is") from None


def replace(path: Path, text: str, mode: int | None = None) -> None:
    """Make `text` the file, durably; folders above it are made.

    A link stays a link: what it leads to is replaced. `mode` None keeps what the file had.
    Blocks. Raises `UserdiskError`; the old file is there then.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode is None:
            mode = _mode(target)
        whole_file.replace(target, text.encode(), mode=mode)
    except OSError as error:
        raise UserdiskError(f"{path}: {error.strerror}") from None


def remove(path: Path) -> bool:
    """Remove a file; whether it was there. Raises `UserdiskError`."""
    try:
        path.unlink()
        whole_file.sync_folder(path.parent)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UserdiskError(f"{path}: {error.strerror}") from None
    return True


def missing_folders(path: Path) -> list[Path]:
    """The folders above a file that are not there, the uppermost first."""
    missing = []
    for folder in path.parents:
        if folder.exists():
            break
        missing.append(folder)
    return missing[::-1]


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        return 0o644
