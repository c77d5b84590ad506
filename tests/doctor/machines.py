"""Machines for the checks: files in a folder, programs and modules from lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from userdisk.doctor.machine import Machine


@dataclass
class Fake:
    """Describes a machine, and remembers what was run on it."""

    root: Path
    system: str = "linux"
    release: str = "6.12.1-generic"
    uid: int = 0
    programs: set[str] = field(default_factory=set)
    packages: set[str] = field(default_factory=lambda: {"click", "crc32c"})
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def file(self, name: str, data: bytes = b"") -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        line = " ".join(command)
        self.ran.append(line)
        if line in ("modprobe nbd", "modprobe loop") and self.answers.get(line, (1, ""))[0] == 0:
            self.file(f"/sys/module/{command[1]}/refcnt")
            self.file("/dev/nbd0")
        return self.answers.get(line, (1, "unknown"))

    def machine(self) -> Machine:
        return Machine(
            self.root, self.system, self.release, "x86_64", self.uid, (3, 12, 1), 4096,
            Path("/run/userdisk/attach"), lambda name: name if name in self.programs else None,
            self.run, self.packages.__contains__, lambda path: True,
        )  # fmt: skip
