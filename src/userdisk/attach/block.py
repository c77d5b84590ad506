"""What the kernel says about a block device, whichever driver it belongs to."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path


def partitions(device: Path) -> list[Path]:
    """The nodes of the partitions, in the order of their numbers."""
    folders = Path("/sys/block", device.name).glob(f"{device.name}p*")
    numbers = sorted(int(folder.name[len(device.name) + 1 :]) for folder in folders)
    return [Path(f"{device}p{number}") for number in numbers]


def in_use(device: Path, timeout: float) -> bool:
    """Whether a file system, swap or device mapper still holds the disk or a partition of it.

    Waits up to `timeout` seconds for holders to go.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            if error.errno != errno.EBUSY:
                return False
        else:
            return False
        if time.monotonic() > deadline:
            return True
        time.sleep(0.05)
