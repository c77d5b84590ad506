"""The control API: HTTP and JSON on a Unix socket. Routes are a table, which OpenAPI prints.

Whatever may block runs on threads of the API's own; the event loop only reads and writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match
from starlette.routing import Route as StarletteRoute

from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import bodies, log_file, shims, tracing
from userdisk.launcher.asking import Busy, NotFound
from userdisk.launcher.openapi import JSON, Parameter, Route, document
from userdisk.launcher.peer import caller_of
from userdisk.launcher.rights import Caller, Refused
from userdisk.launcher.service import MAX_LINES, Launcher
from userdisk.launcher.tracing import TooMany
from userdisk.launcher.types import (
    AllStatistics,
    Classes,
    Event,
    Instance,
    Instances,
    Mount,
    Problem,
    Service,
    Start,
    Statistics,
    Stopped,
    Unmount,
)
from userdisk.telemetry.prometheus import CONTENT_TYPE

log = logging.getLogger("userdisk")

_THREADS: Final = 32  # for what is quick
_WAITING: Final = 256  # for what waits for disks: it delays no question
_QUEUE: Final = 1000  # events that one who listens may be behind
_MAX_LISTENERS: Final = 64
_MAX_OF_USER: Final = 24  # listeners
_FOLLOW: Final = 0.25  # seconds between looks at a log
_LONGEST_STOP: Final = 86400.0
_LONGEST_TRACE: Final = 3600.0

_T = TypeVar("_T")

_ID = Parameter("id", "Of the instance.", {"type": "string", "minLength": 1}, "path")
_FORCE = Parameter("force", "Although something uses it.", {"type": "boolean", "default": False})
_TIMEOUT = Parameter(
    "timeout",
    "Seconds that it may take to write.",
    {"type": "number", "minimum": 0, "maximum": _LONGEST_STOP, "default": 120},
)
_LINES = Parameter(
    "lines", "The last so many.", {"type": "integer", "minimum": 0, "maximum": MAX_LINES}
)
_SECONDS = Parameter(
    "seconds",
    "The end, after so many.",
    {"type": "number", "minimum": 0, "maximum": _LONGEST_TRACE, "default": 60},
)
_FOLLOWS = Parameter("follow", "Go on until the instance ends.", {"type": "boolean"})

ROUTES: Sequence[Route] = (
    Route("GET", "/v1/service", "service", "The service itself.", Service),
    Route("GET", "/v1/classes", "classes", "All classes of disks.", Classes),
    Route(
        "GET", "/v1/instances", "instances", "All disks that the caller may see.", Instances,
        parameters=(
            Parameter("class", "Only of this class.", {"type": "string"}),
            Parameter("name", "Only of this name.", {"type": "string"}),
            Parameter("pid", "Only the one of this process.", {"type": "integer", "minimum": 1}),
        ),
        fails=(404, 422),
    ),
    Route(
        "POST", "/v1/instances", "start", "Start a disk.", Instance, takes=Start, status=201,
        fails=(403, 409, 422, 429, 500),
    ),
    Route(
        "GET", "/v1/instances/{id}", "instance", "One disk.", Instance,
        parameters=(_ID,), fails=(403, 404),
    ),
    Route(
        "DELETE", "/v1/instances/{id}", "stop", "Unmount, detach, flush and end a disk.", Stopped,
        parameters=(_ID, _FORCE, _TIMEOUT), fails=(403, 404, 409, 422, 500),
    ),
    Route(
        "POST", "/v1/instances/{id}/mount", "mount", "Mount its device.", Instance, takes=Mount,
        parameters=(_ID,), fails=(403, 404, 409, 422, 500),
    ),
    Route(
        "POST", "/v1/instances/{id}/unmount", "unmount", "Unmount its device, which stays.",
        Instance, takes=Unmount, parameters=(_ID,), fails=(403, 404, 409, 422, 500),
    ),
    Route(
        "GET", "/v1/instances/{id}/log", "log", "What its processes have printed.", "text/plain",
        parameters=(_ID, _LINES, _FOLLOWS), fails=(403, 404, 422),
    ),
    Route(
        "GET", "/v1/instances/{id}/stats", "stats", "What it has done, and how fast.", Statistics,
        parameters=(_ID,), fails=(403, 404, 500),
    ),
    Route(
        "GET", "/v1/instances/{id}/trace", "trace", "Its commands as they end, a JSON line each.",
        "application/x-ndjson", parameters=(_ID, _SECONDS), fails=(403, 404, 422, 429, 500),
    ),
    Route(
        "GET", "/v1/stats", "all_stats", "Statistics of all disks that the caller may see and"
        " that answer.", AllStatistics,
    ),
    Route("GET", "/metrics", "metrics", "Statistics of all disks, for Prometheus.", "text/plain"),
    Route(
        "GET", "/v1/events", "events", "What happens, as server-sent events.", "text/event-stream",
        fails=(429,),
    ),
)  # fmt: skip


class Api:
    """The ASGI application of a service."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "api")
        self._waiting = ThreadPoolExecutor(_WAITING, "waiting")
        self._listeners: dict[asyncio.Queue[Event | None], Caller] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = False
        self.launcher = Launcher(self._told)
        self._document = msgspec.json.encode(document(ROUTES))
        routes = [
            StarletteRoute(route.path, self._endpoint(route), methods=[route.method])
            for route in ROUTES
        ]
        routes.append(StarletteRoute("/openapi.json", self._openapi, methods=["GET"]))
        self.app = Starlette(
            routes=routes,
            exception_handlers={HTTPException: _http_problem, Exception: _bug},
            lifespan=self._lifespan,
        )

    def end_streams(self) -> None:
        """Whoever listens gets the end; on the loop's thread."""
        self._ending = True
        for queue in self._listeners:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(None)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._loop.run_in_executor(self._waiting, self.launcher.restore)
        yield
        self.launcher.close()
        for pool in (self._pool, self._waiting):
            pool.shutdown(wait=False, cancel_futures=True)

    def _endpoint(self, route: Route) -> Callable[[Request], Any]:
        handler = getattr(self, f"_{route.name}")

        async def endpoint(request: Request) -> Response:
            try:
                result = await handler(request, caller_of(request.scope["client"]))
            except UserdiskError as error:
                return _problem(error)
            except OSError as error:
                where = f"{error.filename}: " if error.filename else ""
                return _answer(Problem(f"{where}{error.strerror or error}"), 500)
            return result if isinstance(result, Response) else _answer(result, route.status)

        return endpoint

    async def _run(self, work: Callable[[], _T]) -> _T:
        assert self._loop is not None
        return await self._loop.run_in_executor(self._pool, work)

    async def _wait(self, work: Callable[[], _T]) -> _T:
        """The same for what may take its time."""
        assert self._loop is not None
        return await self._loop.run_in_executor(self._waiting, work)

    # -- handlers --------------------------------------------------------------------------------

    async def _openapi(self, request: Request) -> Response:
        return Response(self._document, media_type=JSON)

    async def _service(self, request: Request, caller: Caller) -> Service:
        return self.launcher.service()

    async def _classes(self, request: Request, caller: Caller) -> Classes:
        return Classes(await self._run(lambda: self.launcher.classes(caller)))

    async def _instances(self, request: Request, caller: Caller) -> Instances:
        query = request.query_params
        if "pid" in query:
            pid = _whole(query, "pid", 0, 1, 1 << 31)
            return Instances([await self._run(lambda: self.launcher.by_process(pid, caller))])
        class_, name = query.get("class", ""), query.get("name", "")
        return Instances(await self._run(lambda: self.launcher.instances(caller, class_, name)))

    async def _start(self, request: Request, caller: Caller) -> Response:
        asked = await _asked(request, Start)
        found = await self._wait(lambda: self.launcher.start(asked, caller))
        return _answer(found, 201 if asked.wait else 202)

    async def _instance(self, request: Request, caller: Caller) -> Instance:
        id_ = request.path_params["id"]
        return await self._run(lambda: self.launcher.instance(id_, caller))

    async def _stop(self, request: Request, caller: Caller) -> Stopped:
        id_, query = request.path_params["id"], request.query_params
        force = _flag(query, "force")
        timeout = _number(query, "timeout", 120.0, 0.0, _LONGEST_STOP)
        return await self._wait(
            lambda: self.launcher.stop(id_, caller, force=force, timeout=timeout)
        )

    async def _mount(self, request: Request, caller: Caller) -> Instance:
        id_, folder = request.path_params["id"], (await _asked(request, Mount)).folder
        return await self._wait(lambda: self.launcher.mount(id_, caller, folder))

    async def _unmount(self, request: Request, caller: Caller) -> Instance:
        id_, force = request.path_params["id"], (await _asked(request, Unmount)).force
        return await self._wait(lambda: self.launcher.unmount(id_, caller, force=force))

    async def _log(self, request: Request, caller: Caller) -> Response:
        id_, query = request.path_params["id"], request.query_params
        lines = _whole(query, "lines", 100, 0, MAX_LINES)
        found, position = await self._run(lambda: self.launcher.log(id_, caller, lines))
        text = "".join(f"{line}\n" for line in found)
        if not _flag(query, "follow"):
            return Response(text, media_type="text/plain")
        more = self._follow(id_, text, position)
        return StreamingResponse(self._while_serving(more), media_type="text/plain")

    async def _follow(
        self, id_: str, text: str, position: log_file.Position
    ) -> AsyncGenerator[str, None]:
        yield text
        while (
            more := await self._run(partial(self.launcher.log_since, id_, position))
        ) is not None:
            text, position = more
            yield text
            await asyncio.sleep(_FOLLOW)

    async def _while_serving(self, items: AsyncGenerator[_T, None]) -> AsyncIterator[_T]:
        """What comes, until the service ends; it has to come now and then."""
        async with contextlib.aclosing(items):
            async for item in items:
                yield item
                if self._ending:
                    return

    async def _stats(self, request: Request, caller: Caller) -> Statistics:
        id_ = request.path_params["id"]
        return await self._run(lambda: self.launcher.stats(id_, caller))

    async def _all_stats(self, request: Request, caller: Caller) -> AllStatistics:
        return AllStatistics(await self._run(lambda: self.launcher.all_stats(caller)))

    async def _trace(self, request: Request, caller: Caller) -> Response:
        id_ = request.path_params["id"]
        seconds = _number(request.query_params, "seconds", 60.0, 0.0, _LONGEST_TRACE)
        path, user = await self._run(lambda: self.launcher.traced(id_, caller))
        lines = await tracing.begin(path, user, seconds)
        return StreamingResponse(self._while_serving(lines), media_type="application/x-ndjson")

    async def _metrics(self, request: Request, caller: Caller) -> Response:
        text = await self._run(lambda: self.launcher.metrics(caller))
        return Response(text, media_type=CONTENT_TYPE)

    async def _events(self, request: Request, caller: Caller) -> Response:
        own = sum(each.uid == caller.uid for each in self._listeners.values())
        if own >= _MAX_OF_USER or len(self._listeners) >= _MAX_LISTENERS:
            raise TooMany(f"{len(self._listeners)} listen already, {own} of user {caller.name}")
        queue: asyncio.Queue[Event | None] = asyncio.Queue(_QUEUE)
        self._listeners[queue] = caller
        return StreamingResponse(self._stream(queue), media_type="text/event-stream")

    async def _stream(self, queue: asyncio.Queue[Event | None]) -> AsyncIterator[bytes]:
        try:
            yield b": userdisk\n\n"
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), 15.0)
                except TimeoutError:
                    yield b": still there\n\n"
                    continue
                if event is None:
                    return
                yield b"data: " + msgspec.json.encode(event) + b"\n\n"
        finally:
            self._listeners.pop(queue, None)

    def _told(self, event: Event) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._tell, event)

    def _tell(self, event: Event) -> None:
        for queue, caller in list(self._listeners.items()):
            if not self.launcher.may_see(event, caller):
                continue
            if queue.qsize() >= _QUEUE - 1:  # it does not read: it has to ask anew
                queue.put_nowait(None) if not queue.full() else None
                self._listeners.pop(queue, None)
                continue
            queue.put_nowait(event)


def _answer(content: Any, status: int) -> Response:
    return Response(msgspec.json.encode(content), status, media_type=JSON)


def _problem(error: UserdiskError) -> Response:
    status = next(code for kind, code in _STATUS if isinstance(error, kind))
    return _answer(Problem(str(error), busy=isinstance(error, Busy)), status)


_STATUS: Final = (
    (Refused, 403),
    (NotFound, 404),
    (shims.Exists, 409),
    (Busy, 409),
    (TooMany, 429),
    (UsageError, 422),
    (UserdiskError, 500),
)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = _answer(Problem(f"{request.method} {request.url.path}: {error.detail}"),
                       error.status_code)  # fmt: skip
    response.headers.update(error.headers or {})
    if error.status_code == 405:  # Starlette knows the methods of one route, not of the path
        response.headers["Allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """What can be done with the path of a request."""
    routes: list[StarletteRoute] = request.app.routes
    found = (each.methods for each in routes if each.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for methods in found for method in methods or ()})


async def _bug(request: Request, error: Exception) -> Response:
    return _answer(Problem(f"{type(error).__name__}: {error}"), 500)


async def _asked(request: Request, kind: type[_T]) -> _T:
    """What the body says. Raises `HTTPException`."""
    body = await bodies.read(request)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise HTTPException(422, f"the request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"the request is not JSON: {error}") from None


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise UsageError(f"{name}={value[:40]}: must be true or false")
    return value in ("true", "1")


def _number(
    query: Mapping[str, str], name: str, default: float, least: float, most: float
) -> float:
    text = query.get(name)
    if text is None:
        return default
    with contextlib.suppress(ValueError):
        value = float(text)
        if least <= value <= most:
            return value
    raise UsageError(f"{name}={text[:40]}: must be a number from {least:g} to {most:g}")


def _whole(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    value = _number(query, name, default, least, most)
    if value != int(value):
        raise UsageError(f"{name}={query[name][:40]}: must be a whole number")
    return int(value)
