"""The console, real, without a launcher: headers, login, bounds, and who is silent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("uvicorn")

from tests.console.serving import PROGRAM, Browser, Console, console_in, token_of, until
from tests.launcher.system.test_service import as_nobody

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """One for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("console")
    with console_in(folder, "-v", env={"USERDISK_RUN": str(folder / "run")}) as console:
        yield console
        console.stop()
        assert "Traceback" not in console.log.read_text()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Console]:
    """One for one test."""
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path / "run"))
    with console_in(tmp_path, "-vv") as console:
        yield console


def _raw(console: Console, request: bytes) -> bytes:
    """What is answered to these bytes, up to the end."""
    with console.connect() as sock:
        sock.sendall(request)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(
            ConnectionResetError
        ):  # it does not read what comes after a mistake
            while part := sock.recv(65536):
                answer += part
        return answer


def test_headers_are_on_everything(shared: Console) -> None:
    browser, stranger = shared.browser(), Browser(shared.port)
    answers = [
        stranger.ask("GET", "/"),
        stranger.ask("GET", "/nope"),
        stranger.ask("GET", "/", headers={"Host": "evil.example"}),
        stranger.ask("GET", "/session"),
        stranger.ask("HEAD", "/"),
        stranger.ask("POST", "/login", {"token": "x"}),
        stranger.ask("POST", "/login", b"x" * 70000),
        stranger.ask("POST", "/"),
        browser.ask("GET", "/session"),
        browser.ask("GET", "/api/v1/service"),
        browser.ask("GET", "/api/stats"),
        browser.ask("GET", "/api/v1/nope"),
        browser.ask("GET", "/api/openapi.json"),
        browser.ask("POST", "/api/v1/service", {}),
        browser.ask("POST", "/logout"),
    ]
    statuses = [200, 404, 421, 401, 405, 403, 413, 405, 200, 502, 502, 404, 404, 405, 204]
    assert [got.status for got in answers] == statuses
    for got in answers:
        assert {name: got.headers[name] for name in HEADERS} == HEADERS
        assert len(got.headers.get_all("Content-Security-Policy")) == 1
        assert got.headers["Server"] is None
    assert answers[0].headers["Content-Type"] == "text/html; charset=utf-8"


def test_heads_are_bounded(shared: Console) -> None:
    stranger = Browser(shared.port)
    assert stranger.ask("GET", "/", headers={"X": "y" * 30000}).status == 200
    for size in (33000, 400000):
        with contextlib.suppress(ConnectionError):  # closed before all of it has come
            assert stranger.ask("GET", "/", headers={"X": "y" * size}).status in (400, 431)


def test_what_is_no_http_has_them_too(shared: Console) -> None:
    for request in (
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n",
    ):
        answer = _raw(shared, request)
        assert answer.startswith(b"HTTP/1.1 400 ")
        for name, value in HEADERS.items():
            assert f"\r\n{name}: {value}\r\n".encode() in answer


@pytest.mark.parametrize(
    "method", ["HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "CONNECT", "X" * 99]
)
def test_other_methods(shared: Console, method: str) -> None:
    for path in ("/", "/login", "/api/v1/instances"):
        got = Browser(shared.port).ask(method, path)
        assert (got.status, got.headers["Allow"]) == (405, "GET, POST, DELETE")


def test_without_a_launcher_it_says_so(shared: Console) -> None:
    browser = shared.browser()
    for path in ("/api/v1/instances", "/api/v1/events", "/api/stats"):
        got = browser.ask("GET", path)
        assert got.status == 502
        assert got.json == {
            "error": f"no launcher at {shared.env['USERDISK_RUN']}/launcher/api: start it with"
            " userdisk launcher run"
        }


def test_login_once(shared: Console) -> None:
    first, second = Browser(shared.port), Browser(shared.port)
    token = shared.token
    got = first.login(token)
    assert got.status == 204 and got.body == b""
    name, _, rest = got.headers["Set-Cookie"].partition("=")
    assert name == f"userdisk-{shared.port}"
    attributes = {each.strip().lower() for each in rest.split(";")[1:]}
    assert attributes == {"httponly", "samesite=strict", "path=/"}
    assert second.login(token).status == 403
    assert shared.token != token, "the file has another"
    session = first.ask("GET", "/session")
    assert set(session.json) == {"csrf", "user", "version"}
    assert second.ask("GET", "/session").status == 401


def test_logout(shared: Console) -> None:
    browser, other = shared.browser(), shared.browser()
    assert browser.ask("POST", "/logout", headers={"X-Userdisk-CSRF": other.csrf}).status == 403
    assert browser.ask("GET", "/session").status == 200
    got = browser.ask("POST", "/logout")
    assert got.status == 204 and "Max-Age=0" in got.headers["Set-Cookie"]
    assert browser.ask("GET", "/session").status == 401
    assert other.ask("GET", "/session").status == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"7", b"null", b'{"token": 7}', b'{"token"', b"[" * 60000, b"\xff"]
)
def test_a_login_that_is_none(shared: Console, body: bytes) -> None:
    got = Browser(shared.port).ask("POST", "/login", body)
    assert got.status == 400 and got.json == {"error": 'the body is {"token": ...}'}


