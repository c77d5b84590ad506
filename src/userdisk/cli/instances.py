"""start, stop, info, logs: the launcher's disks, as its client.

Exit status: 0 done, 1 it failed, 2 there is no such class or disk, or the request was wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from userdisk.cli.listing import short_size
from userdisk.cli.logs import tell
from userdisk.cli.names import duration_text
from userdisk.cli.seconds import Seconds
from userdisk.errors import UsageError
from userdisk.launcher import places
from userdisk.launcher.client import Client, instance_path

PSEUDO_CLASS: Final = ".pid."

_JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print as JSON.")
_CLASS = click.Argument(["class_"], metavar="CLASS")
_NAME = click.Argument(["name"], metavar="NAME")
_STOP_MARGIN: Final = 300.0  # seconds


def _start(class_: str, name: str, arguments: Sequence[str], wait: bool, as_json: bool) -> None:
    body = {"class": class_, "name": name, "arguments": list(arguments), "wait": wait}
    found = Client().call("POST", "/v1/instances", body=body)
    if as_json:
        _print_json(found)
        return
    click.echo(f"{class_} {name}: {found['state']}")
    for line in _places(found):
        click.echo(f"  {line}")
    if found["state"] == "degraded":
        tell(f"userdisk: {found['last_error']}")


def _stop(class_: str, name: str, force: bool, timeout: float, as_json: bool) -> None:
    client = Client()
    answer = client.call(
        "DELETE",
        instance_path(id_of(client, class_, name)),
        {"force": force, "timeout": timeout},
        timeout=timeout + _STOP_MARGIN,
    )
    if as_json:
        _print_json(answer)
        return
    for remark in answer["remarks"]:
        tell(f"userdisk: {remark}")
    click.echo(f"{class_} {name} is stopped")


def _info(class_: str, name: str, as_json: bool) -> None:
    client = Client()
    found = client.get(instance_path(id_of(client, class_, name)))
    if as_json:
        _print_json(found)
        return
    click.echo(f"{found['class']} {found['name']}")
    state = f"{found['state']} for {duration_text(found['uptime'])}"
    rows = [
        ("state", state + (f", restarted {found['restarts']} times" if found["restarts"] else "")),
        ("last error", found["last_error"]),
        ("exit status", "" if found["exit_status"] is None else str(found["exit_status"])),
        ("unit", found["unit"]),
        ("arguments", " ".join(json.dumps(each) for each in found["arguments"])),
        ("size", _size(found)),
        ("started by", found["user"]),
        ("processes", _processes(found)),
        ("persistent", "yes" if found["persistent"] else ""),
    ]
    for label, text in rows:
        if text:
            click.echo(f"  {label:12} {text}")
    for line in _places(found):
        click.echo(f"  {line}")
    if found["log_tail"]:
        click.echo("  log:")
        for line in found["log_tail"]:
            click.echo(f"    {line}")


def _logs(class_: str, name: str, follow: bool, lines: int) -> None:
    client = Client()
    path = instance_path(id_of(client, class_, name), "/log")
    for line in client.lines(path, {"lines": lines, "follow": follow}):
        click.echo(line)
        sys.stdout.flush()


def id_of(client: Client, class_: str, name: str) -> str:
    """The ID of an instance; with the class `.pid.` its name is a process of it.

    Raises `UsageError`.
    """
    if class_ != PSEUDO_CLASS:
        return places.instance_id(class_, name)
    try:
        pid = int(name, 0)
    except ValueError:
        raise UsageError(f"{name}: not a process number") from None
    found = client.get("/v1/instances", {"pid": pid})["instances"]
    return str(found[0]["id"])


def _places(found: dict[str, Any]) -> list[str]:
    """Where the disk can be had, a line each."""
    mounted = f", mounted on {', '.join(found['mountpoints'])}" if found["mountpoints"] else ""
    iscsi = f"iscsi://{found['portal']}/{found['target']}/0" if found["portal"] else ""
    return [
        *([f"{found['device']}{mounted}"] if found["device"] else []),
        *([iscsi] if iscsi else []),
        *([found["nbd_uri"]] if found["nbd_uri"] else []),
    ]


def _size(found: dict[str, Any]) -> str:
    if not found["size"]:
        return ""
    access = ", read-only" if found["read_only"] else ""
    return f"{short_size(found['size'])}, {found['block_length']}-byte blocks{access}"


def _processes(found: dict[str, Any]) -> str:
    unit = f", unit {found['unit_pid']}" if found["unit_pid"] else ""
    return f"{found['pid']}{unit}" if found["pid"] else ""


def _print_json(content: object) -> None:
    click.echo(json.dumps(content, indent=2))


start = click.Command(
    "start",
    callback=_start,
    params=[
        _CLASS,
        _NAME,
        click.Argument(["arguments"], nargs=-1, metavar="[ARG]..."),
        click.Option(
            ["--wait/--no-wait"], default=True, help="Wait until it is up (default), or do not."
        ),
        _JSON,
    ],
    # what follows the name belongs to the disk, also when it begins with a dash
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
    help="Start a disk of a class of the launcher, under a name. Options come before CLASS: what"
    " follows NAME goes to the class, as it is.",
)

stop = click.Command(
    "stop",
    callback=_stop,
    params=[
        _CLASS,
        _NAME,
        click.Option(["--force"], is_flag=True, help="Although something uses the disk."),
        click.Option(
            ["--timeout"],
            type=Seconds(0, 86400),
            default=120.0,
            show_default=True,
            metavar="SECONDS",
            help="How long it may take to write and flush.",
        ),
        _JSON,
    ],
    help="Unmount, flush and end a disk of the launcher.",
)

info = click.Command(
    "info",
    callback=_info,
    params=[_CLASS, _NAME, _JSON],
    help="Show a disk of the launcher. CLASS .pid. and a process number: the disk of that process.",
)

logs = click.Command(
    "logs",
    callback=_logs,
    params=[
        _CLASS,
        _NAME,
        click.Option(["--follow", "-f"], is_flag=True, help="Go on until the disk ends."),
        click.Option(
            ["--lines", "-n"],
            type=click.IntRange(0, 10_000),
            default=100,
            show_default=True,
            help="The last so many.",
        ),
    ],
    help="Show what the processes of a disk of the launcher have printed.",
)

commands: list[click.Command] = [start, stop, info, logs]
