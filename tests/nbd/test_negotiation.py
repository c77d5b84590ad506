"""The negotiation: recorded conversations, every option in every state, bad data, bounds."""

from __future__ import annotations

import random
import struct
from typing import NamedTuple

import pytest

from tests.kit.nbd_link import environment_of
from tests.kit.units import RamUnit
from userdisk.gate import Gate
from userdisk.nbd import wire
from userdisk.nbd.environment import TlsMode
from userdisk.nbd.export import Export
from userdisk.nbd.negotiation import MAX_OPTIONS, MAX_OUTPUT, Negotiation
from userdisk.nbd.options import MAX_DATA
from userdisk.nbd.replies import Replies
from userdisk.nbd.wire import Info, Option, OptionReply, TransmissionFlag

GREETING = b"NBDMAGIC" + b"IHAVEOPT" + b"\0\3"
FIXED, NO_ZEROES = 1, 2
CLIENT = struct.pack(">I", FIXED | NO_ZEROES)

ACK = OptionReply.ACK
UNSUP = OptionReply.ERR_UNSUP
INVALID = OptionReply.ERR_INVALID
UNKNOWN = OptionReply.ERR_UNKNOWN
TLS_REQD = OptionReply.ERR_TLS_REQD

DISK = Export("disk", Gate(RamUnit(block_count=2048)), "the first")
OTHER = Export("größer", Gate(RamUnit(block_count=4096)), read_only=True)


class Reply(NamedTuple):
    option: int
    kind: int
    data: bytes


class Client:
    """Feeds a negotiation and takes its output apart."""

    def __init__(
        self, tls: TlsMode = TlsMode.NONE, *, flags: bytes = CLIENT, exports: bool = True
    ) -> None:
        self.environment = environment_of(*((DISK, OTHER) if exports else ()), tls=tls)
        self.negotiation = Negotiation(self.environment)
        assert self.output() == GREETING
        self.feed(flags)
        assert not self.output()

    def output(self) -> bytes:
        data = b"".join(self.negotiation.out)
        self.negotiation.out = []
        return data

    def feed(self, data: bytes) -> int:
        return self.negotiation.received(memoryview(data))

    def send(self, number: int, data: bytes = b"") -> list[Reply]:
        message = option(number, data)
        assert self.feed(message) == len(message)
        return replies(self.output())

    def kind(self, number: int, data: bytes = b"") -> int:
        """The last reply to an option, which echoes it; an error comes alone, with a text."""
        found = self.send(number, data)
        assert found
        assert {each.option for each in found} == {number}
        if found[-1].kind != ACK:
            assert len(found) == 1
            assert 0 < len(found[0].data) <= wire.MAX_STRING
            assert found[0].data.decode().isprintable()
        else:
            assert not found[-1].data
        return found[-1].kind

    @property
    def ended(self) -> bool:
        negotiation = self.negotiation
        return bool(negotiation.failed or negotiation.agreed or negotiation.secures)


