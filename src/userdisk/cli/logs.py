"""`-v` and `--log-format`: how much is logged on standard error, and in which form.

Both stand before the command word or after it. JSON is one object a line: time (UTC), level,
logger, message, and exception where there is one. Then every line on standard error is one.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

import click

from userdisk.log_format import TERMINAL, Wanted, configured, masked

_LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)
_KEY: Final = "userdisk.logs"


def options() -> list[click.Option]:
    """The two options, for the group and for each command."""
    return [
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_verbose,
            help="Log connections and logins; -vv: all.",
        ),
        click.Option(
            ["--log-format"],
            type=click.Choice(["text", "json"]),
            expose_value=False,
            callback=_format,
            help="Form of what is logged on standard error: text (default), or json, an object a"
            " line.",
        ),
    ]


def configure(verbosity: int, form: str) -> None:
    """Log to standard error; replaces what was configured before."""
    handler = logging.StreamHandler(sys.stderr)
    wanted = Wanted(_LEVELS[min(verbosity, len(_LEVELS) - 1)], form == "json")
    handler.setFormatter(wanted.formatter(TERMINAL))
    logging.basicConfig(level=wanted.level, handlers=[handler], force=True)


def as_json() -> bool:
    """Whether JSON was asked for."""
    return configured().as_json


def tell(text: str, level: int = logging.INFO) -> None:
    """Tell people something on standard error, beside the results; JSON if that was asked for."""
    if not as_json():
        click.echo(masked(text), err=True)
        return
    logger = logging.getLogger("userdisk")
    message = " ".join(text.split())
    logger.handle(logger.makeRecord(logger.name, level, "", 0, message, (), None))


def _verbose(ctx: click.Context, parameter: click.Parameter, value: int) -> None:
    _note(ctx, verbosity=value)


def _format(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    _note(ctx, form=value)


def _note(ctx: click.Context, verbosity: int = 0, form: str | None = None) -> None:
    """Add what one option says to what the others have said."""
    before, form_before = ctx.find_root().meta.get(_KEY, (0, "text"))
    settings = (before + verbosity, form or form_before)
    ctx.find_root().meta[_KEY] = settings
    configure(*settings)
