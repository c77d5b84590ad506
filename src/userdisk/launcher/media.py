"""Where disks of a desktop's users are mounted: a folder named after the image."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from userdisk.errors import UsageError

_LONGEST: Final = 60  # bytes
_MOST: Final = 1000  # disks of one label


def label(name: str) -> str:
    """The name of an image without folders and ending, fit to be the name of a folder.

    It is never empty, has no "/", and begins with no dot.
    """
    stem = os.path.splitext(os.path.basename(name.rstrip("/")))[0]
    plain = re.sub(r"[^\w .,+=@()-]+", "-", stem).strip(" .-")
    short = plain.encode(errors="replace")[:_LONGEST].decode(errors="ignore").rstrip(" .-")
    return short or "disk"


def unused(folder: str) -> str:
    """The folder, or the next one (-2, -3, ...) where something is mounted or kept there already.

    Looks once: who mounts there next may find that another was faster.
    """
    for number in range(1, _MOST):
        path = Path(folder if number == 1 else f"{folder}-{number}")
        try:
            if not path.is_mount() and not any(path.iterdir()):
                return str(path)
        except FileNotFoundError:
            return str(path)
        except OSError:
            continue
    raise UsageError(f"{folder}: {_MOST} disks of this name are mounted already")
