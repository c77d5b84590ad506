"""Children of children: who is left when a process has ended is killed, and reaped.

A shim is the reaper of all that its processes start (PR_SET_CHILD_SUBREAPER): whose parent has
ended is its child, whatever session or process group it has made for itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

_PR_SET_CHILD_SUBREAPER: Final = 36
_ROUND_SECONDS: Final = 0.005


#: Marks, in their environment, those that a reaper has started for itself: they may stay.
_MARK: Final = "USERDISK_SHIM"


def become_reaper() -> None:
    """From now on orphans below this process become its children."""
    import ctypes  # not needed before the first process is started

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.environ[_MARK] = str(os.getpid())


def environment() -> dict[str, str]:
    """That of a process whose own children must not outlive it."""
    return {name: value for name, value in os.environ.items() if name != _MARK}


def reap(keep: Collection[int]) -> None:
    """Wait for children that have ended, but for those in `keep`; does not block."""
    for pid in _children():
        if pid not in keep and _session(pid) is None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def end_strays(keep: Collection[int], timeout: float = 5.0) -> list[int]:
    """Kill and reap children of this process that were not started for it; returns who they were.

    Those in this process' own session stay, those in `keep`, and those that have its mark. What
    they have started in turn follows when they have ended. Blocks for `timeout` seconds at most.
    """
    ended: dict[int, None] = {}
    deadline = time.monotonic() + timeout
    while found := [pid for pid in _children() if pid not in keep and _is_stray(pid)]:
        for pid in found:
            ended[pid] = None
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:  # one that waits in the kernel for its disk, perhaps
            break
        time.sleep(_ROUND_SECONDS)
    return list(ended)


def end_session(leader: int, timeout: float = 5.0) -> None:
    """Kill whoever is still in the session (and process group) that a child has led."""
    deadline = time.monotonic() + timeout
    while True:
        found = [pid for pid in _processes() if _session(pid) == leader and pid != leader]
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found or time.monotonic() > deadline:
            return
        time.sleep(_ROUND_SECONDS)


def _children() -> list[int]:
    found: list[int] = []
    try:
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (thread / "children").read_text().split())
    except OSError:
        return []
    return found


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _is_stray(pid: int) -> bool:
    session = _session(pid, zombies=True)
    if session in (None, os.getsid(0)):
        return False
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return True
    return f"{_MARK}={os.getpid()}".encode() not in words


def _session(pid: int, *, zombies: bool = False) -> int | None:
    """None if it has ended; of those that nobody has waited for, only if asked."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    words = text.rpartition(")")[2].split()
    return None if words[0] in "ZX" and not zombies else int(words[3])
