"""Captured sessions in words: PDUs made by hand, in every form of file, damaged and not."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from userdisk.errors import UsageError
from userdisk.iscsi import pdu
from userdisk.scsitool.capture import pieces
from userdisk.scsitool.explain import bytes_in_words, capture_file
from userdisk.scsitool.session import lines

INITIATOR, TARGET = ("192.0.2.1", 40000), ("192.0.2.2", 3260)
SENSE = bytes.fromhex("70 00 05 00000000 0a 00000000 2400 00 cf0002")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def command(itt: int, cdb: str, flags: int, expected: int, data: bytes = b"") -> bytes:
    header = pdu.GENERIC.pack(
        0x01, 0x80 | flags, len(data), 1 << 48, itt, expected, 7, 3,
        bytes.fromhex(cdb).ljust(16, b"\0"),
    )  # fmt: skip
    return header + padded(data)


def login(opcode: int, flags: int, text: str) -> bytes:
    data = text.encode()
    header = struct.pack(">BBxxI", opcode, flags, len(data)).ljust(48, b"\0")
    return header + padded(data)


SESSION: list[tuple[str, bytes]] = [
    (">", login(0x43, 0x81, "InitiatorName=iqn.a\0CHAP_R=0x1234\0HeaderDigest=CRC32C,None\0")),
    ("<", login(0x23, 0x87, "HeaderDigest=None\0")),
    (">", command(5, "12 01 83 00 ff 00", 0x40, 255)),
    ("<", pdu.DATA_IN.pack(0x25, 0x83, 0, 8, 0, 5, pdu.RESERVED_TAG, 4, 8, 9, 0, 0, 247)
     + bytes(8)),
    (">", command(6, "2a 08 00001000 00 0008 00", 0x20, 4096, b"x" * 10)),
    ("<", pdu.R2T.pack(0x31, 0x80, 0, 6, 1, 5, 9, 10, 0, 10, 4086)),
    (">", pdu.DATA_OUT.pack(0x05, 0x80, 4, 0, 6, 1, 6, 0, 10) + b"yyyy"),
    ("<", pdu.SCSI_RESPONSE.pack(0x21, 0x80, 0, 2, 20, 6, 0, 6, 9, 10, 0, 0, 0)
     + padded(struct.pack(">H", 18) + SENSE)),
    (">", pdu.TASK_MANAGEMENT.pack(0x42, 0x85, 0, 1 << 48, 9, 0xFFFFFFFF, 8, 5, 0, 0)),
    ("<", pdu.TASK_MANAGEMENT_RESPONSE.pack(0x22, 0x80, 0, 9, 7, 9, 10)),
    (">", struct.pack(">BB", 0x46, 0x80).ljust(48, b"\0")),
    ("<", struct.pack(">BBB", 0x26, 0x80, 0).ljust(48, b"\0")),
]  # fmt: skip
WORDS = [
    "> login, security stage, to operational: InitiatorName=iqn.a, CHAP_R=...,"
    " HeaderDigest=CRC32C,None",
    "< login, operational stage, to full feature: HeaderDigest=None",
    "> LUN 1: INQUIRY, EVPD 1, PAGE CODE 83h, ALLOCATION LENGTH 255, 255 bytes to read",
    "< INQUIRY data: 8 bytes at 0, GOOD, 247 bytes fewer",
    "> LUN 1: WRITE(10), FUA 1, LOGICAL BLOCK ADDRESS 4096, TRANSFER LENGTH 8,"
    " 4096 bytes to write, 10 sent with it",
    "< WRITE(10) asks for 4086 bytes at 10",
    "> WRITE(10) data: 4 bytes at 10",
    "< WRITE(10): CHECK CONDITION: illegal request, invalid field in CDB (5/24/00),"
    " wrong is byte 2 bit 7 of the CDB",
    "> LUN 1: LOGICAL UNIT RESET",
    "< task management: done",
    "> logout",
    "< logout: done",
]


def as_lines() -> bytes:
    return b"# a session\n" + b"".join(
        f"{way} {data[:20].hex(' ')}\n  {data[20:].hex()}\n".encode() for way, data in SESSION
    )


def packet(way: str, sequence: int, data: bytes, link: int, flags: int = 0x18) -> bytes:
    (source, sport), (target, dport) = (INITIATOR, TARGET) if way == ">" else (TARGET, INITIATOR)
    tcp = struct.pack(">HHIIBBHHH", sport, dport, sequence & 0xFFFFFFFF, 0, 0x50, flags, 0, 0, 0)
    tcp += data
    if link == 1:
        prefix = bytes(12) + struct.pack(">HHH", 0x8100, 5, 0x0800)
    else:
        prefix = bytes(14) + struct.pack(">H", 0x0800) if link == 113 else b""
    addresses = bytes(int(part) for part in f"{source}.{target}".split("."))
    ip = struct.pack(">BBHIBBH", 0x45, 0, 20 + len(tcp), 0, 64, 6, 0) + addresses
    padding = bytes(6) if link == 1 else b""  # as Ethernet adds to short frames
    return prefix + ip + tcp + padding


def packets(link: int, size: int = 30) -> list[bytes]:
    """The session in segments that do not end where PDUs do; sequence numbers wrap around."""
    sequence = {">": 0xFFFFFFF0, "<": 77}
    found = [packet(way, sequence[way] - 1, b"", link, 0x02) for way in "><"]
    for way, data in SESSION:
        for at in range(0, len(data), size):
            part = data[at : at + size]
            found.append(packet(way, sequence[way], part, link))
            sequence[way] += len(part)
    return found


def pcap(found: Sequence[bytes], link: int, order: str = "<") -> bytes:
    data = struct.pack(f"{order}IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    for index, each in enumerate(found):
        data += struct.pack(f"{order}IIII", 1000 + index, 500_000, len(each), len(each)) + each
    return data


def pcapng(found: Sequence[bytes], link: int) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body = padded(body)
        total = 12 + len(body)
        return struct.pack("<II", kind, total) + body + struct.pack("<I", total)

    data = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    data += block(1, struct.pack("<HHI", link, 0, 65535)) + block(5, b"statistics")
    for each in found:
        data += block(6, struct.pack("<IIIII", 0, 0, 5, len(each), len(each)) + each)
    return data


def said(data: bytes) -> list[str]:
    found = lines(pieces(data))
    assert not found.warnings
    return [f"{way} {words}" for _, way, words in found.rows]  # type: ignore[misc]


FILES = {
    "lines": as_lines(),
    "pcap, Ethernet with VLAN": pcap(packets(1), 1),
    "pcap, big endian, raw IP": pcap(packets(101), 101, ">"),
    "pcapng, Linux cooked": pcapng(packets(113), 113),
}


@pytest.mark.parametrize("name", FILES)
def test_a_session(name: str) -> None:
    assert said(FILES[name]) == WORDS


def test_segments_out_of_order_and_twice() -> None:
    found = packets(101)
    mixed = found[:2] + [each for pair in zip(found[3::2], found[2::2], strict=False)
                         for each in (*pair, pair[0])]  # fmt: skip
    mixed += found[-1:]
    there = lines(pieces(pcap(mixed, 101)))
    # only within a direction there is an order
    for way in "><":
        mine = [words for _, there_way, words in there.rows if there_way == way]
        assert mine == [words[2:] for words in WORDS if words[0] == way]


def test_missing_bytes_end_a_direction() -> None:
    found = packets(101)
    lost = (
        found[:8]
        + found[9:]
        + [packet(">", 0xFFFFFFF0 + 5000 + at, b"z", 101) for at in range(0, 600, 2)]
    )
    there = lines(pieces(pcap(lost, 101)))
    assert any("bytes are missing" in str(warning) for warning in there.warnings)


def test_something_else_is_not_iscsi() -> None:
    there = lines(pieces(b"> " + b"474554202f20485454502f312e310d0a" * 4))
    assert not there.rows and "not iSCSI" in there.warnings[0]


def test_a_capture_that_ends_within_a_pdu() -> None:
    there = lines(pieces(b"> " + SESSION[2][1][:40].hex().encode()))
    assert there.warnings == ["initiator to target: 40 bytes at the end are no whole PDU"]


def test_digests_are_skipped_when_they_were_agreed_on() -> None:
    request = login(0x43, 0x87, "HeaderDigest=CRC32C\0")
    answer = login(0x23, 0x87, "HeaderDigest=CRC32C\0DataDigest=CRC32C\0")
    one = command(5, "2a 00 00000000 00 0001 00", 0x20, 512, b"abc")
    with_digests = one[:48] + b"\1\2\3\4" + one[48:] + b"\5\6\7\10"
    text = "\n".join(
        f"{way} {data.hex()}"
        for way, data in ((">", request), ("<", answer), (">", with_digests * 2))
    )
    assert len(said(text.encode())) == 4


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"nonsense", "line 1: neither pcap nor pcapng"),
        (b"> 00\n< zz\n", "line 2: neither"),
        (b"\xd4\xc3\xb2\xa1", "ends in its header"),
        (pcap([], 1) + struct.pack("<IIII", 0, 0, 1 << 30, 1), "has a packet of 1073741824 bytes"),
        (b"\x0a\x0d\x0d\x0a" + struct.pack("<II", 4, 0x1A2B3C4D), "has a block of 4 bytes"),
    ],
)
def test_files_that_are_none(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "session"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=f"session: .*{words}"):
        capture_file(str(path))


@pytest.mark.parametrize("name", FILES)
def test_damage(name: str) -> None:
    draw = random.Random(name)
    for _ in range(60):
        damaged = bytearray(FILES[name])
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(24, len(damaged))] = draw.randrange(256)
        with contextlib.suppress(UsageError):
            lines(pieces(bytes(damaged[: draw.randrange(len(damaged))])))


def test_pdus_of_every_opcode_and_any_bytes() -> None:
    draw = random.Random(3)
    for opcode in range(64):
        for _ in range(20):
            header = bytes([opcode, draw.randrange(256), draw.randrange(256), draw.randrange(256)])
            data = draw.randbytes(draw.choice((0, 4, 40, 60)))
            one = header + b"\0" + len(data).to_bytes(3, "big") + draw.randbytes(40) + padded(data)
            lines(pieces(f"> {one.hex()}".encode()))


def test_bytes_in_words() -> None:
    assert bytes_in_words("00 00 00 00 00 00").rows == [("CDB", "TEST UNIT READY")]
    ((kind, words),) = bytes_in_words(SENSE.hex()).rows
    assert kind == "sense data" and "invalid field in CDB" in str(words)
    for text, problem in (("", "no bytes"), ("xyz", "not bytes"), ("00" * 5000, "too many")):
        with pytest.raises(UsageError, match=problem):
            bytes_in_words(text)
