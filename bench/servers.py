"""The servers that are measured: started on free ports, in a folder on tmpfs, always stopped."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.programs import HERE, find

IQN = "iqn.2026-11.io.userdisk:bench"
LIMIT = 30.0  # seconds to start or stop


class Server:
    """A process that listens, and the name of its disk for blkload."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, lun: int, took: float) -> None:
        self.process = process
        self.target = f"127.0.0.1:{port}/{IQN}/{lun}"
        self.took = took  #: seconds from the start of the process to the first connection

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def resident(self) -> float:
        """VmRSS in MiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise BenchError(f"process {self.pid} has ended")

    @contextlib.contextmanager
    def pinned(self, cpu: int) -> Iterator[None]:
        """Keep all its threads, and those that they start, on one CPU."""
        before = os.sched_getaffinity(self.pid)
        self._set_affinity({cpu})
        try:
            yield
        finally:
            self._set_affinity(before)

    def _set_affinity(self, cpus: set[int]) -> None:
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # a thread that just ended
                os.sched_setaffinity(int(task.name), cpus)


class Setup:
    """What all servers of a run share: the Python of userdisk, the folder, the size of the disks.

    `folder` is on tmpfs and holds images, logs and state files; `size` is in bytes.
    """

    def __init__(self, python: str, folder: Path, size: int) -> None:
        self.python, self.folder, self.size = python, folder, size

    def start(self, kind: str) -> contextlib.AbstractContextManager[Server]:
        """One of `KINDS`."""
        return KINDS[kind](self)

    @contextlib.contextmanager
    def userdisk(self, *arguments: str | Path) -> Iterator[Server]:
        """`userdisk serve` with these arguments."""
        port = _free_port()
        command = [self.python, "-m", "userdisk", "serve", *map(str, arguments)]
        command += ["--listen", f"127.0.0.1:{port}", "--name", IQN]
        environment = os.environ | {"XDG_STATE_HOME": str(self.folder / "state")}
        with self._running(command, environment, port, lun=0) as server:
            yield server

    def image(self, name: str, size: int) -> Path:
        """A new sparse file."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
        return path

    @contextlib.contextmanager
    def tgt(self) -> Iterator[Server]:
        """tgtd as it comes, with a file. (It does not end by SIGTERM while it has targets.)"""
        port = _free_port()
        image = self.image(f"tgt-{port}.img", self.size)
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
        with self._running(command, environment, port, lun=1, end=signal.SIGKILL) as server:
            configure("--op", "new", "--mode", "target", "-T", IQN)
            configure("--op", "new", "--mode", "logicalunit", "--lun", "1", "-b", str(image))
            # lets initiators choose; without it there are no digests
            configure(
                "--op", "update", "--mode", "target", "--name", "DataDigest", "--value", "CRC32C"
            )
            configure("--op", "bind", "--mode", "target", "-I", "ALL")
            yield server

    @contextlib.contextmanager
    def _running(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        port: int,
        lun: int,
        end: signal.Signals = signal.SIGTERM,
    ) -> Iterator[Server]:
        log = self.folder / f"log-{port}"
        # It ends with this process, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", *command]
        began = time.monotonic()
        # A signal in the middle of Popen would leave a server that nobody knows.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        unmask = functools.partial(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command, cwd=self.folder, env=environment, preexec_fn=unmask,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                )  # fmt: skip
        except BaseException:
            unmask()
            raise
        try:
            unmask()
            _await_listening(process, port, log)
            yield Server(process, port, lun, time.monotonic() - began)
        finally:
            process.send_signal(end)
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


#: kind -> how to start it
KINDS: dict[str, Callable[[Setup], contextlib.AbstractContextManager[Server]]] = {
    "userdisk": lambda setup: setup.userdisk(f"{HERE / 'unit.py'}:Ram", "--size", str(setup.size)),
    "userdisk file": lambda setup: setup.userdisk(setup.image("userdisk.img", setup.size)),
    "tgt": Setup.tgt,
}


def _await_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        if process.poll() is not None:
            break
        time.sleep(0.002)
    said = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise BenchError("a server did not start:\n" + "\n".join(said))


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
