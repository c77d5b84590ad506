"""Limits of a running process: a control group (v2) where this user may make one, else rlimits.

A control group bounds memory and processor time of a process and all that it starts. Without one
the memory of each process is bounded (RLIMIT_DATA), and the processor's time cannot be.
"""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path
from typing import Final

from userdisk.launcher.spec import Limits

_GROUPS: Final = Path("/sys/fs/cgroup")
_PERIOD: Final = 100_000  # microseconds


def apply(pid: int, limits: Limits, name: str) -> list[str]:
    """Limit a process that has just started; returns what cannot be done, in words.

    Args:
        name: of the control group.
    """
    if not limits.memory and not limits.cpu:
        return []
    with contextlib.suppress(OSError):
        _group(pid, limits, name)
        return []
    problems = []
    if limits.memory:
        try:
            resource.prlimit(pid, resource.RLIMIT_DATA, (limits.memory, limits.memory))
        except (OSError, ValueError) as error:
            problems.append(f"the memory of process {pid} is not limited: {error}")
    if limits.cpu:
        problems.append(
            f"the processor time of process {pid} is not limited: that needs a control group"
            f" ({_GROUPS}, version 2) that this user may write"
        )
    return problems


def _group(pid: int, limits: Limits, name: str) -> None:
    """Raises `OSError` when there cannot be one with these limits."""
    own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2]
    parent = _GROUPS / own.lstrip("/")
    group = parent / f"userdisk-{name}"
    group.mkdir(exist_ok=True)
    try:
        if limits.memory:
            (group / "memory.max").write_text(str(limits.memory))
        if limits.cpu:
            (group / "cpu.max").write_text(f"{int(limits.cpu * _PERIOD)} {_PERIOD}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        with contextlib.suppress(OSError):
            os.rmdir(group)
        raise
