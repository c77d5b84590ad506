"""`userdisk launcher`: the service that keeps disks running, in the foreground."""

from __future__ import annotations

import logging
import sys

import click

from userdisk.cli.logs import as_json
from userdisk.cli.names import is_loopback, parse_portal
from userdisk.errors import UsageError, UserdiskError


def _run(discovery: str | None, console: str | None) -> int:
    page = [] if console is None else _console_command(console)
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
    return serving.run(address, page)


def _console_command(listen: str) -> list[str]:
    """What runs a console beside the service. Raises `UsageError`."""
    from userdisk.cli.console import console_address

    host, _ = console_address("--console", listen)
    if not is_loopback(host):
        raise UsageError(
            f"--console {listen}: must be an address of this machine alone; userdisk console"
            " --allow-remote has others"
        )
    command = [sys.executable, "-P", "-m", "userdisk", "console", "--listen", listen]
    form = "json" if as_json() else "text"
    return [*command, "--json", "--until-eof", "-v", "--log-format", form]  # who logs in is said


def _install(user: bool, console: str | None) -> None:
    from userdisk.launcher import systemd

    command = [sys.executable, "-P", "-m", "userdisk", "launcher", "run"]
    if console is not None:
        _console_command(console)  # if it cannot be, it is said now
        command.append(f"--console={console}")
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
_CONSOLE = click.Option(
    ["--console"],
    is_flag=False,
    flag_value="127.0.0.1:0",
    metavar="[ADDR[:PORT]]",
    help="Also serve the page in the browser, at 127.0.0.1 unless ADDR is given."
    " userdisk console prints a link to it. Default: no.",
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
                ),
                _CONSOLE,
            ],
            help="Run the service until a signal. Disks go on without it, and are found again.",
        ),
        click.Command(
            "install",
            callback=_install,
            params=[_USER, _CONSOLE],
            help="Write systemd's unit files: a socket, and the service behind it.",
        ),
        click.Command(
            "uninstall", callback=_uninstall, params=[_USER], help="Remove what install wrote."
        ),
    ],
)

commands: list[click.Command] = [launcher]
