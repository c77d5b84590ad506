"""The client's side of NBD's negotiation, with no I/O (doc/proto.md, "Fixed newstyle negotiation").

The conversation is a generator: it queues what to send in `out`, and yields how many bytes it
wants next. Every number that the server says is checked before it is believed.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Generator
from dataclasses import dataclass, replace

from userdisk.errors import UserdiskError
from userdisk.nbd import wire
from userdisk.nbd.wire import HandshakeFlag, Info, Option, OptionReply, TransmissionFlag

Talk = Generator[int, bytes, None]

_OLD_STYLE = 0x00420281861253
_MAX_REPLY = 2 * wire.MAX_STRING + 1024  # bytes of one option reply
_MAX_REPLIES = 64  # to one option
_MAX_EXPORTS = 10_000
_MAX_LIST = 8 << 20  # bytes of all names and descriptions
_MAX_SIZE = (1 << 63) - 1
_MAX_MINIMUM = 1 << 16
_PAYLOAD = 32 << 20  # what every server takes
_NO_FLAGS = TransmissionFlag(0)
_INFO_LENGTHS: dict[int, int] = {
    Info.EXPORT: wire.INFO_EXPORT.size,
    Info.BLOCK_SIZE: wire.INFO_BLOCK_SIZE.size,
}
_STARTS_TLS = -1  # yielded: nothing more until `secured`


class NbdError(UserdiskError):
    """The server refused, or broke the protocol: the connection is of no use."""


class ReplyStyle(enum.Enum):
    """How a server answers commands."""

    SIMPLE = "simple"
    STRUCTURED = "structured"
    EXTENDED = "extended"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What to ask for. What a server does not have is done without, except TLS."""

    export: str = ""
    tls: bool = False
    extended: bool = True
    structured: bool = True
    allocation: bool = True
    go: bool = True  #: False: EXPORT_NAME, as old clients
    listing: bool = False  #: only list the exports


@dataclass(frozen=True, slots=True)
class Found:
    """The export and what was agreed on. Sizes in bytes."""

    size: int = -1
    flags: TransmissionFlag = _NO_FLAGS
    minimum: int = 1
    preferred: int = 4096
    maximum: int = _PAYLOAD  #: of the data of one READ or WRITE
    description: str = ""
    style: ReplyStyle = ReplyStyle.SIMPLE
    context: int | None = None  #: the number of base:allocation


@dataclass(frozen=True, slots=True)
class Listed:
    """An export in a list."""

    name: str
    description: str


