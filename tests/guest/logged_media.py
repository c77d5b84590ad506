"""Media in the guest that log every write, with a file system and an image on each."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.guest.session import Guest

#: Only what is flushed reaches a medium: the kernel writes nothing back on its own.
QUIET = "echo 0 > /proc/sys/vm/dirty_writeback_centisecs"

_SET_UP = """set -e
export DM_DISABLE_UDEV=1
mkdir -p $dir/mount
truncate -s $size $dir/medium; truncate -s 512M $dir/log
losetup -f --show $dir/medium > $dir/medium.loop; losetup -f --show $dir/log > $dir/log.loop
dmsetup create $name --table \\
    "0 $((size / 512)) log-writes $(cat $dir/medium.loop) $(cat $dir/log.loop)"
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
    """One of them; sizes in bytes. `name` is that of its device below /dev/mapper."""

    name: str
    folder: str
    size: int
    image_size: int

    @property
    def image(self) -> str:
        """The image's path in the guest."""
        return f"{self.folder}/mount/disk.img"

    @property
    def log(self) -> str:
        """The log's path in the guest."""
        return f"{self.folder}/log"

    def set_up(self, guest: Guest) -> None:
        """Make it. Raises GuestError."""
        guest.check(self._variables + _SET_UP, 60)

    def tear_down(self, guest: Guest) -> None:
        """Take it apart, as far as it is there; the log stays."""
        guest.run(self._variables + _TEAR_DOWN, 60)

    @property
    def _variables(self) -> str:
        return f"name={self.name} dir={self.folder} size={self.size} image={self.image_size}\n"

    def recover(self, medium: Path) -> Path:
        """The image, as it is after the file system on a copy of the medium recovered."""
        crashed, image = medium.with_name("crashed"), medium.with_name("disk.img")
        shutil.copy(medium, crashed)
        check = subprocess.run(["e2fsck", "-fy", crashed], capture_output=True, text=True)
        assert check.returncode in (0, 1), check.stdout + check.stderr
        image.unlink(missing_ok=True)
        subprocess.run(
            ["debugfs", "-R", f"dump /disk.img {image}", crashed], capture_output=True, check=True
        )
        with image.open("ab") as file:
            file.truncate(self.image_size)
        return image
