"""What a shim is given of its instance (spec.json), and what it says of it (status.json)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from userdisk import whole_file
from userdisk.errors import UserdiskError

SPEC: Final = "spec.json"
STATUS: Final = "status.json"
_LONGEST: Final = 1 << 20  # bytes of a file

_T = TypeVar("_T")


class State(StrEnum):
    """What an instance is doing."""

    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"  #: it serves, but something that was asked for is missing
    RESTARTING = "restarting"
    STOPPING = "stopping"
    FAILED = "failed"
    ENDED = "ended"


class Restart(StrEnum):
    """When the unit's process is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Policy:
    """How often it is started again: after `first_delay`, twice as long each time, `longest_delay`
    at most; after `starts` within `period` it has failed. Times in seconds."""

    restart: Restart = Restart.ON_FAILURE
    first_delay: float = 0.2
    longest_delay: float = 30.0
    starts: int = 100
    period: float = 60.0 * 10


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the unit's process (and the program's); 0: none."""

    memory: int = 0  #: bytes
    cpu: float = 0.0  #: of one CPU


@dataclass(frozen=True, slots=True)
class Attach:
    """How the disk becomes a device of this machine."""

    wanted: bool = False
    mount: str = ""  #: a folder; made if it is missing
    mount_options: tuple[str, ...] = ()
    format: str = ""  #: a file system for a blank disk
    partition: int | None = None
    owner: int | None = None  #: user id who gets a freshly made mount folder and file system


@dataclass(frozen=True, slots=True)
class Spec:
    """One instance: all that its shim needs, also when it is adopted."""

    class_: str
    name: str
    id: str
    unit: str = ""  #: unit specification; empty with a program
    arguments: tuple[str, ...] = ()  #: as they were given at the start
    program: tuple[str, ...] = ()  #: argument vector; `{socket}` in it is where it must listen
    speaks: str = "spd"  #: what the program speaks there: spd or nbd
    options: Mapping[str, Any] = field(default_factory=dict)  #: of the unit, as `UnitOptions`
    directory: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""  #: to run as
    limits: Limits = Limits()
    policy: Policy = Policy()
    start_timeout: float = 60.0  #: seconds
    stop_timeout: float = 10.0  #: seconds from SIGTERM to SIGKILL, on top of flushing
    log_bytes: int = 1 << 20
    log_json: bool = False  #: its processes log as JSON, one object a line
    host: str = "127.0.0.1"
    port: int = 0  #: 0 until one has been chosen, which then stays
    iscsi: bool = True
    target: str = ""  #: iSCSI name; empty: made from the unit's
    chap_file: str = ""
    initiators: tuple[str, ...] = ()
    attach: Attach = Attach()
    persistent: bool = False
    started_by: int = 0  #: user id


@dataclass(frozen=True, slots=True)
class Status:
    """What the shim says; times in seconds of the Unix clock, start times of processes in ticks."""

    state: State = State.STARTING
    since: float = 0.0
    pid: int = 0
    start_time: int = 0
    unit_pid: int = 0
    program_pid: int = 0
    attach_pid: int = 0
    restarts: int = 0
    exit_status: int | None = None  #: of the last process that ended unasked; negative: a signal
    last_error: str = ""
    size: int = 0
    block_length: int = 0
    read_only: bool = False
    portal: str = ""
    target: str = ""
    nbd_uri: str = ""
    device: str = ""
    mountpoints: tuple[str, ...] = ()
    control: str = ""  #: where the unit's process answers (`userdisk.control`)


def start_time() -> int:
    """When this process started, in clock ticks since boot: tells it from a later one."""
    stat = Path("/proc/self/stat").read_text(errors="replace")
    return int(stat.rpartition(")")[2].split()[19])


def write(folder: Path, name: str, content: Spec | Status) -> None:
    """Replace a file of an instance; at no time it is half written. Raises `OSError`."""
    data = json.dumps(asdict(content)).encode()
    whole_file.replace(folder / name, data, mode=0o600, scratch=f"{name}.new")


def read_spec(folder: Path, name: str = SPEC) -> Spec:
    """Raises `UserdiskError` for what is missing or damaged."""
    return _read(folder / name, Spec, _NESTED)


def read_status(folder: Path) -> Status:
    """Raises `UserdiskError` for what is missing or damaged."""
    return _read(folder / STATUS, Status, _NESTED)


def decode_status(content: Mapping[str, Any]) -> Status:
    """A status out of its JSON. Raises `ValueError` and `TypeError`."""
    return _decode(Status, content, _NESTED)


def _read(path: Path, kind: type[_T], nested: Mapping[str, Any]) -> _T:
    try:
        with open(path, "rb") as file:
            content = json.loads(file.read(_LONGEST))
        return _decode(kind, content, nested)
    except OSError as error:
        raise UserdiskError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserdiskError(f"{path}: it is damaged: {error}") from None


def _decode(kind: type[_T], content: Mapping[str, Any], nested: Mapping[str, Any]) -> _T:
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    values = {name: value for name, value in content.items() if name in known}
    for name, make in nested.items():
        if name in values and name in known:
            values[name] = make(values[name])
    return kind(**values)


def _attach(content: Mapping[str, Any]) -> Attach:
    return _decode(Attach, content, {"mount_options": tuple})


def _policy(content: Mapping[str, Any]) -> Policy:
    return _decode(Policy, content, {"restart": Restart})


_NESTED: Final[Mapping[str, Any]] = {
    "arguments": tuple,
    "program": tuple,
    "initiators": tuple,
    "mountpoints": tuple,
    "state": State,
    "limits": lambda content: Limits(**content),
    "policy": _policy,
    "attach": _attach,
}
