"""What the control API takes and gives, as msgspec structs; OpenAPI is made of them."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

from userdisk.launcher.spec import State

_Text = Annotated[str, Meta(max_length=4096)]
_Class = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=63,
        examples=["image"],
        extra_json_schema={"pattern": "^[a-z0-9][a-z0-9_-]*$"},  # who asks gets a better reason
    ),
]
_Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1024,
        description="Any text of 1024 bytes at most, without NUL.",
        examples=["work"],
    ),
]


class Start(Struct, forbid_unknown_fields=True):
    """A disk to be started."""

    class_: _Class = field(name="class")
    name: _Name
    arguments: Annotated[list[_Text], Meta(max_length=9)] = []
    wait: bool = True  #: answer only when it is up, or has failed


class Mount(Struct, forbid_unknown_fields=True):
    """Where to mount; nothing: where the class says."""

    folder: _Text = ""


class Unmount(Struct, forbid_unknown_fields=True):
    """How to unmount: `force` also while files there are open."""

    force: bool = False


class Instance(Struct, kw_only=True, omit_defaults=False):
    """A disk of the launcher. Sizes in bytes, times in seconds."""

    id: str
    class_: str = field(name="class")
    name: str
    arguments: list[str] = []
    user: str = ""  #: who has started it
    state: State
    since: float = 0.0  #: Unix time of the last change of state
    uptime: float = 0.0  #: seconds since then
    pid: int = 0  #: of the process that keeps it
    unit_pid: int = 0
    restarts: int = 0
    exit_status: int | None = None  #: of the last process that ended unasked; negative: a signal
    last_error: str = ""
    unit: str = ""
    size: int = 0
    block_length: int = 0
    read_only: bool = False
    target: str = ""
    portal: str = ""
    nbd_uri: str = ""
    device: str = ""
    mountpoints: list[str] = []
    persistent: bool = False
    log_tail: list[str] = []  #: only when one instance is asked for


class Instances(Struct):
    """All that the caller may see."""

    instances: list[Instance]


class Statistics(Struct):
    """What the disk's process has counted, by unit; see docs/metrics.md."""

    units: dict[str, Any]


class AllStatistics(Struct):
    """The units of `Statistics` of each instance that answers, by its ID."""

    instances: dict[str, dict[str, Any]]


class Stopped(Struct):
    """It is gone; `remarks` for people."""

    remarks: list[str] = []


class Problem(Struct):
    """Why not, in a line; `busy`: something uses the disk, and `force` would end that."""

    error: str
    busy: bool = False


class ClassInfo(Struct, kw_only=True):
    """A kind of disk."""

    name: str
    description: str = ""
    opens: list[str] = []  #: extensions of files
    attaches: bool = False
    mounts: bool = False
    persistent: bool = False
    may_start: bool = False  #: the caller
    error: str = ""  #: why it cannot be used


class Classes(Struct):
    """All classes."""

    classes: list[ClassInfo]


class Event(Struct):
    """Something is different with an instance; `gone`: it is no more."""

    event: str
    instance: Instance


class Service(Struct):
    """The service itself."""

    pid: int
    user: str
    version: str
    discovery: str = ""  #: the iSCSI address that lists all targets
    console: str = ""
