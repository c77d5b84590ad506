"""`userdisk launchctl`: the words and the output of WinSpd's launchctl, for scripts that know it.

Success is `OK`, with the data below it; failure `KO launcher: error N` with WinSpd's number and,
other than there, an exit status that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import click

from userdisk.cli.instances import PSEUDO_CLASS, id_of
from userdisk.cli.logs import tell
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher.client import Client, Failed, instance_path

_STOP_SECONDS: Final = 120.0
_ACCESS_DENIED: Final = 5
_INVALID_PARAMETER: Final = 87
_NOT_FOUND: Final = 2
_EXISTS: Final = 183
_IN_USE: Final = 2404
_NO_LAUNCHER: Final = 2
_FAILED: Final = 31  # a device does not work: what has no number of its own

#: status of the API -> number
_NUMBERS: Final = {403: _ACCESS_DENIED, 404: _NOT_FOUND, 409: _EXISTS, 422: _INVALID_PARAMETER}


def _command(work: Callable[..., Sequence[str]]) -> Callable[..., int]:
    """Report as launchctl does."""

    def run(**arguments: object) -> int:
        try:
            lines = work(**arguments)
        except UserdiskError as error:
            click.echo(f"KO launcher: error {_number(error)}")
            tell(f"userdisk: {error}")
            return 2 if isinstance(error, UsageError) else 1
        click.echo("OK")
        for line in lines:
            click.echo(line)
        return 0

    return run


def _number(error: UserdiskError) -> int:
    if isinstance(error, Failed):
        return _IN_USE if error.busy else _NUMBERS.get(error.status, _FAILED)
    return _INVALID_PARAMETER if isinstance(error, UsageError) else _NO_LAUNCHER


def _start(class_: str, name: str, arguments: Sequence[str]) -> list[str]:
    if class_ == PSEUDO_CLASS:
        raise UsageError(f"class {PSEUDO_CLASS}: finds disks, and starts none")
    body = {"class": class_, "name": name, "arguments": list(arguments)}
    Client().call("POST", "/v1/instances", body=body)
    return []


def _stop(class_: str, name: str, *, force: bool) -> list[str]:
    client = Client()
    path = instance_path(id_of(client, class_, name))
    client.call("DELETE", path, {"force": force, "timeout": _STOP_SECONDS})
    return []


def _info(class_: str, name: str) -> list[str]:
    client = Client()
    found = client.get(instance_path(id_of(client, class_, name)))
    return [f"{found['class']} {found['name']}", " ".join([found["unit"], *found["arguments"]])]


def _list() -> list[str]:
    found = Client().get("/v1/instances")["instances"]
    return [f"{each['class']} {each['name']}" for each in found]


def _of_one(name: str, work: Callable[..., Sequence[str]], help_: str) -> click.Command:
    return click.Command(
        name,
        callback=_command(work),
        params=[
            click.Argument(["class_"], metavar="CLASS"),
            click.Argument(["name"], metavar="INSTANCE"),
        ],
        help=help_,
    )


launchctl = click.Group(
    "launchctl",
    help="The launcher, in the words of WinSpd's launchctl and with its output; for scripts.",
    commands=[
        click.Command(
            "start",
            callback=_command(_start),
            params=[
                click.Argument(["class_"], metavar="CLASS"),
                click.Argument(["name"], metavar="INSTANCE"),
                click.Argument(["arguments"], nargs=-1, metavar="[ARG]..."),
            ],
            context_settings={"allow_interspersed_args": False},
            help="Start an instance.",
        ),
        _of_one("stop", lambda class_, name: _stop(class_, name, force=False), "Stop an instance."),
        _of_one(
            "stopForced",
            lambda class_, name: _stop(class_, name, force=True),
            "Stop an instance although something uses it.",
        ),
        _of_one("info", _info, "Show an instance."),
        click.Command("list", callback=_command(_list), help="List the instances."),
    ],
)

commands: list[click.Command] = [launchctl]
