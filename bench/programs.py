"""The programs that measure, built from C when they are older than their sources; and others'."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.errors import BenchError

HERE = Path(__file__).resolve().parent
BIN = HERE / "bin"

#: program -> the folder of its sources
SOURCES = {"blkload": HERE / "load", "echo": HERE / "echo"}
FLAGS = ("-O2", "-Wall", "-Wextra")


def build() -> None:
    """Make bench/bin up to date."""
    BIN.mkdir(exist_ok=True)
    for name, folder in SOURCES.items():
        program = BIN / name
        newest = max(path.stat().st_mtime for path in folder.iterdir())
        if program.exists() and program.stat().st_mtime >= newest:
            continue
        compiler = os.environ.get("CC") or find("cc") or find("gcc")
        if compiler is None:
            raise BenchError("no C compiler: install gcc and libc6-dev (`make packages`)")
        part = program.with_suffix(f".{os.getpid()}")  # two runs may build at once
        sources = sorted(map(str, folder.glob("*.c")))
        command = [compiler, *FLAGS, "-o", str(part), *sources]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"cannot build {name}: {' '.join(command)}\n{done.stderr}")
        part.rename(program)


def find(name: str) -> str | None:
    """The path of an installed program; those for root count, too."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
