"""`userdisk serve` many times, each a process that a test kills; forked, so that it starts at once.

As a program it takes a server's arguments as a line of JSON, forks, and says the process id and,
when that process is gone, how it ended. What the server prints comes in between.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

_URL = re.compile(r"(iscsi|nbd\+unix)://\S+")
_NEEDED = tuple(  # by each server: better here than after each fork
    f"userdisk.{name}"
    for name in ("cli.commands", "cli.main", "cli.serve", "backend.file", "server", "target.target",
                 "nbd.export")
)  # fmt: skip
_TREE = Path(__file__).parents[2]


class ForkedServers:
    """One server after the other; `with` ends the last one too. Not thread-safe but for `kill`."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.stgtest.forked_servers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=_TREE,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._pid = 0

    def start(self, *arguments: str) -> str:
        """Start `userdisk serve ARGUMENTS`; its first URL, once it listens. Blocks."""
        assert not self._pid
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps(["serve", *arguments]) + "\n")
        self._parent.stdin.flush()
        self._pid = int(self._line().removeprefix("pid "))
        seen = []
        while not (found := _URL.match(line := self._line())):
            seen.append(line)
            assert not line.startswith("ended "), "\n".join(seen)
        return found[0]

    def kill(self) -> None:
        """SIGKILL, now; `wait` comes after it. May be called on any thread."""
        os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait until the server is gone; its exit status, or minus the signal that killed it."""
        while not (line := self._line()).startswith("ended "):
            pass
        self._pid = 0
        return int(line.removeprefix("ended "))

    def _line(self) -> str:
        assert self._parent.stdout is not None
        line = self._parent.stdout.readline()
        assert line, f"the parent of the servers ended: {self._parent.poll()}"
        return line.rstrip("\n")

    def __enter__(self) -> ForkedServers:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pid:
            self.kill()
            self.wait()
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.wait()
        self._parent.stdout.close()


def main() -> None:
    """Fork a server for each line, until there are no more."""
    for module in _NEEDED:
        import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _serve(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


def _serve(arguments: Sequence[str]) -> NoReturn:
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        print(f"pid {os.getpid()}", flush=True)
        from userdisk.cli.main import main

        status = main(arguments)
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
