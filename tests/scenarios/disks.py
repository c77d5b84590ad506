"""The two rawdisks, in Python and in C#, each as a process that serves a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60  # seconds for a start or an end

#: WinSpd's kinds of disk: with a cache and unmap, without a cache, without unmap.
KINDS = {
    "cc": ("-C", "1", "-U", "1"),
    "nc": ("-C", "0", "-U", "1"),
    "nu": ("-C", "1", "-U", "0"),
}
LANGUAGES = ("python", "csharp")


def _program(language: str, built: Path) -> Sequence[str]:
    if language == "python":
        return sys.executable, str(ROOT / "examples" / "rawdisk.py")
    return "mono", str(built / "RawDisk.exe")


@contextmanager
def rawdisk(language: str, kind: str, built: Path, folder: Path, *, blocks: int) -> Iterator[str]:
    """The disk as a unit, `spd:PATH`. At the end it is stopped, which must go well.

    Args:
        built: the folder with what was built from C#.
        folder: for the disk's file and its pipe.
    """
    pipe = folder / "pipe"
    command = [*_program(language, built), "-f", str(folder / "disk.img"), "-c", str(blocks)]
    process = subprocess.Popen(
        [*command, *KINDS[kind], "-p", str(pipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first, process.communicate(timeout=PATIENCE)
        yield f"spd:{pipe}"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()
    assert not pipe.exists()


def run(*arguments: str | Path, seconds: int = 300) -> str:
    """`userdisk` with these arguments, which must go well; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "userdisk", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout
