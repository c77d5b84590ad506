"""The API's description (OpenAPI 3.1), made of its route table and types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import msgspec

from userdisk.launcher.types import Problem

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A part of the path or the query."""

    name: str
    what: str
    schema: dict[str, Any]
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    `gives` is the type of the answer, or the media type of a text; `fails` are statuses with a
    `Problem`, besides those that every route has.
    """

    method: str
    path: str
    name: str
    what: str
    gives: Any
    takes: type[msgspec.Struct] | None = None
    status: int = 200
    fails: Sequence[int] = ()
    parameters: Sequence[Parameter] = ()


_MEANING: Final = {
    200: "Done.",
    201: "Started.",
    202: "It is being started.",
    400: "The request is malformed.",
    403: "The caller may not.",
    404: "There is no such thing.",
    405: "Not with this method.",
    408: "The request came too slowly.",
    409: "It is there already, or in use.",
    413: "The request is too large.",
    422: "The request cannot be done as it is.",
    429: "Too many do that already.",
    500: "It was tried and failed.",
}
_ALWAYS: Final = (400,)
_WITH_BODY: Final = (408, 413)
#: What can be asked of what was made: all that has an ID in its path.
_LINK: Final = {"parameters": {"id": "$response.body#/id"}}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document."""
    types: list[type[msgspec.Struct]] = [Problem]
    for route in routes:
        types += [kind for kind in (route.takes, route.gives) if isinstance(kind, type)]
    schemas, components = msgspec.json.schema_components(
        dict.fromkeys(types), ref_template="#/components/schemas/{name}"
    )
    by_type = dict(zip(dict.fromkeys(types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    of_one = [each.name for each in routes if any(one.place == "path" for one in each.parameters)]
    for route in routes:
        operation = _operation(route, by_type, of_one)
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "userdisk launcher",
            "version": version("userdisk"),
            "description": "Starts, stops and shows disks; on a Unix socket.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route, by_type: dict[Any, Any], links: Sequence[str]) -> dict[str, Any]:
    problem = {"content": {JSON: {"schema": by_type[Problem]}}}
    fails = {*_ALWAYS, *route.fails, *(() if route.takes is None else _WITH_BODY)}
    responses = {str(code): {"description": _MEANING[code], **problem} for code in sorted(fails)}
    text = isinstance(route.gives, str)
    media = route.gives if text else JSON
    schema = {"type": "string"} if text else by_type[route.gives]
    good: dict[str, Any] = {
        "description": _MEANING[route.status],
        "content": {media: {"schema": schema}},
    }
    responses[str(route.status)] = good
    if route.status == 201:
        good["links"] = {name: _LINK | {"operationId": name} for name in links}
        responses["202"] = good | {"description": _MEANING[202]}
    found: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.what,
        "parameters": [
            {
                "name": each.name,
                "in": each.place,
                "required": each.place == "path",
                "description": each.what,
                "schema": each.schema,
            }
            for each in route.parameters
        ],
        "responses": responses,
    }
    if route.takes is not None:
        found["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": by_type[route.takes]}},
        }
    return found
