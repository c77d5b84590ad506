"""The negotiation, server side (doc/proto.md: "Fixed newstyle negotiation", "Option types").

Greeting, the client's flags, then options until one of them begins transmission, begins TLS, or
ends the connection. A table says of each option who handles it and when it may come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from userdisk.nbd import options, wire
from userdisk.nbd.environment import Environment, TlsMode
from userdisk.nbd.export import Export, transmission_flags
from userdisk.nbd.options import Refused
from userdisk.nbd.replies import Replies
from userdisk.nbd.requests import ALLOCATION_ID
from userdisk.nbd.wire import HandshakeFlag, Option, OptionReply, TransmissionFlag
from userdisk.unit import Buffer

MAX_OPTIONS = 10_000  #: in one negotiation; listing many exports takes some for each
MAX_OUTPUT = 64 << 10  #: bytes that wait to be sent before the next option is looked at

_FLAGS = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
_SHOWN = 64  # characters of a name in a message


class Agreed(NamedTuple):
    """What transmission begins with."""

    export: Export
    flags: TransmissionFlag
    replies: Replies
    allocation: bool  #: the client has asked for `base:allocation`


class Negotiation:
    """One negotiation: bytes in, `out`, and how it ended. Not thread-safe; nothing blocks.

    Attributes:
        out: what is to be sent, in order; begins with the greeting. The owner takes it.
        agreed: the negotiation is over: all bytes that were not consumed are transmission.
        secures: STARTTLS was acknowledged: send `out`, begin TLS, then call `secured`. Bytes that
            were not consumed, and all that come before TLS, are plain text of which nobody knows
            who sent it: they must end the connection, never be taken for what came inside TLS.
        failed: not empty: why to end the connection after `out` was sent, for the log.
    """

    def __init__(self, environment: Environment) -> None:
        self.out: list[Buffer] = [
            wire.GREETING.pack(wire.NBD_MAGIC, wire.OPTION_MAGIC, _FLAGS.value)
        ]
        self.agreed: Agreed | None = None
        self.secures = False
        self.failed = ""
        self._environment = environment
        self._flags: HandshakeFlag | None = None  # the client's, when they have come
        self._inside = False  # TLS
        self._options = 0  # how many have come
        self._option = 0  # the one being answered
        self._queued = 0  # bytes in `out`
        self._forget()

    def received(self, data: memoryview) -> int:
        """Handle every complete message in `data`; returns how many bytes were consumed.

        The rest must be there again at the next call, with what has come since. Consumes nothing
        once the negotiation has ended or while TLS has not begun, and stops early while `out` is
        long: then call it again when `out` was taken.
        """
        self._queued = sum(map(len, self.out))
        used = 0
        while self._open and self._queued <= MAX_OUTPUT:
            take = self._take_option if self._flags is not None else self._take_flags
            count = take(data[used:])
            if not count:
                break
            used += count
        return used

    def secured(self) -> None:
        """TLS has begun: forget what was negotiated, and go on with options inside it."""
        assert self.secures
        self.secures = False
        self._inside = True
        self._forget()

    @property
    def _open(self) -> bool:
        return not (self.failed or self.secures or self.agreed)

    def _forget(self) -> None:
        self._replies = Replies.SIMPLE
        self._allocation: Export | None = None  # of which base:allocation was asked for

    # -- messages ------------------------------------------------------------------------------

    def _take_flags(self, data: memoryview) -> int:
        if len(data) < wire.CLIENT_FLAGS.size:
            return 0
        (flags,) = wire.CLIENT_FLAGS.unpack_from(data)
        if flags & ~_FLAGS.value:
            self.failed = f"unknown client flags {flags:#x}"
        self._flags = HandshakeFlag(flags & _FLAGS.value)
        return wire.CLIENT_FLAGS.size

    def _take_option(self, data: memoryview) -> int:
        if len(data) < wire.OPTION.size:
            return 0
        magic, self._option, length = wire.OPTION.unpack_from(data)
        size: int = wire.OPTION.size
        if magic != wire.OPTION_MAGIC:
            self.failed = "what should be an option has the wrong magic number"
            return size
        row = _ROWS.get(self._option, _UNKNOWN)
        if length > options.MAX_DATA:
            self._refuse(row, _too_big(length))
            self.failed = self.failed or f"an option with {length} bytes of data"
            return size
        size += length
        if len(data) < size:
            return 0
        self._options += 1
        if self._options > MAX_OPTIONS:
            self.failed = f"more than {MAX_OPTIONS} options"
        elif not row.silent and not self._fixed:
            self.failed = "an option other than EXPORT_NAME from a client without fixed newstyle"
        else:
            try:
                self._check(row, length)
                row.handle(self, bytes(data[wire.OPTION.size : size]))
            except Refused as refused:
                self._refuse(row, refused)
        return size

    @property
    def _fixed(self) -> bool:
        return self._flags is not None and HandshakeFlag.FIXED_NEWSTYLE in self._flags

    def _check(self, row: _Row, length: int) -> None:
        if self._environment.tls is TlsMode.REQUIRED and not (self._inside or row.plain):
            raise Refused(OptionReply.ERR_TLS_REQD, "this server wants TLS first")
        if length and not row.data:
            raise Refused(OptionReply.ERR_INVALID, "the option has no data")

    def _refuse(self, row: _Row, refused: Refused) -> None:
        if row.silent or not self._fixed:
            self.failed = refused.message
        else:
            self._reply(refused.reply, refused.message.encode())

    def _reply(self, reply: OptionReply, data: bytes = b"") -> None:
        self._send(options.encode_reply(self._option, reply, data))

    def _send(self, data: bytes) -> None:
        self.out.append(data)
        self._queued += len(data)

    # -- options -------------------------------------------------------------------------------

    def _on_export_name(self, data: bytes) -> None:
        """EXPORT_NAME: the oldest way to begin, without errors and further information."""
        if self._replies is Replies.EXTENDED:
            raise Refused(OptionReply.ERR_INVALID, "EXPORT_NAME after EXTENDED_HEADERS")
        export = self._find(options.decode_text(data))
        flags = self._transmission_flags(export)
        assert self._flags is not None
        padded = HandshakeFlag.NO_ZEROES not in self._flags
        self._send(options.encode_export_name_reply(export, flags, padded=padded))
        self._agree(export, flags)

    def _on_abort(self, data: bytes) -> None:
        """ABORT: the client leaves."""
        self._reply(OptionReply.ACK)
        self.failed = "the client ended the negotiation"

    def _on_list_exports(self, data: bytes) -> None:
        """LIST: every export's name and description."""
        for export in self._environment.exports.values():
            self._reply(OptionReply.SERVER, options.encode_export(export))
        self._reply(OptionReply.ACK)

    def _on_start_tls(self, data: bytes) -> None:
        """STARTTLS: what follows is a TLS handshake."""
        if self._environment.tls is TlsMode.NONE:
            raise Refused(OptionReply.ERR_UNSUP, "this server has no TLS")
        if self._inside:
            raise Refused(OptionReply.ERR_INVALID, "TLS is already there")
        self._reply(OptionReply.ACK)
        self.secures = True

    def _on_info(self, data: bytes) -> None:
        """INFO: what an export is and can do."""
        self._inform(data)

    def _on_go(self, data: bytes) -> None:
        """GO: the same, and transmission begins."""
        self._agree(*self._inform(data))

    def _on_structured_reply(self, data: bytes) -> None:
        """STRUCTURED_REPLY."""
        if self._replies is Replies.EXTENDED:
            raise Refused(OptionReply.ERR_EXT_HEADER_REQD, "extended headers are agreed on")
        self._replies = Replies.STRUCTURED
        self._reply(OptionReply.ACK)

    def _on_extended_headers(self, data: bytes) -> None:
        """EXTENDED_HEADERS, which include structured replies."""
        self._replies = Replies.EXTENDED
        self._reply(OptionReply.ACK)

    def _on_list_contexts(self, data: bytes) -> None:
        """LIST_META_CONTEXT: no query stands for all, `base:` for all of that namespace."""
        queries = self._contexts(data)[1]
        if not queries or wire.ALLOCATION in queries or "base:" in queries:
            self._reply(OptionReply.META_CONTEXT, options.encode_context(0))  # no number yet
        self._reply(OptionReply.ACK)

    def _on_set_contexts(self, data: bytes) -> None:
        """SET_META_CONTEXT: replaces what was chosen before, even if it fails."""
        self._allocation = None
        export, queries = self._contexts(data)
        if wire.ALLOCATION in queries:
            self._allocation = export
            self._reply(OptionReply.META_CONTEXT, options.encode_context(ALLOCATION_ID))
        self._reply(OptionReply.ACK)

    def _on_unknown(self, data: bytes) -> None:
        """Any other option."""
        raise Refused(OptionReply.ERR_UNSUP, "this server does not know the option")

    # -- what options have in common -----------------------------------------------------------

    def _find(self, name: str) -> Export:
        exports = self._environment.exports
        export = exports.get(name)
        if export is None and not name:
            export = next(iter(exports.values()), None)
        if export is None:
            shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "..."
            raise Refused(OptionReply.ERR_UNKNOWN, f"there is no export {shown!r}")
        return export

    def _transmission_flags(self, export: Export) -> TransmissionFlag:
        return transmission_flags(
            export,
            structured=self._replies is not Replies.SIMPLE,
            extended=self._replies is Replies.EXTENDED,
        )

    def _inform(self, data: bytes) -> tuple[Export, TransmissionFlag]:
        name, items = options.decode_info(data)
        export = self._find(name)
        flags = self._transmission_flags(export)
        for info in options.encode_infos(export, flags, items):
            self._reply(OptionReply.INFO, info)
        self._reply(OptionReply.ACK)
        return export, flags

    def _contexts(self, data: bytes) -> tuple[Export, list[str]]:
        if self._replies is Replies.SIMPLE:
            raise Refused(OptionReply.ERR_INVALID, "contexts need structured replies")
        name, queries = options.decode_contexts(data)
        return self._find(name), queries

    def _agree(self, export: Export, flags: TransmissionFlag) -> None:
        self.agreed = Agreed(export, flags, self._replies, self._allocation is export)


