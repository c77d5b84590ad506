"""Whether a block device holds something that a test would destroy (Linux, sysfs and proc)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_LOOKED_AT = 8192  # bytes
_SIGNATURES = ((510, b"\x55\xaa"), (512, b"EFI PART"), (4096, b"EFI PART"))


def uses(path: str) -> list[str]:
    """What is on the device or uses it, each in words. Raises `OSError`."""
    folder = _folder(path)
    name = folder.resolve().name
    found = [f"partition {each.name}" for each in _partitions(folder)]
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        words = line.split(" ")
        if words[2] == folder.name:
            found.append(f"mounted on {words[4]}")
    swaps = Path("/proc/swaps")
    for line in swaps.read_text().splitlines()[1:] if swaps.exists() else ():
        if os.path.basename(line.split()[0]) == name:
            found.append("swapped to")
    holders = folder / "holders"
    if holders.is_dir():
        found += sorted(f"used by {each.name}" for each in holders.iterdir())
    with open(path, "rb") as file:
        begin = file.read(_LOOKED_AT)
    if any(begin[at : at + len(mark)] == mark for at, mark in _SIGNATURES):
        found.append("has a partition table or a boot sector")
    return found


def discards(path: str) -> bool:
    """Whether the device takes discards."""
    folder = _folder(path)
    for place in (folder, folder.resolve().parent):  # a partition's queue is its disk's
        try:
            return int((place / "queue/discard_max_bytes").read_text()) > 0
        except (OSError, ValueError):
            continue
    return False


def _folder(path: str) -> Path:
    number = os.stat(path).st_rdev
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")


def _partitions(folder: Path) -> Iterator[Path]:
    for each in sorted(folder.resolve().iterdir()):
        if (each / "partition").exists():
            yield each
