"""Key=value text: format, bounds, numbers, binary values, names (RFC 7143 6.1)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.iscsi.text import (
    MAX_PAIRS,
    MAX_VALUE,
    TextBuffer,
    TextError,
    decode_binary,
    decode_name,
    decode_number,
    decode_pairs,
    encode_binary,
    encode_pairs,
)


def test_open_iscsi_first_login_text() -> None:
    data = (
        b"InitiatorName=iqn.1993-08.org.debian:01:abc\0InitiatorAlias=host\0"
        b"TargetName=iqn.2024-01.io.userdisk:disk\0SessionType=Normal\0AuthMethod=None\0"
    )
    pairs = decode_pairs(data)
    assert pairs == [
        ("InitiatorName", "iqn.1993-08.org.debian:01:abc"),
        ("InitiatorAlias", "host"),
        ("TargetName", "iqn.2024-01.io.userdisk:disk"),
        ("SessionType", "Normal"),
        ("AuthMethod", "None"),
    ]
    assert encode_pairs(pairs) == data


@pytest.mark.parametrize(
    ("data", "pairs"),
    [
        (b"", []),
        (b"\0\0\0", []),
        (b"A=1", [("A", "1")]),
        (b"A=\0", [("A", "")]),
        (b"A=b=c\0", [("A", "b=c")]),
        (b"X-com.example.key=1\0", [("X-com.example.key", "1")]),
        (b"iSCSIProtocolLevel=1\0", [("iSCSIProtocolLevel", "1")]),
        ("InitiatorAlias=Büro\0".encode(), [("InitiatorAlias", "Büro")]),
        (b"K" * 63 + b"=1\0", [("K" * 63, "1")]),
        (b"A=" + b"v" * MAX_VALUE + b"\0", [("A", "v" * MAX_VALUE)]),
    ],
)
def test_accepted(data: bytes, pairs: list[tuple[str, str]]) -> None:
    assert decode_pairs(data) == pairs


@pytest.mark.parametrize(
    "data",
    [
        b"A\0",
        b"=1\0",
        b"A B=1\0",
        b"1A=1\0",
        b"K" * 64 + b"=1\0",
        b"A=" + b"v" * (MAX_VALUE + 1) + b"\0",
        b"A=\xff\0",
        b"A=1\0A=2\0",
        b"A=1\0A=1\0",
        b"".join(b"K%d=1\0" % n for n in range(MAX_PAIRS + 1)),
    ],
)
def test_refused(data: bytes) -> None:
    with pytest.raises(TextError):
        decode_pairs(data)


def test_a_pair_may_span_requests() -> None:
    buffer = TextBuffer()
    assert buffer.add(b"Initiator", more=True) is None
    assert buffer.add(b"Name=iqn.2024-01.a:b", more=True) is None
    assert buffer.add(b"\0A=1\0", more=False) == [("InitiatorName", "iqn.2024-01.a:b"), ("A", "1")]
    assert buffer.add(b"B=2\0", more=False) == [("B", "2")]


def test_the_total_is_bounded_until_reset() -> None:
    buffer = TextBuffer(limit=10)
    assert buffer.add(b"A=1\0", more=False) == [("A", "1")]
    assert buffer.add(b"B=1\0", more=True) is None
    with pytest.raises(TextError, match="10 bytes"):
        buffer.add(b"C=1\0", more=True)
    buffer.reset()
    assert buffer.add(b"C=1\0", more=False) == [("C", "1")]


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("00012", 12), ("262144", 262144), ("0x40", 64), ("0XfF", 255)]
)
def test_numbers(text: str, value: int) -> None:
    assert decode_number(text) == value


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1 ", "1_0", "0x", "0xg", "0o7", "1.5", "٣", str(1 << 64),
             "9" * 5000, "0x" + "f" * 5000, "Yes"]
)  # fmt: skip
def test_no_numbers(text: str) -> None:
    with pytest.raises(TextError):
        decode_number(text)


def test_binary_values_of_rfc_4648_and_hex() -> None:
    assert decode_binary("0bZm9vYmFy", 16) == b"foobar"  # RFC 4648 section 10
    assert decode_binary("0BZm9vYg==", 16) == b"foob"
    assert decode_binary("0x666f6F", 16) == b"foo"
    assert decode_binary("0Xabc", 16) == b"\x0a\xbc"
    assert encode_binary(b"\x00\xff") == "0x00ff"


@pytest.mark.parametrize(
    "text", ["", "1234", "0x", "0xzz", "0x 66", "0bZm9vY", "0bZm9v YmFy", "0bZm9v=YmFy",
             "0x" + "00" * 17, "0b" + base64.b64encode(bytes(17)).decode(), "0b" + "A" * 8000]
)  # fmt: skip
def test_no_binary_values(text: str) -> None:
    with pytest.raises(TextError) as caught:
        decode_binary(text, 16)
    assert len(text) < 3 or text not in str(caught.value)


def test_names_are_compared_in_one_form() -> None:
    assert decode_name("IQN.2024-01.io.Userdisk:Disk") == "iqn.2024-01.io.userdisk:disk"
    assert decode_name("eui.02004567A425678D") == "eui.02004567a425678d"
    assert decode_name("naa.52004567BA64678D") == "naa.52004567ba64678d"
    for bad in ("", "disk", "iqn.", "iqn.2024 01.a:b", "iqn.a\x7f", "iqn." + "a" * 220):
        with pytest.raises(TextError):
            decode_name(bad)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_pairs_or_a_text_error(data: bytes) -> None:
    try:
        pairs = decode_pairs(data)
    except TextError:
        return
    assert decode_pairs(encode_pairs(pairs)) == pairs


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64))
def test_binary_round_trip(value: bytes) -> None:
    if value:
        assert decode_binary(encode_binary(value), 64) == value
    assert decode_binary("0b" + base64.b64encode(value).decode(), 64) == value
