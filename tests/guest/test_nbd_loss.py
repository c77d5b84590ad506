"""Linux's NBD driver when connections, the server or the medium are lost: errors, and no hang."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.nbd import NbdDisk
from tests.guest.server import ServeProcess, free_port
from tests.guest.session import Guest
from tests.kit.requires import requires
from userdisk.initiator_client import Initiator
from userdisk.iscsi.initiator_login import Settings

pytestmark = [
    pytest.mark.timeout(180),
    requires("nbd-client", "fio", "mkfs.ext4", "e2fsck", "debugfs", "ss"),
]

NAME = "iqn.2026-11.test:nbd-loss"
SIZE = 32 << 20
FILES = "/run/nbd/mount"

#: What a kernel says that is not well.
_UNWELL = re.compile(r"BUG|Oops|WARNING:|Call Trace|blocked for more than|soft lockup|rcu_.*stall")

VERIFY = (
    "fio --name=verify --filename={device} --rw=randwrite --bs=4k --size=3M --loops=4"
    " --ioengine=libaio --iodepth=16 --direct=1 --verify=crc32c --do_verify=1 --verify_fatal=1"
    " --output-format=terse"
)


_FILE_SYSTEM = f"""
mkfs.ext4 -q -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 DISK
mkdir -p {FILES} && mount DISK {FILES}
"""

# Each file is named as answered when its fsync has been, and the first failure ends it.
_WRITER = f"""for i in $(seq 1000); do
    dd if=/dev/urandom of={FILES}/$i bs=$((RANDOM % 60 + 1))k count=1 conv=fsync \\
        status=none || exit 1
    sum=$(md5sum < {FILES}/$i) || exit 1
    echo "answered $i ${{sum%% *}}"
done
"""


class Target:
    """A server with the export `disk`, its image, and the disk in the guest."""

    def __init__(self, guest: Guest, server: ServeProcess, image: Path, disk: NbdDisk) -> None:
        self.guest = guest
        self.server = server
        self.image = image
        self.disk = disk

    def well(self) -> None:
        """The guest's kernel has nothing to complain of but errors of the disk."""
        log = self.guest.check("dmesg")
        assert not _UNWELL.search(log), log


@pytest.fixture
def target(guest: Guest, tmp_path: Path) -> Iterator[Target]:
    image, port = tmp_path / "disk.img", free_port()
    arguments: list[str | Path] = [image, "--size", str(SIZE), "--name", NAME, "--removable"]
    arguments += ["--nbd", f"127.0.0.1:{port}", "--export", "disk"]
    guest.check("dmesg --clear")
    with ServeProcess(arguments, tmp_path / "serve.log") as server:
        disk = NbdDisk(guest, port, "disk", connections=4, timeout=5)
        with disk:
            yield Target(guest, server, image, disk)
        guest.run("rm -f /run/nbd.*")


def test_lost_connections_of_several(target: Target) -> None:
    """The kernel asks again over those that are left: no error, and nothing is lost."""
    guest, disk = target.guest, target.disk
    command = VERIFY.format(device=disk.device)
    guest.start(command, "/run/nbd.fio", "/run/nbd.pid")
    stat = f"read -r _ _ _ _ writes _ _ _ inflight _ < /sys/block/{disk.name}/stat"
    for lost in (1, 2):
        guest.wait_until(f"({stat}; [ $writes -ge {lost * 300} ])", 60)
        target.server.signal(signal.SIGSTOP)
        guest.wait_until(f"({stat}; [ $inflight -ge 4 ])")
        disk.cut(disk.busiest())
        guest.wait_until(f"[ $(dmesg | grep -c 'Receive control failed') -ge {lost} ]")
        target.server.signal(signal.SIGCONT)
    guest.wait_until("grep '^exit' /run/nbd.fio", 90)
    said = guest.check("cat /run/nbd.fio")
    assert said.rstrip().endswith("exit 0"), said
    assert "retrying" in guest.check("dmesg"), "nothing was under way"
    target.well()


def test_an_ejected_medium(target: Target) -> None:
    disk = target.disk
    read = "dd if=DISK of=/dev/null bs=4k count=1 skip=3 iflag=direct status=none"
    write = "dd if=/dev/zero of=DISK bs=4k count=1 seek=3 oflag=direct status=none"
    disk.run(read)
    settings = Settings("iqn.2026-11.test:operator", NAME)
    with Initiator(("127.0.0.1", target.server.port), settings) as operator:
        operator.capacity()
        operator.execute(bytes.fromhex("1b0000000200"))  # START STOP UNIT: eject
        for command in (read, write):
            code, said = disk.try_(command)
            assert code and "Input/output error" in said, said
        operator.execute(bytes.fromhex("1b0000000300"))  # load
        disk.run(f"{read}; {write}")
    target.well()


def test_a_killed_server(target: Target, tmp_path: Path) -> None:
    """Writers get errors, not a hang; what fsync answered is in the image; the disk comes back."""
    guest, disk = target.guest, target.disk
    disk.run(_FILE_SYSTEM, 60)
    guest.check(f"cat > /run/nbd.sh <<'END'\n{_WRITER}END")
    guest.start("bash /run/nbd.sh", "/run/nbd.writer", "/run/nbd.pid")
    guest.wait_until("grep -q '^answered 4' /run/nbd.writer", 60)
    target.server.kill()
    crashed = tmp_path / "crashed.img"
    shutil.copy(target.image, crashed)
    guest.wait_until("grep -q '^exit 1' /run/nbd.writer", 60)
    code, said = disk.try_("dd if=DISK of=/dev/null bs=4k count=1 skip=99 iflag=direct")
    assert code and "Input/output error" in said, said
    disk.disconnect()
    target.well()

    answered = re.findall(r"^answered (\d+) (\w{32})$", guest.check("cat /run/nbd.writer"), re.M)
    assert len(answered) >= 4
    check = subprocess.run(["e2fsck", "-fy", crashed], capture_output=True, text=True)
    assert check.returncode in (0, 1), check.stdout + check.stderr
    for name, digest in answered:
        dump = ["debugfs", "-R", f"cat /{name}", str(crashed)]
        found = subprocess.run(dump, capture_output=True, check=True).stdout
        assert hashlib.md5(found).hexdigest() == digest, f"file {name}: {len(found)} bytes"

    target.server.start()
    with disk:
        sums = "\n".join(f"{digest}  {name}" for name, digest in answered)
        disk.run(f"mount DISK {FILES}; cd {FILES}; md5sum --status -c - <<< '{sums}'", 60)
        disk.run(f"umount {FILES}; e2fsck -fn DISK", 60)
