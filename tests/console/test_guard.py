"""Each check refuses what nothing else would: with it taken out the request goes through."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from userdisk.console import guard
from userdisk.console.guard import CHECKS, Check, Guard, cookies_named
from userdisk.console.own import Own
from userdisk.console.sessions import Sessions

OWN = Own(8123)
ORIGIN = "http://127.0.0.1:8123"


class Secrets:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"secret-{self.count}"


@dataclass
class Site:
    """An application behind a guard, and one session of uid:1: secret-1, its CSRF secret-2."""

    checks: Sequence[Check] = CHECKS
    passed: list[Scope] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sessions = Sessions(lambda: 1000.0, Secrets())
        assert self.sessions.begin("uid:1") == "secret-1"
        self.guard = Guard(self._app, OWN, self.sessions, self.checks)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.passed.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def ask(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError("a check does not read the body")

        scope = {
            "type": "http",
            "method": request.method,
            "path": request.path,
            "raw_path": request.path.encode(),
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in request.headers],
            "state": {"who": request.who},
        }
        asyncio.run(self.guard(scope, receive, send))
        headers = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], headers, sent[1]["body"]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    who: str = "uid:1"

    def without(self, name: str) -> Request:
        return replace(self, headers=tuple(each for each in self.headers if each[0] != name))

    def with_(self, name: str, value: str) -> Request:
        return replace(self, headers=(*self.headers, (name, value)))

    def changed(self, name: str, value: str) -> Request:
        return self.without(name).with_(name, value)


READ = Request(
    "GET",
    "/api/v1/instances",
    (
        ("Host", "127.0.0.1:8123"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Cookie", "userdisk-8123=secret-1"),
    ),
)
CHANGE = replace(READ, method="POST").with_("Origin", ORIGIN).with_(guard.CSRF, "secret-2")
PAGE = Request("GET", "/", (("Host", "127.0.0.1:8123"),))
LOGIN = Request("POST", "/login", (("Host", "127.0.0.1:8123"), ("Origin", ORIGIN)))

GOOD = [
    READ,
    CHANGE,
    PAGE,
    LOGIN,
    READ.without("Sec-Fetch-Site"),  # curl
    READ.changed("Sec-Fetch-Site", "none"),
    PAGE.with_("Sec-Fetch-Site", "same-site"),  # a link on another port of this machine
    READ.changed("Cookie", "other=1; userdisk-8123=secret-1;x=userdisk-8123"),
    READ.with_("Cookie", "userdisk-8123=tossed"),
    replace(CHANGE, method="DELETE", path="/api/v1/instances/ram.one"),
    replace(CHANGE, path="/logout"),
    CHANGE.changed("Host", "localhost:8123").changed("Origin", "http://localhost:8123"),
]

#: The check that alone refuses it, how, and the request.
BAD = [
    ("_method", 405, replace(CHANGE, method="HEAD")),
    ("_method", 405, replace(CHANGE, method="OPTIONS")),
    ("_method", 405, replace(CHANGE, method="TRACE")),
    ("_method", 405, replace(CHANGE, method="PUT")),
    ("_method", 405, replace(LOGIN, path="/", method="HEAD")),
    ("_size", 431, PAGE.with_("X", "y" * 32768)),
    ("_size", 431, replace(PAGE, path=f"/{'y' * 32768}")),
    ("_host", 421, READ.changed("Host", "evil.example:8123")),
    ("_host", 421, READ.changed("Host", "127.0.0.1:8124")),
    ("_host", 421, PAGE.changed("Host", "evil.example")),
    ("_host", 421, PAGE.with_("Host", "127.0.0.1:8123")),  # which one is it?
    ("_host", 421, PAGE.without("Host")),
    ("_host", 421, CHANGE.changed("Host", "evil.example:8123")
        .changed("Origin", "http://evil.example:8123")),
    ("_site", 403, READ.changed("Sec-Fetch-Site", "cross-site")),
    ("_site", 403, READ.changed("Sec-Fetch-Site", "same-site")),
    ("_site", 403, READ.with_("Sec-Fetch-Site", "cross-site")),
    ("_site", 403, PAGE.with_("Sec-Fetch-Site", "cross-site")),
    ("_site", 403, LOGIN.with_("Sec-Fetch-Site", "cross-site")),
    ("_origin", 403, CHANGE.without("Origin")),
    ("_origin", 403, CHANGE.changed("Origin", "null")),
    ("_origin", 403, CHANGE.changed("Origin", "http://127.0.0.1:8124")),
    ("_origin", 403, CHANGE.changed("Origin", "https://127.0.0.1:8123")),
    ("_origin", 403, CHANGE.changed("Origin", "http://localhost:8123")),
    ("_origin", 403, CHANGE.with_("Origin", "http://evil.example")),
    ("_origin", 403, READ.with_("Origin", "http://evil.example")),
    ("_origin", 403, LOGIN.without("Origin")),
    ("_origin", 403, LOGIN.changed("Origin", "http://evil.example")),
    ("_login", 401, READ.without("Cookie")),
    ("_login", 401, CHANGE.without("Cookie")),
    ("_login", 401, READ.changed("Cookie", "userdisk-8123=secret-2")),
    ("_login", 401, READ.changed("Cookie", "userdisk-8124=secret-1")),
    ("_login", 401, replace(READ, who="uid:2")),  # a cookie that another user was sent
    ("_login", 401, replace(READ.without("Cookie"), path="/api/stats")),
    ("_login", 401, replace(READ.without("Cookie"), path="/session")),
    ("_login", 401, replace(CHANGE.without("Cookie"), path="/logout")),
    ("_csrf", 403, CHANGE.without(guard.CSRF)),
    ("_csrf", 403, CHANGE.changed(guard.CSRF, "secret-1")),
    ("_csrf", 403, CHANGE.changed(guard.CSRF, "")),
    ("_csrf", 403, CHANGE.with_(guard.CSRF, "secret-2")),
    ("_csrf", 403, CHANGE.changed(guard.CSRF, "sécret")),
    ("_csrf", 403, replace(CHANGE, method="DELETE").without(guard.CSRF)),
    ("_csrf", 403, replace(CHANGE, path="/logout").without(guard.CSRF)),
]  # fmt: skip


@pytest.mark.parametrize("request_", GOOD)
def test_what_the_page_sends_passes(request_: Request) -> None:
    site = Site()
    assert site.ask(request_)[0] == 200 and len(site.passed) == 1


@pytest.mark.parametrize(("name", "status", "request_"), BAD)
def test_a_check_refuses_what_no_other_would(name: str, status: int, request_: Request) -> None:
    site = Site()
    got, headers, body = site.ask(request_)
    assert (got, site.passed) == (status, [])
    assert headers["content-type"] == "application/json" and json.loads(body)["error"]
    assert ("allow" in headers) == (status == 405)
    assert b"secret" not in body
    fewer = Site([check for check in CHECKS if check.__name__ != name])
    assert len(fewer.checks) == len(CHECKS) - 1
    assert fewer.ask(request_)[0] == 200, "another check would do"


def test_every_check_is_tried() -> None:
    assert {name for name, _, _ in BAD} == {check.__name__ for check in CHECKS}


def test_an_ended_session_is_none() -> None:
    site = Site()
    assert site.ask(READ)[0] == 200
    session = site.passed[0]["state"]["session"]
    site.sessions.end(session)
    assert site.ask(READ)[0] == 401 and not session.open


@given(st.lists(st.text(), max_size=20))
def test_any_cookie_header_is_read(lines: list[str]) -> None:
    found = cookies_named(
        [*lines, "a=b; userdisk-1=one; c", "userdisk-1=two;userdisk-12=x"], "userdisk-1"
    )
    assert found[-2:] == ["one", "two"] or len(found) == 8
    assert cookies_named(lines * 9, "") == cookies_named(lines * 9, "")[:8]


@given(st.binary(max_size=60), st.sampled_from([name for name, _ in CHANGE.headers]))
def test_no_other_bytes_pass(value: bytes, name: str) -> None:
    text = value.decode("latin-1")
    before = dict(CHANGE.headers)[name]
    site = Site()
    status = site.ask(CHANGE.changed(name, text))[0]
    assert (status == 200) == bool(site.passed)
    if site.passed:
        same = {"Cookie": True, "Sec-Fetch-Site": text == "none"}.get(name, False)
        assert text == before or same
