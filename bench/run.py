"""Measure userdisk against other servers and the socket limit: `make bench`, or `bench.run`.

All subjects of a row take turns (A B C A B C ...), so that what else the machine does meets them
alike; see README.md for how to read the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from bench import programs
from bench.errors import BenchError
from bench.measure import Clock, Figures, Meter
from bench.report import (
    VERDICT_HEADINGS,
    Verdict,
    figures_table,
    noise,
    table,
    verdicts,
)
from bench.rows import GIB, MIB, ROWS, Row, Start, Subject
from bench.servers import KINDS, Setup

MEMORY = "/dev/shm"

_INTERPRETER = """
import json, platform, sys, sysconfig, timeit
import userdisk
f = lambda: None
t = timeit.Timer("f(); f(); f(); f(); f(); f(); f(); f(); f(); f()", globals={"f": f})
arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
print(json.dumps({
    "executable": sys.executable,
    "version": platform.python_version(),
    "enable_optimizations": "--enable-optimizations" in arguments,
    "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    "call_ns": min(t.repeat(20, 5000)) * 1e8 / 5000,
}))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, _terminated)  # clean up then, too
    try:
        return _run(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    keys = [row.key for row in ROWS]
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure userdisk against other servers and the socket limit.",
        epilog=f"The rows are {', '.join(keys)}.",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="one short round on a small disk")
    parser.add_argument("--rows", metavar="ROW,...", help="only these rows")
    parser.add_argument("--rounds", type=int, help="times that each subject is measured (5)")
    parser.add_argument("--seconds", type=float, help="seconds of each measurement (2)")
    parser.add_argument("--size", type=int, metavar="MIB", help="size of the disks (1024)")
    parser.add_argument("--python", default=sys.executable, metavar="PATH",
                        help="the Python that serves, with userdisk (this one)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there, too")
    options = parser.parse_args(arguments)
    chosen = keys if options.rows is None else [key.strip() for key in options.rows.split(",")]
    for key in chosen:
        if key not in keys:
            parser.error(f"--rows: there is no row {key!r}; the rows are {', '.join(keys)}")
    options.rows = [row for row in ROWS if row.key in chosen]
    rounds, seconds, size = (1, 0.2, 64) if options.quick else (5, 2.0, GIB // MIB)
    options.rounds = rounds if options.rounds is None else options.rounds
    options.seconds = seconds if options.seconds is None else options.seconds
    options.size = (size if options.size is None else options.size) * MIB
    if options.rounds < 1 or options.seconds <= 0 or options.size < 16 * MIB:
        parser.error("at least one round, some time, and disks of 16 MiB")
    return options


def _run(options: argparse.Namespace) -> int:
    interpreter = describe_interpreter(options.python)
    programs.build()
    lost = {program for row in options.rows for subject in row.subjects
            if (program := missing(subject)) is not None}  # fmt: skip
    for program in sorted(lost):
        print(
            f"bench: {program} is not installed (`make packages`): measuring without it",
            file=sys.stderr,
        )
    machine = describe_machine()
    print(f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['kernel']}")
    print(interpreter_text(interpreter))
    print(f"{options.rounds} rounds of {options.seconds:g} s; disks of {options.size // MIB} MiB")
    measured: dict[str, dict[str, list[Figures]]] = {}
    judged: list[Verdict] = []
    try:
        with tempfile.TemporaryDirectory(
            prefix="userdisk-bench-", dir=_memory_folder(options.size)
        ) as folder:
            setup = Setup(options.python, Path(folder), options.size)
            with Meter(setup, Clock(options.seconds, min(0.5, options.seconds))) as meter:
                for row in options.rows:
                    runs: dict[str, list[Figures]] = {}
                    measured[row.key] = runs
                    measure_row(meter, row, options.rounds, runs)
                    judged += verdicts(row, runs)
                    print_row(row, runs)
    finally:  # what was measured until Ctrl-C is worth something
        if judged:
            print("\n" + table([VERDICT_HEADINGS, *(verdict.cells() for verdict in judged)]))
        if options.json is not None:
            _write_json(options.json, machine, interpreter, measured, judged)
    return 0


def measure_row(meter: Meter, row: Row, rounds: int, runs: dict[str, list[Figures]]) -> None:
    """Measure the subjects of a row in turn; adds to `runs` as it goes."""
    subjects = [subject for subject in row.subjects if missing(subject) is None]
    meter.release({subject.server for subject in subjects if isinstance(subject, Subject)})
    for number in range(rounds):
        _say(f"{row.key}: round {number + 1} of {rounds}")
        for subject in subjects:
            runs.setdefault(subject.name, []).append(meter.measure(subject, row.load))
    for subject in subjects:
        meter.verify(subject)
    _say("")


def print_row(row: Row, runs: dict[str, list[Figures]]) -> None:
    print(f"\n### {row.key}: {row.title}\n\n{figures_table(row, runs)}", flush=True)
    others = noise(runs)
    if others is not None and others > 0.2:
        print(f"\nSomething else used up to {others:.1f} CPUs: these ratios are doubtful.")


def describe_interpreter(python: str) -> dict[str, str | bool | float]:
    """What serves: its version, how it was built, and how fast it calls an empty function."""
    try:
        done = subprocess.run(
            [python, "-c", _INTERPRETER], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise BenchError(f"--python {python}: {error.strerror}") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        raise BenchError(f"--python {python}: cannot serve userdisk: {' '.join(last)}")
    found: dict[str, str | bool | float] = json.loads(done.stdout)
    return found


def interpreter_text(interpreter: dict[str, str | bool | float]) -> str:
    flags = "with" if interpreter["enable_optimizations"] else "without"
    gil = "" if interpreter["gil"] else ", free-threaded"
    return (
        f"served by Python {interpreter['version']}{gil} ({interpreter['executable']}; configured"
        f" {flags} --enable-optimizations; {interpreter['call_ns']:.0f} ns for an empty call)"
    )


def describe_machine() -> dict[str, str | int]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        raise BenchError("this needs Linux: it reads /proc and pins threads") from None
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.machine()
    return {"cpu": cpu, "cpus": len(os.sched_getaffinity(0)), "kernel": platform.release()}


def missing(subject: Subject | Start) -> str | None:
    """The program without which it cannot be measured, if it is not there."""
    if isinstance(subject, Start):
        return None if subject.unit else KINDS["tgt"].missing
    return KINDS[subject.server].missing if subject.server in KINDS else None


def _memory_folder(size: int) -> str:
    if not os.path.isdir(MEMORY) or not os.access(MEMORY, os.W_OK):
        raise BenchError(f"{MEMORY} is no folder that can be written: files must be in memory")
    free = shutil.disk_usage(MEMORY).free
    if free < 2 * size + 256 * MIB:  # at most two servers have an image at a time
        raise BenchError(
            f"{MEMORY}: {free // MIB} MiB are free, too little for two disks of {size // MIB} MiB"
        )
    return MEMORY


def _write_json(
    path: Path,
    machine: dict[str, str | int],
    interpreter: dict[str, str | bool | float],
    measured: dict[str, dict[str, list[Figures]]],
    judged: Sequence[Verdict],
) -> None:
    results = [
        {"row": verdict.row, "met": verdict.met, **asdict(verdict.goal), **asdict(verdict.spread)}
        for verdict in judged
    ]
    everything = {
        "machine": machine, "interpreter": interpreter, "rows": measured, "goals": results,
    }  # fmt: skip
    path.write_text(json.dumps(everything, indent=1) + "\n")


def _say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
