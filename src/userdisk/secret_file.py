"""Reading a file with secrets: small, text, and nobody else's to read."""

from __future__ import annotations

import os
import stat

from userdisk.errors import UsageError

_MAX_FILE = 64 * 1024


def read_secret_file(path: str, where: str) -> str:
    """The text of the file. `where` begins each message.

    Blocks. Raises `UsageError` for a file that others may read or change, is too large, or is not
    text.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if os.name == "posix" and stat.S_ISREG(status.st_mode):
                mode = stat.S_IMODE(status.st_mode)
                if mode & 0o077:
                    raise UsageError(
                        f"{where}: other users may read or change it (mode {mode:03o});"
                        f" chmod 600 {path}"
                    )
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise UsageError(f"{where}: larger than {_MAX_FILE} bytes; is this the right file?")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{where}: not a text file") from None
