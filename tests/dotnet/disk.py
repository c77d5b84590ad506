"""A C# disk in a process of its own, and a client of the pipe protocol written by hand."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

PATIENCE = 30.0  # seconds, for a process to say what it should

READ, WRITE, FLUSH, UNMAP = 1, 2, 3, 4
GUID = bytes.fromhex("a1a91241 79f03d4f ba532d5d f27d28b5")

_PARAMETERS = struct.Struct("<16sQI16s4sB3xII4x64s")
_BLOCKS = struct.Struct("<QB7xQII16x")
_UNMAP = struct.Struct("<QB7xI28x")
_RESPONSE = struct.Struct("<QB7xBBBB4xQQII")
_DESCRIPTOR = struct.Struct("<QII")
assert (_PARAMETERS.size, _BLOCKS.size, _UNMAP.size, _RESPONSE.size) == (128, 48, 48, 48)


class Answer(NamedTuple):
    """A response and its payload."""

    hint: int
    kind: int
    status: int
    sense: tuple[int, int, int]
    information: int | None
    data: bytes


class Client:
    """One connection. Blocks at most PATIENCE seconds for an answer."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(os.fspath(path))
        self._hint = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def greeting(self) -> bytes:
        """The parameters, the server's first message."""
        return self.message()

    def message(self) -> bytes:
        """The next message. Raises EOFError when there is none."""
        (length,) = struct.unpack("<I", self._exactly(4))
        return self._exactly(length)

    def send(self, message: bytes) -> None:
        self.socket.sendall(struct.pack("<I", len(message)) + message)

    def ask(
        self,
        kind: int,
        address: int = 0,
        count: int = 0,
        payload: bytes = b"",
        *,
        fua: int = 0,
        hint: int | None = None,
    ) -> int:
        """Send a request about blocks; its hint is the result."""
        hint = self._next() if hint is None else hint
        self.send(_BLOCKS.pack(hint, kind, address, count, fua) + payload)
        return hint

    def unmap(self, *ranges: tuple[int, int], count: int | None = None) -> Answer:
        """Unmap ranges of (address, count). `count` says another number of them than there are."""
        payload = b"".join(_DESCRIPTOR.pack(address, blocks, 0) for address, blocks in ranges)
        count = len(ranges) if count is None else count
        self.send(_UNMAP.pack(self._next(), UNMAP, count) + payload)
        return self.answer()

    def answer(self) -> Answer:
        message = self.message()
        hint, kind, status, *sense, information, csi, sks, flags = _RESPONSE.unpack_from(message)
        assert (csi, sks) == (0, 0)
        assert flags in (0, 0x100)
        assert flags or not information
        key, asc, ascq = sense
        known = information if flags else None
        return Answer(hint, kind, status, (key, asc, ascq), known, message[_RESPONSE.size :])

    def call(
        self,
        kind: int,
        address: int = 0,
        count: int = 0,
        payload: bytes = b"",
        *,
        fua: int = 0,
        hint: int | None = None,
    ) -> Answer:
        """A request, and the answer to it."""
        hint = self.ask(kind, address, count, payload, fua=fua, hint=hint)
        answer = self.answer()
        assert (answer.hint, answer.kind) == (hint, kind)
        return answer

    def ended(self) -> bool:
        """Whether the server ends this client, without another word."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _next(self) -> int:
        self._hint += 1
        return self._hint

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise EOFError(f"{len(data)} of {length} bytes")
            data += piece
        return bytes(data)


class Disk:
    """A running process that serves a disk at `path`."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process = process
        self.path = path
        self._text = b""

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """A client that was greeted."""
        with Client(self.path) as client:
            client.greeting()
            yield client

    def told(self, line: str) -> list[str]:
        """The lines of its standard output up to one that begins so; waits for it."""
        assert self.process.stdout is not None
        end = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while (place := self._place(line)) is None:
                assert selector.select(end - time.monotonic()), f"no {line!r} in {self._text!r}"
                piece = os.read(self.process.stdout.fileno(), 65536)
                assert piece, f"it ended; no {line!r} in {self._text!r}"
                self._text += piece
        lines = self._text.decode().splitlines(keepends=True)
        self._text = "".join(lines[place + 1 :]).encode()
        return [told.rstrip("\n") for told in lines[: place + 1]]

    def _place(self, line: str) -> int | None:
        whole = self._text.decode().split("\n")[:-1]
        return next((i for i, told in enumerate(whole) if told.startswith(line)), None)

    def stop(self, signum: int | None = None) -> tuple[int, str, str]:
        """End it in order: exit status, standard output that was not yet told, standard error."""
        if signum is not None:
            self.process.send_signal(signum)
        output, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, (self._text + output).decode(), errors.decode()


def listens(path: Path) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


@contextlib.contextmanager
def running(path: Path, command: Sequence[str], ready: str) -> Iterator[Disk]:
    """A program that makes a disk at `path`; killed at the end. `ready`: how a line begins then."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            disk = Disk(process, path)
            disk.told(ready)
            yield disk
        finally:
            process.kill()


@contextlib.contextmanager
def serve(built: Path, path: Path, **values: object) -> Iterator[Disk]:
    """TestDisk.cs with these values, ready for clients."""
    kind = str(values.pop("kind", "memory"))
    pairs = [f"{name}={value}" for name, value in values.items()]
    command = ["mono", str(built / "TestDisk.exe"), kind, os.fspath(path), *pairs]
    with running(path, command, "ready") as disk:
        yield disk