def option(number: int, data: bytes = b"") -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def replies(data: bytes) -> list[Reply]:
    found = []
    while data:
        magic, number, kind, length = struct.unpack_from(">QIII", data)
        assert magic == 0x3E889045565A9
        assert len(data) >= 20 + length
        found.append(Reply(number, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return found


def text(name: bytes) -> bytes:
    return struct.pack(">I", len(name)) + name


def info(name: bytes = b"disk", *items: int) -> bytes:
    return text(name) + struct.pack(f">H{len(items)}H", len(items), *items)


def contexts(*queries: bytes, name: bytes = b"disk") -> bytes:
    return text(name) + struct.pack(">I", len(queries)) + b"".join(map(text, queries))


ALLOCATION = b"base:allocation"

#: Data that each option takes.
GOOD: dict[int, bytes] = {
    Option.EXPORT_NAME: b"disk",
    Option.ABORT: b"",
    Option.LIST: b"",
    Option.STARTTLS: b"",
    Option.INFO: info(),
    Option.GO: info(),
    Option.STRUCTURED_REPLY: b"",
    Option.LIST_META_CONTEXT: contexts(ALLOCATION),
    Option.SET_META_CONTEXT: contexts(ALLOCATION),
    Option.EXTENDED_HEADERS: b"",
}


# -- recorded conversations ------------------------------------------------------------------------


def test_a_recorded_conversation_with_go() -> None:
    client = Client()
    sent = bytes.fromhex(
        "49484156454f5054 00000008 00000000"  # STRUCTURED_REPLY
        "49484156454f5054 0000000a 0000001f"  # SET_META_CONTEXT
        "00000004 6469736b 00000001 0000000f 626173653a616c6c6f636174696f6e"
        "49484156454f5054 00000007 0000000e"  # GO, asks for description and block size
        "00000004 6469736b 0002 0002 0003"
    )
    assert client.feed(sent) == len(sent)
    assert client.output() == bytes.fromhex(
        "0003e889045565a9 00000008 00000001 00000000"
        "0003e889045565a9 0000000a 00000004 00000013"
        "00000001 626173653a616c6c6f636174696f6e"
        "0003e889045565a9 0000000a 00000001 00000000"
        "0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 0ded"
        "0003e889045565a9 00000007 00000003 0000000e 0003 00000200 00001000 02000000"
        "0003e889045565a9 00000007 00000003 0000000b 0002 746865206669727374"
        "0003e889045565a9 00000007 00000001 00000000"
    )
    agreed = client.negotiation.agreed
    assert agreed is not None
    assert agreed == (DISK, TransmissionFlag(0x0DED), Replies.STRUCTURED, True)


@pytest.mark.parametrize("flags", [0, FIXED, NO_ZEROES, FIXED | NO_ZEROES])
def test_export_name_and_its_padding(flags: int) -> None:
    client = Client(flags=struct.pack(">I", flags))
    client.feed(option(Option.EXPORT_NAME, b"disk"))
    padding = b"" if flags & NO_ZEROES else bytes(124)
    assert client.output() == bytes.fromhex("0000000000100000 0d6d") + padding
    assert client.negotiation.agreed == (DISK, TransmissionFlag(0x0D6D), Replies.SIMPLE, False)


def test_what_follows_the_beginning_of_transmission_is_left() -> None:
    for begin in (option(Option.GO, info()), option(Option.EXPORT_NAME, b"")):
        client = Client()
        assert client.feed(begin + b"transmission") == len(begin)
        assert client.negotiation.agreed is not None
        assert client.negotiation.agreed.export is DISK
        assert client.feed(b"transmission") == 0


# -- one option after the other --------------------------------------------------------------------


def test_list() -> None:
    first, second, end = Client().send(Option.LIST)
    assert first == (Option.LIST, OptionReply.SERVER, text(b"disk") + b"the first")
    assert second == (Option.LIST, OptionReply.SERVER, text("größer".encode()))
    assert end == (Option.LIST, ACK, b"")
    assert Client(exports=False).send(Option.LIST) == [end]


@pytest.mark.parametrize("number", [Option.INFO, Option.GO])
def test_info(number: Option) -> None:
    client = Client()
    found = client.send(number, info("größer".encode(), Info.NAME, Info.DESCRIPTION, 77))
    assert [each.kind for each in found] == [OptionReply.INFO] * 3 + [ACK]
    items = {int.from_bytes(each.data[:2], "big"): each.data[2:] for each in found[:-1]}
    size, flags = struct.unpack(">QH", items[Info.EXPORT])
    assert size == 4096 * 512
    assert TransmissionFlag.READ_ONLY in TransmissionFlag(flags)
    assert struct.unpack(">III", items[Info.BLOCK_SIZE]) == (512, 4096, 32 << 20)
    assert items[Info.NAME] == "größer".encode()
    agreed = client.negotiation.agreed
    assert (agreed is not None) == (number == Option.GO)
    assert not client.negotiation.failed


def test_the_empty_name_is_the_first_export() -> None:
    found = Client().send(Option.INFO, info(b"", Info.NAME))
    assert found[2].data == struct.pack(">H", Info.NAME) + b"disk"
    assert Client(exports=False).kind(Option.INFO, info(b"")) == UNKNOWN


@pytest.mark.parametrize("name", [b"none", b"Disk", b"\x1b[2J\n", b"x" * 4096])
def test_an_unknown_export(name: bytes) -> None:
    client = Client()
    assert client.kind(Option.INFO, info(name)) == UNKNOWN
    assert client.kind(Option.GO, info(name)) == UNKNOWN
    assert client.kind(Option.STRUCTURED_REPLY) == ACK
    assert client.kind(Option.SET_META_CONTEXT, contexts(ALLOCATION, name=name)) == UNKNOWN
    assert client.kind(Option.LIST_META_CONTEXT, contexts(name=name)) == UNKNOWN
    assert client.kind(Option.GO, info()) == ACK
    client = Client()
    assert not client.send(Option.EXPORT_NAME, name)
    assert client.negotiation.failed.isprintable()
    assert client.negotiation.failed


def test_abort_is_acknowledged_and_ends() -> None:
    for data in (b"", b"bye"):
        client = Client()
        assert client.kind(Option.ABORT, data) == ACK
        assert client.negotiation.failed
        assert client.feed(option(Option.LIST)) == 0


@pytest.mark.parametrize("number", [0, Option.PEEK_EXPORT, 12, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_unknown_option_is_refused_and_the_next_one_works(number: int) -> None:
    client = Client()
    for data in (b"", b"x", bytes(MAX_DATA)):
        assert client.kind(number, data) == UNSUP
    assert client.kind(Option.GO, info()) == ACK


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], Replies.SIMPLE),
        ([Option.STRUCTURED_REPLY], Replies.STRUCTURED),
        ([Option.STRUCTURED_REPLY] * 2, Replies.STRUCTURED),
        ([Option.EXTENDED_HEADERS], Replies.EXTENDED),
        ([Option.STRUCTURED_REPLY, Option.EXTENDED_HEADERS], Replies.EXTENDED),
    ],
)
def test_the_form_of_replies(asked: list[Option], expected: Replies) -> None:
    client = Client()
    for number in asked:
        assert client.kind(number) == ACK
    if expected is Replies.EXTENDED:
        assert client.kind(Option.STRUCTURED_REPLY) == OptionReply.ERR_EXT_HEADER_REQD
    client.send(Option.GO, info())
    agreed = client.negotiation.agreed
    assert agreed is not None
    assert agreed.replies is expected
    assert (TransmissionFlag.SEND_DF in agreed.flags) == (expected is not Replies.SIMPLE)
    payload = TransmissionFlag.BLOCK_STATUS_PAYLOAD in agreed.flags
    assert payload == (expected is Replies.EXTENDED)


