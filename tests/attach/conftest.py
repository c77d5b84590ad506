"""Real devices for tests: the command, a state folder of its own, a check that nothing stays."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from userdisk.attach import fuse_loop, loop, mounts

UNITS = Path(__file__).with_name("units.py")


@dataclass(frozen=True)
class Desk:
    """A folder with everything of one test."""

    folder: Path

    @property
    def mountpoint(self) -> Path:
        return self.folder / "mnt"

    @property
    def state(self) -> Path:
        return self.folder / "run" / "attach"

    @property
    def probe(self) -> list[str]:
        """Arguments for a unit that writes down its operations."""
        return [f"{UNITS}:Probe", "--option", f"folder={self.folder}"]

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "userdisk", *map(str, arguments)]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "USERDISK_RUN": str(self.folder / "run")}

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            text=True,
            cwd=self.folder,
        )

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            env=self.environment,
            text=True,
            cwd=self.folder,
            timeout=60,
            check=False,
        )

    def userdisk(self, *arguments: str | Path) -> str:
        """Run the command, which must succeed; what it prints."""
        result = self.run(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def refused(self, *arguments: str | Path) -> tuple[int, str]:
        """Run the command, which must fail with one line; the status and the line."""
        result = self.run(*arguments)
        assert result.returncode != 0, result.stdout
        assert result.stderr.count("\n") == 1 and result.stderr.startswith("userdisk: ")
        return result.returncode, result.stderr.strip()

    def attach(self, *arguments: str) -> Path:
        return Path(self.userdisk("attach", *arguments))

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.userdisk("list", "--json"))
        return found

    def order(self, *lines: str) -> None:
        (self.folder / "orders").write_text("\n".join(lines))

    def operations(self) -> list[str]:
        try:
            return (self.folder / "operations").read_text().splitlines()
        except FileNotFoundError:
            return []

    def forget(self) -> None:
        (self.folder / "operations").write_text("")

    def leftovers(self) -> list[str]:
        """Loop devices, mounts, processes and state of this folder."""
        here = str(self.folder)
        left = [
            f"loop {path.name}"
            for path in Path("/sys/block").glob("loop*")
            if (loop.backing_file(Path("/dev") / path.name) or "").startswith(here)
        ]
        left += [f"mount {each.folder}" for each in mounts.mounts() if here in each.folder]
        left += [f"process {pid}" for pid in self.processes()]
        with contextlib.suppress(FileNotFoundError):  # a folder may go while it is looked at
            left += [f"state {path.name}" for path in self.state.iterdir()]
        return left

    def processes(self) -> list[int]:
        """Attaching processes with this state folder."""
        found = []
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            try:
                command = (process / "cmdline").read_bytes()
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            if b"userdisk" in command and os.fsencode(self.folder / "run") in environment:
                found.append(int(process.name))
        return found


def wait_until(condition: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """The command with real devices; afterwards nothing may be left."""
    lacks = fuse_loop.missing()
    if lacks:
        pytest.skip(f"this machine or user has no {' and no '.join(lacks)}")
    desk = Desk(tmp_path.resolve())
    desk.mountpoint.mkdir()
    try:
        yield desk
        left = desk.leftovers()
    finally:
        for folder in list(desk.state.iterdir()) if desk.state.exists() else []:
            desk.run("eject", "--force", folder.name)
    assert left == []
