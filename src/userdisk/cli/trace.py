"""`userdisk trace`: the commands that a running server gets, as they end."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import click

from userdisk.cli.logs import tell
from userdisk.cli.seconds import Seconds
from userdisk.errors import UsageError, UserdiskError

_HELP = """Show the commands that a disk gets, in words, as they end; Ctrl-C stops.

WHAT is a unit as it was given to serve, one of its names, its file, its device, the number of a
process that serves, or a disk of the launcher: its name, or CLASS.NAME. A line has the time, how
long the command took, who sent it, the command, and how it ended. What comes faster than it can be
shown is left out, and counted.

With --pcap nothing is shown: what is said over iSCSI or NBD goes to a file for Wireshark.
"""

_SECONDS: Final = 30.0  # without an answer
_LONGEST: Final = 3600  # seconds of a disk of the launcher


def trace(what: str, pcap: str | None, pcap_size: str, seconds: float | None, as_json: bool) -> int:
    """See `_HELP`."""
    end = None if seconds is None else time.monotonic() + seconds
    with closing(_answers(what, capture=pcap is not None)) as answers:  # type: ignore[type-var]
        try:
            if pcap is not None:
                return _capture(answers, pcap, pcap_size, end)
            return _show(answers, end, as_json)
        except TimeoutError:
            raise UserdiskError(f"{what}: its process does not answer any more") from None


def _answers(what: str, *, capture: bool) -> Iterator[dict[str, Any]]:
    from userdisk import control
    from userdisk.cli.watched import find

    try:
        process, unit = find(what)
    except UsageError:
        raise
    except UserdiskError as error:
        return _of_launcher(what, error, capture=capture)
    request: dict[str, object] = {"verb": "trace"}
    if unit is not None:
        request["unit"] = unit
    if capture:
        request["capture"] = True
    return control.follow(process, request, _SECONDS)


def _of_launcher(what: str, error: UserdiskError, *, capture: bool) -> Iterator[dict[str, Any]]:
    """A disk of a launcher, whose process may be another user's. Raises `error` if it is none."""
    from userdisk.launcher.client import Client, Unreachable, instance_path

    try:
        client = Client()
        found = client.get("/v1/instances")["instances"]
    except Unreachable:
        raise error from None
    ids = [each["id"] for each in found if what in (each["id"], each["name"], each["device"])]
    if not ids:
        raise error
    if len(ids) > 1:
        raise UsageError(f"{what}: several disks have this name; write one of {', '.join(ids)}")
    if capture:
        raise UserdiskError(f"{what}: --pcap shows data, and needs the user of its process (sudo)")
    path = instance_path(ids[0], "/trace")
    return (json.loads(line) for line in client.lines(path, {"seconds": _LONGEST}, _SECONDS))


def _show(answers: Iterator[dict[str, Any]], end: float | None, as_json: bool) -> int:
    dropped = 0
    for answer in answers:
        if "command" in answer:
            click.echo(json.dumps(answer) if as_json else _line(answer))
        elif (now := answer.get("dropped", 0)) != dropped:
            tell(f"{now - dropped} commands were not shown: they came too fast")
            dropped = now
        if end is not None and time.monotonic() >= end:
            return 0
    tell("the server has ended")
    return 0


def _line(seen: dict[str, Any]) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(seen["time"]))
    fraction = f"{seen['time'] % 1:.6f}"[1:]
    unit = seen["unit"] or "no unit"
    return (
        f"{when}{fraction}  {seen['us']:>9,.0f} us  {seen['initiator']}  {unit}:"
        f" {seen['command']}: {seen['status']}"
    )


def _capture(
    answers: Iterator[dict[str, Any]], pcap: str, pcap_size: str, end: float | None
) -> int:
    from userdisk.backend.size import parse_size
    from userdisk.telemetry.capture import CaptureFile

    file = CaptureFile(pcap, parse_size(pcap_size), header=False)
    dropped = 0
    try:
        for answer in answers:
            if "pcap" in answer and not file.write(base64.b64decode(answer["pcap"])):
                return 1  # the log says why
            if (now := answer.get("dropped", 0)) != dropped:
                tell(f"{now - dropped} packets are missing: they came too fast")
                dropped = now
            if end is not None and time.monotonic() >= end:
                break
    finally:
        file.close()
    return 0


commands = [
    click.Command(
        "trace",
        callback=trace,
        params=[
            click.Argument(["what"], metavar="WHAT"),
            click.Option(["--pcap"], metavar="FILE", help="Write a capture for Wireshark instead."),
            click.Option(
                ["--pcap-size"],
                default="1G",
                metavar="SIZE",
                help="The capture ends before FILE is larger; 1G by default.",
            ),
            click.Option(
                ["--seconds"],
                type=Seconds(0, 1e7, min_open=True),
                metavar="N",
                help="End after so many seconds.",
            ),
            click.Option(["--json", "as_json"], is_flag=True, help="A JSON object on each line."),
        ],
        help=_HELP,
    )
]
