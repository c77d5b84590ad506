"""The two forms of what is logged: text for people, or JSON, one object a line."""

from __future__ import annotations

import json
import logging
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

#: on a terminal, where it stands beside what other programs say; in a file, where the time is news
TERMINAL: Final = "userdisk: %(message)s"
FILE: Final = "%(asctime)s %(levelname)s %(message)s"

_OURS: Final = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_Nothing = tuple[None, None, None]


_SECRET: Final = re.compile(r"(//[^/@\s:%]*)[:%][^/@\s]*@")


def masked(text: str) -> str:
    """Without the password of a URL: none belongs there, but people write it, and say it no more.

    `iscsi://user%password@host/...` as of libiscsi, and `nbd://user:password@host/...`.
    """
    return _SECRET.sub(r"\1:...@", text)


class _Formatter(logging.Formatter):
    """Tracebacks begin where a user's code does, if they get there. Passwords are left out."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return masked(super().format(record))

    def formatException(  # noqa: N802 - its name there
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | _Nothing
    ) -> str:
        """See `logging.Formatter`."""
        kind, error, frames = ei
        if kind is None or error is None:
            return super().formatException(ei)
        return super().formatException((kind, error, _beyond_ours(frames)))


class JsonLines(_Formatter):
    """A record as one line of JSON: time (UTC), level, logger, message, perhaps exception."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        when = datetime.fromtimestamp(record.created, UTC)
        fields = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = masked(self.formatException(record.exc_info))
        return json.dumps(fields)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user has asked for; goes to other processes as JSON."""

    level: int = logging.WARNING
    as_json: bool = False

    def formatter(self, text: str) -> logging.Formatter:
        """As JSON, or else in this form of text."""
        return JsonLines() if self.as_json else _Formatter(text)


#: What is logged when nobody has said anything.
DEFAULT: Final = Wanted()


def configured() -> Wanted:
    """What this process logs now."""
    root = logging.root
    return Wanted(root.level, any(isinstance(each.formatter, JsonLines) for each in root.handlers))


def _beyond_ours(frames: TracebackType | None) -> TracebackType | None:
    """Without how userdisk got there; a traceback that stays in userdisk is whole: a bug of it."""
    found = frames
    while found is not None and found.tb_frame.f_code.co_filename.startswith(_OURS):
        found = found.tb_next
    return found or frames
