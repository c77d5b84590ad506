"""What the checks may ask of a machine; tests give them another one."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SBIN: Final = "/usr/sbin:/sbin:/usr/local/sbin"
_COMMAND_SECONDS: Final = 20.0
_MAX_TEXT: Final = 4 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as one process sees it. The functions may block for some seconds."""

    root: Path  #: where its files are
    system: str  #: as `sys.platform`
    release: str  #: of the kernel, as `uname -r`
    processor: str  #: as `uname -m`
    uid: int
    python: tuple[int, int, int]
    open_files: int  #: the soft limit; 0 if there is none
    state: Path  #: where attachments are kept
    which: Callable[[str], str | None]
    run: Callable[[Sequence[str]], tuple[int, str]]  #: exit status and what was printed
    importable: Callable[[str], bool]
    writable: Callable[[Path], bool]

    def path(self, name: str) -> Path:
        """A file of the machine, by its absolute name."""
        return self.root / name.lstrip("/")

    def exists(self, name: str) -> bool:
        """Whether there is such a file; False also if it may not be looked at."""
        try:
            return self.path(name).exists()
        except OSError:
            return False

    def data(self, name: str) -> bytes | None:
        """The first 4 MiB of a file; None if it cannot be read."""
        try:
            with self.path(name).open("rb") as file:
                return file.read(_MAX_TEXT)
        except OSError:
            return None

    def text(self, name: str) -> str | None:
        """The same as text."""
        data = self.data(name)
        return None if data is None else data.decode(errors="replace")

    @property
    def kernel(self) -> tuple[int, int]:
        """Version and patch level of the kernel; (0, 0) if the release does not say it."""
        numbers = self.release.split("-")[0].split(".")[:2]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            return int(numbers[0]), int(numbers[1])
        return 0, 0


def this_machine(state: Path) -> Machine:
    """The machine that this process runs on."""
    return Machine(
        root=Path("/"),
        system=sys.platform,
        release=platform.release(),
        processor=platform.machine(),
        uid=os.geteuid() if hasattr(os, "geteuid") else 0,
        python=sys.version_info[:3],
        open_files=_open_files(),
        state=state,
        which=find_program,
        run=run,
        importable=lambda name: importlib.util.find_spec(name) is not None,
        writable=_writable,
    )


def find_program(name: str) -> str | None:
    """Where a program is. What is for root is often not on the search path of others."""
    return shutil.which(name) or shutil.which(name, path=_SBIN)


def run(command: Sequence[str]) -> tuple[int, str]:
    """Run a program for at most 20 seconds; 127 if it cannot be started, 124 if it hangs."""
    program = find_program(command[0])
    if program is None:
        return 127, f"{command[0]}: no such program"
    try:
        done = subprocess.run(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} did not end within {_COMMAND_SECONDS:g} s"
    except OSError as error:
        return 127, f"{program}: {error.strerror}"
    return done.returncode, done.stdout.decode(errors="replace")


def _open_files() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 0 if limit == resource.RLIM_INFINITY else limit


def _writable(path: Path) -> bool:
    """Whether files can be made there, or the folder itself; nothing is made."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
