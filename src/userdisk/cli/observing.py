"""The options of `serve` that let others see what it does: `--metrics` and `--pcap`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import click

from userdisk.cli.logs import tell
from userdisk.cli.names import is_loopback, parse_portal, portal_text

if TYPE_CHECKING:
    from userdisk.server import Server
    from userdisk.target.logical_unit import LogicalUnit

METRICS_PORT: Final = 9260
_DEFAULT_METRICS: Final = f"127.0.0.1:{METRICS_PORT}"

OPTIONS: Final[Sequence[click.Parameter]] = (
    click.Option(
        ["--metrics"],
        is_flag=False,
        flag_value=_DEFAULT_METRICS,
        metavar="[ADDR[:PORT]]",
        help=f"Answer Prometheus at http://ADDR:PORT/metrics, {_DEFAULT_METRICS} by default.",
    ),
    click.Option(
        ["--pcap"],
        metavar="FILE",
        help="Write what is said over iSCSI and NBD to FILE, for Wireshark; also what TLS hides.",
    ),
    click.Option(
        ["--pcap-size"],
        default="1G",
        metavar="SIZE",
        help="The capture ends before FILE is larger; 1G by default.",
    ),
)


class Observing:
    """What the options ask for, until it is closed.

    Raises `UsageError` for options that cannot be, `OSError` for a file that cannot be made.
    """

    def __init__(self, metrics: str | None, pcap: str | None, pcap_size: str) -> None:
        from userdisk.backend.size import parse_size

        self._stack = ExitStack()
        self._metrics = None if metrics is None else parse_metrics(metrics)
        self._limit = parse_size(pcap_size)
        self._pcap = pcap
        self._address: tuple[str, int] | None = None

    def begin(self, server: Server, lus: Sequence[LogicalUnit]) -> None:
        """Begin; before the server starts, so that a capture misses nothing."""
        if self._pcap is not None:
            from userdisk.telemetry.capture import Capture, CaptureFile

            file = CaptureFile(self._pcap, self._limit)
            self._stack.callback(file.close)
            server.observe(Capture(file.write))
        if self._metrics is not None:
            from userdisk.telemetry.http import MetricsServer
            from userdisk.telemetry.prometheus import render
            from userdisk.telemetry.stats import Statistics

            statistics = Statistics(server, [(lu.gate.name, lu.gate) for lu in lus])
            listening = MetricsServer(self._metrics, lambda: render([({}, statistics.answer())]))
            self._stack.callback(listening.close)
            self._address = listening.address

    def announce(self) -> None:
        """Say where it is."""
        if self._pcap is not None:
            click.echo(f"capturing to {os.path.abspath(self._pcap)}")
        if self._address is None:
            return
        host, where = self._address[0], portal_text(*self._address)
        click.echo(f"metrics at http://{where}/metrics")
        if not is_loopback(host):
            tell(
                f"warning: {where}: anyone who reaches this address can read the names of disks and"
                " initiators, and how busy they are"
            )

    def close(self) -> None:
        """End all of it."""
        self._stack.close()


def parse_metrics(text: str) -> tuple[str, int]:
    """`ADDR[:PORT]` of `--metrics`. Raises `UsageError`."""
    from userdisk.errors import UsageError

    if "," in text or "/" in text:
        raise UsageError(
            f"--metrics {text}: write it as ADDRESS[:PORT]; a unit goes before the option, or the"
            f" option is written --metrics={_DEFAULT_METRICS}"
        )
    host, port, _ = parse_portal("--metrics", text)
    return host, port if text.endswith(f":{port}") else METRICS_PORT
