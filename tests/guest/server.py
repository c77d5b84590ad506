"""`userdisk serve` as a process of its own, which a test may kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_START_SECONDS = 20.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


class ServeProcess:
    """`userdisk serve ARGUMENTS --listen 127.0.0.1:PORT`; stopped by `with`. Not thread-safe."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        log: Path,
        *,
        advertise: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.log = log
        listen = ["--listen", f"127.0.0.1:{self.port}"]
        if advertise is not None:
            listen += ["--advertise", advertise]
        self._command = [sys.executable, "-m", "userdisk", "serve", *map(str, arguments), *listen]
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and return when it listens."""
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=1),
            ):
                return
            time.sleep(0.02)
        code = self._process.poll()
        self.kill()
        raise AssertionError(f"{self._command} did not start ({code}):\n{self.log.read_text()}")

    def kill(self) -> None:
        """SIGKILL: nothing that the process still holds in memory survives."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: int) -> None:
        """Send a signal that does not end the server."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM; the exit code. A server that does not end in 30 s is killed: -9."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._process = None

    def __enter__(self) -> ServeProcess:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner can read, as secret files must be."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    return path