def test_no_export_name_after_extended_headers() -> None:
    client = Client()
    client.send(Option.EXTENDED_HEADERS)
    assert not client.send(Option.EXPORT_NAME, b"disk")
    assert client.negotiation.failed


@pytest.mark.parametrize(
    ("queries", "listed", "chosen"),
    [
        ([], True, False),
        ([b"base:"], True, False),
        ([ALLOCATION], True, True),
        ([ALLOCATION, b"base:", ALLOCATION], True, True),
        ([b"x-other:all", ALLOCATION], True, True),
        ([b"x-other:all", b"base:other", b"allocation", b"", b"BASE:ALLOCATION"], False, False),
    ],
)
def test_contexts(queries: list[bytes], listed: bool, chosen: bool) -> None:
    client = Client()
    data = contexts(*queries)
    assert client.kind(Option.LIST_META_CONTEXT, data) == INVALID
    assert client.kind(Option.SET_META_CONTEXT, data) == INVALID
    client.send(Option.STRUCTURED_REPLY)
    for number, identifier, some in (
        (Option.LIST_META_CONTEXT, 0, listed),
        (Option.SET_META_CONTEXT, 1, chosen),
    ):
        context = Reply(
            number, OptionReply.META_CONTEXT, identifier.to_bytes(4, "big") + ALLOCATION
        )
        assert client.send(number, data) == [context] * some + [Reply(number, ACK, b"")]
    client.send(Option.GO, info())
    assert client.negotiation.agreed is not None
    assert client.negotiation.agreed.allocation == chosen


@pytest.mark.parametrize(
    ("then", "name", "kept"),
    [
        (None, b"disk", True),
        (None, b"", True),
        (None, "größer".encode(), False),
        (contexts(), b"disk", False),
        (contexts(ALLOCATION, name="größer".encode()), b"disk", False),
        (contexts(ALLOCATION, name=b"none"), b"disk", False),
        (contexts(ALLOCATION)[:-1], b"disk", False),
    ],
)
@pytest.mark.parametrize("begin", [Option.GO, Option.EXPORT_NAME])
def test_the_last_choice_of_contexts_counts_for_its_export(
    begin: Option, then: bytes | None, name: bytes, kept: bool
) -> None:
    client = Client()
    client.send(Option.STRUCTURED_REPLY)
    assert client.kind(Option.SET_META_CONTEXT, contexts(ALLOCATION)) == ACK
    if then is not None:
        client.send(Option.SET_META_CONTEXT, then)
    client.feed(option(begin, info(name) if begin == Option.GO else name))
    assert client.negotiation.agreed is not None
    assert client.negotiation.agreed.allocation == kept


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [4, 0x10000, 0x80000001, 0xFFFFFFFF])
def test_unknown_client_flags_end_it(flags: int) -> None:
    client = Client(flags=struct.pack(">I", flags))
    assert client.negotiation.failed
    assert client.feed(option(Option.LIST)) == 0


