"""A served unit for a test: `userdisk serve` as a process of its own, ended with the test."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

from userdisk.initiator_client import Url, parse_url

_URL = re.compile(r"iscsi://[^\s,;'\"]+")


@dataclass(slots=True)
class Served:
    """A running server: its URLs (one for each unit), its process, what it has printed."""

    process: subprocess.Popen[str]
    urls: list[str]
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The first unit's URL."""
        return self.urls[0]

    @property
    def address(self) -> Url:
        """The first unit's URL, taken apart."""
        return parse_url(self.url)

    @property
    def portal(self) -> str:
        """host:port, with brackets around an IPv6 host."""
        return self.url.split("/")[2]

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20) -> int:
        """Send a signal and wait for the end; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)


@contextmanager
def serve(
    *units: str,
    options: tuple[str, ...] = (),
    listen: str = "127.0.0.1:0",
    environment: Mapping[str, str] | None = None,
    timeout: float = 20,
    urls: int | None = None,
) -> Iterator[Served]:
    """Serve units on a free port until the block ends; then the server must end with status 0.

    `urls`: how many there will be, if not one for each unit.
    """
    command = [sys.executable, "-m", "userdisk", "serve", *units, "--listen", listen, *options]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
    )
    served = Served(process, [])
    output: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    assert process.stdout is not None
    reader = threading.Thread(target=_read, args=(process.stdout, served.lines, output))
    reader.start()
    try:
        deadline = time.monotonic() + timeout
        while len(served.urls) < (urls or len(units)):
            line = output.get(timeout=max(0.01, deadline - time.monotonic()))
            if line is None:
                raise AssertionError("the server ended at once:\n" + "".join(served.lines))
            found = _URL.findall(line)
            served.urls += [url for url in found if url not in served.urls]
        yield served
        if process.poll() is None:
            status = served.stop()
            assert status == 0, f"the server ended with {status}:\n" + "".join(served.lines)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def _read(stream: IO[str], lines: list[str], output: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.append(line)
        output.put(line)
    output.put(None)
