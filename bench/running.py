"""A server's process: started on a free port or path, always stopped, and what is known of it."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

LIMIT = 30.0  # seconds to start or stop


@dataclass(frozen=True, slots=True)
class Disk:
    """Where a disk is, in the words of blkload: its protocol and its place."""

    engine: str
    target: str


class Server:
    """A process that listens, and its disk."""

    def __init__(self, process: subprocess.Popen[bytes], disk: Disk, took: float) -> None:
        self.process, self.disk = process, disk
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
        """Keep it and its children, with the threads that they start, on one CPU."""
        before = os.sched_getaffinity(self.pid)
        self._set_affinity({cpu})
        try:
            yield
        finally:
            self._set_affinity(before)

    def _set_affinity(self, cpus: set[int]) -> None:
        for task in _tasks(self.pid):
            with contextlib.suppress(ProcessLookupError):  # a thread that just ended
                os.sched_setaffinity(int(task.name), cpus)


def _tasks(pid: int) -> Iterator[Path]:
    """The threads of a process and of its children."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # what just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield task
            for child in (task / "children").read_text().split():
                yield from _tasks(int(child))


@contextlib.contextmanager
def running(
    folder: Path,
    command: Sequence[str],
    listening: int | Path,
    disk: Disk,
    *,
    environment: Mapping[str, str] = os.environ,
    end: signal.Signals = signal.SIGTERM,
) -> Iterator[Server]:
    """Start a server that listens on a port of 127.0.0.1 or on a path; wait until it does."""
    log = folder / f"log-{listening if isinstance(listening, int) else listening.name}"
    # It ends with this process, however that ends.
    command = ["setpriv", "--pdeathsig", "KILL", *command]
    began = time.monotonic()
    # A signal in the middle of Popen would leave a server that nobody knows.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    unmask = functools.partial(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, preexec_fn=unmask,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
    except BaseException:
        unmask()
        raise
    try:
        unmask()
        _await_listening(process, listening, log)
        yield Server(process, disk, time.monotonic() - began)
    finally:
        process.send_signal(end)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_listening(process: subprocess.Popen[bytes], listening: int | Path, log: Path) -> None:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
            _connect(listening)
            return
        if process.poll() is not None:
            break
        time.sleep(0.002)
    said = log.read_text(errors="replace").strip().splitlines()[-5:]
    raise BenchError("a server did not start:\n" + "\n".join(said))


def _connect(listening: int | Path) -> None:
    if isinstance(listening, int):
        socket.create_connection(("127.0.0.1", listening)).close()
        return
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(listening))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def sparse(path: Path, size: int) -> Path:
    """A new file of `size` bytes."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


@contextlib.contextmanager
def image(folder: Path, size: int) -> Iterator[Path]:
    """A file that holds a disk for as long as it is served."""
    path = sparse(folder / f"disk-{free_port()}.img", size)
    try:
        yield path
    finally:
        path.unlink()
