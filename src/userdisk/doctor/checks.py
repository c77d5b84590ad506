"""The table of checks: what a way to a disk needs, and the command that gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from userdisk.doctor.drivers import Driver, DriverState, driver_state
from userdisk.doctor.machine import Machine
from userdisk.doctor.packages import installing, installing_drivers

_ADMIN: Final = 21  # CAP_SYS_ADMIN, the bit in CapEff
_FEW_FILES: Final = 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    good: bool
    says: str  #: the state, in words
    fix: str = ""  #: the one command or step that helps
    safe: tuple[str, ...] = ()  #: the same as arguments, if `--fix` may run it


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table."""

    name: str
    what: str  #: what is looked at
    probe: Callable[[Machine], Finding]
    after: str = ""  #: another check; if that fails, this one says nothing new


def _driver(module: str, option: str, *, by_itself: str = "") -> Callable[[Machine], Finding]:
    """`by_itself`: a node or a program whose use has the kernel load it."""
    driver = Driver(module, option)

    def probe(machine: Machine) -> Finding:
        state = driver_state(machine, driver)
        if state is DriverState.PRESENT:
            return Finding(True, f"the kernel has {module}")
        if state is DriverState.LOADABLE:
            if by_itself and (machine.exists(by_itself) or machine.which(by_itself)):
                return Finding(True, f"{module} is loaded when it is used")
            command = ("modprobe", module)
            return Finding(False, f"{module} is not loaded", " ".join(command), command)
        command_line = installing_drivers(machine)
        return Finding(
            False,
            f"kernel {machine.release} has no {module}",
            command_line or f"boot a kernel that has {option}",
        )

    return probe


def _node(name: str, fix: str) -> Callable[[Machine], Finding]:
    def probe(machine: Machine) -> Finding:
        if machine.exists(name):
            return Finding(True, f"{name} is there")
        return Finding(False, f"there is no {name}", fix)

    return probe


def _program(wanted: str, otherwise: str) -> Callable[[Machine], Finding]:
    """`otherwise`: what to do where no package is known."""

    def probe(machine: Machine) -> Finding:
        name = wanted.format(processor=machine.processor)
        path = machine.which(name)
        if path is not None:
            return Finding(True, path)
        package = "qemu" if name.startswith("qemu-") else name
        return Finding(False, f"{name} is not installed", installing(machine, package) or otherwise)

    return probe


def _kernel(version: int, patch_level: int, why: str) -> Callable[[Machine], Finding]:
    def probe(machine: Machine) -> Finding:
        says = f"kernel {machine.release}"
        if machine.kernel >= (version, patch_level):
            return Finding(True, says)
        needs = f"Linux {version}.{patch_level} or later"
        return Finding(False, f"{says}; {why} needs {needs}", f"boot {needs}")

    return probe


def _package(name: str, extra: str, why: str) -> Callable[[Machine], Finding]:
    def probe(machine: Machine) -> Finding:
        if machine.importable(name):
            return Finding(True, f"{name} is installed")
        return Finding(False, f"{name} is missing: {why}", f"pip install 'userdisk[{extra}]'")

    return probe


def _python(machine: Machine) -> Finding:
    says = f"Python {'.'.join(map(str, machine.python))}"
    if machine.python >= (3, 11, 0):
        return Finding(True, says)
    return Finding(False, f"{says}; userdisk needs 3.11", "install Python 3.11 or later")


def _root(machine: Machine) -> Finding:
    if machine.uid == 0:
        return Finding(True, "you are root")
    return Finding(False, "you are not root", "run it with sudo")


def _admin(machine: Machine) -> Finding:
    for line in (machine.text("/proc/self/status") or "").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff" and not int(value, 16) >> _ADMIN & 1:
            return Finding(
                False,
                "root has no CAP_SYS_ADMIN here (a container?)",
                "start the container with --privileged",
            )
    return Finding(True, "mounting is permitted")


def _iscsid(machine: Machine) -> Finding:
    if machine.exists("/run/systemd/system"):
        units = ("iscsid.socket", "iscsid.service")
        if any(machine.run(["systemctl", "is-active", unit])[0] == 0 for unit in units):
            return Finding(True, "iscsid runs, or starts when it is used")
        command = ("systemctl", "enable", "--now", "iscsid.socket")
        return Finding(False, "the service iscsid is not started", " ".join(command), command)
    for file in machine.path("/proc").glob("[0-9]*/comm"):
        if (machine.text(f"/proc/{file.parent.name}/comm") or "").strip() == "iscsid":
            return Finding(True, f"iscsid runs (pid {file.parent.name})")
    return Finding(False, "iscsid does not run, and systemd is not there to start it", "iscsid")


