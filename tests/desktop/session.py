"""A desktop of somebody without any rights: an X server, a message bus, a home folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import click
import pytest

import userdisk

_T = TypeVar("_T")

NOBODY = 65534
#: Of this environment, what userdisk does without.
_NOT_NEEDED = (
    "__pycache__", "*mypyc*", "ast_serialize*", "coverage*", "hypothesis*", "librt*", "mypy*",
    "pip", "pip-*", "pygments*", "ruff*", "setuptools*",
)  # fmt: skip
SECONDS = 60.0
#: Programs that a session with a screen needs.
PROGRAMS = ("Xvfb", "dbus-daemon", "gio", "xdg-open", "xdotool", "xmessage", "pcmanfm",
            "update-desktop-database", "update-mime-database")  # fmt: skip


def wait_for(what: str, look: Callable[[], _T | None]) -> _T:
    """What `look` finds; it is asked again until it finds something."""
    deadline = time.monotonic() + SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, f"no {what} after {SECONDS:g} s"
        time.sleep(0.1)
    return found


class Session:
    """Runs programs as a user who is nobody else; root's tests only. Close it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="desktop-"))  # short paths, for sockets
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o755)
        self.home = self._own_folder("home")
        self.runtime = self._own_folder("runtime")
        self.run_folder = self.folder / "run"  # of userdisk
        self.run_folder.mkdir()
        self.python = self._python()
        self.environment: dict[str, str] = {
            "HOME": str(self.home),
            "PATH": f"{self.python.parent}:/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "USERDISK_RUN": str(self.run_folder),
            "NO_AT_BRIDGE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def close(self) -> None:
        """End what was started, and remove the folders."""
        self._stack.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        *command: str | Path,
        environment: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the user to its end."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.home,
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            user=NOBODY,
            group=NOBODY,
            extra_groups=(),
        )
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout}{done.stderr}"
        return done

    def userdisk(self, *arguments: str | Path, check: bool = True) -> str:
        """What a command of userdisk says."""
        done = self.run(self.python, "-P", "-m", "userdisk", *arguments, check=check)
        return done.stdout + done.stderr

    def start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """Start a program of the user; it ends with the session. Its output is in `log`."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.home,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=NOBODY,
                group=NOBODY,
                extra_groups=(),
            )
        self._stack.callback(_end, process)
        return process

    @property
    def log(self) -> Path:
        """What the programs of the session said."""
        return self.folder / "log"

    def give(self, path: Path) -> Path:
        """Make a file the user's."""
        os.chown(path, NOBODY, NOBODY)
        return path

    def start_screen(self) -> None:
        """An X server on a display of its own, and the user's message bus."""
        self.environment["DISPLAY"] = self._stack.enter_context(self._display())
        self.environment["DBUS_SESSION_BUS_ADDRESS"] = self._stack.enter_context(self._bus())

    def windows(self, title: str) -> list[str]:
        """The visible windows with such a title (a regular expression)."""
        done = self.run("xdotool", "search", "--onlyvisible", "--name", title, check=False)
        return done.stdout.split()

    @contextmanager
    def _display(self) -> Iterator[str]:
        read, write = os.pipe()
        with open(read, "rb") as numbers, self.log.open("ab") as log:
            process = subprocess.Popen(
                ["Xvfb", "-displayfd", str(write), "-screen", "0", "1000x600x24",
                 "-nolisten", "tcp"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[write],
            )  # fmt: skip
            os.close(write)
            try:
                number = numbers.readline().strip().decode()
                assert number, f"Xvfb: {self.log.read_text()}"
                yield f":{number}"
            finally:
                _end(process)

    @contextmanager
    def _bus(self) -> Iterator[str]:
        read, write = os.pipe()
        with open(read, "rb") as addresses:
            process = subprocess.Popen(
                ["dbus-daemon", "--session", "--nofork", f"--print-address={write}"],
                env=self.environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[write], user=NOBODY, group=NOBODY, extra_groups=(),
            )  # fmt: skip
            os.close(write)
            try:
                address = addresses.readline().strip().decode()
                assert address, "dbus-daemon gave no address"
                yield address
            finally:
                _end(process)

    def _own_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        return self.give(folder)

    def _python(self) -> Path:
        """An interpreter that the user may run, and that finds userdisk as this one does."""
        known = (Path(sys._base_executable), Path("/usr/bin/python3"))
        base = next((path for path in known if _is_open(path.resolve()) and _is_like(path)), None)
        if base is None:
            pytest.skip("every Python of this version is out of other users' reach")
        environment = self.folder / "venv"
        subprocess.run([base, "-m", "venv", "--without-pip", environment], check=True)
        packages = {Path(module.__path__[0]).parent for module in (userdisk, click)}
        within_reach = [self._within_reach(folder) for folder in packages]
        [site] = environment.glob("lib/python3*/site-packages")
        (site / "tested.pth").write_text("".join(f"{each}\n" for each in within_reach))
        return environment / "bin" / "python"

    def _within_reach(self, folder: Path) -> Path:
        """The folder, or a copy of it for somebody who cannot go there."""
        if _is_open(folder):
            return folder
        copy = self.folder / "packages" / folder.name
        return shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(*_NOT_NEEDED))


def _is_like(python: Path) -> bool:
    """Whether it can import what was built for this one."""
    code = "import sys; print(sys.implementation.cache_tag)"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout
    return said.strip() == sys.implementation.cache_tag


def _is_open(path: Path) -> bool:
    return path.exists() and all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
