"""The launcher as a systemd service: its unit files, written and removed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from userdisk import whole_file
from userdisk.errors import UserdiskError
from userdisk.launcher.confinement import OWN_LEAF

_SERVICE: Final = "userdisk-launcher.service"
_SOCKET: Final = "userdisk-launcher.socket"

#: KillMode=process: the disks go on when the service ends. Delegate: it makes control groups,
#: which version 2 lets it do only from a group below its own (older systemds leave that line out).
_SERVICE_TEXT: Final = """\
# Written by `userdisk launcher install`.
[Unit]
Description=userdisk launcher: starts, supervises and stops disks
Requires={socket}
After={socket} network.target

[Service]
Type=notify
ExecStart={command}
KillMode=process
Restart=on-failure
Delegate=yes
DelegateSubgroup={leaf}
LimitNOFILE=65536

[Install]
WantedBy={target}
Also={socket}
"""

_SOCKET_TEXT: Final = """\
# Written by `userdisk launcher install`.
[Unit]
Description=userdisk launcher: its socket

[Socket]
ListenStream={path}
SocketMode={mode}
DirectoryMode=0755

[Install]
WantedBy=sockets.target
"""


def files(command: Sequence[str], *, user: bool) -> dict[Path, str]:
    """The unit files: path -> content. `command` runs the service; `user`: for this user alone."""
    folder, path, mode, target = _place(user)
    return {
        folder / _SERVICE: _SERVICE_TEXT.format(
            socket=_SOCKET, command=_quoted(command), target=target, leaf=OWN_LEAF
        ),
        folder / _SOCKET: _SOCKET_TEXT.format(path=path, mode=mode),
    }


def install(command: Sequence[str], *, user: bool) -> list[str]:
    """Write the unit files; returns the commands that are left to be typed.

    Raises `UserdiskError`.
    """
    found = files(command, user=user)
    for path, text in found.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            whole_file.replace(path, text.encode(), mode=0o644)
        except OSError as error:
            raise UserdiskError(f"{path}: {error.strerror}") from None
    return [
        f"{_systemctl(user)} daemon-reload",
        f"{_systemctl(user)} enable --now {_SOCKET} {_SERVICE}",
    ]


def uninstall(*, user: bool) -> list[str]:
    """Remove the unit files; returns the commands that are to be typed after it.

    Raises `UserdiskError`. Disks that run go on.
    """
    for path in files((), user=user):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserdiskError(f"{path}: {error.strerror}") from None
    return [f"{_systemctl(user)} stop {_SERVICE} {_SOCKET}", f"{_systemctl(user)} daemon-reload"]


def _place(user: bool) -> tuple[Path, str, str, str]:
    if not user:
        return (
            Path("/etc/systemd/system"),
            "/run/userdisk/launcher/api",
            "0666",
            "multi-user.target",
        )
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return config / "systemd/user", "%t/userdisk/launcher/api", "0600", "default.target"


def _systemctl(user: bool) -> str:
    return "systemctl --user" if user else "systemctl"


def _quoted(command: Sequence[str]) -> str:
    """As ExecStart takes it (systemd.syntax(7)): % and $ mean something there, too."""
    return shlex.join(command).replace("%", "%%").replace("$", "$$")
