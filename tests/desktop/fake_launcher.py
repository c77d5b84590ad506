"""A launcher's API with disks that are only names, on a Unix socket."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class FakeLauncher:
    """What the launcher has, what it was asked, and how it answers starts."""

    classes: list[dict[str, Any]] = field(default_factory=list)
    instances: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)  #: word of the path -> answer
    mount_in: str = ""  #: where disks are mounted
    ready_after: int = 0  #: requests; what is starting is up then
    hidden: bool = False  #: what runs is nothing to the caller
    last_error: str = ""  #: of disks that are started

    def answer(self, method: str, target: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and content."""
        self.requests.append((method, target, body))
        if self.ready_after and len(self.requests) > self.ready_after:
            for each in self.instances:
                each["state"] = "running"
        url = urlsplit(target)
        words = [unquote(word) for word in url.path.split("/")[2:]]
        for word in (method, words[-1], method + words[-1]):
            if word in self.refuse:
                status, message = self.refuse[word]
                return status, {"error": message}
        if words == ["classes"]:
            extra = {"opens": [], "may_start": True, "error": ""}
            return 200, {"classes": [{**extra, **each} for each in self.classes]}
        if words == ["instances"] and method == "GET":
            wanted = {key: values[0] for key, values in parse_qs(url.query).items()}
            found = [
                each
                for each in self.instances
                if not self.hidden and all(each[key] == value for key, value in wanted.items())
            ]
            return 200, {"instances": found}
        if words == ["instances"]:
            return self._start(body)
        instance = next((each for each in self.instances if each["id"] == words[1]), None)
        if instance is None:
            return 404, {"error": "no such instance"}
        assert method == "DELETE"
        self.instances.remove(instance)
        return 200, {"remarks": []}

    def _start(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if any(each["name"] == body["name"] for each in self.instances):
            return 409, {"error": "it runs already"}
        instance = {
            "id": f"{body['class']}.{len(self.instances)}",
            "class": body["class"],
            "name": body["name"],
            "state": "running",
            "last_error": self.last_error,
            "mountpoints": [self.mount_in] if self.mount_in else [],
        }
        self.instances.append(instance)
        return 201, instance


@contextmanager
def serve(launcher: FakeLauncher, path: Path) -> Iterator[None]:
    """Answer on a socket at this path."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            status, content = launcher.answer(self.command, self.path, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _do  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

        def address_string(self) -> str:
            return "local"

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    path.parent.mkdir(parents=True, exist_ok=True)
    with Server(str(path), Handler) as server:
        path.chmod(0o666)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
