"""attach, mount, eject: a unit as a block device of this machine."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from userdisk.attach import daemon, filesystem
from userdisk.attach import eject as ejecting
from userdisk.attach.launch import Attached, launch
from userdisk.attach.process import hold
from userdisk.attach.state import Folder, Record
from userdisk.cli.attaching import task
from userdisk.cli.listing import list_, short_size
from userdisk.cli.logs import tell
from userdisk.cli.seconds import Seconds
from userdisk.cli.unit_options import UnitOptions
from userdisk.cli.units import UNIT_HELP, UNIT_OPTIONS
from userdisk.errors import UsageError, UserdiskError
from userdisk.log_format import configured

_SECONDS = Seconds(min=0.1, max=86400)
_TIMEOUT = click.Option(
    ["--timeout"],
    type=_SECONDS,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long opening the unit may take.",
)
_WAIT = click.Option(
    ["--wait"],
    type=_SECONDS,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long requests wait for the unit's process to be back when it has died; then they"
    " fail. A unit whose data is lost with its process is not waited for.",
)


def _attach(unit: str, foreground: bool, timeout: float, wait: float, **options: Any) -> int:
    if foreground:
        return _attach_in_foreground(unit, UnitOptions(**options), wait)
    attached = _launch(unit, options, "", timeout, wait)
    click.echo(attached.device)
    tell(f"{_description(attached.record)}; take it away with")
    tell(f"  userdisk eject {attached.device}")
    return 0


def _attach_in_foreground(unit: str, options: UnitOptions, wait: float) -> int:
    wanted = configured()  # of the unit's process; this one says a little more
    daemon.log_to_terminal(dataclasses.replace(wanted, level=min(wanted.level, logging.INFO)))

    def ready(folder: Folder, record: Record) -> None:
        click.echo(record.device)
        tell(f"{_description(record)}; Ctrl-C takes it away")

    request = {
        "unit": unit,
        "options": dataclasses.asdict(options),
        "logs": dataclasses.asdict(wanted),
        "wait": wait,
    }
    return 1 if hold(task(request, foreground=True), ready) else 0


def _mount(
    unit: str,
    folder: str,
    format_: str | None,
    force: bool,
    partition: int | None,
    mount_options: str | None,
    timeout: float,
    wait: float,
    **options: Any,
) -> None:
    place = Path(folder).resolve()
    if not place.is_dir():
        raise UsageError(f"{folder}: {'not a' if place.exists() else 'no such'} folder")
    if place.is_mount():  # eject could not tell the two apart
        raise UsageError(f"{folder}: something is mounted there already")
    if force and format_ is None:
        raise UsageError("--force: says to format what is not blank, so it needs --format")
    filesystem.check_tools(format_)
    attached = _launch(unit, options, str(place), timeout, wait)
    try:
        kind, node = _mount_device(attached, place, format_, force, partition, mount_options)
    except UsageError as error:
        _undo(attached)
        raise UsageError(f"{unit}: {error}") from None
    except BaseException:
        _undo(attached)
        raise
    click.echo(f"{unit} is mounted on {place} ({kind} on {node})")
    tell(f"take it away with\n  userdisk eject {place}")


def _mount_device(
    attached: Attached,
    place: Path,
    format_: str | None,
    force: bool,
    partition: int | None,
    mount_options: str | None,
) -> tuple[str, Path]:
    node = filesystem.choose_partition(attached.device, partition)
    if format_ is not None:
        if attached.record.read_only:
            raise UsageError("--format: the disk is read-only")
        found = filesystem.content(node)
        if found and not force:
            raise UsageError(
                f"--format {format_}: the disk is not blank, it holds {found};"
                " leave --format out to mount it, or add --force to lose what is there"
            )
        filesystem.make(format_, node)
    options = [option for option in (mount_options or "").split(",") if option]
    record = attached.record
    kind = filesystem.mount(
        node, place, options=options, read_only=record.read_only, discards=record.discards
    )
    return kind, node


def _undo(attached: Attached) -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not stop it
    try:
        entry = ejecting.find(attached.folder.name)
        ejecting.eject(entry, force=True, timeout=60)
    except (UserdiskError, OSError) as error:
        tell(f"userdisk: {error}")
    finally:
        signal.signal(signal.SIGINT, previous)


def _eject(target: str, force: bool, timeout: float) -> None:
    if (name := _ejected_by_launcher(target, force, timeout)) is not None:
        click.echo(f"{name} is ejected")
        return
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        raise UserdiskError(f"{target}: no launcher has it, and else eject needs root (try sudo)")
    entry = ejecting.find(target)
    for remark in ejecting.eject(entry, force=force, timeout=timeout):
        tell(f"userdisk: {remark}")
    click.echo(f"{entry.record.unit} is ejected")


def _ejected_by_launcher(target: str, force: bool, timeout: float) -> str | None:
    """What a launcher has there is the launcher's to eject, for root, too; None if it has nothing.

    That works for whoever may stop it.
    """
    from userdisk.desktop import opening
    from userdisk.desktop.launchers import launchers

    try:
        return opening.eject(target, launchers(), force=force, timeout=timeout)
    except opening.Unknown:
        return None


def _launch(
    unit: str, options: dict[str, Any], mountpoint: str, timeout: float, wait: float
) -> Attached:
    request = {
        "unit": unit,
        "options": dataclasses.asdict(UnitOptions(**options)),
        "logs": dataclasses.asdict(configured()),
        "mountpoint": mountpoint,
        "wait": wait,
    }
    sys.stdout.flush()
    attached = launch("userdisk.cli.attaching", unit, request, timeout)
    try:
        filesystem.add_partitions(attached.device)
    except BaseException:
        _undo(attached)
        raise
    return attached


def _description(record: Record) -> str:
    access = ", read-only" if record.read_only else ""
    return f"{record.unit}: {short_size(record.size)}, {record.block_length}-byte blocks{access}"


attach = click.Command(
    "attach",
    callback=_attach,
    params=[
        click.Argument(["unit"]),
        *UNIT_OPTIONS,
        click.Option(
            ["--foreground", "-f"],
            is_flag=True,
            help="Stay, log to the terminal, and take the disk away on Ctrl-C.",
        ),
        _TIMEOUT,
        _WAIT,
    ],
    help=f"Make UNIT a block device of this machine and print its name (Linux, as root).\n\n"
    f"{UNIT_HELP} Two processes stay behind until the disk is ejected: one serves the device, the"
    " other has the unit. When that one dies, it is started again if what was flushed outlives it"
    " (images, devices, NBD); programs wait meanwhile. Any other unit is lost then.",
)

mount = click.Command(
    "mount",
    callback=_mount,
    params=[
        click.Argument(["unit"]),
        click.Argument(["folder"], metavar="DIR"),
        click.Option(
            ["--format", "format_"],
            type=click.Choice(list(filesystem.FORMATS)),
            help="Make a file system first, on a blank disk.",
        ),
        click.Option(["--force"], is_flag=True, help="With --format: even if it is not blank."),
        click.Option(
            ["--partition"],
            type=click.IntRange(min=0),
            metavar="N",
            help="The partition to use; 0 is the whole disk. Default: the only one, or the disk.",
        ),
        click.Option(
            ["-o", "mount_options"], metavar="OPTIONS", help="Options for mount, as for mount -o."
        ),
        *UNIT_OPTIONS,
        _TIMEOUT,
        _WAIT,
    ],
    help=f"Attach UNIT and mount it on the folder DIR (Linux, as root).\n\n{UNIT_HELP}",
)

eject = click.Command(
    "eject",
    callback=_eject,
    params=[
        click.Argument(["target"], metavar="DIR|DEVICE|NAME"),
        click.Option(
            ["--force"],
            is_flag=True,
            help="Even if it is in use (whoever uses it gets errors) or does not stop.",
        ),
        click.Option(
            ["--timeout"],
            type=_SECONDS,
            default=120.0,
            show_default=True,
            metavar="SECONDS",
            help="How long the unit may take to write and flush.",
        ),
    ],
    help="Unmount, flush and take away an attached disk, or what a killed one left behind.",
)

commands: list[click.Command] = [attach, mount, eject, list_]
