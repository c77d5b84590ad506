"""Limits of an instance's processes, and the user that they run as.

Theory of operation. Memory and CPU are limits of a control group that all processes of the instance
are in: version 2 where its controllers are ours to give (root without systemd, or a service with
Delegate= and DelegateSubgroup=), else version 1. Without one, memory is limited by RLIMIT_DATA, for
each process: what it has made writable for itself, which RLIMIT_AS would mix up with mapped files
and reserved addresses. A share of a CPU has no such substitute; `note` says so. A process enters by
`confined.py`, before it is the program, so that no child of it can be outside.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import resource
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from userdisk.errors import UsageError
from userdisk.launcher import confined
from userdisk.launcher.spec import Limits

MOUNTED: Final = Path("/sys/fs/cgroup")
LEAST_MEMORY: Final = 32 << 20  #: bytes; Python alone takes half of it
LEAST_CPU: Final = 0.01

_PERIOD: Final = 100_000  # microseconds that a share of a CPU is counted over
_STACK: Final = 1 << 20  # bytes for each thread's, where RLIMIT_DATA counts them in full
_EMPTY_SECONDS: Final = 5.0
#: The group below the service's own that systemd starts it in: DelegateSubgroup=.
OWN_LEAF: Final = "userdisk-launcher"
_SYSTEMD: Final = Path("/run/systemd/system")  # sd_booted(3)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody whom processes run as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class Confinement:
    """The limits and the user of one instance. Belongs to one thread.

    Args:
        limits: of all its processes together.
        user: a name; empty: who this process is.
        name: of the instance; its control groups are called after it.
        mounted, own: where control groups are mounted, and the contents of /proc/self/cgroup.
        as_json: what goes wrong in a process' first moment is said as JSON, as other logs.
        systemd: a folder that is there if systemd has started this machine.

    Makes the groups. Raises `UsageError` for what cannot be meant: limits too small to start
    anything, a user that there is not, or that this process may not become.
    """

    def __init__(
        self,
        limits: Limits,
        user: str,
        name: str,
        *,
        mounted: Path = MOUNTED,
        own: str | None = None,
        as_json: bool = False,
        systemd: Path = _SYSTEMD,
    ) -> None:
        if limits.memory and limits.memory < LEAST_MEMORY:
            raise UsageError(f"memory limit {limits.memory}: must be at least {LEAST_MEMORY} bytes")
        if limits.cpu and not LEAST_CPU <= limits.cpu <= 4096:
            raise UsageError(f"CPU limit {limits.cpu:g}: must be from {LEAST_CPU:g} to 4096 CPUs")
        self.user = find_user(user)
        self.note = ""  #: what could not be limited, for people
        self._name = f"userdisk-{name}"
        self._systemd = systemd
        self._as_json = as_json
        self._why = "none is there"  # no control group can be had
        self._kills = 0
        self._groups: list[Path] = []
        self._rlimits: list[tuple[int, int]] = []
        if not limits.memory and not limits.cpu:
            return
        text = Path("/proc/self/cgroup").read_text() if own is None else own
        lines = [line.split(":", 2) for line in text.splitlines()]
        if self._unified(limits, mounted, lines):
            return
        if limits.memory and not self._version_1(
            "memory", {"memory.limit_in_bytes": limits.memory}, mounted, lines
        ):
            self._rlimits.append((resource.RLIMIT_DATA, limits.memory))
            self._rlimits.append((resource.RLIMIT_STACK, _STACK))
            self.note = "its memory limit holds for each of its processes"
        share = {
            "cpu.cfs_period_us": _PERIOD,
            "cpu.cfs_quota_us": max(round(limits.cpu * _PERIOD), 1000),
        }
        if limits.cpu and not self._version_1("cpu", share, mounted, lines):
            self.note += ", and " if self.note else ""
            self.note += "its CPU limit does not hold"
        if self.note:
            self.note += f", without a control group: {self._why}"

    def command(self, command: Sequence[str]) -> list[str]:
        """What to start instead of a command, so that it runs confined."""
        if not self._groups and not self._rlimits and self.user is None:
            return list(command)
        user = self.user
        how = {
            "procs": [str(group / "cgroup.procs") for group in self._groups],
            "limits": self._rlimits,
            "json": self._as_json,
            "user": None if user is None else [user.uid, user.gid, list(user.groups)],
        }
        return [sys.executable, "-I", "-S", confined.__file__, json.dumps(how), *command]

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The variables of the user, out of those of this process."""
        user = self.user
        if user is None:
            return dict(inherited)
        kept = {
            name: value
            for name, value in inherited.items()
            if not name.startswith(("XDG_", "USERDISK_"))  # folders that are not the user's
        }
        runtime = f"/run/user/{user.uid}"
        if os.path.isdir(runtime):
            kept["XDG_RUNTIME_DIR"] = runtime
        return kept | {"HOME": user.home, "USER": user.name, "LOGNAME": user.name}

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a process for its memory since the last call."""
        kills = 0
        for group in self._groups:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError, ValueError):
                    words = [line.split() for line in (group / name).read_text().splitlines()]
                    kills += sum(int(each[1]) for each in words if each[0] == "oom_kill")
        before, self._kills = self._kills, kills
        return kills > before

    def close(self) -> None:
        """Kill what is still in the groups, and remove them. Blocks for some seconds at most."""
        deadline = time.monotonic() + _EMPTY_SECONDS
        while self._groups:
            group = self._groups[-1]
            try:
                group.rmdir()
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    self._groups.pop()  # it is empty of ours, or never will be
                    continue
                _kill_all(group)
                time.sleep(0.01)
                continue
            self._groups.pop()

    def _unified(self, limits: Limits, mounted: Path, lines: list[list[str]]) -> bool:
        """A group of version 2; False if it cannot be had."""
        needed = [name for name in ("memory", "cpu") if getattr(limits, name)]
        values = {
            "memory.max": str(limits.memory or "max"),
            "memory.swap.max": "0" if limits.memory else "max",
            "cpu.max": f"{round(limits.cpu * _PERIOD)} {_PERIOD}" if limits.cpu else "max",
        }
        files = {name: each for name, each in values.items() if name.split(".")[0] in needed}
        for number, controllers, path in (line for line in lines if len(line) == 3):
            if number != "0" or controllers:
                continue
            top = mounted / "unified" if (mounted / "unified").is_dir() else mounted
            for parent in self._parents(top, top / path.lstrip("/")):
                if self._has(parent, needed) and self._group(
                    parent / self._name, files, optional=["memory.swap.max"]
                ):
                    return True
        return False

    def _parents(self, top: Path, here: Path) -> list[Path]:
        """The groups where one may be made beside this process' own.

        A group with processes has no controllers to give, but for the topmost. So systemd has to
        start the service in a group below its own (DelegateSubgroup=); it wants no other group
        touched. Without systemd any group above will do.
        """
        if here.name == OWN_LEAF:
            return [here.parent]
        if self._systemd.is_dir():
            self._why = "systemd gives it none (it must be 254 or later, and start the launcher)"
            return []
        above = here.parents[: len(here.parts) - len(top.parts)]
        return [*above] or [here]

    def _has(self, parent: Path, needed: Sequence[str]) -> bool:
        """Whether groups there can have these controllers; sees to it if that is possible."""
        try:
            if not set(needed) <= set((parent / "cgroup.controllers").read_text().split()):
                self._why = f"{parent} has no controller for it"
                return False
            active = (parent / "cgroup.subtree_control").read_text().split()
            for name in needed:
                if name not in active:
                    _write(parent / "cgroup.subtree_control", f"+{name}")
        except OSError as error:
            self._why = f"{parent}: {error.strerror}"
            return False
        return True

    def _version_1(
        self, controller: str, values: dict[str, int], mounted: Path, lines: list[list[str]]
    ) -> bool:
        for _, controllers, path in (line for line in lines if len(line) == 3):
            if controller in controllers.split(","):
                place = mounted / controllers / path.lstrip("/") / self._name
                return self._group(place, {name: str(each) for name, each in values.items()})
        return False

    def _group(self, place: Path, values: dict[str, str], optional: Collection[str] = ()) -> bool:
        try:
            place.mkdir(exist_ok=True)  # one that a killed process left is as good
            for name, value in values.items():
                if name not in optional or (place / name).exists():
                    _write(place / name, value)
        except OSError as error:
            self._why = f"{error.filename or place}: {error.strerror}"
            with contextlib.suppress(OSError):
                place.rmdir()
            return False
        self._groups.append(place)
        return True


def find_user(name: str) -> User | None:
    """Who that is; None for who this process is. Raises `UsageError`."""
    if not name:
        return None
    try:
        found = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise UsageError(f"user {name}: there is no such user") from None
    if found.pw_uid == os.getuid():
        return None
    if os.getuid() != 0:
        raise UsageError(f"user {name}: only root's launcher can run a disk as another user")
    groups = tuple(os.getgrouplist(found.pw_name, found.pw_gid))
    return User(found.pw_name, found.pw_uid, found.pw_gid, groups, found.pw_dir)


def _kill_all(group: Path) -> None:
    with contextlib.suppress(OSError):
        _write(group / "cgroup.kill", "1")
        return
    with contextlib.suppress(OSError, ValueError):
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _write(path: Path, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)  # never makes a file
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
