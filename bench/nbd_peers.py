"""Other NBD servers that are measured: nbdkit, qemu-nbd and nbd-server, as they come."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BenchError
from bench.programs import HERE, find
from bench.running import Disk, Server, free_port, image, running

#: what a Unix socket is called in the folder of a run: short, as its path may be
SOCKET = "nbdkit.sock"

_CONFIGURATION = """[generic]
listenaddr = 127.0.0.1
port = {port}
[disk]
exportname = {image}
"""


@contextlib.contextmanager
def nbdkit(folder: Path, *plugin: str) -> Iterator[Server]:
    """nbdkit with a plugin, over TCP."""
    port = free_port()
    command = [_program("nbdkit"), "-f", "-i", "127.0.0.1", "-p", str(port), *plugin]
    with running(folder, command, port, Disk("nbd", f"127.0.0.1:{port}/")) as server:
        yield server


@contextlib.contextmanager
def nbdkit_unix(folder: Path, *plugin: str) -> Iterator[Server]:
    """nbdkit with a plugin, on a Unix socket."""
    path = folder / SOCKET
    command = [_program("nbdkit"), "-f", "-U", str(path), *plugin]
    with running(folder, command, path, Disk("nbd", f"unix:{path}@")) as server:
        yield server


def python_plugin(size: int) -> list[str]:
    """A bytearray as nbdkit's Python plugin serves it."""
    return ["python", str(HERE / "nbdkit_disk.py"), f"size={size}"]


@contextlib.contextmanager
def qemu_nbd(folder: Path, size: int) -> Iterator[Server]:
    """qemu-nbd with a raw image on tmpfs."""
    port = free_port()
    with image(folder, size) as path:
        command = [_program("qemu-nbd"), "-f", "raw", "-b", "127.0.0.1", "-p", str(port)]
        command += ["-x", "disk", "--persistent", "--shared=8", str(path)]
        with running(folder, command, port, Disk("nbd", f"127.0.0.1:{port}/disk")) as server:
            yield server


@contextlib.contextmanager
def nbd_server(folder: Path, size: int) -> Iterator[Server]:
    """nbd-server with an image on tmpfs.

    It makes a daemon of itself, which nobody would end; in a PID namespace of its own it ends with
    the namespace's first process.
    """
    port = free_port()
    with image(folder, size) as path:
        configuration = folder / f"nbd-server-{port}.conf"
        configuration.write_text(_CONFIGURATION.format(port=port, image=path))
        command = [_program("unshare"), "--fork", "--pid", "--kill-child", "sh", "-c"]
        command += ['"$@" && exec sleep infinity', "sh", _program("nbd-server")]
        command += ["-C", str(configuration), "-p", str(folder / f"nbd-server-{port}.pid")]
        if os.geteuid() != 0:
            raise BenchError("nbd-server: not root: a PID namespace needs it")
        disk = Disk("nbd", f"127.0.0.1:{port}/disk")
        with running(folder, command, port, disk, end=signal.SIGKILL) as server:
            yield server


def _program(name: str) -> str:
    path = find(name)
    if path is None:
        raise BenchError(f"{name} is not installed (`make packages`)")
    return path