@pytest.mark.parametrize("number", [*(set(Option) - {Option.EXPORT_NAME}), 77])
def test_without_fixed_newstyle_there_is_only_export_name(number: int) -> None:
    client = Client(TlsMode.OFFERED, flags=bytes(4))
    assert not client.send(number, GOOD.get(number, b""))
    assert client.negotiation.failed
    assert not client.negotiation.secures


def test_the_wrong_magic_number_ends_it() -> None:
    client = Client()
    assert client.feed(b"IHAVEOPt" + bytes(8))
    assert client.negotiation.failed
    assert not client.output()


BAD_TEXTS = (b"\xff", b"\xed\xa0\x80", b"a\0b", b"x" * 4097)


@pytest.mark.parametrize(
    ("number", "data"),
    [
        *((number, b"x") for number in (3, 5, 8, 11)),
        *((number, info(name)) for number in (6, 7) for name in BAD_TEXTS),
        *((number, info()[:length]) for number in (6, 7) for length in range(len(info()))),
        *((number, info(b"disk", 1, 2)[:-2]) for number in (6, 7)),
        *((number, info() + b"\0\0") for number in (6, 7)),
        *((number, b"\xff\xff\xff\xffdisk\0\0") for number in (6, 7)),
        *((number, contexts(name=name)) for number in (9, 10) for name in BAD_TEXTS),
        *((number, contexts(b"base:", query)) for number in (9, 10) for query in BAD_TEXTS),
        *((number, contexts(b"a:b")[:length]) for number in (9, 10) for length in range(19)),
        *((number, contexts(b"a:b") + b"x") for number in (9, 10)),
        *((number, text(b"disk") + b"\xff\xff\xff\xff") for number in (9, 10)),
    ],
)
def test_malformed_data(number: int, data: bytes) -> None:
    client = Client(TlsMode.OFFERED)
    if number in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
        client.send(Option.STRUCTURED_REPLY)
    assert client.kind(number, data) == INVALID
    assert not client.ended
    assert client.kind(Option.GO, info()) == ACK


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_malformed_export_names_end_it(name: bytes) -> None:
    client = Client()
    assert not client.send(Option.EXPORT_NAME, name)
    assert client.negotiation.failed


@pytest.mark.parametrize("length", [MAX_DATA + 1, 1 << 20, 0xFFFFFFFF])
@pytest.mark.parametrize("number", [*Option, 77])
def test_too_much_data_is_told_before_it_comes(number: int, length: int) -> None:
    client = Client()
    client.feed(b"IHAVEOPT" + struct.pack(">II", number, length))
    assert client.negotiation.failed
    found = replies(client.output())
    if number == Option.EXPORT_NAME:
        assert not found
    else:
        assert [(each.option, each.kind) for each in found] == [(number, OptionReply.ERR_TOO_BIG)]


def test_the_number_of_options_is_bounded() -> None:
    client = Client()
    for _ in range(MAX_OPTIONS):
        client.feed(option(77))
        client.output()
    assert not client.negotiation.failed
    client.feed(option(77))
    assert client.negotiation.failed
    assert not client.output()


def test_nothing_is_consumed_while_the_output_is_long() -> None:
    client = Client()
    data = option(Option.LIST) * 2000
    used = client.feed(data)
    assert used < len(data)
    assert client.feed(data[used:]) == 0
    taken = client.output()
    assert MAX_OUTPUT < len(taken) < MAX_OUTPUT + 200
    while used < len(data):
        count = client.feed(data[used:])
        assert count
        used += count
        taken += client.output()
    assert len([each for each in replies(taken) if each.kind == ACK]) == 2000


# -- TLS -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [*Option, 77])
def test_when_tls_is_required_all_but_two_options_wait_for_it(number: int) -> None:
    client = Client(TlsMode.REQUIRED)
    if number == Option.EXPORT_NAME:
        assert not client.send(number, b"disk")
        assert client.negotiation.failed
        return
    expected = ACK if number in (Option.ABORT, Option.STARTTLS) else TLS_REQD
    assert client.kind(number, GOOD.get(number, b"")) == expected
    assert client.negotiation.agreed is None
    if expected == TLS_REQD:
        assert client.kind(number, b"x" * 9) == TLS_REQD
        assert client.kind(Option.STARTTLS) == ACK
        assert client.negotiation.secures
        client.negotiation.secured()
        assert client.kind(Option.GO, info()) == ACK