def _too_big(length: int) -> Refused:
    return Refused(
        OptionReply.ERR_TOO_BIG, f"{length} bytes of data; at most {options.MAX_DATA} are taken"
    )


class _Row(NamedTuple):
    """An option."""

    handle: Callable[[Negotiation, bytes], None]
    data: bool = False  # data may come with it
    plain: bool = False  # it may come before TLS when TLS is required
    silent: bool = False  # it has no error replies: what is refused ends the connection


_ROWS: dict[int, _Row] = {
    Option.EXPORT_NAME: _Row(Negotiation._on_export_name, data=True, silent=True),
    # data of ABORT is ignored: the client leaves in any case
    Option.ABORT: _Row(Negotiation._on_abort, data=True, plain=True),
    Option.LIST: _Row(Negotiation._on_list_exports),
    Option.STARTTLS: _Row(Negotiation._on_start_tls, plain=True),
    Option.INFO: _Row(Negotiation._on_info, data=True),
    Option.GO: _Row(Negotiation._on_go, data=True),
    Option.STRUCTURED_REPLY: _Row(Negotiation._on_structured_reply),
    Option.LIST_META_CONTEXT: _Row(Negotiation._on_list_contexts, data=True),
    Option.SET_META_CONTEXT: _Row(Negotiation._on_set_contexts, data=True),
    Option.EXTENDED_HEADERS: _Row(Negotiation._on_extended_headers),
}
_UNKNOWN = _Row(Negotiation._on_unknown, data=True)
