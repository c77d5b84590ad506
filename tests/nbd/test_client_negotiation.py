"""The client's side of the negotiation: servers old and new, and those that lie."""

from __future__ import annotations

import struct

import pytest

from userdisk.nbd import wire
from userdisk.nbd.client_negotiation import ClientNegotiation, Listed, NbdError, ReplyStyle, Wishes
from userdisk.nbd.wire import Info, Option, OptionReply

GREETING = wire.GREETING.pack(wire.NBD_MAGIC, wire.OPTION_MAGIC, 3)
EXPORT = wire.INFO_EXPORT.pack(Info.EXPORT, 1 << 20, 1 | 4)
SIZES = wire.INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, 512, 4096, 1 << 20)
CONTEXT = wire.CONTEXT_ID.pack(9) + b"base:allocation"


def reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def ack(option: int) -> bytes:
    return reply(option, OptionReply.ACK)


def unknown(option: int) -> bytes:
    return reply(option, OptionReply.ERR_UNSUP, b"what?")


def said(wishes: Wishes, *pieces: bytes, step: int = 1 << 20) -> ClientNegotiation:
    """Let a server say all this, in pieces."""
    side, data = ClientNegotiation(wishes), b"".join(pieces)
    start = end = 0
    while end < len(data) and not side.done:
        end = min(end + step, len(data))
        start += side.received(memoryview(data)[start:end])
    return side


def asked(side: ClientNegotiation) -> list[int]:
    """The options that were sent."""
    data, found = b"".join(side.out)[4:], []
    while data:
        _, option, length = wire.OPTION.unpack_from(data)
        found.append(option)
        data = data[wire.OPTION.size + length :]
    return found


GO = (
    reply(Option.GO, OptionReply.INFO, EXPORT)
    + reply(Option.GO, OptionReply.INFO, SIZES)
    + reply(Option.GO, OptionReply.INFO, struct.pack(">H", Info.DESCRIPTION) + b"my \x1bdisk")
    + reply(Option.GO, OptionReply.INFO, struct.pack(">H", 4711) + b"news")
    + ack(Option.GO)
)


@pytest.mark.parametrize("step", [1, 13, 1 << 20])
def test_a_server_that_knows_everything(step: int) -> None:
    side = said(
        Wishes("e"),
        GREETING,
        ack(Option.EXTENDED_HEADERS),
        reply(Option.SET_META_CONTEXT, OptionReply.META_CONTEXT, CONTEXT),
        ack(Option.SET_META_CONTEXT),
        GO,
        step=step,
    )
    found = side.found
    assert found is not None
    assert (found.size, found.flags) == (1 << 20, 5)
    assert (found.minimum, found.preferred, found.maximum) == (512, 4096, 1 << 20)
    assert (found.style, found.context) == (ReplyStyle.EXTENDED, 9)
    assert found.description == "my �disk"
    assert asked(side) == [Option.EXTENDED_HEADERS, Option.SET_META_CONTEXT, Option.GO]


def test_a_server_that_knows_nothing() -> None:
    side = said(
        Wishes("e"),
        GREETING,
        *(unknown(each) for each in (Option.EXTENDED_HEADERS, Option.STRUCTURED_REPLY, Option.GO)),
        wire.EXPORT_NAME_REPLY.pack(4096, 1),
    )
    assert side.found is not None
    assert (side.found.size, side.found.style) == (4096, ReplyStyle.SIMPLE)
    assert (side.found.minimum, side.found.maximum) == (1, 32 << 20)


def test_a_server_that_is_not_fixed_newstyle_pads() -> None:
    greeting = wire.GREETING.pack(wire.NBD_MAGIC, wire.OPTION_MAGIC, 0)
    export = wire.EXPORT_NAME_REPLY.pack(4096, 1) + bytes(124)
    side = said(Wishes("e"), greeting, export)
    assert asked(side) == [Option.EXPORT_NAME]
    assert side.found is not None


@pytest.mark.parametrize("feature", ["extended", "structured", "allocation", "go"])
def test_each_feature_can_be_left_out(feature: str) -> None:
    option = {
        "extended": Option.EXTENDED_HEADERS,
        "structured": Option.STRUCTURED_REPLY,
        "allocation": Option.SET_META_CONTEXT,
        "go": Option.GO,
    }[feature]
    answers = {
        Option.EXTENDED_HEADERS: unknown(Option.EXTENDED_HEADERS),
        Option.STRUCTURED_REPLY: ack(Option.STRUCTURED_REPLY),
        Option.SET_META_CONTEXT: ack(Option.SET_META_CONTEXT),
        Option.GO: GO,
        Option.EXPORT_NAME: wire.EXPORT_NAME_REPLY.pack(4096, 1),
    }
    side = ClientNegotiation(Wishes(**{feature: False}))  # type: ignore[arg-type]
    side.received(memoryview(GREETING))
    while not side.done:
        side.received(memoryview(answers[Option(asked(side)[-1])]))
    assert option not in asked(side)


