"""The verdict on machines that lack one thing or another, and what --fix does to them."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from tests.doctor.machines import Fake
from userdisk.doctor import fixes
from userdisk.doctor.checks import CHECKS
from userdisk.doctor.drivers import Driver, DriverState, driver_state
from userdisk.doctor.ways import ADVICE, WAYS, Diagnosis, Verdict, diagnose
from userdisk.errors import UserdiskError


def attachable(tmp_path: Path) -> Fake:
    fake = Fake(tmp_path)
    for name in ("/sys/module/fuse/x", "/sys/module/loop/x", "/dev/fuse", "/dev/loop-control"):
        fake.file(name)
    return fake


def verdict(diagnosis: Diagnosis, name: str) -> Verdict:
    return next(each for each in diagnosis.verdicts if each.way.name == name)


def lacks(fake: Fake, name: str) -> dict[str, str]:
    found = verdict(diagnose(fake.machine()), name).lacks
    return {check: finding.fix for check, finding in found.items()}


def test_every_check_is_used_and_every_used_one_is_there() -> None:
    used = {name for way in WAYS for name in way.checks} | set(ADVICE)
    assert used == set(CHECKS)
    assert {check.after for check in CHECKS.values()} - {""} <= set(CHECKS)


def test_attach_is_best(tmp_path: Path) -> None:
    best = diagnose(attachable(tmp_path).machine()).best
    assert best is not None and best.way.name == "attach"


def test_nothing_works(tmp_path: Path) -> None:
    diagnosis = diagnose(Fake(tmp_path).machine())
    assert diagnosis.best is None and verdict(diagnosis, "serve").works
    for each in diagnosis.verdicts:
        assert all(finding.fix and finding.says for finding in each.lacks.values())


def test_root_is_asked_for_once(tmp_path: Path) -> None:
    fake = attachable(tmp_path)
    fake.uid = 1000
    assert lacks(fake, "attach") == {"root": "run it with sudo"}


def test_a_container_without_rights(tmp_path: Path) -> None:
    fake = attachable(tmp_path)
    fake.file("/proc/self/status", b"Name:\tx\nCapEff:\t00000000a80425fb\n")
    assert lacks(fake, "attach") == {"admin": "start the container with --privileged"}
    fake.file("/proc/self/status", b"CapEff:\t000001ffffffffff\n")
    assert lacks(fake, "attach") == {}


@pytest.mark.parametrize(("release", "good"), [("5.7.19", False), ("5.8.0-1", True), ("6", False)])
def test_old_kernels(tmp_path: Path, release: str, good: bool) -> None:
    fake = attachable(tmp_path)
    fake.release = release
    assert (lacks(fake, "attach") == {}) is good


NBD = Driver("nbd", "CONFIG_BLK_DEV_NBD")


def test_where_a_driver_is(tmp_path: Path) -> None:
    fake = Fake(tmp_path)
    assert driver_state(fake.machine(), NBD) is DriverState.ABSENT
    fake.answers["modprobe -n nbd"] = (0, "")
    assert driver_state(fake.machine(), NBD) is DriverState.LOADABLE
    for name, data in (
        ("/proc/modules", b"nbd 65536 0 - Live 0x0\n"),
        (f"/lib/modules/{fake.release}/modules.builtin", b"kernel/drivers/block/nbd.ko\n"),
        ("/proc/config.gz", gzip.compress(b"CONFIG_BLK_DEV_NBD=y\n")),
        ("/sys/module/nbd/x", b""),
    ):
        fake.file(name, data)
        assert driver_state(fake.machine(), NBD) is DriverState.PRESENT
        (tmp_path / name.lstrip("/")).unlink()
        (tmp_path / "sys/module/nbd").rmdir() if "sys" in name else None
    fake.file("/proc/config.gz", b"not gzip")
    assert driver_state(fake.machine(), NBD) is DriverState.LOADABLE


@pytest.mark.parametrize(
    ("release", "fix"),
    [
        ("6.1.0-13-cloud-amd64", "apt-get install linux-image-amd64"),
        ("6.8.0-45-generic", "apt-get install linux-modules-extra-6.8.0-45-generic"),
        ("6.11.4-301.fc41.x86_64", "dnf install kernel-modules-extra"),
        ("6.9.9-own", "boot a kernel that has CONFIG_BLK_DEV_NBD"),
    ],
)
def test_what_brings_a_driver(tmp_path: Path, release: str, fix: str) -> None:
    fake = Fake(tmp_path, release=release)
    assert lacks(fake, "nbd")["nbd"] == fix


def test_packages_by_their_manager(tmp_path: Path) -> None:
    fake = Fake(tmp_path, programs={"dnf"})
    assert lacks(fake, "iscsi")["iscsiadm"] == "dnf install iscsi-initiator-utils"
    fake.programs = {"apt-get"}
    assert lacks(fake, "iscsi")["iscsiadm"] == "apt-get install open-iscsi"


def test_fix_loads_says_so_and_does_it_once(tmp_path: Path) -> None:
    fake = Fake(tmp_path, programs={"nbd-client"})
    fake.answers |= {"modprobe -n nbd": (0, ""), "modprobe nbd": (0, "")}
    said: list[str] = []
    assert fixes.fix(fake.machine(), diagnose(fake.machine()), said.append) == []
    assert said == ["running modprobe nbd"] and fake.ran.count("modprobe nbd") == 1
    after = diagnose(fake.machine())
    assert after.best is not None and after.best.way.name == "nbd"
    assert fixes.planned(after) == []


def test_fix_says_what_failed_and_needs_root(tmp_path: Path) -> None:
    fake = Fake(tmp_path, answers={"modprobe -n nbd": (0, ""), "modprobe nbd": (1, "a\nno key\n")})
    diagnosis = diagnose(fake.machine())
    assert fixes.fix(fake.machine(), diagnosis, str) == ["modprobe nbd: no key"]
    fake.uid, fake.ran[:] = 1000, []
    with pytest.raises(UserdiskError, match=r"needs root.*modprobe nbd"):
        fixes.fix(fake.machine(), diagnosis, str)
    assert fake.ran == []


def test_the_service_of_open_iscsi(tmp_path: Path) -> None:
    fake = Fake(tmp_path, programs={"iscsiadm"})
    fake.file("/sys/module/iscsi_tcp/x")
    fake.file("/run/systemd/system/x")
    assert lacks(fake, "iscsi") == {"iscsid": "systemctl enable --now iscsid.socket"}
    fake.answers["systemctl is-active iscsid.service"] = (0, "active")
    assert lacks(fake, "iscsi") == {}


def test_windows(tmp_path: Path) -> None:
    fake = Fake(tmp_path, system="win32")
    assert "Start-Service MSiSCSI" in lacks(fake, "windows")["msiscsi"]
    fake.answers["sc query MSiSCSI"] = (0, "  STATE   : 4  RUNNING\n")
    best = diagnose(fake.machine()).best
    assert best is not None and best.way.name == "windows"


@pytest.mark.parametrize(
    ("number", "good", "says"),
    [(0, True, "any number"), (1024, True, "1024"), (1023, False, "1023")],
)
def test_open_files(tmp_path: Path, number: int, good: bool, says: str) -> None:
    machine = replace(Fake(tmp_path).machine(), open_files=number)
    finding = CHECKS["open-files"].probe(machine)
    assert finding.good is good and says in finding.says
    assert (finding.fix == "") is good
