"""Who a disk is: its GUID and what else must outlive a server, in one state file for each unit.

Theory of operation. The state of the image `disk.img` is in `disk.img.userdisk` beside it, so that
both can be moved together. Where that cannot be (a read-only disk, a folder that is not writable,
a block device, a class), it is in the state folder, in a file named after what the disk is made
of: `$XDG_STATE_HOME/userdisk`, else `/var/lib/userdisk` for root and `~/.local/state/userdisk` for
others. An image that gets a writable folder later takes its state along. Where nothing can be
written, the GUID derives from the path, so that it is at least the same next time.

A state file is replaced whole and durably (`whole_file.py`). One that cannot be understood is an
error: a disk never changes its identity unasked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from userdisk import whole_file
from userdisk.errors import UsageError, UserdiskError
from userdisk.unit import StorageUnit

_VERSION = 1
_LARGEST = 4 << 20  # bytes; reservations of thousands of initiators fit
_NAMESPACE: Final = uuid.UUID("6b7a4b0e-6a0c-4f55-9b0e-5d1f6c9e2a11")

#: Names under /dev/disk/by-id that say which disk it is, the most reliable first.
_DEVICE_NAMES = ("wwn-", "nvme-eui.", "nvme-uuid.", "scsi-", "ata-", "nvme-", "dm-uuid-", "")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the state of a disk may be: the files in order of preference, and the disk's name."""

    key: str  #: what the disk is made of; the same next time
    read: tuple[str, ...]
    write: tuple[str, ...]


@dataclass(slots=True)
class Identity:
    """A disk's GUID and saved state. Thread-safe.

    `note` is what the person who serves the disk should know, or empty. `path` is None where no
    state can be written.
    """

    guid: uuid.UUID
    path: str | None = None
    note: str = ""
    _values: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def get(self, name: str) -> Any:
        """What was saved under `name` (JSON values), or None."""
        with self._lock:
            return self._values.get(name)

    def save(self, name: str, value: Any) -> bool:
        """Save a JSON value under `name`; None removes it. Blocks until it is durable.

        Returns False where there is no place for a state file: it then lasts as long as the
        process. Raises `UserdiskError` when it cannot be written; the old value then stays.
        """
        if name in ("version", "guid"):
            raise ValueError(f"{name} is not for saving")
        with self._lock:
            values = {**self._values, name: value}
            if value is None:
                del values[name]
            if self.path is not None:
                try:
                    _write(self.path, self.guid, values)
                except OSError as error:
                    raise UserdiskError(
                        f"{self.path}: the disk's state cannot be saved: {error.strerror}"
                    ) from None
            self._values = values
            return self.path is not None


def beside(path: str, *, read_only: bool) -> Place:
    """The place of an image's state: beside it, or in the state folder."""
    key = os.path.realpath(path)
    near, far = key + ".userdisk", _in_state_folder(key)
    return Place(key, (near, far), (far,) if read_only else (near, far))


def device(path: str) -> Place:
    """The place of a block device's state, under a name of the device that lasts."""
    return _only_in_state_folder(_device_name(path))


def named(key: str) -> Place:
    """The place of the state of any other unit; `key` says what it is made of."""
    return _only_in_state_folder(key)


def identify(unit: StorageUnit, place: Place, *, new_guid: bool = False) -> Identity:
    """Give a unit the identity in its state file, or a new one, which is written there.

    Blocks. Raises `UsageError` for a state file that cannot be read or understood.
    """
    found = _renewed(place) if new_guid else _kept(place)
    unit.identify(found.guid)
    unit._identity = found
    return found


def identity_of(unit: StorageUnit) -> Identity:
    """The unit's identity; one that was never given any has what its parameters say."""
    if not isinstance(unit._identity, Identity):
        unit._identity = Identity(unit.parameters.guid)
    return unit._identity


def check_unique(units: Iterable[StorageUnit]) -> None:
    """Raise `UsageError` if two of the units have one GUID: initiators would take them for one."""
    seen: dict[uuid.UUID, StorageUnit] = {}
    for unit in units:
        guid = unit.parameters.guid
        other = seen.setdefault(guid, unit)
        if other is not unit:
            raise UsageError(
                f"{_name(other)} and {_name(unit)} have the same identity, {guid}: a copy needs"
                " one of its own (--new-guid)"
            )


