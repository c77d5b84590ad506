"""Asking a launcher: HTTP over its Unix socket. Needs the standard library only."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from userdisk import control
from userdisk.errors import UsageError, UserdiskError
from userdisk.launcher import places

_CONNECT: Final = 5.0  # seconds
_LARGEST: Final = 64 << 20  # bytes of an answer


class Unreachable(UserdiskError):
    """No launcher runs here."""


class Failed(UserdiskError):
    """The launcher says no; `status` is HTTP's, `busy` that something uses the disk."""

    def __init__(self, message: str, status: int, *, busy: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.busy = busy


class Client:
    """One launcher. Calls block; each has a connection of its own, so any thread may call.

    Args:
        path: of its socket; None: the first of this user's that answers.

    Raises `Unreachable`.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or _find()

    def get(self, path: str, query: Mapping[str, object] | None = None) -> dict[str, Any]:
        """An answer. Raises `Failed`, `UserdiskError`."""
        return self.call("GET", path, query)

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        timeout: float = 600.0,
    ) -> dict[str, Any]:
        """One request and its answer. `timeout` in seconds. Raises `Failed`, `UserdiskError`."""
        with self._asked(method, path, query, body, timeout) as response:
            answer = json.loads(response.read(_LARGEST))
        if not isinstance(answer, dict):
            raise UserdiskError(f"{self.path}: an answer that is none")
        return answer

    def lines(
        self, path: str, query: Mapping[str, object] | None = None, timeout: float | None = None
    ) -> Iterator[str]:
        """A text, line by line as it comes. Raises as `call`."""
        with self._asked("GET", path, query, None, timeout) as response:
            for line in response:
                yield line.decode(errors="replace").rstrip("\n")

    @contextlib.contextmanager
    def _asked(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        body: Mapping[str, object] | None,
        timeout: float | None,
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self.path, timeout)
        given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, target, content, headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise _failed(response)
            yield response
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UserdiskError(f"{self.path}: the launcher does not answer: {error}") from None
        finally:
            connection.close()


def instance_path(id_: str, more: str = "") -> str:
    """The path of an instance in the API."""
    return f"/v1/instances/{quote(id_, safe='')}{more}"


def _failed(response: http.client.HTTPResponse) -> UserdiskError:
    try:
        answer = json.loads(response.read(_LARGEST))
        said, busy = str(answer["error"]), bool(answer.get("busy"))
    except (ValueError, KeyError, TypeError):
        said, busy = f"status {response.status}", False
    if response.status in (400, 404, 422):
        return _Usage(said, response.status)
    return Failed(said, response.status, busy=busy)


class _Usage(UsageError, Failed):
    """What was asked for cannot be."""

    def __init__(self, message: str, status: int) -> None:
        Failed.__init__(self, message, status)


def _find() -> Path:
    tried = list(places.api_sockets())
    for path in tried:
        probe = _Connection(path, _CONNECT)
        with contextlib.suppress(OSError):
            probe.connect()
            probe.close()
            return path
    where = " and ".join(map(str, tried))
    raise Unreachable(f"no launcher answers at {where}; start one with: userdisk launcher run")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost")
        self._path = path
        self._seconds = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(_CONNECT)
            with control.short(self._path) as name:
                self.sock.connect(name)
            if not control.trusted(self.sock):
                raise UserdiskError(f"{self._path}: another user's process answers there")
            self.sock.settimeout(self._seconds)
        except BaseException:
            self.sock.close()
            raise
