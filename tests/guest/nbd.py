"""Linux's own NBD driver in a guest, as nbd-client sets it up and a test drives it."""

from __future__ import annotations

import re

from tests.guest.session import HOST, Guest


class NbdDisk:
    """One of the guest's `/dev/nbdN`, connected; `with` disconnects it.

    `block_length` is what nbd-client tells the kernel: it does not ask the server. `timeout`
    is in seconds: then the kernel asks again over another connection. Not thread-safe; raises
    GuestError when a command in the guest fails.
    """

    def __init__(
        self,
        guest: Guest,
        port: int,
        export: str,
        *,
        connections: int = 1,
        block_length: int = 512,
        timeout: int | None = None,
        number: int = 0,
        host: str = HOST,
    ) -> None:
        self.guest = guest
        self.port = port
        self.name = f"nbd{number}"
        self.device = f"/dev/{self.name}"
        self._command = (
            f"nbd-client {host} {port} {self.device} -N {export} -C {connections} -b {block_length}"
        )
        if timeout is not None:
            self._command += f" -t {timeout}"

    def connect(self) -> str:
        """Connect, and return when the disk has its size; what nbd-client said."""
        said = self.guest.check(f"modprobe nbd && {self._command}")
        self.guest.wait_until(f"grep -qvx 0 /sys/block/{self.name}/size")
        return said

    def disconnect(self) -> None:
        """Unmount and disconnect, whatever the state; returns when the kernel has let go of it."""
        self.guest.check(
            f"umount -q {self.device}; nbd-client -d {self.device};"
            f" until grep -qx 0 /sys/block/{self.name}/size; do sleep 0.3; done"
        )

    def busiest(self) -> int:
        """The port, in the guest, of the connection over which most was sent."""
        output = self.guest.check(f"ss -HtniO state established dport = :{self.port}")
        sent = r":(\d+)\s+\S+:\d+\s.*bytes_sent:(\d+)"
        return max((int(found[2]), int(found[1])) for found in re.finditer(sent, output))[1]

    def cut(self, port: int) -> None:
        """Break the connection from this port of the guest."""
        self.guest.check(f"ss -K dport = :{self.port} sport = :{port}")

    def sys(self, *paths: str) -> list[str]:
        """What files below /sys/block/nbdN say."""
        output = self.guest.check(f"cd /sys/block/{self.name} && cat {' '.join(paths)}")
        return output.splitlines()

    def run(self, command: str, seconds: float = 30) -> str:
        """The output of a command that must succeed; DISK in it is the device."""
        return self.guest.check(command.replace("DISK", self.device), seconds)

    def try_(self, command: str, seconds: float = 30) -> tuple[int, str]:
        """The exit code and output of a command; DISK in it is the device."""
        return self.guest.run(command.replace("DISK", self.device), seconds)

    def __enter__(self) -> NbdDisk:
        self.connect()
        return self

    def __exit__(self, *exception: object) -> None:
        self.disconnect()
