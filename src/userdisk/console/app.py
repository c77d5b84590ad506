"""The console's ASGI application: its page, login, and the launcher's routes, passed on."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.metadata import version
from typing import Final
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from userdisk.console.guard import Guard
from userdisk.console.own import Own
from userdisk.console.pages import Page
from userdisk.console.sessions import Session, Sessions
from userdisk.console.tokens import Tokens, Tries
from userdisk.console.upstream import Absent, Answer, Broken, Upstream, finished
from userdisk.launcher import bodies
from userdisk.launcher.api import ROUTES
from userdisk.launcher.openapi import Route as LauncherRoute
from userdisk.launcher.rights import user_name

log = logging.getLogger("userdisk")

_SECRET: Final = 32  # bytes
_STREAMS: Final = 16
_GET_SECONDS: Final = 60.0
_CHANGE_SECONDS: Final = 600.0
_STOP: Final = (120.0, 86400.0)  # seconds that a stop may take: by default, at most


def secret() -> str:
    """256 bits that nobody can guess, for headers and URLs."""
    return secrets.token_urlsafe(_SECRET)


class Console:
    """Answers browsers. For one event loop.

    Args:
        own: where it listens.
        launcher: to be asked.
        pages: by path.
        renewed: is called when there is another token to hand out.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        own: Own,
        launcher: Upstream,
        pages: Mapping[str, Page],
        renewed: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own = own
        self._launcher = launcher
        self._pages = pages
        self._renewed = renewed
        self._tries = Tries(clock)
        self._sessions = Sessions(clock, secret)
        self._streams: dict[Answer, Session] = {}
        self.tokens = Tokens(clock, secret)
        routes = [
            Route("/login", self._login, methods=["POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/session", self._session, methods=["GET"]),
        ]
        routes += [
            Route(f"/api{route.path}", self._passing(route), methods=[route.method])
            for route in ROUTES
        ]
        together = next(route for route in ROUTES if route.name == "all_stats")
        routes.append(Route("/api/stats", self._passing(together), methods=["GET"]))
        routes += [Route(path, self._page, methods=["GET"]) for path in pages]
        inner = Starlette(
            routes=routes,
            exception_handlers={
                HTTPException: _http_problem,
                Absent: _upstream_problem,
                Broken: _upstream_problem,
                Exception: _bug,
            },
        )
        inner.router.redirect_slashes = False
        self.app = Guard(inner, own, self._sessions)

    def end_streams(self) -> None:
        """Whoever listens sees the end."""
        for answer in self._streams:
            answer.close()

    # -- who -------------------------------------------------------------------------------------

    async def _login(self, request: Request) -> Response:
        who = request.state.who
        try:
            token = json.loads(await bodies.read(request))["token"]
        except (ValueError, RecursionError, TypeError, KeyError):
            token = None
        if not isinstance(token, str):
            return _problem(400, 'the body is {"token": ...}')
        wait = math.ceil(self._tries.wait(who))  # from here on nobody else's turn comes
        if wait:
            return _problem(403, f"too many wrong links: wait {wait} s", {"Retry-After": str(wait)})
        if not self.tokens.take(token):
            self._tries.wrong(who)
            log.warning("console: a wrong token of %s", who)
            return _problem(
                403, "the link has been used or is too old: type `userdisk console` for another"
            )
        self._renewed()
        log.info("console: login of %s", who)
        response = Response(status_code=204)
        response.set_cookie(
            self._own.cookie, self._sessions.begin(who), httponly=True, samesite="strict"
        )
        return response

    async def _logout(self, request: Request) -> Response:
        session: Session = request.state.session
        self._sessions.end(session)
        for answer, whose in list(self._streams.items()):
            if whose is session:
                answer.close()
        log.info("console: logout of %s", session.who)
        response = Response(status_code=204)
        response.delete_cookie(self._own.cookie, httponly=True, samesite="strict")
        return response

    async def _session(self, request: Request) -> Response:
        session: Session = request.state.session
        return JSONResponse(
            {"csrf": session.csrf, "user": user_name(os.getuid()), "version": version("userdisk")}
        )

    # -- what ------------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        page = self._pages[request.url.path]
        return Response(page.content, media_type=page.media_type)

    def _passing(self, route: LauncherRoute) -> Callable[[Request], object]:
        """What passes requests of this route on."""

        async def endpoint(request: Request) -> Response:
            target = route.path.format(
                **{name: quote(value, safe="") for name, value in request.path_params.items()}
            )
            if query := request.scope["query_string"].decode("ascii", "replace"):
                target = f"{target}?{query}"
            body = await bodies.read(request) if route.takes is not None else None
            seconds = _patience(route, request.query_params)
            stream = _is_stream(route, request.query_params)
            if stream and len(self._streams) >= _STREAMS:
                return _problem(503, f"{_STREAMS} listen already: close a page")
            answer = await self._launcher.ask(route.method, target, body, seconds)
            if stream and answer.status == 200:
                session: Session = request.state.session
                self._streams[answer] = session
                return _Stream(answer, session, lambda: self._streams.pop(answer))
            try:
                content = await finished(answer, _GET_SECONDS)
            finally:
                answer.close()
            return Response(content, answer.status, media_type=answer.content_type)

        return endpoint


class _Stream(StreamingResponse):
    """An answer that goes on, as long as the session does."""

    def __init__(self, answer: Answer, session: Session, ended: Callable[[], object]) -> None:
        super().__init__(_while_open(answer, session), media_type=answer.content_type)
        self._answer = answer
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()
            self._answer.close()


async def _while_open(answer: Answer, session: Session) -> AsyncIterator[bytes]:
    with contextlib.suppress(Broken, OSError):  # the launcher ends, or the session does
        async for piece in answer.pieces():
            if not session.open:
                return
            yield piece


def _is_stream(route: LauncherRoute, query: Mapping[str, str]) -> bool:
    follows = query.get("follow", "").lower() in ("true", "1")
    return route.name in ("events", "trace") or (route.name == "log" and follows)


def _patience(route: LauncherRoute, query: Mapping[str, str]) -> float:
    """Seconds that the launcher may take until it answers."""
    if route.method == "GET":
        return _GET_SECONDS
    usual, most = _STOP
    with contextlib.suppress(ValueError):
        asked = float(query.get("timeout", usual))
        if 0 <= asked <= most:
            return _CHANGE_SECONDS + asked
    return _CHANGE_SECONDS


def _problem(status: int, error: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": error}, status, headers)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, error.detail, error.headers)


async def _upstream_problem(request: Request, error: Exception) -> Response:
    return _problem(502, str(error))


async def _bug(request: Request, error: Exception) -> Response:
    return _problem(500, f"{type(error).__name__}: {error}")