def test_a_login_from_another_site(shared: Console) -> None:
    token, stranger = shared.token, Browser(shared.port)
    evil = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert stranger.ask("POST", "/login", {"token": token}, evil).status == 403
    rebound = {
        "Host": f"evil.example:{shared.port}",
        "Origin": f"http://evil.example:{shared.port}",
    }
    assert stranger.ask("POST", "/login", {"token": token}, rebound).status == 421
    assert stranger.login(token).status == 204, "they have not used it up"


def test_bodies_are_bounded(shared: Console) -> None:
    browser = shared.browser()
    assert browser.ask("POST", "/api/v1/instances", b" " * 65536).status == 502
    got = browser.ask("POST", "/api/v1/instances", b" " * 65537)
    assert (got.status, got.json) == (413, {"error": "the body is longer than 64 KiB"})
    claimed = {"Content-Length": str(1 << 40)}
    connection = browser.send("POST", "/api/v1/instances", b" " * 70000, claimed)
    assert connection.getresponse().status == 413
    connection.close()


def test_wrong_tokens_are_counted(own: Console) -> None:
    browser = Browser(own.port)
    began = time.monotonic()
    with ThreadPoolExecutor(30) as pool:  # at the same time: none of them sees an old count
        wrong = [pool.submit(browser.ask, "POST", "/login", {"token": f"x{n}"}) for n in range(60)]
        answers = [each.result() for each in wrong]
    assert {got.status for got in answers} == {403}
    looked_at = [got for got in answers if "too many" not in got.json["error"]]
    assert 10 <= len(looked_at) <= 11 + (time.monotonic() - began) / 6
    assert all(got.headers["Retry-After"] for got in answers if got not in looked_at)
    right = browser.login(own.token).status
    assert right == 403 or time.monotonic() - began >= 6, "not even the right one is looked at"
    if os.getuid() != 0:
        return
    token = own.token
    logged_in = as_nobody(lambda: [str(browser.ask("POST", "/login", {"token": token}).status)])
    assert logged_in == ["204"], "another user is not locked out"


def test_a_cookie_of_another_user_is_none(shared: Console) -> None:
    if os.getuid() != 0:
        pytest.skip("not root: cannot be another user")
    browser = shared.browser()
    assert browser.ask("GET", "/session").status == 200
    assert as_nobody(lambda: [str(browser.ask("GET", "/session").status)]) == ["401"]


def test_who_is_silent_delays_nobody_and_is_closed(own: Console) -> None:
    browser = own.browser()
    silent = []
    try:
        for number in range(200):
            sock = own.connect()
            if number % 3 == 1:
                sock.sendall(b"GET / HT")
            elif number % 3 == 2:
                sock.sendall(
                    f"POST /login HTTP/1.1\r\nHost: 127.0.0.1:{own.port}\r\nOrigin: "
                    f"http://127.0.0.1:{own.port}\r\nContent-Length: 9\r\n\r\n{{".encode()
                )
            silent.append(sock)
        assert browser.ask("GET", "/session").status == 200
        assert Browser(own.port).ask("GET", "/").status == 200
        begun = own.connect()  # after an answer, half of a request
        silent.append(begun)
        begun.sendall(f"GET /x HTTP/1.1\r\nHost: 127.0.0.1:{own.port}\r\n\r\nGET /".encode())
        for sock in silent:
            sock.settimeout(60)
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(65536):
                    pass
    finally:
        for sock in silent:
            sock.close()


def test_no_log_has_a_secret(own: Console) -> None:
    browser = own.browser()
    browser.ask("GET", "/session")
    browser.ask("GET", "/api/v1/instances")
    wrong = Browser(own.port)
    wrong.login("this-is-a-wrong-token")
    wrong.login(browser.seen[0])
    browser.ask("GET", "/api/v1/instances", headers={"Host": "evil.example"})
    browser.ask("POST", "/api/v1/instances", {}, {"X-Userdisk-CSRF": "wrong-csrf-value"})
    browser.ask("GET", f"/#login={own.token}")
    browser.ask("POST", "/logout")
    assert own.stop() == 0
    log = own.log.read_text()
    assert "login of" in log and "wrong token of" in log and "logout of" in log
    seen = [*browser.seen, *wrong.seen, "wrong-csrf-value"]
    assert len(seen) > 4 and not [each for each in seen if each in log]
    assert "Traceback" not in log and "ERROR" not in log


