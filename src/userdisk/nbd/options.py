"""Data of options and their replies, as bytes (doc/proto.md: "Option types", "Option reply types").

Option data comes from anybody: every length is checked, and what does not add up is `Refused`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from userdisk.nbd import wire
from userdisk.nbd.export import Export, block_sizes
from userdisk.nbd.wire import Info, OptionReply, TransmissionFlag

#: Bytes of one option's data: with its header it fits in 64 KiB.
MAX_DATA = (64 << 10) - wire.OPTION.size

_LENGTH = struct.Struct(">I")
_COUNT = struct.Struct(">H")


class Refused(Exception):
    """The option fails with `reply`; the text is for the person at the client."""

    def __init__(self, reply: OptionReply, message: str) -> None:
        super().__init__(message)
        self.reply = reply
        self.message = message


def _invalid(message: str) -> Refused:
    return Refused(OptionReply.ERR_INVALID, message)


# -- what comes ------------------------------------------------------------------------------------


class InfoRequest(NamedTuple):
    """The data of INFO and GO."""

    name: str
    items: frozenset[int]


class ContextRequest(NamedTuple):
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT."""

    name: str
    queries: list[str]


def decode_text(data: bytes) -> str:
    """A name or a query. Raises `Refused`."""
    if len(data) > wire.MAX_STRING:
        raise _invalid(f"a string is longer than {wire.MAX_STRING} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _invalid("a string is not UTF-8") from None
    if "\0" in text:
        raise _invalid("a string has a NUL")
    return text


def decode_info(data: bytes) -> InfoRequest:
    """The data of INFO and GO. Raises `Refused`."""
    fields = _Fields(data)
    name = fields.text()
    items = frozenset(fields.number(_COUNT) for _ in range(fields.number(_COUNT)))
    fields.end()
    return InfoRequest(name, items)


def decode_contexts(data: bytes) -> ContextRequest:
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT. Raises `Refused`."""
    fields = _Fields(data)
    name = fields.text()
    count = fields.number(_LENGTH)
    queries = []
    for _ in range(count):  # each takes bytes of the data: a large count soon fails
        queries.append(fields.text())
    fields.end()
    return ContextRequest(name, queries)


class _Fields:
    """Option data, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, layout: struct.Struct) -> int:
        return int.from_bytes(self._take(layout.size), "big")

    def text(self) -> str:
        return decode_text(self._take(self.number(_LENGTH)))

    def end(self) -> None:
        if self._at != len(self._data):
            raise _invalid("the option has more data than it should")

    def _take(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise _invalid("the option's data is shorter than its lengths say")
        return self._data[start : self._at]


# -- what is answered ------------------------------------------------------------------------------


def encode_reply(option: int, reply: OptionReply, data: bytes = b"") -> bytes:
    """One reply to an option."""
    return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, reply, len(data)) + data


def encode_export(export: Export) -> bytes:
    """The data of a SERVER reply."""
    name = export.name.encode()
    return _LENGTH.pack(len(name)) + name + export.description.encode(errors="replace")


def encode_context(identifier: int) -> bytes:
    """The data of a META_CONTEXT reply: `base:allocation`, the only one there is."""
    return wire.CONTEXT_ID.pack(identifier) + wire.ALLOCATION.encode()


def encode_infos(export: Export, flags: TransmissionFlag, items: frozenset[int]) -> list[bytes]:
    """The data of the INFO replies for these items of information.

    Size, flags and block sizes are always told: who does not know them may skip them.
    """
    infos = [
        wire.INFO_EXPORT.pack(Info.EXPORT, export.gate.parameters.size, flags),
        wire.INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, *block_sizes(export)),
    ]
    if Info.NAME in items:
        infos.append(wire.INFO_TEXT.pack(Info.NAME) + export.name.encode())
    if Info.DESCRIPTION in items and export.description:
        infos.append(
            wire.INFO_TEXT.pack(Info.DESCRIPTION) + export.description.encode(errors="replace")
        )
    return infos


def encode_export_name_reply(export: Export, flags: TransmissionFlag, *, padded: bool) -> bytes:
    """The whole answer to EXPORT_NAME."""
    answer = wire.EXPORT_NAME_REPLY.pack(export.gate.parameters.size, flags)
    return answer + wire.EXPORT_NAME_PADDING if padded else answer
