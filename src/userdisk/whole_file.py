"""Files that are replaced whole: who looks, also after a crash, sees the old content or the new.

The new content is written to a file beside it, which is synced and then takes the name. It is
renamed only when all of it is on the disk: a full disk leaves the old one.
"""

from __future__ import annotations

import contextlib
import os

_LONGEST_PREFIX = 50  # characters of the name in a temporary one; a name has 255 bytes at most


def replace(path: str | os.PathLike[str], data: bytes, *, mode: int, scratch: str = "") -> None:
    """Make `data` the file, durably, with this `mode` whatever the umask is.

    A link is replaced, not what it leads to. `scratch` is the name, in the same folder, that the
    content has until then; one that was left there by a crash is written over. Only where nobody
    else writes to the folder; else leave it out for a name that nobody can know.

    Blocks. Raises `OSError`; the old file is there then, unless only the sync of the folder
    failed.
    """
    target = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(target)
    secret = f".{name[:_LONGEST_PREFIX]}.{os.urandom(8).hex()}"
    temporary = os.path.join(folder, scratch or secret)
    how = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if scratch else os.O_EXCL)
    how |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(temporary, how, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            os.chmod(temporary, mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(folder)


def sync_folder(path: str | os.PathLike[str]) -> None:
    """Make what was created, renamed or removed in a folder durable. Blocks; raises `OSError`."""
    if os.name == "nt":
        return  # Windows opens no folders, and needs no such thing
    descriptor = os.open(os.fspath(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
