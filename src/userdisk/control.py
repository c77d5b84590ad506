"""Asking a running server: a Unix socket for each process, one line of JSON each way.

The socket is `control/PID` in the runtime folder, mode 600; peers of another user are refused by
the kernel's word (SO_PEERCRED), root is not. A request is `{"verb": ...}` and what the verb takes;
an answer is an object, with `error` (and `usage`) when it failed. Some verbs answer with many
objects, a line each, until who asked closes the connection. Needs Linux.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from userdisk.errors import StorageError, UsageError, UserdiskError
from userdisk.short_path import short as short

log = logging.getLogger("userdisk")

#: What a verb answers; and a verb, which gets the request.
Answer = dict[str, object]
Verb = Callable[[Mapping[str, object]], "Answer | Iterator[Answer]"]

_MAX_LINE: Final = 64 << 10
_MAX_ANSWER: Final = 4 << 20
_MAX_PEERS: Final = 8
_SECONDS: Final = 5.0  # for a request to come, and for an answer to go
_CREDENTIALS: Final = struct.Struct("=iII")  # pid, uid, gid


def available() -> bool:
    """Whether this system can say who the peer of a Unix socket is."""
    return hasattr(socket, "AF_UNIX") and hasattr(socket, "SO_PEERCRED")


def folder() -> Path:
    """Where the sockets of this user's processes are: in USERDISK_RUN if that is set."""
    run = os.environ.get("USERDISK_RUN")
    if not run and os.getuid() == 0:
        run = "/run/userdisk"
    if not run and (own := os.environ.get("XDG_RUNTIME_DIR")):
        run = f"{own}/userdisk"
    return Path(run or f"/tmp/userdisk-{os.getuid()}").absolute() / "control"


class Control:
    """Answers requests until it is closed.

    Args:
        verbs: what can be asked; called on threads of their own, several at a time. They may
            block, and raise `UserdiskError`, `StorageError` and `OSError`.
        path: of the socket; None: that of this process in `folder()`.

    Raises `OSError` and `UserdiskError` when the socket cannot be made.
    """

    def __init__(self, verbs: Mapping[str, Verb], path: Path | None = None) -> None:
        self._verbs = verbs
        self._peers = threading.BoundedSemaphore(_MAX_PEERS)
        self._path = path or own_folder(folder(), 0o700) / str(os.getpid())
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()  # of an earlier process with this number
            with short(self._path) as name:
                self._listener.bind(name)
            self._path.chmod(0o600)
            self._listener.listen(_MAX_PEERS)
        except BaseException:
            self._listener.close()
            raise
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take the socket away; requests under way may still be answered."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def drain(self, seconds: float) -> None:
        """After `close`: wait until the requests under way are answered, so long at most."""
        deadline = time.monotonic() + seconds
        for _ in range(_MAX_PEERS):
            self._peers.acquire(timeout=max(deadline - time.monotonic(), 0))

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            if not trusted(peer) or not self._peers.acquire(blocking=False):
                peer.close()
                continue
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        try:
            with peer, contextlib.suppress(OSError):
                line = _line(peer, _MAX_LINE, _SECONDS)
                answer = self._answer(line)
                peer.settimeout(_SECONDS)
                if isinstance(answer, dict):
                    peer.sendall(_encoded(answer))
                else:
                    self._stream(peer, answer)
        finally:
            self._peers.release()

    def _stream(self, peer: socket.socket, answers: Iterator[Answer]) -> None:
        """Send answers until there are no more, or the peer has gone."""
        with contextlib.closing(answers) as stream:  # type: ignore[type-var]
            for line in _lines(stream):
                peer.sendall(line)

    def _answer(self, line: bytes) -> Answer | Iterator[Answer]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            return {"error": "a request is one line with a JSON object", "usage": True}
        verb = self._verbs.get(str(request.get("verb")))
        if verb is None:
            return {"error": f"a request is one of {', '.join(self._verbs)}", "usage": True}
        try:
            return verb(request)
        except Exception as error:  # who asked is told, whatever it is
            return _failure(error, request["verb"])


