"""The state folder: which units are attached, for `list` and `eject`, also after a crash.

One folder for each attachment, made exclusively (its name is the attachment's): state.json, the
log of the attaching process, and the folder its file system is mounted on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from userdisk import whole_file
from userdisk.errors import UserdiskError

#: Where attachments are kept unless USERDISK_RUN says otherwise.
DEFAULT_RUN: Final = "/run/userdisk"

_STATE: Final = "state.json"
_SCRATCH: Final = _STATE + ".new"
_SOCKET: Final = "socket"
_LONGEST_SOCKET: Final = 100  # bytes; the kernel takes 107
_MAX_NAMES: Final = 1000


@dataclass(frozen=True, slots=True)
class Record:
    """What state.json holds. `size` and `block_length` are in bytes."""

    unit: str
    pid: int
    start_time: int  #: of the process, in clock ticks since boot: tells it from a later one
    way: str
    device: str = ""  #: empty until the disk is ready
    size: int = 0
    block_length: int = 0
    read_only: bool = False
    discards: bool = False  #: discards reach the unit
    mountpoint: str = ""  #: where `mount` was told to mount it
    failed: str = ""  #: why the last flush or close failed; the process has ended then
    unit_pid: int = 0  #: the process that has the unit
    unit_start_time: int = 0
    trouble: str = ""  #: why requests wait or fail now


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of one attachment."""

    path: Path

    @property
    def name(self) -> str:
        """The attachment's name."""
        return self.path.name

    @property
    def log(self) -> Path:
        """Where the attaching process writes."""
        return self.path / "log"

    @property
    def mount(self) -> Path:
        """Where a way may mount what it needs."""
        return self.path / "fuse"

    def write(self, record: Record) -> None:
        """Replace state.json; at no time it is half written. Raises `OSError`."""
        data = json.dumps(as_json(record), indent=2) + "\n"
        whole_file.replace(self.path / _STATE, data.encode(), mode=0o600, scratch=_SCRATCH)

    def read(self) -> Record | None:
        """The record; None if it cannot be read."""
        try:
            return Record(**json.loads((self.path / _STATE).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def remove(self) -> None:
        """Remove the folder, and the parents if this was the last. Raises `OSError` if mounted."""
        with contextlib.suppress(FileNotFoundError):
            self.mount.rmdir()
        for name in (_SCRATCH, _SOCKET, "log", _STATE):
            with contextlib.suppress(FileNotFoundError):
                (self.path / name).unlink()
        with contextlib.suppress(FileNotFoundError):
            self.path.rmdir()
        for parent in (self.path.parent, self.path.parent.parent):
            try:
                parent.rmdir()
            except OSError:
                return


def reachable_socket(folder: Folder) -> str:
    """Where the unit's process listens, as a path short enough for a socket; for this process.

    A longer one leads over a descriptor of the folder, which stays open as long as the process.
    """
    path = folder.path / _SOCKET
    if len(os.fsencode(path)) <= _LONGEST_SOCKET:
        return str(path)
    descriptor = os.open(folder.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{descriptor}/{_SOCKET}"


def root() -> Path:
    """The folder of all attachments."""
    return Path(os.environ.get("USERDISK_RUN") or DEFAULT_RUN).resolve() / "attach"


def create(name: str, record: Record) -> Folder:
    """Make the folder of a new attachment; a number is added to a name that is taken.

    It appears complete: nobody sees a folder without its record.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:40] or "disk"
    unnamed = Folder(root() / f".new-{os.getpid()}")
    try:
        root().mkdir(parents=True, exist_ok=True)
        unnamed.mount.mkdir(mode=0o700, parents=True, exist_ok=True)
        unnamed.path.chmod(0o700)
        unnamed.write(record)
        for number in range(1, _MAX_NAMES):
            path = root() / (plain if number == 1 else f"{plain}-{number}")
            try:
                unnamed.path.rename(path)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
            return Folder(path)
    except OSError as error:
        raise UserdiskError(f"{root()}: {error.strerror}") from None
    unnamed.remove()
    raise UserdiskError(f"{root()}: {_MAX_NAMES} attachments are called {plain}; eject some")


def folders() -> list[Folder]:
    """All attachments, by name."""
    try:
        paths = sorted(path for path in root().iterdir() if path.is_dir())
        return [Folder(path) for path in paths if not path.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserdiskError(f"{root()}: {error.strerror}") from None


def as_json(record: Record) -> dict[str, Any]:
    """The record as state.json has it."""
    return asdict(record)


def own_record(unit: str, way: str, mountpoint: str) -> Record:
    """A record of this process."""
    pid = os.getpid()
    return Record(unit, pid, start_time(pid) or 0, way, mountpoint=mountpoint)


def start_time(pid: int) -> int | None:
    """When a process started; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    words = text.rpartition(")")[2].split()
    return None if words[0] in "ZX" else int(words[19])  # a zombie has ended


def alive(record: Record) -> bool:
    """Whether the attaching process still runs."""
    return start_time(record.pid) == record.start_time


@contextlib.contextmanager
def opened_process(pid: int, started: int) -> Iterator[int | None]:
    """A descriptor of a process, which no later process can take the place of.

    None if the process has ended, or there was none (`pid` 0). `started`: its start time.
    """
    if pid == 0:
        yield None
        return
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise
        yield None
        return
    try:
        yield descriptor if start_time(pid) == started else None
    finally:
        os.close(descriptor)


def signal_process(descriptor: int, number: signal.Signals) -> None:
    """Send a signal; nothing happens if the process has ended."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)


def wait_for_end(descriptor: int, timeout: float) -> bool:
    """Whether the process ends within `timeout` seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        if poll.poll(max(left, 0) * 1000):
            return True
        if left <= 0:
            return False
