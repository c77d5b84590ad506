"""`userdisk serve`: offer units over iSCSI, NBD and pipes until a signal asks to stop.

Order of work: open the units, listen, print how to connect, wait; then stop accepting, end the
sessions, flush and close the units, and print what was done.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from userdisk.cli.connect import Offer, connect_text
from userdisk.cli.logs import tell
from userdisk.cli.names import (
    DEFAULT_PORT,
    checked_name,
    duration_text,
    is_loopback,
    is_wildcard,
    own_address,
    parse_portal,
    portal_text,
    size_text,
    target_names,
)
from userdisk.cli.nbd_offer import (
    DEFAULT_ADDRESS,
    export_names,
    nbd_text,
    offers_of,
    parse_address,
)
from userdisk.cli.observing import OPTIONS as OBSERVING_OPTIONS
from userdisk.cli.observing import Observing
from userdisk.cli.pipe_offer import pipe_paths, pipe_text
from userdisk.cli.running import Signals
from userdisk.cli.secrets import find_credentials
from userdisk.cli.unit_options import UnitOptions, unit_name
from userdisk.cli.units import SERVED_UNIT_OPTIONS, UNIT_HELP
from userdisk.errors import StorageError, UsageError, UserdiskError

if TYPE_CHECKING:
    from userdisk.control import Control
    from userdisk.counters import Tally
    from userdisk.iscsi.chap import Credentials
    from userdisk.listening import Address
    from userdisk.server import Server
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.target import Target
    from userdisk.tls import ServerTls

log = logging.getLogger("userdisk")

_HELP = f"""Offer units over iSCSI, with --nbd also over NBD, with --pipe on pipes, until Ctrl-C.

{UNIT_HELP} Several are logical units 0, 1, ... of one target, or with --each targets of their own;
over NBD each is an export, and the first also the one with the empty name.

CHAP is for iSCSI, TLS for NBD. CHAP secrets come from --chap-file or from USERDISK_CHAP_USER and
USERDISK_CHAP_SECRET (USERDISK_CHAP_MUTUAL_USER and USERDISK_CHAP_MUTUAL_SECRET for mutual CHAP),
never from the command line.