# -- finding and settling ----------------------------------------------------------------------


def _kept(place: Place) -> Identity:
    """The identity that the disk has, in the best place that takes it; or its first."""
    for number, path in enumerate(place.read):
        found = _read(path)
        if found is not None:
            better = [each for each in place.read[:number] if each in place.write]
            if _put(found, better):
                _remove([path])  # two would contradict each other one day
            return found
    first = Identity(uuid.uuid4())
    if not _put(first, place.write):
        first.guid = _derived(place.key)
        first.note = "its identity derives from its path: its state cannot be written anywhere"
    return first


def _renewed(place: Place) -> Identity:
    """A new identity, which replaces whatever there was; nothing else of the state is kept."""
    identity = Identity(uuid.uuid4())
    if not _put(identity, place.read) or not _remove(
        path for path in place.read if path != identity.path
    ):
        identity.note = "the new identity is for this time only: its state cannot be written"
    return identity


def _put(identity: Identity, paths: Iterable[str]) -> bool:
    """Write an identity to the first of the places that takes it, and note which that is."""
    for path in paths:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write(path, identity.guid, identity._values)
        except OSError:
            continue
        identity.path = path
        return True
    return False


def _remove(paths: Iterable[str]) -> bool:
    for path in paths:
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return False
    return True


def _read(path: str) -> Identity | None:
    """The identity in a state file; None if there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"{path}: the disk's state cannot be read: {error.strerror}") from None
    try:
        if len(data) > _LARGEST:
            raise ValueError("it is too large")
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError("it is not a JSON object")
        if values.pop("version", None) != _VERSION:
            raise ValueError(f"its version is not {_VERSION}")
        guid = uuid.UUID(values.pop("guid", None))
        if guid.int == 0:
            raise ValueError("its guid is all zero")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path}: not a state file of userdisk ({error}): restore it, or give the disk a new"
            " identity (--new-guid)"
        ) from None
    return Identity(guid, path, _values=values)


def _write(path: str, guid: uuid.UUID, values: dict[str, Any]) -> None:
    data = json.dumps({"version": _VERSION, "guid": str(guid), **values}, indent=1) + "\n"
    # No secret: whoever may read the image next needs it.
    whole_file.replace(path, data.encode(), mode=0o644)


# -- names -------------------------------------------------------------------------------------


def _only_in_state_folder(key: str) -> Place:
    path = _in_state_folder(key)
    return Place(key, (path,), (path,))


def _in_state_folder(key: str) -> str:
    """`disk.img-5a0c...json`: readable, and different for different keys."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", os.path.basename(key))[:64]
    return os.path.join(_state_folder(), f"{readable}-{_derived(key).hex}.json")


def _derived(key: str) -> uuid.UUID:
    """`uuid5`, also of names of files that are not UTF-8, and the same in every locale."""
    data = _NAMESPACE.bytes + key.encode("utf-8", "surrogateescape")
    return uuid.UUID(bytes=hashlib.sha1(data, usedforsecurity=False).digest()[:16], version=5)


def _state_folder() -> str:
    base = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):
        return os.path.join(base, "userdisk")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return "/var/lib/userdisk"
    return os.path.expanduser("~/.local/state/userdisk")


def _device_name(path: str) -> str:
    """A name of the device that is the same after a restart, when it has one."""
    target = os.path.realpath(path)
    folder = "/dev/disk/by-id"
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        names = []
    names = [name for name in names if os.path.realpath(os.path.join(folder, name)) == target]
    for prefix in _DEVICE_NAMES:
        for name in names:
            if name.startswith(prefix):
                return os.path.join(folder, name)
    # /dev/vg/volume, as it was given, lasts; /dev/dm-3, which it points to, does not.
    return os.path.abspath(path)


def _name(unit: StorageUnit) -> str:
    path = getattr(unit, "path", None)
    return path if isinstance(path, str) else type(unit).__name__
