"""`userdisk stgtest`: runs operations on a disk and checks every answer; `stgtest verify` after it.

The first four arguments, the sequence that a seed stands for, and the first and last line are those
of WinSpd's tool of this name.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TYPE_CHECKING

import click

from userdisk.cli.logs import as_json, tell
from userdisk.cli.seconds import Seconds
from userdisk.errors import UsageError, UserdiskError

if TYPE_CHECKING:
    from userdisk.stgtest.generator import Plan
    from userdisk.stgtest.meter import Meter
    from userdisk.stgtest.port import Geometry, Port
    from userdisk.stgtest.targets import Wishes

_HELP = """Run operations on a disk and check every answer.

TARGET is iscsi://HOST[:PORT]/TARGET/LUN, an NBD URI, spd:PATH, a block device, a file, or a unit
(ram:1M, file.py:Class). What is on it is overwritten, unless OPMIX is only R.

OPCOUNT operations are run (*: no end, with --duration). OPMIX is letters R, W, F and U: read,
write, flush, unmap; WR by default. Each round through it uses one range: from block ADDRESS on, one
range after the other, COUNT blocks each (0 and 1 by default), or * for random ones. The same
SEED is the same sequence.

`stgtest verify FILE TARGET` proves, from the journal of a run that a crash ended, that everything
flushed is there and nothing impossible is.

