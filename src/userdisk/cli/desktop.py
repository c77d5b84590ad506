"""desktop and open: disk images in file managers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from userdisk.cli.logs import tell
from userdisk.desktop import notify, opening
from userdisk.desktop.installing import Installer
from userdisk.desktop.places import places
from userdisk.errors import UsageError, UserdiskError

_OPEN_SECONDS = 3.0


def _open(files: Sequence[str], show: bool) -> int:
    def one(path: str, launchers: Sequence[opening.Launcher]) -> None:
        folder = opening.open_image(path, launchers)
        click.echo(folder)
        if show and notify.has_desktop(os.environ):
            _show(folder)

    return _each(files, one)


def _eject(files: Sequence[str], force: bool) -> int:
    def one(path: str, launchers: Sequence[opening.Launcher]) -> None:
        name = opening.eject(path, launchers, force=force)
        click.echo(f"{name} is ejected")
        if notify.wanted():
            notify.tell(f"{name} is ejected", "media-eject")

    return _each(files, one)


def _each(files: Sequence[str], act: Callable[[str, Sequence[opening.Launcher]], None]) -> int:
    """Do it for every file; a person without a terminal sees what went wrong, too."""
    from userdisk.desktop.launchers import launchers

    statuses = {0}
    for path in files:
        try:
            act(path, launchers())
        except (UserdiskError, OSError) as error:
            statuses.add(2 if isinstance(error, UsageError) else 1)
            tell(f"userdisk: {error}")
            if notify.wanted():
                notify.tell(str(error))
    return 1 if 1 in statuses else max(statuses)


def _show(folder: str) -> None:
    """Show a folder in the file manager; not waiting for it to be closed."""
    program = shutil.which("xdg-open")
    if program is None:
        raise UserdiskError(f"{folder}: xdg-open, which shows folders, is not installed")
    process = subprocess.Popen(
        [program, folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # the file manager keeps it
        start_new_session=True,
    )
    try:
        status = process.wait(_OPEN_SECONDS)
    except subprocess.TimeoutExpired:
        process.returncode = 0  # it is the file manager itself; Popen need not wait for it
        return
    if status != 0:
        raise UserdiskError(f"{folder}: xdg-open cannot show it (exit status {status})")


def _install(system: bool, default: bool) -> None:
    installer = _installer(system)
    for remark in installer.install(default=default):
        tell(f"userdisk: {remark}")
    click.echo(f"{'the' if system else 'your'} file managers now open disk images")


def _uninstall(system: bool) -> None:
    for remark in _installer(system).uninstall():
        tell(f"userdisk: {remark}")
    click.echo(f"{'the' if system else 'your'} file managers no longer know of userdisk")


def _status(system: bool, as_json: bool) -> int:
    found = _installer(system).status()
    if as_json:
        rows = [{"what": each.what, "path": str(each.path), "state": each.state} for each in found]
        click.echo(json.dumps(rows, indent=2))
    else:
        for each in found:
            click.echo(f"{each.state:<10}  {each.what}: {each.path}")
    return 0 if all(each.well for each in found) else 1


def _windows(program: str, remove: bool) -> None:
    from userdisk.desktop import mime_types, windows

    extensions = mime_types.EXTENSIONS
    text = windows.removal(extensions) if remove else windows.registry(program, extensions)
    click.echo(text.encode("ascii"), nl=False)


def _installer(system: bool) -> Installer:
    if sys.platform == "win32":
        raise UserdiskError("on Windows, `userdisk desktop windows` prints a registry file")
    if system and os.geteuid() != 0:
        raise UserdiskError("--system writes for all users and needs root (try sudo)")
    from userdisk.desktop.launchers import classes_folder, extensions

    program = [sys.executable, "-P", "-m", "userdisk"]
    if system:
        _check_reachable(Path(program[0]))
    classes = classes_folder() if system else None
    return Installer(places(os.environ, system=system), program, extensions(), classes)


def _check_reachable(program: Path) -> None:
    """Other users must be able to run it, wherever its links lead."""
    for path in (program, program.resolve()):
        for each in (path, *path.parents):
            if not each.stat().st_mode & 0o001:
                raise UserdiskError(
                    f"{program}: other users may not use {each}; install userdisk outside of it,"
                    " in /usr/local or /opt, for --system"
                )


_SYSTEM = click.Option(
    ["--system"], is_flag=True, help="For all users of this machine (needs root)."
)
_FILES = click.Argument(["files"], metavar="FILE...", nargs=-1, required=True)

open_ = click.Command(
    "open",
    callback=_open,
    params=[
        _FILES,
        click.Option(
            ["--show/--no-show"], default=True, help="Show the folder in the file manager."
        ),
    ],
    help="Mount disk images through a launcher, and show what is on them.\n\nThe class whose"
    " `opens` has the ending of FILE's name says how. The system's launcher does it if it runs and"
    " lets you, else your own. What is mounted already is shown again. Prints the folders.",
)

desktop = click.Group(
    "desktop",
    help="Disk images in file managers: opening one mounts it, Eject takes it away.",
    commands=[
        click.Command(
            "install",
            callback=_install,
            params=[
                _SYSTEM,
                click.Option(
                    ["--default"],
                    is_flag=True,
                    help="Open disk images with userdisk even if another program does so now.",
                ),
            ],
            help="Tell file managers to open disk images with userdisk, and to offer Eject.",
        ),
        click.Command(
            "uninstall",
            callback=_uninstall,
            params=[_SYSTEM],
            help="Remove what install added, and nothing else.",
        ),
        click.Command(
            "status",
            callback=_status,
            params=[
                _SYSTEM,
                click.Option(["--json", "as_json"], is_flag=True, help="Print as JSON."),
            ],
            help="Show what is installed. Exit status 1 if something is missing.",
        ),
        click.Command(
            "eject",
            callback=_eject,
            params=[
                click.Argument(["files"], metavar="FOLDER|FILE...", nargs=-1, required=True),
                click.Option(["--force"], is_flag=True, help="Even if it is in use."),
            ],
            help="What Eject in a file manager calls: eject the disk that is mounted on a folder,"
            " or made of a file; without a terminal, say so with a notification.",
        ),
        click.Command(
            "windows",
            callback=_windows,
            params=[
                click.Option(
                    ["--program"],
                    default="userdisk.exe",
                    show_default=True,
                    metavar="PATH",
                    help="Where userdisk.exe is.",
                ),
                click.Option(["--remove"], is_flag=True, help="The file that takes them away."),
            ],
            help="Print a registry file: Explorer's Mount and Eject call userdisk (not tried on"
            " Windows).",
        ),
    ],
)

commands: list[click.Command] = [open_, desktop]
