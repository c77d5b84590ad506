"""A launcher's service for tests: a process of its own, with folders of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launcher.kit import Stable, stable_in
from userdisk.errors import UserdiskError
from userdisk.launcher.client import Client


class Service:
    """The service, which a test may kill and start again.

    `stable` has its instances, `folder` its classes, and `cli` runs `userdisk`.
    """

    def __init__(self, stable: Stable, classes: Path) -> None:
        self.stable = stable
        self.classes = classes
        self.process: subprocess.Popen[bytes] | None = None
        self.log = stable.folder / "service.log"

    def start(self, *options: str, **how: Any) -> Client:
        """Start it and wait until it answers."""
        with open(self.log, "ab") as log:
            self.process = process = subprocess.Popen(
                [sys.executable, "-P", "-m", "userdisk", "launcher", "run", *options],
                stdout=log,
                stderr=log,
                **how,
            )

        def answers() -> bool:
            assert process.poll() is None, self.log.read_text()
            with contextlib.suppress(UserdiskError):
                Client().get("/v1/service")
                return True
            return False

        self.stable.until(answers)
        return Client()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it, and only it; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def write(self, name: str, text: str) -> None:
        """Write a class file."""
        path = self.classes / f"{name}.toml"
        path.write_text(text)
        path.chmod(0o644)

    def cli(self, *words: str, status: int = 0) -> str:
        """Run `userdisk`; what it prints on both outputs."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "userdisk", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, said
        assert "Traceback" not in said
        return said


@contextlib.contextmanager
def service_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service that is not started yet; nothing of it or its instances is left."""
    classes = folder / "classes"
    classes.mkdir()
    monkeypatch.setenv("USERDISK_CLASSES", str(classes))
    monkeypatch.setenv("USERDISK_STATE", str(folder / "state"))
    with stable_in(folder, monkeypatch) as stable:
        service = Service(stable, classes)
        try:
            yield service
        finally:
            with contextlib.suppress(UserdiskError, OSError):
                client = Client()
                for each in client.get("/v1/instances")["instances"]:
                    with contextlib.suppress(UserdiskError):
                        client.call("DELETE", f"/v1/instances/{each['id']}", {"force": True})
            if service.process is not None and service.process.poll() is None:
                service.process.terminate()
                service.process.wait(60)
            with contextlib.suppress(OSError):
                os.unlink(folder / "run" / "launcher" / "api")
