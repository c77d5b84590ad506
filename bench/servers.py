"""The servers that are measured: in a folder on tmpfs, on free ports."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import nbd_peers
from bench.errors import BenchError
from bench.programs import HERE, find
from bench.running import Disk, Server, free_port, image, running, sparse

IQN = "iqn.2026-11.io.userdisk:bench"
UNIT = f"{HERE / 'unit.py'}:Ram"


class Setup:
    """What all servers of a run share: the Python of userdisk, the folder, the size of the disks.

    `folder` is on tmpfs and holds images, logs and state files; `size` is in bytes.
    """

    def __init__(self, python: str, folder: Path, size: int) -> None:
        self.python, self.folder, self.size = python, folder, size

    def start(self, kind: str) -> contextlib.AbstractContextManager[Server]:
        """One of `KINDS`."""
        return KINDS[kind].start(self)

    @contextlib.contextmanager
    def userdisk(self, *arguments: str | Path) -> Iterator[Server]:
        """`userdisk serve` with these arguments, over iSCSI."""
        port = free_port()
        disk = Disk("iscsi", f"127.0.0.1:{port}/{IQN}/0")
        options = ["--listen", f"127.0.0.1:{port}", "--name", IQN]
        with self._userdisk([*arguments, *options], port, disk) as server:
            yield server

    @contextlib.contextmanager
    def userdisk_nbd(self, *arguments: str | Path) -> Iterator[Server]:
        """The same over NBD."""
        port = free_port()
        options = ["--no-iscsi", "--nbd", f"127.0.0.1:{port}"]
        disk = Disk("nbd", f"127.0.0.1:{port}/")
        with self._userdisk([*arguments, *options], port, disk) as server:
            yield server

    @contextlib.contextmanager
    def userdisk_unix(self, *arguments: str | Path) -> Iterator[Server]:
        """The same over NBD on a Unix socket."""
        path = self.folder / "userdisk.sock"
        options = ["--no-iscsi", "--nbd", f"unix:{path}"]
        with self._userdisk([*arguments, *options], path, Disk("nbd", f"unix:{path}@")) as server:
            yield server

    def _userdisk(
        self, arguments: list[str | Path], listening: int | Path, disk: Disk
    ) -> contextlib.AbstractContextManager[Server]:
        command = [self.python, "-m", "userdisk", "serve", *map(str, arguments)]
        environment = os.environ | {"XDG_STATE_HOME": str(self.folder / "state")}
        return running(self.folder, command, listening, disk, environment=environment)

    @contextlib.contextmanager
    def userdisk_file(self) -> Iterator[Server]:
        """`userdisk serve` with an image."""
        with image(self.folder, self.size) as path, self.userdisk(path) as server:
            yield server

    def image(self, name: str, size: int) -> Path:
        """A new sparse file, which stays."""
        return sparse(self.folder / name, size)

    @contextlib.contextmanager
    def tgt(self) -> Iterator[Server]:
        """tgtd as it comes, with a file. (It does not end by SIGTERM while it has targets.)"""
        port = free_port()
        environment = os.environ | {"TGT_IPC_SOCKET": str(self.folder / f"tgt-{port}")}
        daemon, admin = find("tgtd"), find("tgtadm")
        if daemon is None or admin is None:
            raise BenchError("tgt is not installed (`make packages`)")

        def configure(*arguments: str) -> None:
            command = [admin, "-C", "1", "--lld", "iscsi", *arguments, "--tid", "1"]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise BenchError(f"{' '.join(command)}: {done.stderr.strip()}")

        command = [daemon, "-f", "-C", "1", "--iscsi", f"portal=127.0.0.1:{port}"]
        disk = Disk("iscsi", f"127.0.0.1:{port}/{IQN}/1")
        with (
            image(self.folder, self.size) as path,
            running(
                self.folder, command, port, disk, environment=environment, end=signal.SIGKILL
            ) as server,
        ):
            configure("--op", "new", "--mode", "target", "-T", IQN)
            configure("--op", "new", "--mode", "logicalunit", "--lun", "1", "-b", str(path))
            # lets initiators choose; without it there are no digests
            configure(
                "--op", "update", "--mode", "target", "--name", "DataDigest", "--value", "CRC32C"
            )
            configure("--op", "bind", "--mode", "target", "-I", "ALL")
            yield server


@dataclass(frozen=True, slots=True)
class Kind:
    """How to start a server, and the program that it needs."""

    start: Callable[[Setup], contextlib.AbstractContextManager[Server]]
    program: str | None = None

    @property
    def missing(self) -> str | None:
        """The program, if it is not installed."""
        return self.program if self.program and find(self.program) is None else None


KINDS = {
    "userdisk": Kind(lambda setup: setup.userdisk(UNIT, "--size", str(setup.size))),
    "userdisk file": Kind(Setup.userdisk_file),
    "userdisk nbd": Kind(lambda setup: setup.userdisk_nbd(UNIT, "--size", str(setup.size))),
    "userdisk unix": Kind(lambda setup: setup.userdisk_unix(UNIT, "--size", str(setup.size))),
    "tgt": Kind(Setup.tgt, "tgtd"),
    "nbdkit memory": Kind(
        lambda setup: nbd_peers.nbdkit(setup.folder, "memory", str(setup.size)), "nbdkit"
    ),
    "nbdkit memory unix": Kind(
        lambda setup: nbd_peers.nbdkit_unix(setup.folder, "memory", str(setup.size)), "nbdkit"
    ),
    "nbdkit python": Kind(
        lambda setup: nbd_peers.nbdkit(setup.folder, *nbd_peers.python_plugin(setup.size)),
        "nbdkit",
    ),
    "qemu-nbd": Kind(lambda setup: nbd_peers.qemu_nbd(setup.folder, setup.size), "qemu-nbd"),
    "nbd-server": Kind(lambda setup: nbd_peers.nbd_server(setup.folder, setup.size), "nbd-server"),
}
