"""Where a connection's thread spends its CPU time: `python -m bench.hotspots ROW`.

Serves the bench unit in this process while the row's load runs. A timer of CPU time (SIGPROF)
interrupts whatever thread runs, wherever it is, and the C code of faulthandler writes its stack
down: no interpreter lock is needed, so the samples fall on lines as the time does. The kernel's
part of a system call counts for the line that made it.
"""

from __future__ import annotations

import argparse
import faulthandler
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench import programs
from bench.measure import Client
from bench.report import table
from bench.rows import MIB, ROWS, Load
from bench.servers import IQN
from bench.unit import Ram
from userdisk.gate import Gate
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target

INTERVAL = 0.001  # seconds of CPU time; the kernel rounds it up to its tick
SHOWN = 25
SIZE = 256 * MIB

#: (file, function, line)
Place = tuple[str, str, int]

_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    loads = {row.key: row.load for row in ROWS if row.load is not None}
    parser = argparse.ArgumentParser(prog="hotspots", description="Where the time goes.")
    parser.add_argument("row", choices=loads, nargs="?", default="read-32")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--digest", action="store_true", help="with CRC32C data digests")
    options = parser.parse_args(arguments)
    load = loads[options.row]
    assert load is not None
    programs.build()
    unit = Ram(block_count=SIZE // Ram.block_length)
    server = Server([Target(IQN, [LogicalUnit(Gate(unit, "Ram"))])], listen=[("127.0.0.1", 0)])
    ((_, port),) = server.start()
    try:
        client = _client(port, load, options.seconds, options.digest)
        time.sleep(0.5)
        samples = _samples(options.seconds)
        result = client.result()
    finally:
        server.stop()
    if not samples:
        print("hotspots: nothing ran; ask for more --seconds", file=sys.stderr)
        return 1
    print(f"{result['iops']:,.0f} ops/s while being sampled, {len(samples)} samples\n")
    _print(samples)
    return 0


def _client(port: int, load: Load, seconds: float, digest: bool) -> Client:
    command = [str(programs.BIN / "blkload"), "iscsi", f"127.0.0.1:{port}/{IQN}/0"]
    command += [load.operation, str(load.length), str(load.depth), str(seconds + 0.2)]
    return Client([*command, *(["digest"] if digest else [])])


def _samples(seconds: float) -> list[list[Place]]:
    """The stacks of connections' threads, innermost call first."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.register(signal.SIGPROF, file=file, all_threads=False)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
        time.sleep(seconds)
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.unregister(signal.SIGPROF)
        file.seek(0)
        dumps = file.read().split("Stack (most recent call first):")
    stacks = [
        [(Path(file).name, function, int(line)) for file, line, function in _FRAME.findall(dump)]
        for dump in dumps
    ]
    return [stack for stack in stacks if any(place[0] == "portal.py" for place in stack)]


def _print(samples: Sequence[list[Place]]) -> None:
    own = Counter(stack[0][:2] for stack in samples)
    within = Counter(place for stack in samples for place in {entry[:2] for entry in stack})
    lines = Counter(stack[0] for stack in samples)

    def share(count: int) -> str:
        return f"{100 * count / len(samples):.1f} %"

    rows = [
        [share(count), share(within[place]), f"{place[0]} {place[1]}"]
        for place, count in own.most_common(SHOWN)
    ]
    print(table([["itself", "with callees", "function"], *rows]) + "\n")
    rows = [
        [share(count), f"{file}:{line} {function}"]
        for (file, function, line), count in lines.most_common(SHOWN)
    ]
    print(table([["itself", "line"], *rows]))


if __name__ == "__main__":
    sys.exit(main())