def test_the_link_of_a_second_console(own: Console) -> None:
    again = [
        subprocess.run(
            [*PROGRAM, *more], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        for more in (["--json"], [], ["--listen", "127.0.0.1:1"])
    ]
    urls = [re.findall(r"http://[^ \n\"]+", text)[0] for text in again]
    assert urls == [own.url] * 3, "it has not been used"
    assert Browser(own.port).login(token_of(urls[0])).status == 204
    assert token_of(own.url) != own.token


def test_the_file(own: Console) -> None:
    folder = Path(os.environ["USERDISK_RUN"]) / "launcher"
    path = folder / "console"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"pid": own.process.pid, "url": own.url}
    own.browser()
    until(lambda: token_of(json.loads(path.read_text())["url"]) != token_of(own.url))
    assert own.stop(signal.SIGINT) == 0
    assert not path.exists()


def test_a_killed_console_is_no_console(own: Console, tmp_path: Path) -> None:
    own.stop(signal.SIGKILL)
    assert (Path(os.environ["USERDISK_RUN"]) / "launcher/console").exists()
    with console_in(tmp_path) as next_:
        assert next_.url != own.url
        assert next_.browser().ask("GET", "/session").status == 200


def _refused(*options: str) -> str:
    done = subprocess.run(
        [*PROGRAM, *options], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    return done.stderr


def test_addresses_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path / "run"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = _refused("--listen", f"127.0.0.1:{port}")
        assert f"127.0.0.1 port {port}: Address already in use" in said
    assert "--allow-remote" in _refused("--listen", "0.0.0.0:0")
    assert "--allow-remote" in _refused("--listen", "192.0.2.1")
    assert "cannot listen" in _refused("--listen", "192.0.2.1", "--allow-remote").split("\n")[-2]
    assert "at most 65535" in _refused("--listen", "127.0.0.1:70000")
    assert "write it as ADDRESS[:PORT]" in _refused("--listen", "127.0.0.1:0,1")


def test_a_folder_where_others_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/launcher").mkdir()
    (tmp_path / "run/launcher").chmod(0o777)
    done = subprocess.run(PROGRAM, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "nobody else may write there" in done.stderr


def test_the_other_loopback_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("::1 is no address of this machine")
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path / "run"))
    console = subprocess.Popen(
        [*PROGRAM, "--listen", "[::1]", "--json"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert console.stdout is not None
        url = json.loads(console.stdout.readline())["url"]
        with urllib.request.urlopen(url.partition("#")[0], timeout=60) as page:
            assert url.startswith("http://[::1]:") and page.status == 200
    finally:
        console.terminate()
        assert console.wait(60) == 0
        console.stdout.close()


_lines = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"Host: 127.0.0.1:PORT", b"Host: evil", b"Cookie: COOKIE", b"X-Userdisk-CSRF: CSRF",
                b"Origin: http://127.0.0.1:PORT", b"Content-Length: 5", b"Content-Length: x",
                b"Transfer-Encoding: chunked", b"Connection: close", b"Upgrade: websocket",
                b"Connection: upgrade", b"Expect: 100-continue", b"Sec-Fetch-Site: cross-site",
            ]
        ),
        st.binary(max_size=40),
    ),
    max_size=8,
)  # fmt: skip


@given(
    st.sampled_from([b"GET", b"POST", b"DELETE", b"HEAD", b"\xff", b""]),
    st.one_of(
        st.sampled_from(
            [
                b"/", b"/login", b"/session", b"/api/stats", b"/api/v1/instances", b"//", b"*",
                b"/api/v1/instances/%00/log?follow=1", b"http://127.0.0.1:PORT/", b"/%ff%2e%2e/",
                b"/api/v1/instances/..%2f?timeout=nan&force=&follow=%zz", b"/../../etc/passwd",
            ]
        ),
        st.binary(max_size=60),
    ),
    _lines,
    st.binary(max_size=40),
)  # fmt: skip
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes_get_an_answer_or_the_end(
    shared: Console, fuzzer: Browser, method: bytes, path: bytes, lines: list[bytes], body: bytes
) -> None:
    request = b"\r\n".join([method + b" " + path + b" HTTP/1.1", *lines, b"", body])
    for name, value in (("PORT", fuzzer.port), ("COOKIE", fuzzer.cookie), ("CSRF", fuzzer.csrf)):
        request = request.replace(name.encode(), str(value).encode())
    for answer in re.findall(rb"^HTTP/1\.1 ([0-9]+) ", _raw(shared, request), re.MULTILINE):
        assert int(answer) < 500 or answer == b"502", "there is no launcher; all else is no bug"


@pytest.fixture(scope="module")
def fuzzer(shared: Console) -> Browser:
    return shared.browser()


def test_others_may_when_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path / "run"))
    with console_in(tmp_path, "--listen", "0.0.0.0:0", "--allow-remote") as console:
        assert "plain HTTP" in console.log.read_text()
        browser = Browser(console.port)
        assert browser.ask("GET", "/", headers={"Host": f"192.0.2.1:{console.port}"}).status == 200
        assert browser.ask("GET", "/", headers={"Host": f"evil.io:{console.port}"}).status == 421
        name = f"{socket.gethostname()}:{console.port}"
        assert browser.ask("GET", "/", headers={"Host": name}).status == 200
