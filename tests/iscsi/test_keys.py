"""The key table, row by row (RFC 7143 section 13), and the rules of negotiation (6.2)."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.iscsi.keys import KEYS, Parameters, Phase, Rule, Settings
from userdisk.iscsi.text import TextError

WITH_DIGESTS = Settings(digests=("CRC32C", "None"))

#: key, offer, answer, value that holds, answer in a discovery session: with our default settings
_TABLE = [
    ("HeaderDigest", "None", "None", "None", "None"),
    ("HeaderDigest", "CRC32C,None", "CRC32C", "CRC32C", "CRC32C"),
    ("HeaderDigest", "None,CRC32C", "None", "None", "None"),
    ("DataDigest", "CRC32C", "CRC32C", "CRC32C", "CRC32C"),
    ("DataDigest", "Y-new,CRC32C", "CRC32C", "CRC32C", "CRC32C"),
    ("DataDigest", "SHA", "Reject", "None", "Reject"),
    ("MaxConnections", "8", "1", 1, "Irrelevant"),
    ("MaxConnections", "0", "Reject", 1, "Irrelevant"),
    ("InitialR2T", "No", "No", False, "Irrelevant"),
    ("InitialR2T", "Yes", "Yes", True, "Irrelevant"),
    ("InitialR2T", "yes", "Reject", True, "Irrelevant"),
    ("ImmediateData", "Yes", "Yes", True, "Irrelevant"),
    ("ImmediateData", "No", "No", False, "Irrelevant"),
    ("MaxRecvDataSegmentLength", "262144", None, 262144, None),
    ("MaxRecvDataSegmentLength", "0x200", None, 512, None),
    ("MaxRecvDataSegmentLength", "16777215", None, 16777215, None),
    ("MaxBurstLength", "16776192", "1048576", 1048576, "Irrelevant"),
    ("MaxBurstLength", "262144", "262144", 262144, "Irrelevant"),
    ("MaxBurstLength", "511", "Reject", 262144, "Irrelevant"),
    ("MaxBurstLength", "16777216", "Reject", 262144, "Irrelevant"),
    ("FirstBurstLength", "262144", "65536", 65536, "Irrelevant"),
    ("FirstBurstLength", "8192", "8192", 8192, "Irrelevant"),
    ("FirstBurstLength", "long", "Reject", 65536, "Irrelevant"),
    ("DefaultTime2Wait", "0", "2", 2, "2"),
    ("DefaultTime2Wait", "5", "5", 5, "5"),
    ("DefaultTime2Wait", "3601", "Reject", 2, "Reject"),
    ("DefaultTime2Retain", "20", "0", 0, "0"),
    ("MaxOutstandingR2T", "16", "1", 1, "Irrelevant"),
    ("DataPDUInOrder", "No", "Yes", True, "Irrelevant"),
    ("DataSequenceInOrder", "Yes", "Yes", True, "Irrelevant"),
    ("ErrorRecoveryLevel", "2", "0", 0, "0"),
    ("ErrorRecoveryLevel", "3", "Reject", 0, "Reject"),
    ("TaskReporting", "FastAbort,RFC3720", "RFC3720", "RFC3720", "Irrelevant"),
    ("TaskReporting", "FastAbort", "Reject", "RFC3720", "Irrelevant"),
    ("iSCSIProtocolLevel", "2", "1", 1, "Irrelevant"),
    ("iSCSIProtocolLevel", "0", "0", 0, "Irrelevant"),
    ("IFMarker", "No", "No", "No", "No"),
    ("OFMarker", "Yes", "No", "No", "No"),
    ("IFMarkInt", "2048~8192", "Reject", "Reject", "Reject"),
    ("OFMarkInt", "2048", "Reject", "Reject", "Reject"),
    ("TargetAlias", "x", "Reject", "", "Reject"),
    ("TargetAddress", "10.0.0.1:3260,1", "Reject", "", "Reject"),
    ("TargetPortalGroupTag", "1", "Reject", 0, "Reject"),
    ("SendTargets", "All", "Reject", "", "Reject"),
]


@pytest.mark.parametrize(("name", "offer", "answer", "value", "in_discovery"), _TABLE)
def test_row(
    name: str, offer: str, answer: str | None, value: object, in_discovery: str | None
) -> None:
    normal, discovery = Parameters(WITH_DIGESTS), Parameters(WITH_DIGESTS)
    assert normal.offer(name, offer, phase=Phase.OPERATIONAL, discovery=False) == answer
    assert normal.values[name] == value
    assert type(normal.values[name]) is type(value)
    assert discovery.offer(name, offer, phase=Phase.OPERATIONAL, discovery=True) == in_discovery


def test_every_negotiated_key_has_a_row_in_the_tests() -> None:
    declared = {key.name for key in KEYS.values() if key.rule is Rule.TEXT}
    tested = {row[0] for row in _TABLE}
    assert KEYS.keys() - declared - {"AuthMethod"} <= tested


def test_no_digest_without_a_function_for_it() -> None:
    parameters = Parameters(Settings())
    assert parameters.offer("HeaderDigest", "CRC32C,None", phase=Phase.OPERATIONAL,
                            discovery=False) == "None"  # fmt: skip


@pytest.mark.parametrize("name", ["X-com.example.speed", "X#1", "Y-x", "Nonsense"])
def test_unknown_keys(name: str) -> None:
    parameters = Parameters(Settings())
    answer = parameters.offer(name, "1", phase=Phase.OPERATIONAL, discovery=False)
    assert answer == "NotUnderstood"


@pytest.mark.parametrize("name", ["HeaderDigest", "MaxBurstLength", "X-a", "TargetAlias"])
@pytest.mark.parametrize("value", ["Reject", "Irrelevant", "NotUnderstood"])
def test_an_answer_is_not_answered(name: str, value: str) -> None:
    parameters = Parameters(Settings())
    assert parameters.offer(name, value, phase=Phase.OPERATIONAL, discovery=False) is None
    assert name not in KEYS or parameters.values[name] == KEYS[name].default


def test_first_burst_is_never_longer_than_max_burst() -> None:
    parameters = Parameters(Settings())
    offer = [("MaxBurstLength", "8192", "8192"), ("FirstBurstLength", "65536", "8192")]
    for name, text, answer in offer:
        assert parameters.offer(name, text, phase=Phase.OPERATIONAL, discovery=False) == answer


def test_a_key_is_negotiated_once() -> None:
    parameters = Parameters(Settings())
    parameters.offer("InitialR2T", "Yes", phase=Phase.OPERATIONAL, discovery=False)
    with pytest.raises(TextError, match="InitialR2T"):
        parameters.offer("InitialR2T", "Yes", phase=Phase.OPERATIONAL, discovery=False)


def test_a_declaration_may_be_repeated_but_not_changed() -> None:
    parameters = Parameters(Settings())
    name = "MaxRecvDataSegmentLength"
    assert parameters.offer(name, "4096", phase=Phase.SECURITY, discovery=False) is None
    assert parameters.offer(name, "4096", phase=Phase.OPERATIONAL, discovery=False) is None
    with pytest.raises(TextError):
        parameters.offer(name, "8192", phase=Phase.OPERATIONAL, discovery=False)


@pytest.mark.parametrize("text", ["0", "511", "16777216", "-1", "many", ""])
def test_a_senseless_declaration_ends_the_login(text: str) -> None:
    with pytest.raises(TextError):
        Parameters(Settings()).offer(
            "MaxRecvDataSegmentLength", text, phase=Phase.OPERATIONAL, discovery=False
        )


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(KEYS)), st.text(max_size=30), st.booleans())
def test_any_value_is_answered_or_refused(name: str, text: str, discovery: bool) -> None:
    parameters = Parameters(WITH_DIGESTS)
    with contextlib.suppress(TextError):
        parameters.offer(name, text, phase=Phase.OPERATIONAL, discovery=discovery)
    key = KEYS[name]
    value = parameters.values[name]
    if key.high:
        assert isinstance(value, int) and key.low <= value <= key.high
