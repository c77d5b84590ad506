"""A write answered before a flush that was answered is on the medium: every crash, replayed.

In the guest: a medium under dm-log-writes, the server over it, Linux's own initiator or its NBD
driver, a workload that marks the log after every acknowledged flush and FUA write. On the host: the
log is replayed to every mark, flush and FUA write, and what is there compared with what was
promised.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.crash_model import BLOCK, BLOCKS, Promise, Step
from tests.guest.initiator import LinuxInitiator
from tests.guest.logwrites import Flag, Replay, read_log
from tests.guest.nbd import NbdDisk
from tests.kit.requires import requires

pytestmark = [
    pytest.mark.timeout(420),
    requires("iscsid", "iscsiadm", "dmsetup", "losetup", "mkfs.ext4", "e2fsck", "debugfs"),
    requires("nbd-client"),
]

NAME = "iqn.2026-11.test:crash"
PORTAL = "127.0.0.1:3260"
NBD_PORT = 10809
IMAGE_SIZE = BLOCK * BLOCKS
MEDIUM_SIZE = 32 << 20
ROUNDS = 15
REPOSITORY = Path(__file__).parents[2]
UNITS = Path(__file__).with_name("units.py")

#: Only what is flushed reaches a medium: the kernel writes nothing back on its own.
_QUIET = "echo 0 > /proc/sys/vm/dirty_writeback_centisecs"

_SET_UP = f"""set -e
export DM_DISABLE_UDEV=1
mkdir -p $dir
truncate -s {MEDIUM_SIZE} $dir/medium; truncate -s 512M $dir/log
losetup -f --show $dir/medium > $dir/medium.loop; losetup -f --show $dir/log > $dir/log.loop
dmsetup create $name --table \\
    "0 {MEDIUM_SIZE // 512} log-writes $(cat $dir/medium.loop) $(cat $dir/log.loop)"
