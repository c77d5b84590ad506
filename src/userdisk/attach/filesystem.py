"""Making and mounting file systems with the system's own mkfs.X, blkid and mount."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from userdisk.attach import block
from userdisk.errors import UsageError, UserdiskError

_TABLE: Final = 1024  # bytes; ext4 leaves them free
_SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"  # not on the PATH of every root shell


#: File systems without owners, or none that Linux knows of.
_OWNERLESS: Final = ("vfat", "exfat", "ntfs")


@dataclass(frozen=True, slots=True)
class Format:
    """How one kind of file system is made and mounted. All of them discard the disk first."""

    program: str
    package: str  #: the Debian package of the program
    arguments: Sequence[str]
    types: Sequence[str]  #: what mount -t is given: the first with a helper mount.X, or the last
    discard: bool = True  #: it can discard what is deleted (mount -o discard)


#: --format -> how. Programs are quiet, and do not ask: `content` has looked already.
FORMATS: Final = {
    "ext4": Format("mkfs.ext4", "e2fsprogs", ["-q", "-F"], ["ext4"]),
    "ext3": Format("mkfs.ext3", "e2fsprogs", ["-q", "-F"], ["ext3"]),
    "ext2": Format("mkfs.ext2", "e2fsprogs", ["-q", "-F"], ["ext2"], discard=False),
    "xfs": Format("mkfs.xfs", "xfsprogs", ["-q", "-f"], ["xfs"]),
    "btrfs": Format("mkfs.btrfs", "btrfs-progs", ["-q", "-f"], ["btrfs"]),
    "f2fs": Format("mkfs.f2fs", "f2fs-tools", ["-q", "-f"], ["f2fs"]),
    "ntfs": Format("mkntfs", "ntfs-3g", ["-q", "-Q", "-F"], ["ntfs-3g", "ntfs3"], discard=False),
    "vfat": Format("mkfs.vfat", "dosfstools", ["-I"], ["vfat"]),
    "exfat": Format("mkfs.exfat", "exfatprogs", ["-q"], ["exfat"]),
}


def check_tools(kind: str | None) -> None:
    """Raise `UserdiskError` if a program that mounting (and formatting) needs is not installed."""
    needed = [("mount", "mount"), ("blkid", "util-linux")]
    if kind is not None:
        needed.append((FORMATS[kind].program, FORMATS[kind].package))
    for program, package in needed:
        if _find(program) is None:
            raise UserdiskError(f"{program} is not installed (Debian package {package})")


def add_partitions(device: Path) -> None:
    """Show the partitions of the disk where the kernel cannot read partition tables itself."""
    if (
        not _may_have_table(device)
        or block.partitions(device)
        or _find("blkid") is None
        or _find("partx") is None
    ):
        return
    if "partition table" in content(device):
        _run(["partx", "--add", str(device)])


def _may_have_table(device: Path) -> bool:
    """False for zeros where all partition tables begin: starting programs takes its time."""
    with open(device, "rb", buffering=0) as file:
        return any(file.read(_TABLE) or b"")


def choose_partition(device: Path, number: int | None) -> Path:
    """The node that holds the file system: the disk, or a partition of it.

    `number` 0 is the whole disk; None the disk, or its partition if there is exactly one.
    Raises `UsageError`.
    """
    partitions = block.partitions(device)
    if number == 0 or (number is None and not partitions):
        return device
    if number is None and len(partitions) == 1:
        return partitions[0]
    known = ", ".join(str(node).rpartition("p")[2] for node in partitions) or "none"
    if number is None:
        raise UsageError(f"the disk has several partitions; choose one: --partition ({known})")
    wanted = Path(f"{device}p{number}")
    if wanted not in partitions:
        raise UsageError(f"--partition {number}: the disk has no such partition (it has: {known})")
    return wanted


def content(node: Path) -> str:
    """What is on a disk or partition ("ext4", "a partition table (gpt)"), or "" if it is blank."""
    run = _run(["blkid", "-p", "-o", "export", str(node)])
    if run.returncode == 8:  # several signatures
        return "more than one file system"
    if run.returncode not in (0, 2):
        raise UserdiskError(f"blkid {node}: {_complaint(run) or 'failed'}")
    found = dict(line.partition("=")[::2] for line in run.stdout.splitlines())
    if "TYPE" in found:
        return found["TYPE"]
    return f"a partition table ({found['PTTYPE']})" if "PTTYPE" in found else ""


def make(kind: str, node: Path) -> None:
    """Make a file system; what was there is lost. Blocks. Raises `UserdiskError`."""
    how = FORMATS[kind]
    run = _run([how.program, *how.arguments, str(node)])
    if run.returncode != 0:
        raise UserdiskError(f"{how.program} {node}: {_complaint(run) or 'failed'}")


def mount(
    node: Path,
    folder: Path,
    *,
    options: Sequence[str],
    read_only: bool,
    discards: bool,
    owner: int | None = None,
) -> str:
    """Mount what is on the node; returns its type. Blocks. Raises `UserdiskError`.

    owner: the user id that files belong to in a file system that has no owners.
    """
    kind = content(node)
    if not kind:
        raise UsageError(f"the disk is blank; make a file system with --format {'|'.join(FORMATS)}")
    if " " in kind:
        raise UsageError(f"{node} holds {kind}, which cannot be mounted")
    how = FORMATS.get(kind, Format("", "", (), [kind], discard=False))
    helpers = [name for name in how.types if _find(f"mount.{name}")]
    given = [*(["ro"] if read_only else ["discard"] if how.discard and discards else []), *options]
    if owner is not None and kind in _OWNERLESS:
        given.insert(0, f"uid={owner}")
    run = _run(
        ["mount", "-t", [*helpers, how.types[-1]][0]]
        + (["-o", ",".join(given)] if given else [])
        + [str(node), str(folder)]
    )
    if run.returncode != 0:
        raise UserdiskError(_complaint(run) or f"mounting {node} on {folder} failed")
    return kind


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [_find(command[0]) or command[0], *command[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )


def _complaint(run: subprocess.CompletedProcess[str]) -> str:
    """What a program said, as one line: without its banner, its usage and its advice."""
    said = re.split(r"(?mi)^\s*usage:", run.stderr)[0].splitlines()
    lines = [line.strip() for line in said if line.strip()]
    kept = [line for line in lines if not re.match(r"\S+ \d+\.\d|dmesg\(1\)", line)]
    return "; ".join(kept)[:400]
