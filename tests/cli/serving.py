"""Running the real `userdisk serve` from tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMIT = 60  # seconds for anything that should take one


def run(
    *arguments: str | Path, folder: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`userdisk serve` that is expected to end by itself."""
    return subprocess.run(
        command(*arguments), cwd=folder, env=os.environ | (environment or {}),
        capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "userdisk", "serve", *map(str, arguments)]


class Serving:
    """A server that listens, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("serving"):
                break
        self.text = "".join(lines)
        self.urls = re.findall(r"^iscsi://\S+", self.text, re.MULTILINE)

    @property
    def port(self) -> int:
        return int(re.search(r":(\d+)/", self.urls[0])[1])  # type: ignore[index]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Send the signal; returns the status and what came on stdout and stderr since."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, out, err


@contextmanager
def serving(
    *arguments: str | Path, folder: Path | None = None, environment: dict[str, str] | None = None
) -> Iterator[Serving]:
    """`userdisk serve` on a free port of 127.0.0.1, unless told otherwise; killed at the end."""
    if "--listen" not in arguments:
        arguments = (*arguments, "--listen", "127.0.0.1:0")
    process = subprocess.Popen(
        command(*arguments), cwd=folder, env=os.environ | (environment or {}),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Serving(process)
    finally:
        process.kill()
        process.communicate()
