"""The table of ways to make a disk of a unit, and the verdict on each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from userdisk.doctor.checks import CHECKS, Finding
from userdisk.doctor.machine import Machine

_LINUX: Final = "linux"
_WINDOWS: Final = "win32"
_MAC: Final = "darwin"


@dataclass(frozen=True, slots=True)
class Way:
    """One row of the table."""

    name: str
    what: str
    checks: tuple[str, ...]  #: all must be good
    use: str  #: how to use it
    systems: tuple[str, ...] = (_LINUX,)
    used: bool = True  #: False: only shown, userdisk has no part for it
    local: bool = True  #: makes a disk on this machine


#: Best first.
WAYS: Final = (
    Way(
        "attach",
        "FUSE and a loop device",
        (
            *("python", "root", "admin", "state", "loop-configure"),
            *("fuse", "dev-fuse", "loop", "dev-loop"),
        ),
        "userdisk attach UNIT",
    ),
    Way(
        "iscsi",
        "Linux's iSCSI initiator",
        ("python", "root", "iscsi-tcp", "iscsiadm", "iscsid"),
        "userdisk serve UNIT; iscsiadm -m discovery -t sendtargets -p 127.0.0.1;"
        " iscsiadm -m node --login",
    ),
    Way(
        "nbd",
        "Linux's NBD client",
        ("python", "root", "nbd", "dev-nbd", "nbd-client"),
        "userdisk serve UNIT --nbd; nbd-client 127.0.0.1 /dev/nbd0 -N NAME",
    ),
    Way(
        "windows",
        "Windows's iSCSI initiator",
        ("python", "msiscsi"),
        "userdisk serve UNIT; New-IscsiTargetPortal -TargetPortalAddress 127.0.0.1;"
        " Connect-IscsiTarget -NodeAddress NAME",
        systems=(_WINDOWS,),
    ),
    Way(
        "qemu",
        "QEMU, as a disk of its guest",
        ("python", "qemu"),
        "userdisk serve UNIT --nbd; qemu-system-... -drive file=nbd://127.0.0.1/NAME,format=raw",
        systems=(_LINUX, _WINDOWS, _MAC),
    ),
    Way(
        "ublk",
        "ublk",
        ("root", "ublk-kernel", "ublk", "dev-ublk"),
        "userdisk does not use it",
        used=False,
    ),
    Way(
        "tcmu",
        "LIO and TCMU",
        ("root", "tcmu", "targetcli"),
        "userdisk does not use it",
        used=False,
    ),
    Way(
        "serve",
        "iSCSI and NBD for other machines",
        ("python",),
        "userdisk serve UNIT",
        systems=(_LINUX, _WINDOWS, _MAC),
        local=False,
    ),
)

#: What makes things better, on every system.
ADVICE: Final = ("click", "crc32c", "open-files")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A way, and what it lacks here."""

    way: Way
    lacks: Mapping[str, Finding]  #: by the name of the check

    @property
    def works(self) -> bool:
        """Whether a unit becomes a disk this way, now."""
        return self.way.used and not self.lacks


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is to be said of a machine."""

    findings: Mapping[str, Finding]  #: of all checks that were made, by name
    verdicts: tuple[Verdict, ...]  #: best first

    @property
    def best(self) -> Verdict | None:
        """The best way to a disk on this machine."""
        return next((each for each in self.verdicts if each.works and each.way.local), None)


def diagnose(machine: Machine) -> Diagnosis:
    """Run the checks of all ways of the machine's system, each once. Changes nothing; blocks."""
    findings: dict[str, Finding] = {}
    verdicts = []
    for way in WAYS:
        if machine.system not in way.systems:
            continue
        for name in way.checks:
            if name not in findings:
                findings[name] = CHECKS[name].probe(machine)
        failed = [name for name in way.checks if not findings[name].good]
        news = [name for name in failed if CHECKS[name].after not in failed]
        verdicts.append(Verdict(way, {name: findings[name] for name in news}))
    for name in ADVICE:
        findings[name] = CHECKS[name].probe(machine)
    return Diagnosis(findings, tuple(verdicts))
