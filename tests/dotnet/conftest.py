"""Builds the library, the samples and the programs of the tests once for a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "dotnet"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with Userdisk.dll, RawDisk.exe, and the tests' own programs."""
    folder = tmp_path_factory.mktemp("dotnet")
    _run("make", "-C", str(SOURCES), f"OUT={folder}")
    for program in ("TestDisk", "HostChecks"):
        references = (f"-r:{folder}/Userdisk.dll", "-r:System.Core")
        _run(
            "mcs",
            "-nologo",
            "-warnaserror",
            "-warn:4",
            *references,
            f"-out:{folder}/{program}.exe",
            str(HERE / f"{program}.cs"),
        )
    return folder


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
