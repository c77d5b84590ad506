"""`userdisk top`: what the disks of this user's processes do, second by second."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import click

from userdisk.cli.names import size_text
from userdisk.cli.seconds import Seconds
from userdisk.errors import UserdiskError

_HELP = """Show what the disks of this user's processes do: the busiest first, until Ctrl-C.

For each disk: operations per second and bytes per second that are read and written, how long
operations take in the unit and wait before it (the median, and what 1 of 100 exceeds), errors and
initiators. Only the disks that are named, if there are any.
"""

_COLUMNS: Final = (
    "UNIT", "PID", "READ/s", "WRITE/s", "READ", "WRITE", "p50", "p99", "WAIT p99", "ERRORS",
    "INITIATORS",
)  # fmt: skip
_CLEAR: Final = "\x1b[H\x1b[J"

#: Process number and unit -> what its process says of it.
_Seen = dict[tuple[int, str], Mapping[str, Any]]


class Rates(NamedTuple):
    """What one unit did in a span of time."""

    unit: str
    pid: int
    reads: float  #: a second
    writes: float
    read_bytes: float
    written_bytes: float
    p50_us: float | None  #: in the unit
    p99_us: float | None
    wait_p99_us: float | None  #: before it
    errors: int  #: since the process began
    initiators: int

    def row(self) -> tuple[str, ...]:
        """As people read it."""
        return (
            self.unit,
            str(self.pid),
            f"{self.reads:,.0f}",
            f"{self.writes:,.0f}",
            f"{size_text(int(self.read_bytes))}/s",
            f"{size_text(int(self.written_bytes))}/s",
            _time(self.p50_us),
            _time(self.p99_us),
            _time(self.wait_p99_us),
            str(self.errors),
            str(self.initiators),
        )


def top(units: Sequence[str], interval: float, count: int | None, as_json: bool) -> int:
    """See `_HELP`."""
    before, began = _look(units), time.monotonic()
    for name in units:
        if name not in (unit for _, unit in before):
            raise UserdiskError(f"{name}: no process of this user serves it; see userdisk list")
    shown = 0
    while count is None or shown < count:
        time.sleep(interval)
        now, at = _look(units), time.monotonic()
        rates = compare(before, now, at - began)
        before, began = now, at
        shown += 1
        if as_json:
            click.echo(json.dumps([each._asdict() for each in rates]))
        else:
            live = sys.stdout.isatty() and count != 1
            click.echo((_CLEAR if live else "") + _table(rates), nl=not live)
    return 0


def _look(units: Sequence[str]) -> _Seen:
    from userdisk.cli.watched import stats_of_all

    return {
        (pid, name): unit
        for pid, answer in stats_of_all()
        for name, unit in answer["units"].items()
        if not units or name in units
    }


def compare(before: _Seen, now: _Seen, seconds: float) -> list[Rates]:
    """What units did between two looks, the busiest first; those that are new count as idle."""
    found = [_rates(key, before.get(key, unit), unit, seconds) for key, unit in now.items()]
    return sorted(found, key=lambda each: (-(each.reads + each.writes), each.unit, each.pid))


def _rates(
    key: tuple[int, str], before: Mapping[str, Any], now: Mapping[str, Any], seconds: float
) -> Rates:
    from userdisk.telemetry.histograms import difference, percentile, total

    old, new = before["operations"], now["operations"]

    def rate(operation: str, what: str) -> float:
        return max(float(new[operation][what] - old[operation][what]), 0.0) / seconds

    times = total([difference(new[name]["time"], old[name]["time"]) for name in new])
    waits = total([difference(new[name]["queue"], old[name]["queue"]) for name in new])
    return Rates(
        key[1],
        key[0],
        rate("read", "count"),
        rate("write", "count"),
        rate("read", "bytes"),
        rate("write", "bytes"),
        percentile(times, 0.5),
        percentile(times, 0.99),
        percentile(waits, 0.99),
        sum(each["errors"] for each in new.values()),
        sum(each["connections"] > 0 for each in now["initiators"]),
    )


def _table(rates: Sequence[Rates]) -> str:
    if not rates:
        return "no disk of this user is served"
    rows = [_COLUMNS, *(each.row() for each in rates)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [
        "  ".join(
            text.ljust(width) if not column else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    height = shutil.get_terminal_size((80, 1000)).lines
    return "\n".join(lines[: max(height - 1, 2)])


def _time(us: float | None) -> str:
    if us is None:
        return "-"
    if us < 1000:
        return f"{us:.3g} us"
    return f"{us / 1000:.3g} ms" if us < 1e6 else f"{us / 1e6:.3g} s"


commands = [
    click.Command(
        "top",
        callback=top,
        params=[
            click.Argument(["units"], metavar="[UNIT]...", nargs=-1),
            click.Option(
                ["--interval"],
                type=Seconds(0.1, 86400),
                default=1.0,
                metavar="SECONDS",
                help="Between two looks; 1 by default.",
            ),
            click.Option(
                ["--count"],
                type=click.IntRange(min=1),
                metavar="N",
                help="Show so many times, then end.",
            ),
            click.Option(["--json", "as_json"], is_flag=True, help="A JSON array for each look."),
        ],
        help=_HELP,
    )
]