class ClientNegotiation:
    """One negotiation. `received` raises `NbdError` for whatever ends it; not thread-safe.

    `found` is set at the end (or `listed` with `wishes.listing`). While `secures` is true, the
    owner sends `out`, starts TLS and calls `secured`.
    """

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = wishes
        self.out: list[bytes] = []
        self.found: Found | None = None
        self.listed: list[Listed] | None = None
        self.secures = False
        self._partial = Found()
        self._talk = self._conversation()
        self._wanted = next(self._talk)

    def received(self, data: memoryview) -> int:
        """Take what has come; returns how many bytes were used. The rest is to come again."""
        used = 0
        while not self.done and not self.secures and len(data) - used >= self._wanted:
            piece = bytes(data[used : used + self._wanted])
            used += len(piece)
            self._go_on(piece)
        if self.secures and used < len(data):
            raise NbdError("the server sent data in plain text where TLS begins")
        return used

    def secured(self) -> None:
        """TLS has begun: go on inside it."""
        self.secures = False
        self._go_on(b"")

    @property
    def done(self) -> bool:
        """Nothing is left to negotiate."""
        return self.found is not None or self.listed is not None

    def _go_on(self, piece: bytes) -> None:
        try:
            self._wanted = self._talk.send(piece)
        except StopIteration:
            return
        self.secures = self._wanted == _STARTS_TLS

    # -- the conversation ------------------------------------------------------------------------

    def _conversation(self) -> Talk:
        magic, kind, number = wire.GREETING.unpack((yield wire.GREETING.size))
        if magic != wire.NBD_MAGIC:
            raise NbdError("it is no NBD server")
        if kind == _OLD_STYLE:
            raise NbdError("the server speaks only the old-style protocol")
        if kind != wire.OPTION_MAGIC:
            raise NbdError("the server's greeting is not one of NBD")
        theirs = HandshakeFlag(number & 3)
        self.out.append(wire.CLIENT_FLAGS.pack(theirs))
        fixed = HandshakeFlag.FIXED_NEWSTYLE in theirs
        if self.wishes.tls:
            if not fixed:
                raise NbdError("the server does not offer TLS")
            yield from self._start_tls()
        if self.wishes.listing:
            if not fixed:
                raise NbdError("the server cannot list its exports")
            yield from self._list()
            return
        if fixed:
            yield from self._features()
        went = (yield from self._go()) if fixed and self.wishes.go else False
        if not went:
            yield from self._export_name(padded=HandshakeFlag.NO_ZEROES not in theirs)
        self.found = self._partial

    def _ask(self, option: Option, data: bytes = b"") -> None:
        self.out.append(wire.OPTION.pack(wire.OPTION_MAGIC, option, len(data)) + data)

    def _reply(self, option: Option) -> Generator[int, bytes, tuple[int, bytes]]:
        header = yield wire.OPTION_REPLY.size
        magic, about, kind, length = wire.OPTION_REPLY.unpack(header)
        if magic != wire.OPTION_REPLY_MAGIC or about != option:
            raise NbdError(f"the server's answer to {option.name} is not one")
        if length > _MAX_REPLY:
            raise NbdError(f"the server's answer to {option.name} is too long: {length} bytes")
        data = yield length
        if kind == OptionReply.ERR_TLS_REQD:
            raise NbdError("the server wants TLS: use a nbds URI")
        return kind, data

    def _start_tls(self) -> Talk:
        self._ask(Option.STARTTLS)
        kind, data = yield from self._reply(Option.STARTTLS)
        if kind != OptionReply.ACK:
            raise NbdError(f"the server does not offer TLS{_reason(kind, data)}")
        yield _STARTS_TLS

    def _list(self) -> Talk:
        self._ask(Option.LIST)
        found: list[Listed] = []
        total = 0
        while True:
            kind, data = yield from self._reply(Option.LIST)
            if kind == OptionReply.ACK:
                break
            if kind != OptionReply.SERVER:
                raise NbdError(f"the server does not list its exports{_reason(kind, data)}")
            total += len(data)
            if len(found) >= _MAX_EXPORTS or total > _MAX_LIST:
                raise NbdError("the server's list of exports has no end")
            length = int.from_bytes(data[:4], "big")
            if len(data) < 4 or length > min(len(data) - 4, wire.MAX_STRING):
                raise NbdError("the server's list of exports is damaged")
            found.append(Listed(_text(data[4 : 4 + length]), _text(data[4 + length :])))
        self._ask(Option.ABORT)
        self.listed = found

    def _features(self) -> Talk:
        if self.wishes.extended and (yield from self._agree(Option.EXTENDED_HEADERS)):
            self._partial = replace(self._partial, style=ReplyStyle.EXTENDED)
        elif self.wishes.structured and (yield from self._agree(Option.STRUCTURED_REPLY)):
            self._partial = replace(self._partial, style=ReplyStyle.STRUCTURED)
        if self.wishes.allocation and self._partial.style is not ReplyStyle.SIMPLE:
            yield from self._set_context()

    def _agree(self, option: Option) -> Generator[int, bytes, bool]:
        self._ask(option)
        kind, _ = yield from self._reply(option)
        if kind == OptionReply.ACK:
            return True
        _refused(option, kind)
        return False

    def _set_context(self) -> Talk:
        option = Option.SET_META_CONTEXT
        name, query = self.wishes.export.encode(), wire.ALLOCATION.encode()
        self._ask(
            option,
            struct.pack(">I", len(name)) + name + struct.pack(">II", 1, len(query)) + query,
        )
        context: int | None = None
        for _ in range(_MAX_REPLIES):
            kind, data = yield from self._reply(option)
            if kind == OptionReply.ACK:
                self._partial = replace(self._partial, context=context)
                return
            if kind != OptionReply.META_CONTEXT:
                return _refused(option, kind)
            if data[4:] != query or context is not None:
                raise NbdError("the server names a context that nobody asked for")
            (context,) = wire.CONTEXT_ID.unpack_from(data)
        raise NbdError("the server's list of contexts has no end")

    def _go(self) -> Generator[int, bytes, bool]:
        option, name = Option.GO, self.wishes.export.encode()
        infos = (Info.DESCRIPTION, Info.BLOCK_SIZE)
        self._ask(
            option,
            struct.pack(">I", len(name)) + name + struct.pack(">HHH", len(infos), *infos),
        )
        for _ in range(_MAX_REPLIES):
            kind, data = yield from self._reply(option)
            if kind == OptionReply.INFO:
                self._take(data)
            elif kind == OptionReply.ACK:
                if self._partial.size < 0:
                    raise NbdError("the server does not say how large the export is")
                return True
            elif kind == OptionReply.ERR_UNSUP and self._partial.style is not ReplyStyle.EXTENDED:
                return False
            elif kind == OptionReply.ERR_UNKNOWN:
                raise NbdError(f"the server has no export {self.wishes.export!r}")
            elif kind >> 31:
                raise NbdError(f"the server refuses the export{_reason(kind, data)}")
            else:
                raise NbdError("the server's answer to GO is not one")
        raise NbdError("the server's answer to GO has no end")

    def _take(self, data: bytes) -> None:
        """An item of information. Kinds that are not known are ignored."""
        kind = int.from_bytes(data[:2], "big")
        if len(data) < 2 or len(data) != _INFO_LENGTHS.get(kind, len(data)):
            raise NbdError("the server's information has a wrong length")
        if kind == Info.EXPORT:
            _, size, flags = wire.INFO_EXPORT.unpack(data)
            self._take_export(size, flags)
        elif kind == Info.DESCRIPTION:
            self._partial = replace(self._partial, description=_text(data[2:]))
        elif kind == Info.BLOCK_SIZE:
            _, minimum, preferred, maximum = wire.INFO_BLOCK_SIZE.unpack(data)
            good = (
                _power_of_two(minimum)
                and minimum <= _MAX_MINIMUM
                and _power_of_two(preferred)
                and preferred >= minimum
                and maximum >= minimum
                and (maximum == 0xFFFFFFFF or maximum % minimum == 0)
            )
            if not good:
                raise NbdError(
                    f"the server's block sizes cannot be: {minimum}, {preferred}, {maximum}"
                )
            self._partial = replace(
                self._partial,
                minimum=minimum,
                preferred=preferred,
                maximum=min(maximum, _PAYLOAD),
            )

    def _take_export(self, size: int, flags: int) -> None:
        if size > _MAX_SIZE:
            raise NbdError(f"the server's export cannot have {size} bytes")
        if not flags & TransmissionFlag.HAS_FLAGS:
            flags = 0  # without that bit the others mean nothing
        self._partial = replace(self._partial, size=size, flags=TransmissionFlag(flags & 0x1FFF))

    def _export_name(self, *, padded: bool) -> Talk:
        if self._partial.style is ReplyStyle.EXTENDED:
            raise NbdError("the server knows extended headers, but not GO")
        self._ask(Option.EXPORT_NAME, self.wishes.export.encode())
        size, flags = wire.EXPORT_NAME_REPLY.unpack((yield wire.EXPORT_NAME_REPLY.size))
        if padded:
            yield len(wire.EXPORT_NAME_PADDING)
        self._take_export(size, flags)


def _power_of_two(number: int) -> bool:
    return number > 0 and not number & (number - 1)


def _refused(option: Option, kind: int) -> None:
    """A feature that the server does not have is done without; what is no refusal is an error."""
    if not kind >> 31:
        raise NbdError(f"the server's answer to {option.name} is not one")


def _reason(kind: int, data: bytes) -> str:
    """The server's own words, or the name of its error."""
    words = _text(data)[:200]
    if not words:
        try:
            words = OptionReply(kind).name
        except ValueError:
            words = f"answer {kind:#x}"
    return f": {words}"


def _text(data: bytes) -> str:
    """Words of a server: nothing that a terminal would obey."""
    text = data.decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "�" for character in text)