@pytest.mark.parametrize("flags", [0, NO_ZEROES])
def test_when_tls_is_required_a_client_without_fixed_newstyle_gets_nothing(flags: int) -> None:
    client = Client(TlsMode.REQUIRED, flags=struct.pack(">I", flags))
    assert not client.send(Option.EXPORT_NAME, b"disk")
    assert client.negotiation.failed
    assert client.negotiation.agreed is None


def test_starttls_without_tls() -> None:
    client = Client()
    assert client.kind(Option.STARTTLS) == UNSUP
    assert not client.negotiation.secures
    assert client.kind(Option.GO, info()) == ACK


@pytest.mark.parametrize("tls", [TlsMode.OFFERED, TlsMode.REQUIRED])
def test_plain_text_behind_starttls_is_not_consumed(tls: TlsMode) -> None:
    client = Client(tls)
    start = option(Option.STARTTLS)
    assert client.feed(start + option(Option.GO, info())) == len(start)
    assert client.negotiation.secures
    assert client.feed(option(Option.GO, info())) == 0
    assert [each.kind for each in replies(client.output())] == [ACK]
    assert client.negotiation.agreed is None


@pytest.mark.parametrize("tls", [TlsMode.OFFERED, TlsMode.REQUIRED])
def test_tls_forgets_and_comes_once(tls: TlsMode) -> None:
    client = Client(tls)
    if tls is TlsMode.OFFERED:
        client.send(Option.STRUCTURED_REPLY)
        client.send(Option.SET_META_CONTEXT, contexts(ALLOCATION))
    client.send(Option.STARTTLS)
    client.negotiation.secured()
    assert not client.output()
    assert client.kind(Option.STARTTLS) == INVALID
    assert client.kind(Option.SET_META_CONTEXT, contexts(ALLOCATION)) == INVALID
    client.send(Option.GO, info())
    assert client.negotiation.agreed is not None
    assert client.negotiation.agreed[2:] == (Replies.SIMPLE, False)


def test_extended_headers_are_forgotten_too() -> None:
    client = Client(TlsMode.OFFERED)
    client.send(Option.EXTENDED_HEADERS)
    client.send(Option.STARTTLS)
    client.negotiation.secured()
    client.feed(option(Option.EXPORT_NAME, b"disk"))
    assert client.negotiation.agreed is not None
    assert client.negotiation.agreed.replies is Replies.SIMPLE


# -- anything --------------------------------------------------------------------------------------


def _mutated(chosen: random.Random) -> bytes:
    """Client flags and options, some of them damaged."""
    data = bytearray(struct.pack(">I", chosen.choice((0, 1, 2, 3, 3, 3, 3, 3, 7))))
    for _ in range(chosen.randrange(12)):
        number = chosen.choice((*GOOD, 4, 12, 8, 8, 10))
        payload = bytearray(GOOD.get(number, b"abc"))
        if chosen.random() < 0.3:
            payload[len(payload) :] = chosen.randbytes(chosen.randrange(40))
        if payload and chosen.random() < 0.3:
            payload[chosen.randrange(len(payload))] = chosen.randrange(256)
        data += option(number, bytes(payload))
    for _ in range(chosen.choice((0, 0, 0, 1, 3))):
        data[chosen.randrange(len(data))] = chosen.randrange(256)
    return bytes(data)


def _run(data: bytes, tls: TlsMode, pieces: random.Random | None) -> tuple[object, ...]:
    """What a negotiation made of `data`, and how many bytes it took."""
    negotiation = Negotiation(environment_of(DISK, OTHER, tls=tls))
    output = bytearray()
    start = end = 0
    while True:
        used = negotiation.received(memoryview(data)[start:end])
        assert 0 <= used <= end - start
        start += used
        assert sum(map(len, negotiation.out)) <= MAX_OUTPUT + 1000
        output += b"".join(negotiation.out)
        negotiation.out = []
        if negotiation.secures:
            output += b"TLS"
            negotiation.secured()
        elif not used and end == len(data):
            break
        end = min(len(data), end + (pieces.randrange(40) if pieces else len(data)))
    return bytes(output), negotiation.agreed, negotiation.failed, start


@pytest.mark.parametrize("tls", TlsMode, ids=lambda tls: tls.name.lower())
def test_damaged_input_however_it_is_split(tls: TlsMode) -> None:
    chosen = random.Random(f"damaged {tls.name}")
    ends = set()
    for number in range(500):
        data = _mutated(chosen) if number % 10 else chosen.randbytes(chosen.randrange(200))
        whole = _run(data, tls, None)
        assert _run(data, tls, chosen) == whole
        ends.add((whole[1] is not None, bool(whole[2])))
    assert ends == {(False, False), (True, False), (False, True)}
