"""Runs the steps of a document as a reader would: servers stay in a terminal of their own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.docs.documents import ROOT, Block, Step, matches, steps

_TIMEOUT = 30
_SERVER = re.compile(r"userdisk serve |python examples/rawdisk\.py -f ")
_FAILS = re.compile(r"^(userdisk|rawdisk): |failed|[Ee]rror", re.MULTILINE)
_PORT = ":3260"


def can_mount() -> bool:
    """Whether the commands for root can be run here."""
    return os.name == "posix" and os.geteuid() == 0 and os.path.exists("/dev/fuse")


class Server:
    """A command that runs until Ctrl-C, and its output so far."""

    def __init__(self, command: str, directory: Path, environment: dict[str, str]) -> None:
        self.command = command
        self.output = ""
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def wait_for(self, expected: str) -> None:
        """Wait until the output is as expected, or the process has ended with it."""
        deadline = time.monotonic() + _TIMEOUT
        while time.monotonic() < deadline and not matches(expected, self.output):
            if self.process.poll() is not None:
                self._reader.join()
                break
            time.sleep(0.02)
        assert matches(expected, self.output), f"{self.command}\n{self.output}"

    def stop(self) -> None:
        """Ctrl-C, and wait for the end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(_TIMEOUT)
        self._reader.join()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Reader:
    """Someone who follows a document in an empty directory. A context manager."""

    def __init__(self, folder: Path) -> None:
        directory = self.directory = folder / "work"
        directory.mkdir()
        (directory / "examples").symlink_to(ROOT / "examples")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = f":{free.getsockname()[1]}"
        self._servers: list[Server] = []
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("USERDISK_")
        } | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "XDG_STATE_HOME": str(folder / "state"),
            "USERDISK_RUN": str(folder / "run"),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "RAWDISK_LISTEN": f"127.0.0.1{self._port}",
            "LC_ALL": "C.UTF-8",
        }

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.kill()
        for entry in self.directory.iterdir():
            if entry.is_mount():
                self._run(f"userdisk eject --force {entry.name}")

    def follow(self, block: Block) -> None:
        """Do what a block says, and compare what it shows."""
        if block.language == "python" and block.file is not None:
            (self.directory / block.file).write_text(block.text)
        elif block.language == "console":
            for step in steps(block):
                self._follow(step)

    def finish(self) -> None:
        """Stop the servers that the document left running; each must end well."""
        for server in self._servers:
            server.stop()
            assert server.process.returncode == 0, f"{server.command}\n{server.output}"

    def _follow(self, step: Step) -> None:
        where = f"line {step.line}: {step.command}"
        if step.root and not can_mount():
            return
        command = step.command.replace(_PORT, self._port)
        expected = step.expected.replace(_PORT, self._port)
        if command == "^C":
            server = self._servers.pop()
            server.stop()
            whole = f"...\n{expected}"
            assert matches(whole, server.output), f"{where}\n{server.output}"
            assert server.process.returncode == 0, f"{where}\n{server.output}"
            server.kill()
        elif _SERVER.match(command) and not _FAILS.search(expected):
            if command.startswith("userdisk") and "--listen" not in command:
                command += f" --listen 127.0.0.1{self._port}"
            for other in self._servers:  # a reader stops one server before the next: one port
                other.stop()
            self._servers.append(Server(command, self.directory, self._environment))
            self._servers[-1].wait_for(expected)
        else:
            status, output = self._run(command)
            assert matches(expected, output), f"{where} (exit status {status})\n{output}"
            assert (status != 0) <= bool(_FAILS.search(expected)), f"{where}: exit status {status}"

    def _run(self, command: str) -> tuple[int, str]:
        try:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            servers = "\n".join(server.output for server in self._servers)
            raise AssertionError(f"{command}: no end\n{error.output}\n{servers}") from None
        return done.returncode, done.stdout