SIGHUP has the sizes of images and devices read again: initiators are told of a disk that has grown;
NBD clients have to connect again.
"""

_OPTIONS: Sequence[click.Parameter] = (
    click.Argument(["specs"], metavar="UNIT...", nargs=-1),
    *SERVED_UNIT_OPTIONS,
    click.Option(
        ["--listen"],
        multiple=True,
        default=(f"127.0.0.1:{DEFAULT_PORT}",),
        metavar="ADDR[:PORT][,TAG]",
        help=f"Address to listen on, 127.0.0.1:{DEFAULT_PORT} by default; an IPv6 address in"
        " brackets, port 0 for any free port; may be repeated. TAG, 1 by default, is its portal"
        " group: each group is a target port, with an access state (ALUA) of its own.",
    ),
    click.Option(
        ["--advertise"],
        metavar="ADDR[:PORT]",
        help="Address that discovery tells initiators, for a server behind NAT.",
    ),
    click.Option(["--chap-file"], metavar="FILE", help="File with CHAP secrets (mode 600)."),
    click.Option(
        ["--initiator"],
        multiple=True,
        metavar="IQN",
        help="Initiator that may log in; may be repeated. Default: any.",
    ),
    click.Option(["--each"], is_flag=True, help="Make a target for each unit, not one for all."),
    click.Option(
        ["--name"],
        multiple=True,
        metavar="IQN",
        help="Target name, by default made from the (first) unit's; with --each, one for each unit"
        " in their order.",
    ),
    click.Option(
        ["--nbd"],
        multiple=True,
        is_flag=False,
        flag_value=DEFAULT_ADDRESS,
        metavar="[ADDR[:PORT]|unix:PATH]",
        help=f"Offer the units over NBD too, at {DEFAULT_ADDRESS} by default; port 0 for any free"
        " port; may be repeated. The default is meant if another option follows, or nothing.",
    ),
    click.Option(["--no-iscsi"], is_flag=True, help="Offer the units over NBD or pipes alone."),
    click.Option(
        ["--pipe"],
        multiple=True,
        metavar="PATH",
        help="Offer the units over WinSpd's pipe protocol too, on a Unix socket at PATH; one for"
        " each unit in their order.",
    ),
    click.Option(
        ["--export"],
        multiple=True,
        metavar="NAME",
        help="NBD export name, by default the unit's; one for each unit in their order.",
    ),
    click.Option(
        ["--tls"],
        metavar="DIR",
        help="Offer TLS to NBD clients; DIR has ca-cert.pem, server-cert.pem and server-key.pem.",
    ),
    click.Option(["--tls-require"], is_flag=True, help="Refuse NBD clients without TLS."),
    click.Option(
        ["--tls-verify-peer"],
        is_flag=True,
        help="Refuse NBD clients without a certificate that ca-cert.pem has signed.",
    ),
    *OBSERVING_OPTIONS,
)


def serve(
    specs: Sequence[str],
    listen: Sequence[str],
    advertise: str | None,
    chap_file: str | None,
    initiator: Sequence[str],
    each: bool,
    name: Sequence[str],
    nbd: Sequence[str],
    no_iscsi: bool,
    pipe: Sequence[str],
    export: Sequence[str],
    tls: str | None,
    tls_require: bool,
    tls_verify_peer: bool,
    metrics: str | None,
    pcap: str | None,
    pcap_size: str,
    **options: Any,
) -> int:
    if not specs:
        taken = [text for text in nbd if text != DEFAULT_ADDRESS]
        if taken:  # perhaps it was meant as the unit
            raise UsageError(
                f"--nbd {taken[-1]}: there is no unit; put the unit before the option, or write"
                f" --nbd={DEFAULT_ADDRESS}"
            )
        raise click.MissingParameter(
            ctx=click.get_current_context(), param_hint="'UNIT...'", param_type="argument"
        )
    if no_iscsi and not (nbd or pipe):
        raise UsageError("--no-iscsi: nothing would be offered; add --nbd or --pipe")
    if not nbd and (export or tls is not None):
        raise UsageError(f"{'--export' if export else '--tls'}: is for NBD; add --nbd")
    if tls is None and (tls_require or tls_verify_peer):
        option = "--tls-require" if tls_require else "--tls-verify-peer"
        raise UsageError(f"{option}: needs the certificates; add --tls DIR")
    portals = [] if no_iscsi else [parse_portal("--listen", text) for text in listen]
    addresses = [parse_address(text) for text in nbd]
    exported = export_names(specs, export) if nbd else []
    paths = pipe_paths(specs, pipe)
    initiators = [checked_name("--initiator", text) for text in initiator]
    names = target_names(specs, name, each=each)
    credentials = find_credentials(chap_file, os.environ)
    observing = Observing(metrics, pcap, pcap_size)

    from userdisk.gate import Gate
    from userdisk.identity import check_unique, identity_of
    from userdisk.nbd.export import Export
    from userdisk.server import Server
    from userdisk.target.logical_unit import LogicalUnit
    from userdisk.target.target import Target
    from userdisk.tls import ServerTls

    server_tls = None
    if tls is not None:
        server_tls = ServerTls(Path(tls), tls_verify_peer, tls_require or tls_verify_peer)
        server_tls.context()  # what is wrong with it is said before a unit is opened
    with Signals() as signals, contextlib.closing(observing):
        units = [UnitOptions(**options).open(spec) for spec in specs]
        check_unique(units)
        lus = [
            LogicalUnit(Gate(unit, unit_name(spec)), saved=identity_of(unit))
            for unit, spec in zip(units, specs, strict=True)
        ]
        groups = [[lu] for lu in lus] if each else [lus]
        targets = [Target(name, group) for name, group in zip(names, groups, strict=True)]
        server = Server(
            targets,
            listen=portals,
            credentials=credentials,
            initiators=initiators,
            advertise=advertise,
            exports=[
                Export(each_name, lu.gate, spec)
                for each_name, lu, spec in zip(exported, lus, specs, strict=False)
            ],
            nbd=addresses,
            tls=server_tls,
            pipes={path: lu.gate for path, lu in zip(paths, lus, strict=False)},
        )
        observing.begin(server, lus)
        bound = server.start()
        signals.started()
        began = time.monotonic()
        urls = _urls(targets, bound, advertise, exported, server.nbd_addresses, server_tls)
        control = _control(server, specs, targets, exported, urls)
        status = 0
        try:
            if bound:
                _print_iscsi(targets, bound, advertise, credentials)
            if server.nbd_addresses:
                _print_nbd(exported, lus, server.nbd_addresses, server_tls)
            if paths:
                _print_pipes(paths, lus)
            observing.announce()
            click.echo("serving; Ctrl-C stops")
            signals.wait_and_stop(server.stop, lambda: server.waits_for, lambda: _measure(lus))
        except Exception as error:
            if error is not server.failure:  # such as a pipe that nobody reads
                server.stop()
                raise
            status = 1  # the server has logged which unit could not be flushed or closed
        finally:
            if control is not None:
                control.close()
    _print_summary(server.counters(), lus, time.monotonic() - began)
    return status


commands = [click.Command("serve", callback=serve, params=list(_OPTIONS), help=_HELP)]


def _urls(
    targets: Sequence[Target],
    bound: Sequence[tuple[str, int]],
    advertise: str | None,
    exports: Sequence[str],
    nbd: Sequence[Address],
    tls: ServerTls | None,
) -> list[list[str]]:
    """Where each unit is offered, in their order."""
    portals = [_reachable(*address, advertise) for address in bound]
    urls = [
        [Offer(target.name, *portal, len(target.units), None, None).url(lun) for portal in portals]
        for target in targets
        for lun in range(len(target.units))
    ]
    for name, of_unit in zip(exports, urls, strict=False):
        of_unit += [o.uri for address in nbd for o in offers_of(name, _reached(address), tls)]
    return urls


def _control(
    server: Server,
    specs: Sequence[str],
    targets: Sequence[Target],
    exports: Sequence[str],
    urls: Sequence[Sequence[str]],
) -> Control | None:
    """The socket for `list`, `resize`, `top` and `trace`; the disks are served without it, too."""
    from userdisk import control
    from userdisk.cli.resizing import Served, verbs
    from userdisk.telemetry import verbs as watching

    if not control.available():
        return None
    units = [(target, lu) for target in targets for lu in target.units]
    served = [
        Served(
            spec,
            lu.gate,
            [
                lu.gate.name,
                *([target.name] if len(target.units) == 1 else []),
                *exports[number : number + 1],
            ],
            urls[number],
        )
        for number, (spec, (target, lu)) in enumerate(zip(specs, units, strict=True))
    ]
    try:
        asked = [(each.gate.name, each.gate) for each in served]
        return control.Control(verbs(served) | watching.verbs(server, asked))
    except (UserdiskError, OSError) as error:
        log.warning("userdisk resize cannot reach this server: %s", error)
        return None


def _print_iscsi(
    targets: Sequence[Target],
    bound: Sequence[tuple[str, int]],
    advertise: str | None,
    credentials: Credentials | None,
) -> None:
    user = mutual = None
    if credentials is not None:
        user = credentials.users[0].name
        mutual = credentials.mutual.name if credentials.mutual is not None else None
    offers = [
        [Offer(target.name, *portal, len(target.units), user, mutual) for target in targets]
        for portal in (_reachable(host, port, advertise) for host, port in bound)
    ]
    for of_portal in offers:
        for offer, target in zip(of_portal, targets, strict=True):
            for lun, lu in enumerate(target.units):
                click.echo(f"{offer.url(lun)}\n    {_describe(lu)}")
    click.echo()
    click.echo(connect_text(offers[0]))
    open_to_all = [portal_text(*address) for address in bound if not is_loopback(address[0])]
    if open_to_all and credentials is None:
        tell(
            f"warning: {', '.join(open_to_all)}: anyone who reaches this address can read and"
            " write these disks; ask for a secret with --chap-file"
        )


def _print_nbd(
    names: Sequence[str],
    lus: Sequence[LogicalUnit],
    bound: Sequence[Address],
    tls: ServerTls | None,
) -> None:
    for address in bound:
        for name, lu in zip(names, lus, strict=True):
            uris = [offer.uri for offer in offers_of(name, _reached(address), tls)]
            click.echo("\n".join([*uris, f"    {_describe(lu)}"]))
    click.echo()
    click.echo(nbd_text(offers_of(names[0], _reached(bound[0]), tls)[-1]))
    beyond = [
        portal_text(*address)
        for address in bound
        if isinstance(address, tuple) and not is_loopback(address[0])
    ]
    if beyond and not (tls is not None and tls.verify_peer):
        tell(
            f"warning: {', '.join(beyond)}: anyone who reaches this address can read and write"
            " these disks; ask for client certificates with --tls DIR --tls-verify-peer"
        )


def _print_pipes(paths: Sequence[Path], lus: Sequence[LogicalUnit]) -> None:
    for path, lu in zip(paths, lus, strict=True):
        click.echo(f"spd:{os.path.abspath(path)}\n    {_describe(lu)}")
    click.echo()
    click.echo(pipe_text(paths[0]))


def _reached(address: Address) -> Address:
    """The address that other machines use, for what is printed."""
    if isinstance(address, tuple) and is_wildcard(address[0]):
        return own_address(address[0]), address[1]
    return address


def _measure(lus: Sequence[LogicalUnit]) -> None:
    """Read the sizes of the disks again, and say what has changed."""
    news = False
    for lu in lus:
        name, before = lu.gate.name, lu.parameters.size
        try:
            lu.gate.unit.measure()
        except (UserdiskError, StorageError, OSError) as error:
            why = str(error).removeprefix(f"{name}: ")
            tell(f"{name}: cannot take another size: {why}")
        except Exception:  # a bug in the unit's class; the others have their turn
            log.exception("unit %s: measure failed", name)
        else:
            if lu.parameters.size == before:
                continue
            click.echo(f"{name}: {size_text(before)}, now {size_text(lu.parameters.size)}")
        news = True
    if not news:
        click.echo("no disk has another size")


def _reachable(host: str, port: int, advertise: str | None) -> tuple[str, int]:
    """The address that other machines use, for what is printed."""
    from userdisk.iscsi.discovery import parse_advertise

    if advertise is not None:
        advertised, advertised_port = parse_advertise(advertise)
        return advertised, advertised_port or port
    return (own_address(host) if is_wildcard(host) else host), port


def _describe(lu: LogicalUnit) -> str:
    from userdisk.identity import identity_of

    parameters = lu.parameters
    words = [lu.gate.name, size_text(parameters.size), f"{parameters.block_length}-byte blocks"]
    if parameters.write_protected:
        words.append("read-only")
    if parameters.removable:
        words.append("removable")
    words += [lu.sanitize.note, identity_of(lu.gate.unit).note]
    return ", ".join(filter(None, words))


def _print_summary(tally: Tally, lus: Sequence[LogicalUnit], seconds: float) -> None:
    click.echo(f"served for {duration_text(seconds)}")
    for lun, lu in enumerate(lus):
        done = tally[lu.gate]
        failed = f", {done.failures} failed" if done.failures else ""
        click.echo(
            f"{lun:3}  {lu.gate.name}: {_count(done.reads, 'read')} ({size_text(done.read_bytes)}),"
            f" {_count(done.writes, 'write')} ({size_text(done.written_bytes)}),"
            f" {_count(done.flushes, 'flush', 'es')}, {_count(done.unmaps, 'unmap')}{failed}"
        )


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number:,} {what}{'' if number == 1 else plural}"