Exit status: 0 all was well, 1 something was not, 2 the request was wrong or the target cannot be
had.
"""
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,22}")
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1
_MAX_DEPTH, _MAX_CONNECTIONS = 1024, 64


def parse_number(what: str, text: str, most: int) -> int:
    """Decimal, hexadecimal after 0x, octal after 0. Raises `UsageError`."""
    base = 16 if text[:2] in ("0x", "0X") else 8 if text.startswith("0") else 10
    try:
        number = int(text, base) if _NUMBER.fullmatch(text) else -1
    except ValueError:
        number = -1
    if not 0 <= number <= most:
        raise UsageError(f"{what} {text[:40]}: must be a number from 0 to {most}")
    return number


def _star(what: str, text: str, most: int) -> int:
    from userdisk.stgtest.generator import RANDOM

    return RANDOM if text == "*" else parse_number(what, text, most)


def _stgtest(
    seed: str | None,
    words: tuple[str, ...],
    depth: int,
    connections: int,
    fua: bool,
    duration: float | None,
    as_json: bool,
    journal: str | None,
    journal_sync: bool,
    flushes: int | None,
    destroy: bool,
    timeout: float,
) -> int:
    from userdisk.stgtest.generator import Plan, effective_mix
    from userdisk.stgtest.targets import Wishes, open_port

    if words[0] == "verify" and len(words) == 3:
        return _verify(words[1], words[2], timeout, flushes, as_json)
    if flushes is not None:
        raise UsageError("--flushes: is for stgtest verify")
    if not 2 <= len(words) <= 5:
        raise click.UsageError(
            "takes TARGET OPCOUNT [OPMIX] [ADDRESS] [COUNT], or verify FILE TARGET"
        )
    target, opcount, opmix, address, count = *words, *("", "0", "0")[len(words) - 2 :]
    milliseconds = int(time.monotonic() * 1000) & _U32
    number = milliseconds if seed is None else parse_number("-s", seed, _U32)
    total = None if opcount == "*" else parse_number("OPCOUNT", opcount, _U32) or 1
    if total is None and duration is None:
        raise UsageError("OPCOUNT *: has no end without --duration")
    mix = effective_mix(opmix)
    first, blocks = _star("ADDRESS", address, _U64), _star("COUNT", count, _U32)
    if journal_sync and journal is None:
        raise UsageError("--journal-sync: needs --journal FILE")
    wishes = Wishes(timeout, depth, connections, set(mix) != {"R"} and mix != "F", destroy)
    port = open_port(target, wishes)
    stuck = True
    try:
        _check(target, port.geometry, mix, fua)
        plan = Plan(number, mix, first, blocks, port.geometry.block_count, port.geometry.max_blocks)
        text = _echo(plan, target, opcount if total is None else str(total))
        if not as_json:
            click.echo(text)
        problem = _run(port, plan, wishes, total, duration, fua, journal, journal_sync,
                       text if as_json else None)  # fmt: skip
        stuck = False
        if problem is not None:
            tell(problem)  # before closing, which may fail as well
    except UsageError:
        stuck = False
        raise
    finally:
        port.close(stuck=stuck)
    if problem is not None:
        return 1
    if not as_json:
        click.echo("OK")
    return 0


def _check(target: str, geometry: Geometry, mix: str, fua: bool) -> None:
    """Whether the disk has what the mix needs. Raises `UsageError`."""
    needs = (
        ("W" in mix or "U" in mix, geometry.read_only, "is write protected; use OPMIX R"),
        ("U" in mix, not geometry.unmaps, "cannot unmap; use an OPMIX without U"),
        ("F" in mix, not geometry.flushes, "cannot flush; use an OPMIX without F"),
        (fua, not geometry.fua, "has no FUA; run without --fua"),
    )
    for wanted, missing, what in needs:
        if wanted and missing:
            raise UsageError(f"{target}: {what}")


def _echo(plan: Plan, target: str, opcount: str) -> str:
    from userdisk.stgtest.generator import RANDOM

    address = "*"
    if plan.address != RANDOM:
        address = f"{plan.address >> 32:x}:{plan.address & _U32:x}"
    count = "*" if plan.count == RANDOM else str(min(plan.count, plan.max_count) or 1)
    return f'stgtest -s {plan.seed} {target} {opcount} "{plan.mix}" {address} {count}'


def _run(
    port: Port,
    plan: Plan,
    wishes: Wishes,
    total: int | None,
    duration: float | None,
    fua: bool,
    journal: str | None,
    journal_sync: bool,
    command: str | None,
) -> str | None:
    """Run the plan and print the figures; returns what is wrong. `command`: print JSON with it."""
    from userdisk.stgtest import report
    from userdisk.stgtest.engine import Engine, Limits
    from userdisk.stgtest.journal import Head, Writer
    from userdisk.stgtest.pattern import Pattern

    geometry = port.geometry
    stamped = wishes.depth > 1 or journal is not None
    nonce = int.from_bytes(os.urandom(4), "little") or 1
    writer = None
    if journal is not None:
        head = Head(nonce, geometry.block_count, geometry.block_length, geometry.zeroes)
        writer = Writer(journal, head, durable=journal_sync)
    shown = sys.stderr.isatty() and command is None and not as_json()
    engine = Engine(
        port, plan.operations(), Limits(total, wishes.depth, duration, wishes.timeout),
        Pattern(geometry.block_length, nonce if stamped else 0),
        stamped=stamped, fua=fua, group=len(plan.mix), record=writer,
        progress=_show if shown else None,
    )  # fmt: skip
    problem = None
    try:
        problem = engine.run()
    finally:
        if shown:
            click.echo("\r\033[K", nl=False, err=True)
        if writer is not None:
            writer.close()
    if command is not None:
        facts = {"command": command, "ok": problem is None, "problem": problem,
                 "refused": engine.meter.refused,
                 "forgotten_blocks": engine.model.forgotten}  # fmt: skip
        click.echo(report.as_json(facts, engine.meter, engine.seconds))
    else:
        for line in report.table(engine.meter, engine.seconds):
            click.echo(line)
        if engine.meter.refused:
            click.echo(f"{engine.meter.refused} times the disk was busy or had news: sent again")
        if engine.model.forgotten:
            click.echo(f"{engine.model.forgotten} blocks were more than can be remembered")
    return problem


def _show(meter: Meter, seconds: float) -> None:
    from userdisk.stgtest.report import progress_line

    click.echo("\r\033[K" + progress_line(meter, seconds)[:200], nl=False, err=True)


def _verify(path: str, target: str, timeout: float, flushes: int | None, as_json: bool) -> int:
    import json

    from userdisk.stgtest import journal
    from userdisk.stgtest.targets import Wishes, open_port
    from userdisk.stgtest.verify import verify

    journal.read(path)  # before anything is opened
    port = open_port(target, Wishes(timeout))
    stuck = True
    try:
        verdict = verify(path, port, target, timeout, flushes=flushes)
        stuck = False
    except UsageError:
        stuck = False
        raise
    finally:
        port.close(stuck=stuck)
    crash = verdict.crash
    if as_json:
        facts = {
            "ok": not verdict.wrong, "operations": crash.operations, "writes": crash.writes,
            "durable_writes": crash.durable, "flushes": crash.flushes, "blocks": verdict.blocks,
            "wrong_blocks": verdict.wrong, "problems": verdict.problems,
            "torn_bytes": verdict.torn,
        }  # fmt: skip
        click.echo(json.dumps(facts, indent=2))
    else:
        tail = f"; {verdict.torn} bytes of an unfinished record" if verdict.torn else ""
        click.echo(
            f"{crash.operations} operations, {crash.writes} of them changed blocks, {crash.durable}"
            f" durably; {crash.flushes} flushes; {verdict.blocks} blocks read{tail}"
        )
        for problem in verdict.problems:
            tell(problem)
    if verdict.wrong:
        raise UserdiskError(f"{target}: {verdict.wrong} blocks are wrong")
    if not as_json:
        click.echo("OK")
    return 0


commands: list[click.Command] = [
    click.Command(
        "stgtest",
        params=[
            click.Option(["-s", "seed"], metavar="SEED",
                         help="0 to 2^32-1; default: another each time."),
            click.Option(["--depth"], type=click.IntRange(1, _MAX_DEPTH), default=1,
                         help="Operations under way at a time; 1."),
            click.Option(["--connections"], type=click.IntRange(1, _MAX_CONNECTIONS), default=1,
                         help="To an iSCSI or NBD server; 1."),
            click.Option(["--fua"], is_flag=True, help="Every read and write has the flush flag."),
            click.Option(["--duration"], type=Seconds(0.01, 1e7), metavar="SECONDS",
                         help="Stop then, if OPCOUNT has not been reached."),
            click.Option(["--json", "as_json"], is_flag=True, help="Print the figures as JSON."),
            click.Option(["--journal"], metavar="FILE",
                         help="Record the run in a new file, for `stgtest verify`."),
            click.Option(["--journal-sync"], is_flag=True,
                         help="Make each record durable, for crashes of this machine."),
            click.Option(["--flushes"], type=click.IntRange(0, _U64), metavar="N",
                         help="verify: as if the crash came when the N-th flush had ended."),
            click.Option(["--destroy"], is_flag=True,
                         help="Overwrite a block device that is mounted, partitioned or held."),
            click.Option(["--timeout"], type=Seconds(0.1, 3600), default=10.0,
                         metavar="SECONDS", help="For connecting, and for each answer; 10."),
            click.Argument(["words"], nargs=-1, required=True,
                           metavar="TARGET OPCOUNT [OPMIX] [ADDRESS|*] [COUNT|*]"),
        ],
        callback=_stgtest,
        help=_HELP,
    )
]  # fmt: skip
