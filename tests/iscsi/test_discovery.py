"""Text requests in full feature phase and the addresses of discovery (RFC 7143 11.10, C)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.errors import UsageError
from userdisk.iscsi.discovery import (
    Portal,
    Record,
    TextAnswer,
    TextNegotiation,
    parse_advertise,
    reachable,
    target_address,
)
from userdisk.iscsi.pdu import RejectReason

DISK0, DISK1 = "iqn.2024-01.io.userdisk:disk0", "iqn.2024-01.io.userdisk:Disk1"
RECORDS = [
    Record(DISK0, ["10.0.0.1:3260,1", "[2001:db8::1]:3260,1"]),
    Record(DISK1, ["10.0.0.1:3260,1"]),
]
ONE = (
    b"TargetName=iqn.2024-01.io.userdisk:disk0\0TargetAddress=10.0.0.1:3260,1\0"
    b"TargetAddress=[2001:db8::1]:3260,1\0"
)
TWO = b"TargetName=iqn.2024-01.io.userdisk:Disk1\0TargetAddress=10.0.0.1:3260,1\0"
NONE = 0xFFFFFFFF
F, C = 0x80, 0x40
ITT = 3


def negotiation(own: str | None = None, length: int = 8192) -> TextNegotiation:
    return TextNegotiation(lambda: RECORDS, own, length)


@pytest.mark.parametrize(("own", "value", "answer"), [
    (None, "All", ONE + TWO),
    (None, DISK0, ONE),
    (None, DISK1, TWO),
    (None, DISK1.lower(), TWO),
    (None, "iqn.2024-01.io.userdisk:other", b""),
    (None, "", b""),
    (DISK0, "All", ONE),
    (DISK0, "", ONE),
    (DISK0, DISK0, ONE),
    (DISK1.lower(), "All", TWO),
])  # fmt: skip
def test_send_targets(own: str | None, value: str, answer: bytes) -> None:
    data = f"SendTargets={value}\0".encode()
    assert negotiation(own).request(F, ITT, NONE, data) == TextAnswer(F, NONE, answer)


@pytest.mark.parametrize("data", [
    b"SendTargetsPlease=All\0", b"SendTargets=Alle\0", b"SendTargets=A\0",
    b"sENDtARGETS=aLL\0", b"SendTargets=aLL\0",
])  # fmt: skip
@pytest.mark.parametrize("own", [None, DISK0])
def test_iscsi_test_cu_send_targets_invalid(own: str | None, data: bytes) -> None:
    """A Reject, and a valid one afterwards works on the same connection."""
    text = negotiation(own)
    assert text.request(F, ITT, NONE, data) is RejectReason.PROTOCOL_ERROR
    answer = text.request(F, ITT, NONE, b"SendTargets=All\0")
    assert isinstance(answer, TextAnswer) and answer.data.startswith(ONE)


@pytest.mark.parametrize("data", [
    b"SendTargets=" + DISK1.encode() + b"\0", b"MaxBurstLength=512\0", b"AuthMethod=None\0",
    b"CHAP_A=5\0", b"InitiatorName=iqn.a:b\0", b"MaxRecvDataSegmentLength=1\0", b"nonsense",
    b"SendTargets=All\0SendTargets=All\0",
])  # fmt: skip
def test_rejected_in_a_normal_session(data: bytes) -> None:
    assert negotiation(DISK0).request(F, ITT, NONE, data) is RejectReason.PROTOCOL_ERROR


def test_extension_keys_are_not_understood() -> None:
    answer = negotiation().request(F, ITT, NONE, b"X-com.example=1\0X-b=Reject\0")
    assert answer == TextAnswer(F, NONE, b"X-com.example=NotUnderstood\0")


def test_a_new_length_holds_when_the_negotiation_is_over() -> None:
    text = negotiation()
    first = text.request(0, ITT, NONE, b"MaxRecvDataSegmentLength=65536\0InitiatorAlias=x\0")
    assert isinstance(first, TextAnswer)
    assert (first.flags, first.data) == (0, b"") and first.ttt != NONE
    assert text.max_recv_data_segment_length == 8192
    assert text.request(F, ITT, first.ttt, b"") == TextAnswer(F, NONE, b"")
    assert text.max_recv_data_segment_length == 65536


def test_a_length_that_is_given_up() -> None:
    text = negotiation()
    text.request(0, ITT, NONE, b"MaxRecvDataSegmentLength=65536\0")
    assert text.request(F, ITT, NONE, b"") == TextAnswer(F, NONE, b"")
    assert text.max_recv_data_segment_length == 8192


def test_a_long_answer_goes_out_in_pieces() -> None:
    records = [Record(f"iqn.2024-01.io.userdisk:{n:04}", ["10.0.0.1:3260,1"]) for n in range(100)]
    text = TextNegotiation(lambda: records, None, 512)
    answer = text.request(F, ITT, NONE, b"SendTargets=All\0")
    data = b""
    ttts = set()
    while isinstance(answer, TextAnswer) and answer.flags == C:
        assert len(answer.data) == 512
        ttts.add(answer.ttt)
        data += answer.data
        answer = text.request(F, ITT, answer.ttt, b"")
    assert isinstance(answer, TextAnswer)
    assert (answer.flags, answer.ttt) == (F, NONE) and len(ttts) == 1 and NONE not in ttts
    data += answer.data
    assert data.count(b"TargetName=") == 100 and data.endswith(b":3260,1\0")


def test_a_request_in_pieces() -> None:
    text = negotiation()
    first = text.request(C, ITT, NONE, b"SendTar")
    assert isinstance(first, TextAnswer)
    assert (first.flags, first.data) == (0, b"") and first.ttt != NONE
    answer = text.request(F, ITT, first.ttt, memoryview(b"gets=All\0"))
    assert answer == TextAnswer(F, NONE, ONE + TWO)


def test_tags_of_another_negotiation() -> None:
    text = negotiation()
    first = text.request(C, ITT, NONE, b"SendTar")
    assert isinstance(first, TextAnswer)
    for itt, ttt in ((ITT, first.ttt + 1), (ITT + 1, first.ttt)):
        assert text.request(F, itt, ttt, b"gets=All\0") is RejectReason.PROTOCOL_ERROR
    assert text.request(F, ITT, 7, b"") is RejectReason.PROTOCOL_ERROR


@pytest.mark.parametrize(("flags", "data"), [(F | C, b""), (F, b"SendTargets=All\0")])
def test_rules_of_the_bits(flags: int, data: bytes) -> None:
    text = negotiation(length=16)
    answer = text.request(F, ITT, NONE, b"SendTargets=All\0")
    assert isinstance(answer, TextAnswer) and answer.flags == C
    assert text.request(flags, ITT, answer.ttt, data) is RejectReason.PROTOCOL_ERROR


def test_endless_text_is_rejected() -> None:
    text = negotiation()
    ttt = NONE
    for _ in range(8):
        answer = text.request(C, ITT, ttt, b"A" * 8192)
        assert isinstance(answer, TextAnswer)
        ttt = answer.ttt
    assert text.request(C, ITT, ttt, b"A") is RejectReason.PROTOCOL_ERROR


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.sampled_from([NONE, 1, 2]),
                          st.one_of(st.binary(max_size=40),
                                    st.sampled_from([b"SendTargets=All\0", b"SendTargets="]))),
                max_size=6))  # fmt: skip
def test_any_requests_are_answered_or_rejected(requests: list[tuple[int, int, bytes]]) -> None:
    text = negotiation(length=512)
    for flags, ttt, data in requests:
        answer = text.request(flags, ITT, ttt, data)
        if isinstance(answer, TextAnswer):
            assert len(answer.data) <= 512
            assert (answer.ttt == NONE) == bool(answer.flags & F)
            assert flags & F or not answer.flags & F


# -- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "text"), [
    ("10.0.0.1", "10.0.0.1:3260,1"),
    ("2001:DB8::1", "[2001:db8::1]:3260,1"),
    ("fe80::1%eth0", "[fe80::1]:3260,1"),
    ("::ffff:10.0.0.1", "10.0.0.1:3260,1"),
    ("disks.example.com", "disks.example.com:3260,1"),
])  # fmt: skip
def test_target_address(host: str, text: str) -> None:
    assert target_address(host, 3260) == text


@pytest.mark.parametrize(("listen", "reached", "addresses"), [
    ([("0.0.0.0", 3260)], ("10.0.0.5", 3260), [("10.0.0.5", 3260)]),
    ([("::", 3260)], ("::ffff:10.0.0.5", 3260), [("10.0.0.5", 3260)]),
    ([("", 3260)], ("2001:db8::5", 3260), [("2001:db8::5", 3260)]),
    ([("127.0.0.1", 3260)], ("127.0.0.1", 3260), [("127.0.0.1", 3260)]),
    ([("10.0.0.5", 3260), ("10.0.1.5", 3260)], ("10.0.1.5", 3260),
     [("10.0.1.5", 3260), ("10.0.0.5", 3260)]),
    ([("127.0.0.1", 3260), ("10.0.0.5", 3260)], ("10.0.0.5", 3260), [("10.0.0.5", 3260)]),
    ([("127.0.0.1", 3260), ("10.0.0.5", 3261)], ("127.0.0.1", 3260),
     [("127.0.0.1", 3260), ("10.0.0.5", 3261)]),
    ([("0.0.0.0", 3261), ("2001:db8::5", 3260)], ("2001:db8::5", 3260), [("2001:db8::5", 3260)]),
    ([("0.0.0.0", 3260), ("0.0.0.0", 3261)], ("10.0.0.5", 3260),
     [("10.0.0.5", 3260), ("10.0.0.5", 3261)]),
])  # fmt: skip
def test_reachable(
    listen: list[tuple[str, int]], reached: tuple[str, int], addresses: list[tuple[str, int]]
) -> None:
    found = reachable([Portal(*each) for each in listen], Portal(*reached))
    assert found == [Portal(*each) for each in addresses]


@pytest.mark.parametrize(("advertise", "address"), [
    ("192.0.2.1", ("192.0.2.1", 3260)),
    ("192.0.2.1:13260", ("192.0.2.1", 13260)),
    ("[2001:db8::9]:13260", ("2001:db8::9", 13260)),
    ("[2001:db8::9]", ("2001:db8::9", 3260)),
    ("2001:db8::9", ("2001:db8::9", 3260)),
    ("nas.example.com:4000", ("nas.example.com", 4000)),
])  # fmt: skip
def test_advertise(advertise: str, address: tuple[str, int]) -> None:
    found = reachable([Portal("0.0.0.0", 3260)], Portal("10.0.0.5", 3260), advertise)
    assert found == [Portal(*address)]


def test_portal_groups() -> None:
    """Each portal has its own tag; an address is shown once, the one that was reached first."""
    one, two = Portal("10.0.0.5", 3260, 1), Portal("10.0.1.5", 3260, 2)
    assert reachable([one, two], two) == [two, one]
    wild = Portal("0.0.0.0", 3261, 3)
    assert reachable([one, wild], one) == [one, Portal("10.0.0.5", 3261, 3)]
    assert reachable([wild, one], Portal("10.0.0.5", 3261, 3)) == [
        wild._replace(host=one.host),
        one,
    ]


def test_advertised_portal_groups() -> None:
    """A host alone stands for that of every portal; with a port it is the one portal there is."""
    one, two = Portal("10.0.0.5", 3260, 1), Portal("10.0.0.5", 3261, 2)
    assert reachable([one, two], two, "nas") == [Portal("nas", 3261, 2), Portal("nas", 3260, 1)]
    assert reachable([one, two], two, "nas:4000") == [Portal("nas", 4000, 2)]
    other_host = Portal("10.0.1.5", 3260, 2)
    assert reachable([one, other_host], other_host, "nas") == [Portal("nas", 3260, 2)]


@pytest.mark.parametrize("text", ["", ":3260", "a:b", "a:0", "a:65536", "a:٣", "[::1", "[::1]x",
                                  "1:2:3", "0.0.0.0", "[::]:3260", "a b", "a,1"])  # fmt: skip
def test_bad_advertise(text: str) -> None:
    with pytest.raises(UsageError, match="--advertise"):
        parse_advertise(text)
