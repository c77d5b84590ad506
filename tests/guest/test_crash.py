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
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.crash_model import BLOCK, BLOCKS, Promise, Step
from tests.guest.initiator import LinuxInitiator
from tests.guest.logged_media import QUIET, REPOSITORY, LoggedMedium, kill_server, serve
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
FOLDER = "/run/crash"
UNITS = Path(__file__).with_name("units.py")


@dataclass(frozen=True)
class Case:
    """A medium, what the server is told to serve, and whether the initiator uses NBD."""

    medium: LoggedMedium
    unit: str
    nbd: bool = False


def _case(name: str, unit: str = "", *, file_system: bool = True, nbd: bool = False) -> Case:
    medium = LoggedMedium(name, f"{FOLDER}/{name}", MEDIUM_SIZE, IMAGE_SIZE, file_system)
    return Case(medium, unit or medium.image, nbd)


CASES = {
    "image": _case("image"),
    "device": _case("device", "/dev/mapper/device", file_system=False),
    "faulty": _case("faulty", f"{UNITS}:NoSync"),
    "nbdimage": _case("nbdimage", nbd=True),
    "nbdfaulty": _case("nbdfaulty", f"{UNITS}:NoSyncNbd", nbd=True),
}


@dataclass(frozen=True)
class Run:
    """What the workload left of a medium: its log, and what was acknowledged."""

    medium: LoggedMedium
    log: Path
    history: list[Step]


@pytest.fixture(scope="module")
def runs(initiator: LinuxInitiator, guest_share: Path) -> Iterator[Mapping[str, Run]]:
    """The workload over each medium. One server has them all: Python is slow in the guest."""
    guest = initiator.guest
    folder = guest_share / "crash"
    folder.mkdir()
    guest.check(QUIET)
    exports: list[NbdDisk] = []
    try:
        for case in CASES.values():
            case.medium.set_up(guest)
        _serve(initiator)
        disks = initiator.login(NAME, PORTAL, units=len(CASES))
        workload = [sys.executable, "-m", "tests.guest.crash_workload", str(ROUNDS), str(folder)]
        for (name, case), disk in zip(CASES.items(), disks, strict=True):
            if case.nbd:
                exported = NbdDisk(guest, NBD_PORT, name, number=len(exports), host="127.0.0.1")
                exported.connect()
                exports.append(exported)
                disk = exported.device
            workload += [disk, name]
        guest.check(f"cd {REPOSITORY} && DM_DISABLE_UDEV=1 {shlex.join(workload)}", 300)
    finally:
        initiator.drop(NAME, PORTAL)
        for exported in exports:
            exported.disconnect()
        kill_server(guest, FOLDER)
        for case in CASES.values():
            case.medium.tear_down(guest)
    found = {}
    for name, case in CASES.items():
        log, history = folder / f"{name}.log", folder / f"{name}.json"
        case.medium.copy_log(guest, log)
        steps = [Step(*step) for step in json.loads(history.read_text())]
        found[name] = Run(case.medium, log, steps)
    guest.check(f"rm -r {FOLDER}")
    yield found
    shutil.rmtree(folder)


def _serve(initiator: LinuxInitiator) -> None:
    arguments = [case.unit for case in CASES.values()]
    arguments += ["--name", NAME, "--listen", PORTAL, "--nbd", f"127.0.0.1:{NBD_PORT}"]
    for name in CASES:
        arguments += ["--export", name]
    serve(initiator.guest, arguments, FOLDER, PORTAL)
    initiator.add(NAME, PORTAL)


def _crash_everywhere(run: Run, folder: Path) -> tuple[int, list[str]]:
    """Replay to every mark, flush and FUA write: how many there were, and what was broken."""
    promise = Promise(run.history)
    assert len(promise.allowed) == ROUNDS
    points = 0
    broken: list[str] = []
    for marks, _, medium in run.medium.crashes(run.log, folder, ROUNDS):
        points += 1
        broken += promise.broken(marks, run.medium.recover(medium).read_bytes())
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
