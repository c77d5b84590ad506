"""A write answered before a flush that was answered is on the medium: every crash, replayed.

In the guest: a medium under dm-log-writes, the server over it, Linux's own initiator, a workload
that marks the log after every acknowledged flush and FUA write. On the host: the log is replayed
to every mark, flush and FUA write, and what is there compared with what was promised.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.crash_model import BLOCK, BLOCKS, Promise, Step
from tests.guest.initiator import LinuxInitiator
from tests.guest.logwrites import Flag, Replay, read_log

pytestmark = pytest.mark.timeout(300)

NAME = "iqn.2026-11.test:crash"
PORTAL = "127.0.0.1:3260"
IMAGE_SIZE = BLOCK * BLOCKS
MEDIUM_SIZE = 32 << 20
ROUNDS = 15
REPOSITORY = Path(__file__).parents[2]
UNITS = Path(__file__).with_name("units.py")

_SET_UP = f"""set -e
export DM_DISABLE_UDEV=1
sysctl -q vm.dirty_writeback_centisecs=0    # only what is flushed reaches the medium
mkdir -p /run/crash; cd /run/crash
truncate -s {MEDIUM_SIZE} medium; truncate -s 512M log
losetup -f --show medium > medium.loop; losetup -f --show log > log.loop
dmsetup create crash --table "0 {MEDIUM_SIZE // 512} log-writes $(cat medium.loop) $(cat log.loop)"
"""

_FILE_SYSTEM = """set -e
mkfs.ext4 -q -b 4096 -J size=4 -E lazy_itable_init=0,nodiscard /dev/mapper/crash
mkdir -p /run/crash/mount; mount /dev/mapper/crash /run/crash/mount
"""

_TEAR_DOWN = """export DM_DISABLE_UDEV=1
kill -9 $(cat /run/crash/server.pid)
for i in {1..50}; do grep -q '^exit' /run/crash/server.log && break; sleep 0.1; done
mountpoint -q /run/crash/mount && umount /run/crash/mount
dmsetup remove --retry crash
for i in medium log; do losetup -d $(cat /run/crash/$i.loop); done
"""


@dataclass(frozen=True)
class Medium:
    """What lies on the medium, and how the server is told to use it."""

    unit: str
    arguments: str = ""
    file_system: bool = True


IMAGE = Medium("/run/crash/mount/disk.img", f"--size {IMAGE_SIZE}")
DEVICE = Medium("/dev/mapper/crash", file_system=False)
FAULTY = Medium(f"{UNITS}:NoSync", f"--size {IMAGE_SIZE} --option path=/run/crash/mount/disk.img")


@dataclass(frozen=True)
class Run:
    """What a workload left: the medium's log, and what was acknowledged."""

    log: Path
    history: list[Step]


@pytest.fixture
def recorded(
    request: pytest.FixtureRequest, initiator: LinuxInitiator, guest_share: Path
) -> Iterator[Run]:
    """A run of the workload over the medium that the test is parametrized with."""
    medium: Medium = request.param
    guest = initiator.guest
    folder = guest_share / "crash"
    folder.mkdir()
    try:
        guest.check(_SET_UP)
        if medium.file_system:
            guest.check(_FILE_SYSTEM, 60)
        server = f"{sys.executable} -m userdisk serve {medium.unit} {medium.arguments}"
        guest.start(
            f"env -C {REPOSITORY} {server} --name {NAME} --listen {PORTAL}",
            "/run/crash/server.log",
            "/run/crash/server.pid",
        )
        listening = f"ss -tlnH sport = :{PORTAL.rpartition(':')[2]} | grep -q ."
        if guest.run(f"until {listening}; do sleep 0.2; done", 60).code:
            pytest.fail(guest.check("cat /run/crash/server.log"))
        initiator.add(NAME, PORTAL)
        (disk,) = initiator.login(NAME, PORTAL)
        workload = ["-m", "tests.guest.crash_workload", disk, "crash", str(ROUNDS), "1"]
        command = shlex.join([sys.executable, *workload, str(folder / "history")])
        guest.check(f"cd {REPOSITORY} && DM_DISABLE_UDEV=1 {command}", 120)
    finally:
        initiator.drop(NAME, PORTAL)
        guest.run(_TEAR_DOWN, 60)
    guest.check(f"cp --sparse=always /run/crash/log {folder}/log; sync {folder}/log", 60)
    guest.check("rm -r /run/crash")
    history = [Step(*step) for step in json.loads((folder / "history").read_text())]
    yield Run(folder / "log", history)
    shutil.rmtree(folder)


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


def _crash_everywhere(run: Run, folder: Path, *, file_system: bool) -> tuple[int, list[str]]:
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
            disk = _image_on(medium) if file_system else medium.read_bytes()[:IMAGE_SIZE]
            broken += promise.broken(marks, disk)
    replay.close()
    assert marks == len(promise.allowed) == ROUNDS, "marks are missing from the log"
    return points, broken


@pytest.mark.parametrize("recorded", [IMAGE], indirect=True, ids=["image"])
def test_what_was_flushed_survives_a_crash_of_an_image(recorded: Run, tmp_path: Path) -> None:
    points, broken = _crash_everywhere(recorded, tmp_path, file_system=True)
    assert broken == []
    assert points > ROUNDS


@pytest.mark.parametrize("recorded", [DEVICE], indirect=True, ids=["device"])
def test_what_was_flushed_survives_a_crash_of_a_device(recorded: Run, tmp_path: Path) -> None:
    points, broken = _crash_everywhere(recorded, tmp_path, file_system=False)
    assert broken == []
    assert points > ROUNDS


@pytest.mark.parametrize("recorded", [FAULTY], indirect=True, ids=["no sync"])
def test_a_unit_that_does_not_sync_is_found_out(recorded: Run, tmp_path: Path) -> None:
    _, broken = _crash_everywhere(recorded, tmp_path, file_system=True)
    assert any("after mark 0:" in line for line in broken), broken
    assert any(f"after mark {ROUNDS - 1}:" in line for line in broken)
