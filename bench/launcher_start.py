"""From the start of a disk of the launcher to its device: `python -m bench.launcher_start`.

For root, on Linux. Prints wall time and the CPU time of all its processes: on a machine that others
use the second is what can be compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from userdisk.attach import fuse_loop
from userdisk.launcher import places, shims
from userdisk.launcher.spec import Attach, Spec, Status

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS: Final = 60.0
_MEMORY: Final = "/dev/shm"  # as /run is, where the launcher keeps what it says


@dataclass(frozen=True, slots=True)
class Start:
    """One start; times in seconds."""

    wall: float
    cpu: float


def measure(unit: str, folder: Path) -> Start:
    """Start an instance that is attached, and stop it again. In the folder of USERDISK_RUN."""
    given = Spec("bench", "disk", places.instance_id("bench", "disk"), unit, attach=Attach(True))
    began = time.perf_counter()
    status = shims.start(given)
    wall = time.perf_counter() - began
    if not status.device:
        raise SystemExit(f"{unit}: it was not attached: {status.last_error}")
    cpu = sum(_cpu_seconds(pid) for pid in _processes(status))
    shims.ask(places.instance_folder(given.id), "stop", _STOP_SECONDS)
    while places.instance_folder(given.id).exists():
        time.sleep(0.01)
    return Start(wall, cpu)


def _processes(status: Status) -> tuple[int, int, int]:
    return status.pid, status.unit_pid, status.attach_pid


def _cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, words[11:15])) / _TICKS  # its own, and that of children that have ended


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.launcher_start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="starts of each unit (10)")
    options = parser.parse_args(arguments)
    lacks = fuse_loop.missing()
    if lacks:
        print(f"this machine or user has no {' and no '.join(lacks)}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(dir=_MEMORY) as name:
        folder = Path(name)
        os.environ["USERDISK_RUN"] = str(folder / "run")
        image = folder / "disk.img"
        with open(image, "wb") as file:
            file.truncate(64 << 20)
        for unit in ("ram:64M", str(image)):
            measure(unit, folder)  # the first one compiles and reads files
            found = [measure(unit, folder) for _ in range(options.rounds)]
            walls = [each.wall for each in found]
            print(
                f"{'ram:64M' if unit.startswith('ram:') else 'a file':8} start to attached:"
                f" median {statistics.median(walls):.2f} s ({min(walls):.2f} to {max(walls):.2f}),"
                f" CPU {statistics.median([each.cpu for each in found]):.2f} s",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
