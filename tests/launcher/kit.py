"""Instances for tests: real shims in folders of their own, and a check that nothing stays."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from userdisk import control
from userdisk.attach import eject, fuse_loop, loop, mounts
from userdisk.errors import UserdiskError
from userdisk.launcher import places, shims, spec
from userdisk.launcher.spec import Attach, Policy, Spec, State, Status

#: Started again at once, as often as a test kills it.
QUICK = Policy(first_delay=0.05, longest_delay=0.5, starts=1000)

UNITS = Path(__file__).with_name("units.py")


@dataclass
class Stable:
    """A folder with everything of one test."""

    folder: Path
    started: list[str] = field(default_factory=list)

    def spec(self, unit: str = "", name: str = "disk", **fields: Any) -> Spec:
        """What is started; quick to come back, without a device, on a free port."""
        id_ = places.instance_id("test", name)
        return replace(Spec("test", name, id_, unit, policy=QUICK), **fields)

    def image(self, size: int, name: str = "disk.img") -> Path:
        path = self.folder / name
        with open(path, "wb") as file:
            file.truncate(size)
        return path

    def start(self, given: Spec) -> Status:
        self.started.append(given.id)
        return shims.start(given)

    def status(self, id_: str = "test.disk") -> Status:
        """As the shim says it, which must be what the file says."""
        answer = shims.ask(places.instance_folder(id_), "status", 30)
        return spec.decode_status(answer["status"])

    def wait(self, condition: Callable[[Status], object], id_: str = "test.disk") -> Status:
        """Ask until it is so."""
        deadline = time.monotonic() + 60
        while not condition(status := self.status(id_)):
            assert time.monotonic() < deadline, status
            time.sleep(0.02)
        return status

    def again(self, before: Status, id_: str = "test.disk") -> Status:
        """Wait until another process has the unit."""
        up = (State.RUNNING, State.DEGRADED)
        return self.wait(
            lambda now: now.state in up and now.unit_pid not in (0, before.unit_pid), id_
        )

    def kill_unit(self, id_: str = "test.disk") -> Status:
        """Kill the process that has the unit; how it was before."""
        status = self.wait(lambda now: now.unit_pid, id_)
        os.kill(status.unit_pid, signal.SIGKILL)
        return status

    def stop(self, id_: str = "test.disk", *, force: bool = False) -> dict[str, Any]:
        answer = shims.ask(places.instance_folder(id_), "stop", 120, force=force)
        self.wait_gone(id_)
        return answer

    def wait_gone(self, id_: str = "test.disk") -> None:
        self.until(lambda: not places.instance_folder(id_).exists())

    def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.02)

    def log(self, id_: str = "test.disk") -> str:
        lines = shims.ask(places.instance_folder(id_), "log", 30, lines=1000)["lines"]
        return "\n".join(lines)

    def processes(self) -> dict[int, str]:
        """Processes of instances of this folder, with their command lines."""
        found = {}
        for process in Path("/proc").iterdir():
            if not process.name.isdigit() or int(process.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                environment = (process / "environ").read_bytes()
                if os.fsencode(f"USERDISK_RUN={self.folder}/run") in environment.split(b"\0"):
                    words = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(process.name)] = os.fsdecode(words)
        return found

    def leftovers(self) -> list[str]:
        """What should be gone."""
        here = str(self.folder)
        control.processes()  # removes the sockets of programs that were killed
        left = [
            f"loop {path.name}"
            for path in Path("/sys/block").glob("loop*")
            if (loop.backing_file(Path("/dev") / path.name) or "").startswith(here)
        ]
        left += [f"mount {each.folder}" for each in mounts.mounts() if here in each.folder]
        left += [f"process {pid}: {command}" for pid, command in self.processes().items()]
        for name in ("instances", "attach", "control"):
            with contextlib.suppress(FileNotFoundError):
                left += [f"{name}/{path.name}" for path in (self.folder / "run" / name).iterdir()]
        return left

    def clear(self) -> None:
        """Take away whatever is left."""
        for id_ in self.started:
            folder = places.instance_folder(id_)
            if folder.exists():
                with contextlib.suppress(UserdiskError, OSError):
                    shims.ask(folder, "stop", 30, force=True)
        for entry in eject.entries():
            with contextlib.suppress(UserdiskError, OSError):
                eject.eject(entry, force=True, timeout=20)
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def stable_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stable]:
    """Instances with everything in a folder; nothing may be left of them."""
    monkeypatch.setenv("USERDISK_RUN", str(folder / "run"))
    stable = Stable(folder)
    try:
        yield stable
        with contextlib.suppress(AssertionError):
            stable.until(lambda: not stable.leftovers(), 20)
        left = stable.leftovers()
    finally:
        stable.clear()
    assert left == [], left


def needs_devices() -> None:
    """Skip where this user or machine has no block devices."""
    lacks = fuse_loop.missing()
    if lacks:
        pytest.skip(f"this machine or user has no {' and no '.join(lacks)}")


def attached(**fields: Any) -> Attach:
    """A device is wanted."""
    return Attach(wanted=True, **fields)


def program(path: Path, text: str) -> tuple[str, ...]:
    """A program in Python; how it is started."""
    path.write_text(text)
    return sys.executable, str(path)
