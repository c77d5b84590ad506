"""Media in the guest that log every write, the server over them, and the crashes in their logs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.logwrites import Flag, Replay, read_log
from tests.guest.session import Guest

REPOSITORY = Path(__file__).parents[2]

#: Only what is flushed reaches a medium: the kernel writes nothing back on its own.
QUIET = "echo 0 > /proc/sys/vm/dirty_writeback_centisecs"

_SET_UP = """set -e
export DM_DISABLE_UDEV=1
mkdir -p $dir/mount
truncate -s $size $dir/medium; truncate -s 512M $dir/log
losetup -f --show $dir/medium > $dir/medium.loop; losetup -f --show $dir/log > $dir/log.loop
dmsetup create $name --table \\
    "0 $((size / 512)) log-writes $(cat $dir/medium.loop) $(cat $dir/log.loop)"
"""

_FILE_SYSTEM = """
mkfs.ext4 -q -b 4096 -J size=4 -E lazy_itable_init=0,nodiscard /dev/mapper/$name
mount /dev/mapper/$name $dir/mount
truncate -s $image $dir/mount/disk.img; sync $dir/mount/disk.img
"""

_TEAR_DOWN = """export DM_DISABLE_UDEV=1
if mountpoint -q $dir/mount; then umount $dir/mount; fi
dmsetup remove --retry $name
losetup -d $(cat $dir/medium.loop) $(cat $dir/log.loop)
"""


@dataclass(frozen=True)
class LoggedMedium:
    """One of them; sizes in bytes. `name` is that of its device below /dev/mapper.

    With a file system there is an image on it; else the medium itself begins with one.
    """

    name: str
    folder: str
    size: int
    image_size: int
    file_system: bool = True

    @property
    def image(self) -> str:
        """The image's path in the guest."""
        return f"{self.folder}/mount/disk.img"

    def set_up(self, guest: Guest) -> None:
        """Make it. Raises GuestError."""
        file_system = _FILE_SYSTEM if self.file_system else ""
        guest.check(self._variables + _SET_UP + file_system, 60)

    def tear_down(self, guest: Guest) -> None:
        """Take it apart, as far as it is there; the log stays."""
        guest.run(self._variables + _TEAR_DOWN, 60)

    def copy_log(self, guest: Guest, to: Path) -> None:
        """Copy the log to a folder that the guest shares with the host."""
        guest.check(f"cp --sparse=always {self.folder}/log {to}; sync {to}", 60)

    @property
    def _variables(self) -> str:
        return f"name={self.name} dir={self.folder} size={self.size} image={self.image_size}\n"

    def recover(self, medium: Path) -> Path:
        """The image on a medium, as it is after the file system on a copy of it recovered."""
        image = medium.with_name("disk.img")
        image.unlink(missing_ok=True)
        if self.file_system:
            crashed = medium.with_name("crashed")
            shutil.copy(medium, crashed)
            check = subprocess.run(["e2fsck", "-fy", crashed], capture_output=True, text=True)
            assert check.returncode in (0, 1), check.stdout + check.stderr
            dump = ["debugfs", "-R", f"dump /disk.img {image}", str(crashed)]
            subprocess.run(dump, capture_output=True, check=True)
        else:
            shutil.copy(medium, image)
        with image.open("ab") as file:
            file.truncate(self.image_size)
        return image

    def crashes(self, log: Path, folder: Path, marks: int) -> Iterator[tuple[int, bool, Path]]:
        """Replay a log to every mark, flush and FUA write from the first mark on.

        Marks are "0", "1" and so on; there must be so many. Yields how many there were until the
        crash, whether one is the last thing before it, and the medium in `folder`.
        """
        replay = Replay(folder / "medium", self.size)
        seen = 0
        for entry in read_log(log):
            replay.apply(entry)
            mark = entry.mark == str(seen)
            seen += mark
            if mark or (seen and entry.flags & (Flag.FLUSH | Flag.FUA)):
                yield seen, mark, replay.path
        replay.close()
        assert seen == marks, "marks are missing from the log"


def serve(guest: Guest, arguments: Sequence[str], folder: str, port: str) -> None:
    """Start `userdisk serve` in the guest, and wait until it listens at this address."""
    server = f"{sys.executable} -m userdisk serve {shlex.join(arguments)}"
    guest.start(f"env -C {REPOSITORY} {server}", f"{folder}/server.log", f"{folder}/server.pid")
    # A poll that starts processes would take the guest's one CPU from the server.
    listening = f"(: < /dev/tcp/{port.replace(':', '/')}) 2> /dev/null"
    if guest.run(f"until {listening}; do sleep 0.5; done", 120).code:
        pytest.fail(guest.check(f"cat {folder}/server.log"))


def kill_server(guest: Guest, folder: str) -> None:
    """Kill what `serve` started, and wait until it is gone."""
    guest.run(
        f"kill -9 $(cat {folder}/server.pid)\n"
        f"until grep -q '^exit' {folder}/server.log; do sleep 0.1; done"
    )
