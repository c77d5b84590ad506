"""One guest for a whole test run: it calls back once booted, then runs the commands it is sent."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

SCRIPT = Path(__file__).with_name("run-guest.sh")

#: What a server on the host's 127.0.0.1 is called in the guest.
HOST = "10.0.2.2"

# Commands and answers are fields that end in a zero byte. A command gets its time limit from
# coreutils' timeout, so that one that hangs takes nothing with it; what it leaves in the
# background must have its output elsewhere.
_AGENT = r"""exec 3<>/dev/tcp/10.0.2.2/$0
while IFS= read -r -d "" -u 3 limit && IFS= read -r -d "" -u 3 command; do
    output=$(timeout -k 2 "$limit" bash -c "$command" 2>&1 3>&- </dev/null)
    printf "%s\0%s\0" $? "$output" >&3
done"""

_BOOT_SECONDS = 60.0


class GuestError(Exception):
    """The guest could not be started, is gone, or a command in it failed."""


class Result(NamedTuple):
    """How a command in the guest ended; `output` is stdout and stderr, merged."""

    code: int
    output: str


class Guest:
    """A running guest. Not thread-safe: one command at a time.

    Args:
        share: directories that the guest shares read-write with the host; everything else on the
            host's root file system it sees too, but what it writes there is lost.
        limit: seconds the guest may live.

    Raises GuestError if it does not boot.
    """

    def __init__(self, share: Sequence[Path] = (), limit: int = 1800) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            options = [option for path in share for option in ("-w", str(path))]
            command = ["bash", "-c", _AGENT, str(server.getsockname()[1])]
            self._process = subprocess.Popen(
                [str(SCRIPT), "-t", str(limit), *options, "--", *command],
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
            try:
                self._socket = self._accept(server)
            except BaseException:
                self._process.terminate()
                self._process.wait()
                raise
        self._stream = self._socket.makefile("rb")

    def _accept(self, server: socket.socket) -> socket.socket:
        server.settimeout(0.2)
        deadline = time.monotonic() + _BOOT_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                return server.accept()[0]
            if self._process.poll() is not None:
                raise GuestError(f"the guest ended with {self._process.returncode} during its boot")
        raise GuestError(f"the guest did not boot in {_BOOT_SECONDS:.0f} s")

    def run(self, command: str, seconds: float = 30) -> Result:
        """Run a bash command; exit code 124 if it took longer than `seconds`."""
        self._socket.settimeout(seconds + 15)
        try:
            self._socket.sendall(f"{seconds:g}\0{command}\0".encode())
            return Result(int(self._field()), self._field())
        except OSError as error:
            raise GuestError(f"no answer from the guest to: {command}: {error}") from None

    def check(self, command: str, seconds: float = 30) -> str:
        """The output of a command that must succeed."""
        code, output = self.run(command, seconds)
        if code:
            raise GuestError(f"exit code {code} in the guest from: {command}\n{output}")
        return output

    def wait_until(self, command: str, seconds: float = 20) -> str:
        """The output of a command once it succeeds; it is tried again for so long."""
        return self.check(f"until {command}; do sleep 0.3; done", seconds)

    def start(self, command: str, output: str, pid: str) -> None:
        """Start a simple command in the background; `output` and `pid` are files in the guest.

        The output's last line will be `exit CODE`.
        """
        script = f"( echo $BASHPID > {pid}; exec {command} ); echo exit $?"
        self.check(f"rm -f {pid}; {{ {script}; }} > {output} 2>&1 & until [ -s {pid} ]; do :; done")

    def _field(self) -> str:
        data = bytearray()
        while (byte := self._stream.read(1)) != b"\0":
            if not byte:
                raise GuestError("the guest is gone")
            data += byte
        return data.decode(errors="replace")

    def close(self) -> None:
        """Hang up: the guest ends, and with it everything in it."""
        self._stream.close()
        self._socket.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()


def missing() -> str | None:
    """Why no guest can run here, or None; fills the cache of kernels on first use. Blocks."""
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root, for the guest's file system"
    prepared = subprocess.run([str(SCRIPT), "--prepare"], capture_output=True, text=True)
    if prepared.returncode:
        return f"needs a guest: {(prepared.stderr.strip() or 'unknown').splitlines()[-1]}"
    return None