"""

_FILE_SYSTEM = f"""
mkfs.ext4 -q -b 4096 -J size=4 -E lazy_itable_init=0,nodiscard /dev/mapper/$name
mkdir $dir/mount; mount /dev/mapper/$name $dir/mount
truncate -s {IMAGE_SIZE} $dir/mount/disk.img; sync $dir/mount/disk.img
"""

_KILL_SERVER = """kill -9 $(cat /run/crash/server.pid)
until grep -q '^exit' /run/crash/server.log; do sleep 0.1; done
"""

_TEAR_DOWN = """export DM_DISABLE_UDEV=1
if mountpoint -q $dir/mount; then umount $dir/mount; fi
dmsetup remove --retry $name
losetup -d $(cat $dir/medium.loop) $(cat $dir/log.loop)
"""


@dataclass(frozen=True)
class Medium:
    """What lies on a medium; `unit` is what the server is told to serve."""

    name: str
    unit: str
    file_system: bool = True
    nbd: bool = False

    @property
    def variables(self) -> str:
        """What the scripts above want to know."""
        return f"name={self.name} dir=/run/crash/{self.name}\n"


MEDIA = (
    Medium("image", "/run/crash/image/mount/disk.img"),
    Medium("device", "/dev/mapper/device", file_system=False),
    Medium("faulty", f"{UNITS}:NoSync"),
    Medium("nbdimage", "/run/crash/nbdimage/mount/disk.img", nbd=True),
    Medium("nbdfaulty", f"{UNITS}:NoSyncNbd", nbd=True),
)


@dataclass(frozen=True)
class Run:
    """What the workload left of a medium: its log, and what was acknowledged."""

    medium: Medium
    log: Path
    history: list[Step]


@pytest.fixture(scope="module")
def runs(initiator: LinuxInitiator, guest_share: Path) -> Iterator[Mapping[str, Run]]:
    """The workload over each medium. One server has them all: Python is slow in the guest."""
    guest = initiator.guest
    folder = guest_share / "crash"
    folder.mkdir()
    guest.check(_QUIET)
    exports: list[NbdDisk] = []
    try:
        for medium in MEDIA:
            script = _SET_UP + (_FILE_SYSTEM if medium.file_system else "")
            guest.check(medium.variables + script, 60)
        _serve(initiator)
        disks = initiator.login(NAME, PORTAL, units=len(MEDIA))
        workload = [sys.executable, "-m", "tests.guest.crash_workload", str(ROUNDS), str(folder)]
        for medium, disk in zip(MEDIA, disks, strict=True):
            if medium.nbd:
                number = len(exports)
                exported = NbdDisk(guest, NBD_PORT, medium.name, number=number, host="127.0.0.1")
                exported.connect()
                exports.append(exported)
                disk = exported.device
            workload += [disk, medium.name]
        guest.check(f"cd {REPOSITORY} && DM_DISABLE_UDEV=1 {shlex.join(workload)}", 300)
    finally:
        initiator.drop(NAME, PORTAL)
        for exported in exports:
            exported.disconnect()
        guest.run(_KILL_SERVER)
        for medium in MEDIA:
            guest.run(medium.variables + _TEAR_DOWN, 60)
    found = {}
    for medium in MEDIA:
        log, history = folder / f"{medium.name}.log", folder / f"{medium.name}.json"
        guest.check(f"cp --sparse=always /run/crash/{medium.name}/log {log}; sync {log}", 60)
        steps = [Step(*step) for step in json.loads(history.read_text())]
        found[medium.name] = Run(medium, log, steps)
    guest.check("rm -r /run/crash")
    yield found
    shutil.rmtree(folder)


def _serve(initiator: LinuxInitiator) -> None:
    guest = initiator.guest
    units = " ".join(medium.unit for medium in MEDIA)
    server = f"{sys.executable} -m userdisk serve {units} --name {NAME} --listen {PORTAL}"
    server += f" --nbd 127.0.0.1:{NBD_PORT}"
    server += "".join(f" --export {medium.name}" for medium in MEDIA)
    guest.start(
        f"env -C {REPOSITORY} {server}",
        "/run/crash/server.log",
        "/run/crash/server.pid",
    )
    # A poll that starts processes would take the guest's one CPU from the server.
    listening = f"(: < /dev/tcp/{PORTAL.replace(':', '/')}) 2> /dev/null"
    if guest.run(f"until {listening}; do sleep 0.5; done", 120).code:
        pytest.fail(guest.check("cat /run/crash/server.log"))
    initiator.add(NAME, PORTAL)


def _image_on(medium: Path) -> bytes:
    """The image, as it is after the file system on the medium recovered from the crash."""
    crashed, image = medium.with_name("crashed"), medium.with_name("disk.img")
    shutil.copy(medium, crashed)
    check = subprocess.run(["e2fsck", "-fy", crashed], capture_output=True, text=True)
    assert check.returncode in (0, 1), check.stdout + check.stderr
    image.unlink(missing_ok=True)
    subprocess.run(
        ["debugfs", "-R", f"dump /disk.img {image}", crashed], capture_output=True, check=True
    )
    return image.read_bytes().ljust(IMAGE_SIZE, b"\0") if image.exists() else bytes(IMAGE_SIZE)


def _crash_everywhere(run: Run, folder: Path) -> tuple[int, list[str]]:
    """Replay to every mark, flush and FUA write: how many there were, and what was broken."""
    promise = Promise(run.history)
    replay = Replay(folder / "medium", MEDIUM_SIZE)
    marks = points = 0
    broken: list[str] = []
    for entry in read_log(run.log):
        replay.apply(entry)
        if entry.mark == str(marks):
            marks += 1
        elif entry.flags & (Flag.FLUSH | Flag.FUA) == 0:
            continue
        if marks:
            points += 1
            medium = replay.path
            disk = _image_on(medium) if run.medium.file_system else medium.read_bytes()[:IMAGE_SIZE]
            broken += promise.broken(marks, disk)
    replay.close()
    assert marks == len(promise.allowed) == ROUNDS, "marks are missing from the log"
    return points, broken


@pytest.mark.parametrize("medium", ["image", "device", "nbdimage"])
def test_what_was_flushed_survives_a_crash(
    runs: Mapping[str, Run], tmp_path: Path, medium: str
) -> None:
    points, broken = _crash_everywhere(runs[medium], tmp_path)
    assert broken == []
    assert points > ROUNDS


@pytest.mark.parametrize("medium", ["faulty", "nbdfaulty"])
def test_a_unit_that_does_not_sync_is_found_out(
    runs: Mapping[str, Run], tmp_path: Path, medium: str
) -> None:
    _, broken = _crash_everywhere(runs[medium], tmp_path)
    assert any("after mark 0:" in line for line in broken), broken
    assert any(f"after mark {ROUNDS - 1}:" in line for line in broken)
