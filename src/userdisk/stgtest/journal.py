"""A record of a run: what was submitted, and how it ended, so that a crash can be judged.

The file begins with 8 bytes of magic and is then records: length of the body (u16), CRC-32 of the
body (u32), body; all little-endian. The first body describes the run, the others are steps of it:
an operation is recorded before it is sent, and its end before anything that comes after it. A file
whose end was cut off is good up to there; everything else that is wrong with it is an error.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from userdisk import whole_file
from userdisk.errors import UsageError

_MAGIC: Final = b"stgtest\x01"
_FRAME: Final = struct.Struct("<HI")
_HEAD: Final = struct.Struct("<IQIB")  # nonce, blocks, block length, flags
_STEP: Final = struct.Struct("<BIQI")  # kind and flags, number, lba, blocks
_ZEROES: Final = 1  # flag of a run: what is unmapped reads as zeros
_BUFFER = 1 << 20

#: Kinds of steps. An operation's letter begins it; the others end one.
DONE: Final = "."
FAILED: Final = "!"
_KINDS: Final = {"R": 0, "W": 1, "F": 2, "U": 3, DONE: 4, FAILED: 5}
_LETTERS: Final = {number: letter for letter, number in _KINDS.items()}
_FUA: Final = 0x80


@dataclass(frozen=True, slots=True)
class Head:
    """The run: `nonce` marks its writes; `zeroes`: what is unmapped has to read as zeros."""

    nonce: int
    block_count: int
    block_length: int
    zeroes: bool


@dataclass(frozen=True, slots=True)
class Step:
    """`kind` is R, W, F or U (begins operation `number`), or `DONE` or `FAILED` (ends it)."""

    kind: str
    number: int
    lba: int = 0
    blocks: int = 0
    fua: bool = False

    def encode(self) -> bytes:
        """As it is in the file."""
        kind = _KINDS[self.kind] | (_FUA if self.fua else 0)
        return _framed(_STEP.pack(kind, self.number, self.lba, self.blocks))


class Writer:
    """A new journal. Not thread-safe; everything blocks.

    Args:
        durable: each `add` returns when the storage has it: the run can be judged also after a
            crash of this machine. Otherwise it outlives this process, not a loss of power here.

    Raises `UsageError` if the file exists or cannot be made, `OSError` when it cannot be written.
    """

    def __init__(self, path: str, head: Head, *, durable: bool = False) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        try:
            self._file = os.open(path, flags, 0o600)
        except FileExistsError:
            raise UsageError(f"--journal {path}: exists already; name a new file") from None
        except (OSError, ValueError) as error:
            words = getattr(error, "strerror", None) or error
            raise UsageError(f"--journal {path}: cannot be made: {words}") from None
        self._path = path
        self._durable = durable
        zeroes = _ZEROES if head.zeroes else 0
        body = _HEAD.pack(head.nonce, head.block_count, head.block_length, zeroes)
        self._write(_MAGIC + _framed(body))
        if durable:
            whole_file.sync_folder(os.path.dirname(os.path.abspath(path)))

    def add(self, steps: Iterable[Step]) -> None:
        """Append steps, all with one system call."""
        self._write(b"".join([step.encode() for step in steps]))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        if self._durable:
            os.fsync(self._file)

    def close(self) -> None:
        """Close the file, durably."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)


@dataclass(slots=True)
class Journal:
    """A journal that was read. `torn`: bytes after its last whole record; known at the end."""

    path: str
    head: Head
    torn: int = 0

    def steps(self) -> Iterator[Step]:
        """The steps, in order. Raises `UsageError` where the file is damaged; blocks."""
        bodies = _bodies(self)
        next(bodies)
        for at, body in bodies:
            if len(body) != _STEP.size:
                raise _damaged(self.path, at, "a record has the wrong length")
            kind, number, lba, blocks = _STEP.unpack(body)
            letter = _LETTERS.get(kind & ~_FUA)
            if letter is None or not number or lba + blocks > self.head.block_count:
                raise _damaged(self.path, at, "a record makes no sense")
            yield Step(letter, number, lba, blocks, bool(kind & _FUA))


def read(path: str) -> Journal:
    """A journal's description. Raises `UsageError` if there is none."""
    journal = Journal(path, Head(0, 0, 0, zeroes=False))
    for at, body in _bodies(journal):
        if len(body) == _HEAD.size:
            nonce, count, length, flags = _HEAD.unpack(body)
            journal.head = Head(nonce, count, length, bool(flags & _ZEROES))
            if nonce and count and length and length % 8 == 0 and length <= 1 << 20:
                return journal
        raise _damaged(path, at, "it does not begin with a run")
    raise UsageError(f"{path}: the journal was cut off before its run began: nothing to verify")


def _bodies(journal: Journal) -> Iterator[tuple[int, bytes]]:
    """Each whole record's offset and body."""
    path = journal.path
    try:
        with open(path, "rb") as file:
            magic = file.read(len(_MAGIC))
            if magic != _MAGIC[: len(magic)] or not magic:
                raise UsageError(f"{path}: is not a journal of stgtest")
            data, at = b"", len(magic)
            while True:
                more = file.read(_BUFFER)
                data += more
                used = 0
                while len(data) - used >= _FRAME.size:
                    length, crc = _FRAME.unpack_from(data, used)
                    if length not in (_HEAD.size, _STEP.size):
                        raise _damaged(path, at + used, "a record has a wrong length")
                    end = used + _FRAME.size + length
                    if end > len(data):
                        break
                    body = data[used + _FRAME.size : end]
                    if zlib.crc32(body) != crc:
                        if not data[end:] and not file.read(1):
                            break  # the last record: its bytes did not all reach the storage
                        raise _damaged(path, at + used, "a record has a wrong checksum")
                    yield at + used, body
                    used = end
                data, at = data[used:], at + used
                if not more:
                    journal.torn = len(data)
                    return
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot be read: {words}") from None


def _framed(body: bytes) -> bytes:
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def _damaged(path: str, at: int, what: str) -> UsageError:
    return UsageError(f"{path}: the journal is damaged at byte {at}: {what}")
