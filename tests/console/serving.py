"""A console for tests: a process of its own, and a browser without one."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM = [sys.executable, "-P", "-m", "userdisk", "console"]


@dataclass
class Got:
    """An answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Browser:
    """Sends what a browser does; `headers` of a call change that, and None leaves one out."""

    port: int
    host: str = "127.0.0.1"
    cookie: str = ""
    csrf: str = ""
    source: str = "127.0.0.1"
    seen: list[str] = field(default_factory=list)  #: secrets that no log may have

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Got:
        """One request on a connection of its own."""
        with contextlib.closing(self.send(method, path, body, headers)) as connection:
            response = connection.getresponse()
            return Got(response.status, response.headers, response.read())

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> http.client.HTTPConnection:
        """The request alone."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, 60)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        wanted: dict[str, str | None] = {
            "Host": f"{self.host}:{self.port}",
            "Sec-Fetch-Site": "same-origin",
            "Cookie": self.cookie or None,
        }
        if method != "GET":
            wanted |= {"Origin": self.origin, "X-Userdisk-CSRF": self.csrf or None}
        if content is not None:
            wanted |= {"Content-Length": str(len(content)), "Content-Type": "application/json"}
        wanted |= headers or {}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in wanted.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(content)
        return connection

    def login(self, token: str) -> Got:
        """With the token of a link; what /session says is kept."""
        self.seen.append(token)
        got = self.ask("POST", "/login", {"token": token})
        if got.status == 204:
            self.cookie = got.headers["Set-Cookie"].partition(";")[0]
            self.csrf = self.ask("GET", "/session").json["csrf"]
            self.seen += [self.cookie.partition("=")[2], self.csrf]
        return got


class Console:
    """`userdisk console`, with a log of its own."""

    def __init__(self, folder: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        self.log = folder / "console.log"
        self.env = {**os.environ, **(env or {})}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, "--json", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.env,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.url: str = json.loads(line)["url"]
        self.port = int(self.url.split(":")[2].partition("/")[0])

    @property
    def token(self) -> str:
        """Of a link that is good now."""
        path = Path(self.env["USERDISK_RUN"]) / "launcher" / "console"
        return token_of(json.loads(path.read_text())["url"])

    def browser(self) -> Browser:
        """One that is logged in."""
        browser = Browser(self.port)
        assert browser.login(self.token).status == 204
        return browser

    def connect(self) -> socket.socket:
        """A connection that says nothing."""
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@contextlib.contextmanager
def console_in(
    folder: Path, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[Console]:
    """A console that runs while the block does."""
    console = Console(folder, *options, env=env)
    try:
        yield console
    finally:
        console.stop()


def token_of(url: str) -> str:
    return url.partition("#login=")[2]


def until(condition: Any, seconds: float = 60) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
