"""Images that are not made durable, each for a reason of its own: the crash test must find both."""

from __future__ import annotations

import os

from tests.guest.units import NoSync
from userdisk.backend.file import FileUnit


class FlushLies(NoSync):
    """Its flush does nothing."""

    path = "/run/stgtest/lies/mount/disk.img"


class NoFdatasync(FileUnit):
    """Its flush is the real one, but fdatasync of its image has been taken out."""

    path = "/run/stgtest/nosync/mount/disk.img"

    def __init__(self) -> None:
        super().__init__(self.path)
        sync = os.fdatasync

        def without_the_image(descriptor: int) -> None:
            if not os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                sync(descriptor)

        os.fdatasync = without_the_image