def _state(machine: Machine) -> Finding:
    if machine.writable(machine.state):
        return Finding(True, f"{machine.state} can be written")
    return Finding(
        False,
        f"{machine.state}: not writable; attach keeps its state there",
        "run it with sudo" if machine.uid else "set USERDISK_RUN to a folder that is",
    )


def _open_files(machine: Machine) -> Finding:
    if machine.open_files == 0 or machine.open_files >= _FEW_FILES:
        return Finding(True, f"a process may have {machine.open_files or 'any number of'} open")
    return Finding(
        False,
        f"a process may have only {machine.open_files} open; each client needs one or two",
        f"ulimit -n {_FEW_FILES}",
    )


def _msiscsi(machine: Machine) -> Finding:
    status, said = machine.run(["sc", "query", "MSiSCSI"])
    # The words are translated, the number is not: 4 is "running".
    states = [line.split(":")[1].split() for line in said.splitlines() if "STATE" in line]
    if status == 0 and states and states[0][:1] == ["4"]:
        return Finding(True, "the service MSiSCSI runs")
    return Finding(
        False, "the service MSiSCSI does not run", "Start-Service MSiSCSI (PowerShell, as admin)"
    )


_HOST_NODE: Final = "start the container with --device {0}"

_TABLE: Final = (
    Check("python", "Python", _python),
    Check("root", "your rights", _root),
    Check("admin", "mounting", _admin, after="root"),
    Check("state", "the state folder", _state, after="root"),
    Check("loop-configure", "the kernel", _kernel(5, 8, "attach")),
    Check("fuse", "FUSE", _driver("fuse", "CONFIG_FUSE_FS", by_itself="/dev/fuse")),
    Check("dev-fuse", "FUSE's node", _node("/dev/fuse", _HOST_NODE.format("/dev/fuse")), "fuse"),
    Check(
        "loop",
        "loop devices",
        _driver("loop", "CONFIG_BLK_DEV_LOOP", by_itself="/dev/loop-control"),
    ),
    Check(
        "dev-loop",
        "loop's node",
        _node("/dev/loop-control", "start the container with --privileged -v /dev:/dev"),
        "loop",
    ),
    Check(
        "iscsi-tcp",
        "Linux's iSCSI initiator",
        _driver("iscsi_tcp", "CONFIG_ISCSI_TCP", by_itself="iscsiadm"),
    ),
    Check("iscsiadm", "its program", _program("iscsiadm", "install open-iscsi")),
    Check("iscsid", "its service", _iscsid, "iscsiadm"),
    Check("nbd", "Linux's NBD client", _driver("nbd", "CONFIG_BLK_DEV_NBD")),
    Check("dev-nbd", "its nodes", _node("/dev/nbd0", _HOST_NODE.format("/dev/nbd0")), "nbd"),
    Check("nbd-client", "its program", _program("nbd-client", "install nbd-client")),
    Check("qemu", "QEMU", _program("qemu-system-{processor}", "install QEMU")),
    Check("ublk-kernel", "the kernel", _kernel(6, 0, "ublk")),
    Check("ublk", "ublk", _driver("ublk_drv", "CONFIG_BLK_DEV_UBLK"), "ublk-kernel"),
    Check(
        "dev-ublk",
        "ublk's node",
        _node("/dev/ublk-control", _HOST_NODE.format("/dev/ublk-control")),
        "ublk",
    ),
    Check("tcmu", "TCMU", _driver("target_core_user", "CONFIG_TCM_USER2")),
    Check("targetcli", "LIO's program", _program("targetcli", "install targetcli")),
    Check("msiscsi", "Windows's iSCSI initiator", _msiscsi),
    Check("click", "the command line", _package("click", "cli", "the command userdisk needs it")),
    Check("crc32c", "digests", _package("crc32c", "digest", "iSCSI digests are slow without it")),
    Check("open-files", "open files", _open_files),
)

CHECKS: Final = {check.name: check for check in _TABLE}
