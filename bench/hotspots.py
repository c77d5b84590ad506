"""Where a connection's thread spends its CPU time: `python -m bench.hotspots ROW`.

Serves the bench unit in this process while the row's load runs. A timer of CPU time (SIGPROF)
interrupts whatever thread runs, wherever it is, and the C code of faulthandler writes its stack
down: no interpreter lock is needed, so the samples fall on lines as the time does. The kernel's
part of a system call counts for the line that made it.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
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
from bench.rows import MIB, ROWS, Load, Row, Subject
from bench.running import Disk, free_port
from bench.servers import IQN
from bench.unit import Ram
from userdisk.gate import Gate
from userdisk.nbd.export import Export
from userdisk.server import Server
from userdisk.target.logical_unit import LogicalUnit
from userdisk.target.target import Target

INTERVAL = 0.001  # seconds of CPU time; the kernel rounds it up to its tick
SHOWN = 25
SIZE = 256 * MIB

#: (file, function) in which a connection's thread spends its life
SERVING = ("portal.py", "_serve")

#: (file, function, line)
Place = tuple[str, str, int]

_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hotspots", description="Where the time goes.")
    parser.add_argument(
        "row",
        choices=[row.key for row in ROWS if row.load],
        nargs="?",
        default="read-32",
    )
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--digest", action="store_true", help="with CRC32C data digests")
    options = parser.parse_args(arguments)
    (row,) = [row for row in ROWS if row.key == options.row]
    assert row.load is not None
    programs.build()
    before = os.sched_getaffinity(0)
    if row.load.one_cpu:  # for the server's threads and the client, too
        os.sched_setaffinity(0, {min(before)})
    try:
        with tempfile.TemporaryDirectory() as folder:
            iops, samples = _measure(row, row.load, Path(folder), options)
    finally:
        os.sched_setaffinity(0, before)
    if not samples:
        print("hotspots: nothing ran; ask for more --seconds", file=sys.stderr)
        return 1
    print(f"{iops:,.0f} ops/s while being sampled, {len(samples)} samples\n")
    _print(samples)
    return 0


def _measure(
    row: Row, load: Load, folder: Path, options: argparse.Namespace
) -> tuple[float, list[list[Place]]]:
    server, disk = _serve(row, folder)
    try:
        client = _client(disk, load, options.seconds, _words(row, options.digest))
        time.sleep(0.5)
        samples = _samples(options.seconds)
        return client.result()["iops"], samples
    finally:
        server.stop()


def _serve(row: Row, folder: Path) -> tuple[Server, Disk]:
    """A started server with the protocol and the kind of socket of a row."""
    kinds = {subject.server for subject in row.subjects if isinstance(subject, Subject)}
    lu = LogicalUnit(Gate(Ram(block_count=SIZE // Ram.block_length), "Ram"))
    exports = [Export("Ram", lu.gate)]
    if "userdisk unix" in kinds:
        path = folder / "socket"
        server = Server([], listen=(), exports=exports, nbd=[str(path)])
        disk = Disk("nbd", f"unix:{path}@Ram")
    elif "userdisk nbd" in kinds:
        port = free_port()
        server = Server([], listen=(), exports=exports, nbd=[("127.0.0.1", port)])
        disk = Disk("nbd", f"127.0.0.1:{port}/Ram")
    else:
        port = free_port()
        server = Server([Target(IQN, [lu])], listen=[("127.0.0.1", port)])
        disk = Disk("iscsi", f"127.0.0.1:{port}/{IQN}/0")
    server.start()
    return server, disk


def _words(row: Row, digest: bool) -> list[str]:
    """What the row's own subject has blkload do, and what was asked for."""
    subject = row.subjects[0]
    assert isinstance(subject, Subject)
    return [*subject.words, *(["digest"] if digest else [])]


def _client(disk: Disk, load: Load, seconds: float, words: Sequence[str]) -> Client:
    command = [str(programs.BIN / "blkload"), disk.engine, disk.target, load.operation]
    command += [str(load.length), str(load.depth), str(seconds + 0.2), *words]
    return Client(command)


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
    return [stack for stack in stacks if any(place[:2] == SERVING for place in stack)]


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
