"""Where the launcher keeps what: folders, sockets, and the name of an instance's folder.

Root's service has the system's folders, anybody else's those of XDG. USERDISK_RUN, USERDISK_STATE
and USERDISK_CLASSES take the place of the first three.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from userdisk.errors import UsageError

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,60}")
_CLASS: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_LONGEST_NAME: Final = 1024  # bytes
_SLUG: Final = 40  # characters


def run_folder() -> Path:
    """What does not outlive a reboot."""
    if run := os.environ.get("USERDISK_RUN"):
        return Path(run).absolute()
    if os.getuid() == 0:
        return Path("/run/userdisk")
    if own := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(own) / "userdisk"
    return Path(f"/tmp/userdisk-{os.getuid()}")


def state_folder() -> Path:
    """Instances that are started again after a reboot: ID.json each."""
    if state := os.environ.get("USERDISK_STATE"):
        return Path(state).absolute() / "instances"
    if os.getuid() == 0:
        return Path("/var/lib/userdisk/instances")
    own = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(own) / "userdisk/instances"


def classes_folder() -> Path:
    """The class files: NAME.toml each."""
    if classes := os.environ.get("USERDISK_CLASSES"):
        return Path(classes).absolute()
    if os.getuid() == 0:
        return Path("/etc/userdisk/classes.d")
    own = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(own) / "userdisk/classes.d"


def launcher_folder() -> Path:
    """What belongs to the service itself."""
    return run_folder() / "launcher"


def api_socket() -> Path:
    """Where the service of this user answers."""
    return launcher_folder() / "api"


def instances_folder() -> Path:
    """A folder for each instance, named by its ID."""
    return run_folder() / "instances"


def instance_folder(id_: str) -> Path:
    """The folder of one instance."""
    return instances_folder() / id_


def api_sockets() -> Iterator[Path]:
    """The services that a user may ask: first root's, then his own."""
    if os.environ.get("USERDISK_RUN") or os.getuid() == 0:
        yield api_socket()
        return
    yield Path("/run/userdisk/launcher/api")
    yield api_socket()


def is_instance_id(text: str) -> bool:
    """Whether there can be an instance with this ID, and a folder with that name."""
    class_, _, name = text.partition(".")
    return bool(_CLASS.fullmatch(class_) and _PLAIN.fullmatch(name))


def instance_id(class_: str, name: str) -> str:
    """CLASS.NAME if the name is plain, else CLASS.SLUG-HASH: the same for the same two.

    Raises UsageError for what cannot be a class or a name.
    """
    if not _CLASS.fullmatch(class_):
        raise UsageError(
            f"class {class_!r}: must be 1 to 63 of a-z, 0-9, - and _, and begin with a letter or"
            " digit"
        )
    encoded = os.fsencode(name)
    if not 0 < len(encoded) <= _LONGEST_NAME or "\0" in name:
        raise UsageError(f"instance name {name[:40]!r}: must be 1 to {_LONGEST_NAME} bytes of text")
    if _PLAIN.fullmatch(name):
        return f"{class_}.{name}"
    slug = re.sub(r"[^A-Za-z0-9_]+", "-", name).strip("-")[-_SLUG:].lstrip("-") or "disk"
    return f"{class_}.{slug}-{hashlib.sha256(encoded).hexdigest()[:8]}"