def _lines(answers: Iterator[Answer]) -> Iterator[bytes]:
    try:
        for answer in answers:
            yield _encoded(answer)
    except Exception as error:  # as above
        yield _encoded(_failure(error, "an answer"))


def _failure(error: Exception, what: str) -> Answer:
    """What who asked is told; what a verb cannot raise in order is a bug, and logged."""
    if isinstance(error, (UserdiskError, StorageError, OSError)):
        return {"error": str(error), "usage": isinstance(error, UsageError)}
    log.error("control: %s failed", what, exc_info=error)
    return {"error": f"{type(error).__name__}: {error}", "usage": False}


def processes() -> list[Path]:
    """The sockets of this user's processes; those that nobody listens on any more are removed."""
    try:
        _check(folder().parent, folder())
        paths = sorted(folder().iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for path in paths if path.name.isdecimal() and not _stale(path)]


def ask(path: Path, request: Mapping[str, object], timeout: float, *, process: int = 0) -> Answer:
    """Send a request and return its answer. Blocks for `timeout` seconds at most.

    `process`: who has to answer there, where the path is a stranger's word.
    Raises `OSError` when it cannot be reached, `UsageError` and `UserdiskError` as it does.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        with short(path) as name:
            connection.connect(name)
        if process and _peer(connection)[0] != process:
            raise UserdiskError(f"{path}: another process answers there, not {process}")
        connection.sendall(_encoded(request))
        try:
            answer = json.loads(_line(connection, _MAX_ANSWER, timeout))
        except ValueError:
            raise UserdiskError(f"process {path.name} has closed the connection") from None
    if not isinstance(answer, dict):
        raise UserdiskError(f"process {path.name} gave an answer that is none")
    if "error" in answer:
        raise (UsageError if answer.get("usage") else UserdiskError)(str(answer["error"]))
    return answer


def follow(path: Path, request: Mapping[str, object], timeout: float) -> Iterator[Answer]:
    """Send a request and yield its answers, until there are no more.

    Raises as `ask`; `TimeoutError` also when no answer comes for `timeout` seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        with short(path) as name:
            connection.connect(name)
        connection.sendall(_encoded(request))
        with connection.makefile("rb") as lines:
            while line := lines.readline(_MAX_ANSWER):
                answer = json.loads(line) if line.endswith(b"\n") else None
                if not isinstance(answer, dict):
                    raise UserdiskError(f"process {path.name} gave an answer that is none")
                if "error" in answer:
                    raise (UsageError if answer.get("usage") else UserdiskError)(
                        str(answer["error"])
                    )
                yield answer


def _encoded(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _line(peer: socket.socket, most: int, seconds: float) -> bytes:
    """What comes up to a newline or the end, `most` bytes at most. Raises `TimeoutError`."""
    deadline = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n") and len(line) < most:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        peer.settimeout(left)
        part = peer.recv(min(most - len(line), 64 << 10))
        if not part:
            break
        line += part
    return line


def trusted(peer: socket.socket) -> bool:
    """Whether root or this user is at the other end of a Unix socket."""
    return _peer(peer)[1] in (0, os.getuid())


def _peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end, as they were when they connected or listened."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(raw)
    return pid, user


def own_folder(path: Path, mode: int) -> Path:
    """A folder in the run folder, which is made with it when it is missing.

    Raises `OSError`, and `UserdiskError` if others may write there: who comes first to /tmp could
    take the place of what is in it.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.mkdir(mode=mode, exist_ok=True)
    _check(path.parent, path)
    return path


def _check(*paths: Path) -> None:
    for path in paths:
        found = path.lstat()
        ours = found.st_uid in (0, os.getuid()) and stat.S_ISDIR(found.st_mode)
        if not ours or found.st_mode & 0o022:
            raise UserdiskError(
                f"{path}: must belong to this user, and nobody else may write there"
            )


def _stale(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short(path) as name:
        probe.settimeout(1)
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                path.unlink()
            return True
        except OSError:
            return not path.exists()
    return False
