"""`userdisk scsitool`: asks any SCSI disk what it is, and says it in words.

What is asked and shown is the table of `userdisk.scsitool.commands`; here it becomes options.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import click

from userdisk.cli.seconds import Seconds
from userdisk.cli.unit_options import UnitOptions
from userdisk.cli.units import SERVED_UNIT_OPTIONS
from userdisk.errors import UsageError

_HELP = """Ask a SCSI disk, ours or somebody else's.

DEVICE is iscsi://[USER@]HOST[:PORT]/TARGET/LUN, /dev/sgN or /dev/sdN, or a unit as serve takes it
(ram:1G, an image file, file.py:Class), with the same options (--size and so on), which is then run
inside. The secret of USER comes from ?chap-file=FILE in the URL, or from USERDISK_ISCSI_SECRET.

Exit status: 0 done, 1 the disk answered with an error, which is said in words, or lint found one;
2 the request was wrong, or the device cannot be had.
"""
_EXPLAIN_HELP = """Say in words what bytes mean.

WHAT is a CDB or sense data in hexadecimal, or a file with a captured iSCSI session: a pcap or
pcapng file, or lines with '>' or '<' and a PDU in hexadecimal.
"""
_FORMS: Sequence[click.Option] = (
    click.Option(["-c", "--canonical", "canonical"], is_flag=True, help="Lines NAME=value."),
    click.Option(["--json", "as_json"], is_flag=True, help="JSON."),
)
_TIMEOUT = click.Option(
    ["--timeout"], type=Seconds(0.1, 3600), default=10.0, metavar="SECONDS",
    help="For connecting, and for each command; 10 by default.",
)  # fmt: skip
_CONTROLS = ("current", "changeable", "default", "saved")
_MAX_OUT = 1 << 20  # bytes of a file with data-out
_WRITE = click.Option(["--write"], is_flag=True, help="Yes, change the device.")
_UNIT_FIELDS = [field.name for field in fields(UnitOptions)]
_NUMBER = click.IntRange(0, (1 << 64) - 1)


#: What a command `takes` -> its parameters.
_PARAMETERS: dict[str, Sequence[click.Parameter]] = {
    "page": (click.Argument(["page"]),),
    "log_page": (click.Argument(["page"], required=False, default=""),),
    "control": (
        click.Option(["--values", "control"], type=click.Choice(_CONTROLS), default="current",
                     help="Which values; current by default."),
    ),
    "lba": (click.Option(["--lba"], type=_NUMBER, default=0, help="The first block; 0."),),
    "blocks": (click.Option(["--blocks"], type=_NUMBER, help="How many; to the end."),),
    "some_blocks": (
        click.Option(["--blocks"], type=_NUMBER, required=True, help="How many."),
    ),
    "write": (_WRITE,),
    "cdb": (click.Argument(["cdb"], nargs=-1, required=True),),
    "read": (
        click.Option(["--read", "read_length"], type=click.IntRange(0, 1 << 20), default=0,
                     metavar="BYTES", help="Bytes of data to read; none."),
    ),
    "data_out": (
        click.Option(["--data-out"], metavar="FILE", help="File with the data to send."),
    ),
    "output": (
        click.Option(["--output"], metavar="FILE", help="File for the data that is read."),
    ),
}  # fmt: skip


def _run(name: str) -> Callable[..., int]:
    """What the command of that name does with its options."""

    def run(
        device: str,
        timeout: float,
        canonical: bool,
        as_json: bool,
        control: str = "current",
        cdb: Sequence[str] = (),
        data_out: str | None = None,
        output: str | None = None,
        what: str | None = None,
        **rest: Any,
    ) -> int:
        from userdisk.scsitool import commands, raw
        from userdisk.scsitool import device as devices
        from userdisk.scsitool.asker import Asker

        command = next(each for each in commands.COMMANDS if each.name == name)
        unit = UnitOptions(**{field: rest.pop(field) for field in _UNIT_FIELDS})
        options = commands.Options(
            control=_CONTROLS.index(control),
            command=raw.parse_hex(" ".join(cdb)),
            data_out=b"" if data_out is None else _read(data_out),
            what=what or "",
            **rest,
        )
        command.check(options)  # before anything is opened
        make = None
        if unit != UnitOptions():
            make = partial(unit.open, timeout=timeout)
        opened = devices.open_device(device, timeout, make)
        try:
            parts = command.run(Asker(opened), options)
            if output is not None:
                _save(output, parts)
            _print(parts, canonical, as_json)
        finally:
            opened.close()
        return command.status(parts)

    return run


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_OUT + 1)
    except OSError as error:
        raise UsageError(f"--data-out {path}: {error.strerror}") from None
    if len(data) > _MAX_OUT:
        raise UsageError(f"--data-out {path}: larger than {_MAX_OUT} bytes")
    return data


def _save(path: str, parts: Sequence[Any]) -> None:
    with open(path, "wb") as file:
        file.writelines(item.value for part in parts for item in part.items)


def _print(parts: Sequence[Any], canonical: bool, as_json: bool) -> None:
    from userdisk.scsitool import layout

    before = click.get_current_context().obj
    canonical, as_json = canonical or before["canonical"], as_json or before["as_json"]
    if canonical and as_json:
        raise UsageError("--json: -c was given as well; use one of them")
    if as_json:
        click.echo(layout.as_json(parts))
        return
    for line in layout.as_lines(parts) if canonical else layout.as_table(parts):
        click.echo(line)


def _device_path(device: str) -> None:
    from userdisk.scsitool.device import resolved

    click.echo(resolved(device))


def _explain(what: Sequence[str], canonical: bool, as_json: bool) -> None:
    from userdisk.scsitool.explain import bytes_in_words, capture_file

    text = " ".join(what)
    if len(what) == 1 and os.path.exists(text):
        _print([capture_file(text)], canonical, as_json)
    else:
        try:
            words = bytes_in_words(text)
        except UsageError as error:
            if len(what) > 1:
                raise
            raise UsageError(f"{error}, and there is no such file") from None
        _print([words], canonical, as_json)


def _before(ctx: click.Context, canonical: bool, as_json: bool) -> None:
    """The form may be said before the command as well."""
    ctx.obj = {"canonical": canonical, "as_json": as_json}


class _Group(click.Group):
    """Lists commands in the order of the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def _group() -> click.Group:
    from userdisk.scsitool.commands import COMMANDS, RESERVE_IN

    device = click.Argument(["device"])
    reserve_in = click.Argument(["what"], type=click.Choice(RESERVE_IN), required=False)
    taken = _PARAMETERS | {"reserve_in": (reserve_in,)}
    found: list[click.Command] = [
        click.Command("devpath", params=[device], callback=_device_path,
                      help="The name that a device is opened by, resolved."),
        *(
            click.Command(
                command.name,
                params=[device, *(each for name in command.takes for each in taken[name]),
                        *_FORMS, _TIMEOUT, *SERVED_UNIT_OPTIONS],
                callback=_run(command.name),
                help=command.help,
            )
            for command in COMMANDS
        ),
        click.Command(
            "explain", params=[click.Argument(["what"], nargs=-1, required=True), *_FORMS],
            callback=_explain, help=_EXPLAIN_HELP,
        ),
    ]  # fmt: skip
    return _Group(
        "scsitool",
        {command.name or "": command for command in found},
        params=[*_FORMS],
        callback=click.pass_context(_before),
        help=_HELP,
        no_args_is_help=True,
    )


commands: list[click.Command] = [_group()]
