"""The file `console`: who runs it, and a link that is good now, for the command's next call.

The console holds a lock for as long as it lives, so a killed one is known by its absence.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Final

from userdisk import control, whole_file
from userdisk.errors import UserdiskError
from userdisk.launcher import places
from userdisk.secret_file import read_secret_file

_WAIT: Final = 10.0  # seconds until one that has just begun has its file


class Link:
    """The place of this user's console. Raises `UserdiskError` if others may write there."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or places.launcher_folder()
        self._path = self._folder / "console"
        self._lock: int | None = None
        try:
            control.own_folder(self._folder, 0o755)
        except OSError as error:
            raise UserdiskError(f"{self._folder}: {error.strerror}") from None

    def acquire(self) -> bool:
        """Whether there is no other console now, and this is it until `release`."""
        path = self._folder / "console.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        self._forget()  # what a killed one has left
        return True

    def release(self) -> None:
        """There is no console any more."""
        if self._lock is not None:
            self._forget()
            os.close(self._lock)
            self._lock = None

    def write(self, url: str) -> None:
        """Say where it is, with a token. Raises `OSError`; then the old text is still there."""
        text = json.dumps({"pid": os.getpid(), "url": url})
        whole_file.replace(self._path, text.encode(), mode=0o600)

    def read(self) -> str:
        """The URL of the console that runs. Blocks, ten seconds at most. Raises `UserdiskError`."""
        deadline = time.monotonic() + _WAIT
        while True:
            with contextlib.suppress(ValueError, KeyError, TypeError, UserdiskError):
                text = read_secret_file(str(self._path), str(self._path))
                return str(json.loads(text)["url"])
            if time.monotonic() > deadline:
                raise UserdiskError(f"{self._path}: a console runs, but does not say where")
            time.sleep(0.05)

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()