def test_a_list() -> None:
    item = struct.pack(">I", 1) + b"a" + b"the first"
    side = said(
        Wishes(listing=True),
        GREETING,
        reply(Option.LIST, OptionReply.SERVER, item),
        ack(Option.LIST),
    )
    assert side.listed == [Listed("a", "the first")]
    assert asked(side) == [Option.LIST, Option.ABORT]


def test_tls_comes_first_and_nothing_before_it_counts() -> None:
    side = said(Wishes(tls=True), GREETING, ack(Option.STARTTLS))
    assert side.secures
    side.secured()
    assert not side.secures
    assert asked(side) == [Option.STARTTLS, Option.EXTENDED_HEADERS]
    with pytest.raises(NbdError, match="plain text"):
        said(Wishes(tls=True), GREETING, ack(Option.STARTTLS) + b"x")
    with pytest.raises(NbdError, match="not offer TLS"):
        said(Wishes(tls=True), GREETING, unknown(Option.STARTTLS))


def size(minimum: int, preferred: int, maximum: int) -> bytes:
    data = wire.INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, minimum, preferred, maximum)
    return reply(Option.GO, OptionReply.INFO, data)


PLAIN = Wishes(extended=False, structured=False)


@pytest.mark.parametrize(
    ("wishes", "answer", "words"),
    [
        (PLAIN, bytes(18), "no NBD server"),
        (PLAIN, wire.GREETING.pack(wire.NBD_MAGIC, 0x00420281861253, 0), "old-style"),
        (PLAIN, wire.GREETING.pack(wire.NBD_MAGIC, 1, 0), "greeting"),
        (PLAIN, GREETING + bytes(20), "GO is not one"),
        (PLAIN, GREETING + ack(Option.INFO), "GO is not one"),
        (PLAIN, GREETING + ack(Option.GO), "how large"),
        (PLAIN, GREETING + reply(Option.GO, OptionReply.ERR_UNKNOWN), "no export"),
        (PLAIN, GREETING + reply(Option.GO, OptionReply.ERR_POLICY, b"go\naway"), "go�away"),
        (PLAIN, GREETING + reply(Option.GO, OptionReply.ERR_TLS_REQD), "nbds"),
        (PLAIN, GREETING + reply(Option.GO, OptionReply.INFO, bytes(11)), "wrong length"),
        (PLAIN, GREETING + reply(Option.GO, OptionReply.INFO, b""), "wrong length"),
        (PLAIN, GREETING + size(3, 4096, 1 << 20), "block sizes"),
        (PLAIN, GREETING + size(1 << 17, 1 << 17, 1 << 20), "block sizes"),
        (PLAIN, GREETING + size(512, 4096, 513), "block sizes"),
        (PLAIN, GREETING + size(0, 0, 0), "block sizes"),
        (PLAIN, GREETING + reply(Option.GO, OptionReply.INFO, EXPORT) * 100, "no end"),
        (PLAIN, GREETING + reply(Option.GO, OptionReply.INFO, bytes(20_000)), "too long"),
        (PLAIN, GREETING + reply(Option.GO, OptionReply.SERVER), "GO is not one"),
        (Wishes(), GREETING + reply(Option.EXTENDED_HEADERS, 3), "EXTENDED_HEADERS is not one"),
        (
            Wishes(allocation=False),
            GREETING + ack(Option.EXTENDED_HEADERS) + unknown(Option.GO),
            "refuses the export",
        ),
        (
            Wishes(),
            GREETING
            + ack(Option.EXTENDED_HEADERS)
            + reply(Option.SET_META_CONTEXT, OptionReply.META_CONTEXT, bytes(4) + b"other"),
            "nobody asked",
        ),
        (
            Wishes(listing=True),
            GREETING + reply(Option.LIST, OptionReply.SERVER, struct.pack(">I", 5) + b"abc"),
            "damaged",
        ),
        (
            Wishes(listing=True),
            GREETING + reply(Option.LIST, OptionReply.SERVER, bytes(4)) * 10_001,
            "no end",
        ),
        (
            PLAIN,
            GREETING
            + reply(Option.GO, OptionReply.INFO, wire.INFO_EXPORT.pack(0, (1 << 64) - 1, 1)),
            "cannot have",
        ),
    ],
)
def test_what_a_server_must_not_say(wishes: Wishes, answer: bytes, words: str) -> None:
    with pytest.raises(NbdError, match=words) as caught:
        said(wishes, answer)
    assert "\n" not in str(caught.value)
