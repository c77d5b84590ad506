"""`userdisk launcher`: the service that keeps disks running, in the foreground."""

from __future__ import annotations

import logging
import sys

import click

from userdisk.cli.logs import as_json
from userdisk.cli.names import parse_portal
from userdisk.errors import UserdiskError


def _run(discovery: str | None) -> int:
    address = None if discovery is None else parse_portal("--discovery", discovery)[:2]
    try:
        from userdisk.launcher import serving
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "userdisk":
            raise
        raise UserdiskError(
            f"the launcher needs the package {error.name}: pip install 'userdisk[launcher]'"
        ) from None
    from userdisk.launcher import places

    if not as_json():
        click.echo(f"launcher at {places.api_socket()}; classes in {places.classes_folder()}")
    log = logging.getLogger("userdisk")
    if log.getEffectiveLevel() > logging.INFO:
        log.setLevel(logging.INFO)  # who starts and stops what is always said
    return serving.run(address)


def _install(user: bool) -> None:
    from userdisk.launcher import systemd

    command = [sys.executable, "-P", "-m", "userdisk", "launcher", "run"]
    paths = ", ".join(map(str, systemd.files(command, user=user)))
    todo = systemd.install(command, user=user)
    click.echo(f"written: {paths}")
    _say_todo(todo)


def _uninstall(user: bool) -> None:
    from userdisk.launcher import systemd

    todo = systemd.uninstall(user=user)
    click.echo("removed; disks that run go on")
    _say_todo(todo)


def _say_todo(commands: list[str]) -> None:
    click.echo("now type")
    for line in commands:
        click.echo(f"  {line}")


_USER = click.Option(
    ["--user"], is_flag=True, help="For this user alone, without root; else for the system."
)

launcher = click.Group(
    "launcher",
    help="The service that starts, supervises and stops disks.\n\nIts classes say which kinds of"
    " disks there are, how they are started and by whom; userdisk start starts one.",
    commands=[
        click.Command(
            "run",
            callback=_run,
            params=[
                click.Option(
                    ["--discovery"],
                    metavar="ADDR[:PORT]",
                    help="An iSCSI address that lists the targets of all disks, each at the portal"
                    " of its own process. Default: none.",
                )
            ],
            help="Run the service until a signal. Disks go on without it, and are found again.",
        ),
        click.Command(
            "install",
            callback=_install,
            params=[_USER],
            help="Write systemd's unit files: a socket, and the service behind it.",
        ),
        click.Command("uninstall", callback=_uninstall, params=[_USER], help="Remove these files."),
    ],
)

commands: list[click.Command] = [launcher]
