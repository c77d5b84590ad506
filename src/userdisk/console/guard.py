"""What a request must have before anything looks at it: a table of checks, in front of the app.

A page of another site, a name that was bent to this machine, another user of it, a stolen cookie:
each meets a check of its own. What answers has no more to do with it.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from userdisk.console.own import Own
from userdisk.console.sessions import Session, Sessions

#: On every answer, also to what is no HTTP.
HEADERS: Final = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
CSRF: Final = "x-userdisk-csrf"
METHODS: Final = ("GET", "POST", "DELETE")
_PRIVATE: Final = ("/api/", "/session", "/logout")
_COOKIES: Final = 8  # of the same name that are tried
_MAX_HEAD: Final = 32 << 10  # bytes


@dataclass(frozen=True)
class Refusal:
    """Why not."""

    status: int
    error: str
    headers: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Asked:
    """What is known of a request before it is looked at."""

    method: str
    path: str
    headers: Headers
    own: Own
    session: Session | None
    size: int  #: of the head, in bytes

    @property
    def private(self) -> bool:
        """Whether it is for those who have logged in."""
        return self.path.startswith(_PRIVATE)

    @property
    def changes(self) -> bool:
        """Whether it may change something."""
        return self.method != "GET"


def _method(asked: Asked) -> Refusal | None:
    if asked.method in METHODS:
        return None
    allowed = ", ".join(METHODS)
    return Refusal(405, f"{asked.method[:20]} is not one of {allowed}", [("Allow", allowed)])


def _size(asked: Asked) -> Refusal | None:
    if asked.size <= _MAX_HEAD:
        return None
    return Refusal(431, f"the head of the request is longer than {_MAX_HEAD >> 10} KiB")


def _host(asked: Asked) -> Refusal | None:
    hosts = asked.headers.getlist("host")
    if len(hosts) == 1 and asked.own.has_host(hosts[0]):
        return None
    return Refusal(421, "the Host of the request is not this console")


def _site(asked: Asked) -> Refusal | None:
    sites = asked.headers.getlist("sec-fetch-site")
    # Another port of this machine is the same site: it may link to the page, and that is all.
    wanted = ("same-origin", "none") if asked.private else ("same-origin", "none", "same-site")
    if all(site in wanted for site in sites):
        return None
    return Refusal(403, "a page of another site has sent the request")


def _origin(asked: Asked) -> Refusal | None:
    origins = asked.headers.getlist("origin")
    wanted = f"http://{asked.headers.get('host', '')}".lower()
    if all(origin.lower() == wanted for origin in origins) and (origins or not asked.changes):
        return None
    return Refusal(403, "the Origin of the request is not this console")


def _login(asked: Asked) -> Refusal | None:
    if asked.session is not None or not asked.private:
        return None
    return Refusal(401, "not logged in: type `userdisk console` for a link")


def _csrf(asked: Asked) -> Refusal | None:
    if asked.session is None or not asked.changes:
        return None
    values = asked.headers.getlist(CSRF)
    if len(values) == 1 and hmac.compare_digest(
        values[0].encode(errors="replace"), asked.session.csrf.encode()
    ):
        return None
    return Refusal(403, f"the header {CSRF} is missing or wrong")


Check = Callable[[Asked], Refusal | None]

#: In this order: what is said depends on what has been checked already.
CHECKS: Final[Sequence[Check]] = (_method, _size, _host, _site, _origin, _login, _csrf)


class Guard:
    """An ASGI application in front of another, which gets what all checks let pass.

    The session is `state["session"]` of the scope, `state["who"]` is who asks.
    """

    def __init__(
        self, app: ASGIApp, own: Own, sessions: Sessions, checks: Sequence[Check] = CHECKS
    ) -> None:
        self._app = app
        self._checks = checks
        self._own = own
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        assert scope["type"] == "http", "the server speaks nothing else"
        headers = Headers(scope=scope)
        cookies = cookies_named(headers.getlist("cookie"), self._own.cookie)
        state = scope["state"]
        session = None
        if scope["path"].startswith(_PRIVATE):
            session = self._sessions.find(cookies, state["who"])
        size = sum(len(name) + len(value) for name, value in headers.raw)
        size += len(scope["raw_path"]) + len(scope["query_string"])
        asked = Asked(scope["method"], scope["path"], headers, self._own, session, size)
        for check in self._checks:
            refusal = check(asked)
            if refusal is not None:
                await _answer(send, refusal)
                return
        state["session"] = session
        await self._app(scope, receive, send)


def cookies_named(lines: Sequence[str], name: str) -> list[str]:
    """The values of the cookies of this name: there may be several, of other paths and ports."""
    found: list[str] = []
    for line in lines:
        for piece in line.split(";"):
            key, _, value = piece.strip().partition("=")
            if key == name:
                found.append(value)
    return found[:_COOKIES]


async def _answer(send: Send, refusal: Refusal) -> None:
    body = json.dumps({"error": refusal.error}).encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        *refusal.headers,
    ]
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
