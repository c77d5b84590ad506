"""What a connection's bytes say: commands, and how each ended.

RFC 7143 11; NBD's doc/proto.md; WinSpd's transact messages.

Pure. A decoder is told all bytes in both directions, from the beginning of a message on, and keeps
what is under way; `Ended` is one command with its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, TypeVar

from userdisk.iscsi import pdu
from userdisk.iscsi.pdu import BHS_LENGTH, DIGEST_LENGTH, InitiatorOpcode, TargetOpcode, padded
from userdisk.nbd import wire
from userdisk.nbd.replies import Replies
from userdisk.nbd.wire import Command
from userdisk.scsi.sense import Sense
from userdisk.spd import wire as spd
from userdisk.spd.requests import decode

_MOST = 4096  # commands under way that are remembered
_T = TypeVar("_T")

_LOGIN = frozenset({InitiatorOpcode.LOGIN, TargetOpcode.LOGIN_RESPONSE})  # without digests


class Ended(NamedTuple):
    """A command and its answer."""

    asked: float  #: seconds
    ended: float
    lun: int  #: 0 but over iSCSI
    command: bytes  #: a CDB, or the header of a request
    status: int  #: SCSI status, or NBD error
    sense: bytes  #: SCSI, also of a pipe


class Decoder(Protocol):
    """The two directions of one connection. Times in seconds."""

    def received(self, now: float, data: bytes) -> None:
        """These bytes came; a message may end in the middle."""

    def sent(self, now: float, data: bytes) -> Iterator[Ended]:
        """These go out: whole messages. Yields what they answer."""


class _Asked(NamedTuple):
    when: float
    lun: int
    command: bytes
    length: int


class _Messages:
    """Messages out of bytes that come in pieces.

    Args:
        head: bytes of a message with which `seen` is called.
        seen: is told the time and a message's head; returns the length of the whole message.
    """

    def __init__(self, head: int, seen: Callable[[float, bytes], int]) -> None:
        self._head = head
        self._seen = seen
        self._rest = b""  # the beginning of a message
        self._skip = 0  # bytes of a message that says no more

    def take(self, now: float, data: bytes) -> None:
        """These bytes came."""
        if len(data) <= self._skip:
            self._skip -= len(data)
            return
        data = self._rest + data[self._skip :]
        at, head = 0, self._head
        while len(data) - at >= head:
            at += self._seen(now, data[at : at + head])
        self._rest = data[at:]
        self._skip = max(at - len(data), 0)


class Iscsi:
    """See `Decoder`.

    Args:
        header_digest, data_digest: of the session.
    """

    def __init__(self, *, header_digest: bool = False, data_digest: bool = False) -> None:
        self._header_digest = DIGEST_LENGTH if header_digest else 0
        self._data_digest = DIGEST_LENGTH if data_digest else 0
        self._messages = _Messages(BHS_LENGTH, self._seen)
        self._asked: dict[int, _Asked] = {}

    def received(self, now: float, data: bytes) -> None:
        """See `Decoder`."""
        self._messages.take(now, data)

    def _seen(self, now: float, header: bytes) -> int:
        if header[0] & 0x3F == InitiatorOpcode.SCSI_COMMAND:
            _make_room(self._asked)
            lun = int.from_bytes(header[8:16], "big")
            itt = int.from_bytes(header[16:20], "big")
            self._asked[itt] = _Asked(now, lun, header[32:48], 0)
        return self._length(header)

    def _length(self, header: bytes) -> int:
        """Bytes of the whole message."""
        digests = header[0] & 0x3F not in _LOGIN
        length = BHS_LENGTH + 4 * header[4] + (self._header_digest if digests else 0)
        size = int.from_bytes(header[5:8], "big")
        if size:
            length += padded(size) + (self._data_digest if digests else 0)
        return length

    def sent(self, now: float, data: bytes) -> Iterator[Ended]:
        """See `Decoder`."""
        at = 0
        while len(data) - at >= BHS_LENGTH:
            header = data[at : at + BHS_LENGTH]
            opcode = header[0] & 0x3F
            final = opcode == TargetOpcode.DATA_IN and header[1] & pdu.DATA_IN_STATUS
            if opcode == TargetOpcode.SCSI_RESPONSE or final:
                asked = self._asked.pop(int.from_bytes(header[16:20], "big"), None)
                if asked is not None:
                    sense = b""
                    start = at + BHS_LENGTH + self._header_digest
                    if not final and any(header[5:8]):
                        size = int.from_bytes(data[start : start + 2], "big")
                        sense = data[start + 2 : start + 2 + size]
                    yield Ended(asked.when, now, asked.lun, asked.command, header[3], sense)
            at += self._length(header)


class Nbd:
    """See `Decoder`; of the transmission phase.

    Args:
        replies: the form that was agreed on.
    """

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._request = wire.EXTENDED_REQUEST if replies is Replies.EXTENDED else wire.REQUEST
        self._messages = _Messages(self._request.size, self._seen)
        self._asked: dict[bytes, _Asked] = {}
        self._errors: dict[bytes, int] = {}  # of answers in chunks, so far

    def received(self, now: float, data: bytes) -> None:
        """See `Decoder`."""
        self._messages.take(now, data)

    def _seen(self, now: float, header: bytes) -> int:
        _, flags, command, cookie, _, length = self._request.unpack(header)
        if (oldest := _make_room(self._asked)) is not None:
            self._errors.pop(oldest, None)
        self._asked[cookie] = _Asked(now, 0, header, length)
        return len(header) + (length if _has_payload(self._replies, flags, command) else 0)

    def sent(self, now: float, data: bytes) -> Iterator[Ended]:
        """See `Decoder`."""
        if self._replies is Replies.SIMPLE:
            yield from self._simple(now, data)
        else:
            yield from self._structured(now, data)

    def _simple(self, now: float, data: bytes) -> Iterator[Ended]:
        at, layout = 0, wire.SIMPLE_REPLY
        while len(data) - at >= layout.size:
            magic, error, cookie = layout.unpack_from(data, at)
            asked = self._asked.pop(cookie, None)
            if magic != wire.SIMPLE_REPLY_MAGIC or asked is None:
                return  # an answer to what was not seen: its data may follow
            at += layout.size
            if not error and self._request.unpack(asked.command)[2] == Command.READ:
                at += asked.length
            yield Ended(asked.when, now, 0, asked.command, error, b"")

    def _structured(self, now: float, data: bytes) -> Iterator[Ended]:
        extended = self._replies is Replies.EXTENDED
        at, layout = 0, wire.EXTENDED_REPLY if extended else wire.STRUCTURED_REPLY
        while len(data) - at >= layout.size:
            fields = layout.unpack_from(data, at)
            flags, chunk, cookie, length = fields[1], fields[2], fields[3], fields[-1]
            at += layout.size
            if chunk & 0x8000:  # an error
                error = int.from_bytes(data[at : at + 4], "big")
                if cookie in self._asked:
                    self._errors.setdefault(cookie, error)
            at += length
            asked = self._asked.pop(cookie, None) if flags & wire.DONE else None
            if asked is not None:
                error = self._errors.pop(cookie, 0)
                yield Ended(asked.when, now, 0, asked.command, error, b"")


class Pipe:
    """See `Decoder`."""

    def __init__(self) -> None:
        self._messages = _Messages(spd.LENGTH.size + spd.HEADER, self._seen)
        self._asked: dict[int, _Asked] = {}

    def received(self, now: float, data: bytes) -> None:
        """See `Decoder`."""
        self._messages.take(now, data)

    def _seen(self, now: float, head: bytes) -> int:
        (length,) = spd.LENGTH.unpack_from(head)
        command = head[spd.LENGTH.size :]
        _make_room(self._asked)
        self._asked[decode(memoryview(command)).hint] = _Asked(now, 0, command, 0)
        return spd.LENGTH.size + max(int(length), spd.HEADER)

    def sent(self, now: float, data: bytes) -> Iterator[Ended]:
        """See `Decoder`."""
        view, at = memoryview(data), 0
        while len(data) - at >= spd.LENGTH.size + spd.HEADER:
            (length,) = spd.LENGTH.unpack_from(data, at)
            at += spd.LENGTH.size
            response = spd.decode_response(view[at : at + spd.HEADER])
            at += length
            asked = self._asked.pop(response.hint, None)
            if asked is not None:
                scsi, key, asc, ascq, information = response.status
                sense = (
                    Sense(key, asc << 8 | ascq, information).encode(descriptor=True)
                    if scsi
                    else b""
                )
                yield Ended(asked.when, now, 0, asked.command, scsi, sense)


def _make_room(asked: dict[_T, _Asked]) -> _T | None:
    """Forget the oldest if there are too many: some are never answered. Returns what it was."""
    if len(asked) < _MOST:
        return None
    oldest = next(iter(asked))
    del asked[oldest]
    return oldest


def _has_payload(replies: Replies, flags: int, command: int) -> bool:
    if replies is Replies.EXTENDED:
        return bool(flags & wire.CommandFlag.PAYLOAD_LEN)
    return bool(command == Command.WRITE)


def nbd_words(header: bytes) -> str:
    """An NBD request in words."""
    layout = wire.EXTENDED_REQUEST if len(header) == wire.EXTENDED_REQUEST.size else wire.REQUEST
    _, flags, command, _, offset, length = layout.unpack(header)
    try:
        name = Command(command).name.replace("_", " ")
    except ValueError:
        name = f"command {command}"
    shown = wire.CommandFlag(flags & ~wire.CommandFlag.PAYLOAD_LEN)
    with_flags = "".join(f", {flag.name.replace('_', ' ')}" for flag in shown if flag.name)
    where = "" if command in (Command.FLUSH, Command.DISC) else f", {length} bytes at {offset}"
    return f"{name}{where}{with_flags}"


def nbd_status(error: int) -> str:
    """An NBD error in words."""
    if not error:
        return "done"
    try:
        return wire.Error(error).name
    except ValueError:
        return f"error {error}"


def pipe_words(head: bytes) -> str:
    """A request of the pipe protocol in words."""
    request = decode(memoryview(head))
    try:
        name = spd.Kind(request.kind).name
    except ValueError:
        return f"request {request.kind}"
    if request.kind == spd.Kind.UNMAP:
        return f"{name}, {_many(request.blocks, 'range')}"
    where = f", {_many(request.blocks, 'block')} at {request.lba}" if request.blocks else ""
    return f"{name}{where}{', FUA' if request.fua else ''}"


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
