"""`-v` and `--log-format`: how much is logged on standard error, and in which form.

Both stand before the command word or after it. JSON is one object a line: time (UTC), level,
logger, message, and exception where there is one.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

import click

_LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)
_TEXT: Final = "userdisk: %(message)s"
_KEY: Final = "userdisk.logs"


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See the module."""
        when = datetime.fromtimestamp(record.created, UTC)
        fields = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


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
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(_TEXT))
    level = _LEVELS[min(verbosity, len(_LEVELS) - 1)]
    logging.basicConfig(level=level, handlers=[handler], force=True)


def as_json() -> bool:
    """Whether JSON was asked for."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.root.handlers)


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
