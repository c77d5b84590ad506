"""The folders where a desktop looks for what it is told (XDG Base Directory Specification)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from userdisk.errors import UserdiskError

_SYSTEM_DATA = "/usr/local/share:/usr/share"
_SYSTEM_CONFIG = "/etc/xdg"


@dataclass(frozen=True, slots=True)
class Places:
    """Where to write, and where else a desktop looks (in that order)."""

    system: bool  #: for every user of the machine
    data: Path
    config: Path
    state: Path  #: of userdisk: what was written
    other_data: tuple[Path, ...]
    other_config: tuple[Path, ...]


def places(environment: Mapping[str, str], *, system: bool) -> Places:
    """The places that these variables name. Raises `UserdiskError` without a home folder."""
    data = _folders(environment, "XDG_DATA_DIRS", _SYSTEM_DATA)
    config = _folders(environment, "XDG_CONFIG_DIRS", _SYSTEM_CONFIG)
    override = _folder(environment, "USERDISK_STATE")
    if system:
        local = Path("/usr/local/share")
        return Places(
            system=True,
            data=local if local in data else data[0],
            config=config[0],
            state=override or Path("/var/lib/userdisk"),
            other_data=data,
            other_config=config,
        )
    return Places(
        system=False,
        data=_own(environment, "XDG_DATA_HOME", ".local/share"),
        config=_own(environment, "XDG_CONFIG_HOME", ".config"),
        state=override or _own(environment, "XDG_STATE_HOME", ".local/state") / "userdisk",
        other_data=data,
        other_config=config,
    )


def _folder(environment: Mapping[str, str], name: str) -> Path | None:
    """What a variable names; one that is not absolute counts as not set."""
    value = environment.get(name, "")
    return Path(value) if value.startswith("/") else None


def _own(environment: Mapping[str, str], name: str, default: str) -> Path:
    if (folder := _folder(environment, name)) is not None:
        return folder
    if (home := _folder(environment, "HOME")) is None:
        raise UserdiskError(f"neither {name} nor HOME names a folder; set HOME")
    return home / default


def _folders(environment: Mapping[str, str], name: str, default: str) -> tuple[Path, ...]:
    def split(value: str) -> tuple[Path, ...]:
        return tuple(Path(each) for each in value.split(":") if each.startswith("/"))

    return split(environment.get(name, "")) or split(default)
