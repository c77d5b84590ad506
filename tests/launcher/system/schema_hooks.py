"""For schemathesis: half of what it makes up is of disks that can be, and no stream goes on."""

from __future__ import annotations

import zlib
from typing import Any

import schemathesis

NAMES = ("one", "two")
SECONDS = 0.1


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Change what is sent."""
    path, body = case.operation.path, case.body
    chosen = zlib.crc32(repr((case.path_parameters, body, case.query)).encode()) % 4
    if isinstance(body, dict) and isinstance(body.get("name"), str) and chosen < len(NAMES):
        case.body = body | {"class": "ram", "name": NAMES[chosen], "arguments": []}
    ids = [f"ram.{name}" for name in NAMES]
    made_up = case.path_parameters and case.path_parameters.get("id") not in ids
    if made_up and chosen < len(NAMES):
        case.path_parameters = {"id": ids[chosen]}
    query = dict(case.query or {})
    if path.endswith("/trace") and _lasts(query.get("seconds", 60)):
        case.query = query | {"seconds": SECONDS}
    if path.endswith("/log") and str(query.get("follow", "false")).lower() in ("true", "1"):
        case.query = query | {"follow": False}


def _lasts(seconds: object) -> bool:
    try:
        return float(str(seconds)) > SECONDS
    except ValueError:
        return False
