"""The login phase: the exchanges of real initiators, each status, bounds (RFC 7143 6.3, 11.12)."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userdisk.iscsi.chap import Account, Credentials
from userdisk.iscsi.keys import Settings
from userdisk.iscsi.login import (
    PENDING,
    Found,
    Login,
    LoginConfig,
    LoginStatus,
    Moved,
    Negotiated,
    Opened,
)
from userdisk.iscsi.text import decode_pairs

INITIATOR = "iqn.1999-07.com.os:hostid.77"
TARGET = "iqn.1999-07.com.example:diskarray.sn.88"
SECRET, MUTUAL = b"initiatorsecret", b"targetsecret1234"
CREDENTIALS = Credentials((Account("user", SECRET),), Account("disk", MUTUAL))
NAMES = {"InitiatorName": INITIATOR, "TargetName": TARGET, "SessionType": "Normal"}
ISID, ITT, CID, CMD_SN = 0x00023D000001, 0x12345678, 7, 41
T, C = 0x80, 0x40


class Response(NamedTuple):
    transit: bool
    more: bool
    csg: int
    nsg: int
    tsih: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    status: int
    data: bytes

    @property
    def keys(self) -> dict[str, str]:
        return dict(decode_pairs(self.data))


def decode(pdu: bytes) -> Response:
    """By offsets of 11.13, not by the code's own layout."""
    assert pdu[0] == 0x23 and pdu[2] == 0 and pdu[3] == 0 and pdu[4] == 0
    length = int.from_bytes(pdu[5:8], "big")
    assert len(pdu) == 48 + length + -length % 4
    assert int.from_bytes(pdu[8:14], "big") == ISID
    assert int.from_bytes(pdu[16:20], "big") == ITT
    assert pdu[20:24] == bytes(4) and pdu[38:48] == bytes(10)
    flags, data = pdu[1], pdu[48 : 48 + length]
    words = struct.unpack(">III", pdu[24:36])
    return Response(
        transit=bool(flags & T),
        more=bool(flags & C),
        csg=flags >> 2 & 3,
        nsg=flags & 3,
        tsih=int.from_bytes(pdu[14:16], "big"),
        stat_sn=words[0],
        exp_cmd_sn=words[1],
        max_cmd_sn=words[2],
        status=int.from_bytes(pdu[36:38], "big"),
        data=data,
    )


def header(
    flags: int, length: int, *, opcode: int = 0x43, version: int = 0, isid: int = ISID,
    tsih: int = 0, itt: int = ITT, cid: int = CID, cmd_sn: int = CMD_SN, ahs: int = 0,
) -> bytes:  # fmt: skip
    return struct.pack(
        ">BBBBB3s6sHIHHII16x", opcode, flags, version, version, ahs, length.to_bytes(3, "big"),
        isid.to_bytes(6, "big"), tsih, itt, cid, 0, cmd_sn, 0,
    )  # fmt: skip


def text(keys: dict[str, str]) -> bytes:
    return b"".join(f"{key}={value}\0".encode() for key, value in keys.items())


class Server:
    """What a login asks of its server."""

    def __init__(self, opened: Opened = 5, **changes: object) -> None:
        self.opened: Opened = opened
        self.sessions: list[Negotiated] = []
        config = LoginConfig(
            find_target=self._find,
            open_session=self._open,
            random=lambda length: bytes(range(1, length + 1)),
            settings=Settings(digests=("CRC32C", "None")),
            stat_sn=0xFFFFFFFF,
        )
        self.login = Login(dataclasses.replace(config, **changes))  # type: ignore[arg-type]

    def _find(self, name: str) -> Found | Moved | None:
        known: dict[str, Found | Moved] = {
            TARGET: Found(TARGET, alias="a disk", portal_group_tag=1),
            "iqn.1999-07.com.example:away": Moved("10.0.0.9:3260"),
            "iqn.1999-07.com.example:gone": Moved("[fe80::1]:3260", permanently=True),
        }
        return known.get(name)

    def _open(self, negotiated: Negotiated) -> Opened:
        self.sessions.append(negotiated)
        return self.opened

    def send(self, flags: int, data: bytes, **fields: int) -> Response:
        (pdu,) = self.login.request(header(flags, len(data), **fields), data)
        return decode(pdu)

    def step(self, csg: int, nsg: int, transit: bool, keys: dict[str, str]) -> Response:
        return self.send((T if transit else 0) | csg << 2 | nsg, text(keys))

    def refused(self, status: LoginStatus, response: Response) -> Response:
        assert response.status == status
        assert not response.transit
        assert self.login.failed and not self.login.finished and self.login.result is None
        assert self.login.reason
        assert self.login.request(header(0, 0), b"") == []
        return response


OPEN_ISCSI = {
    "HeaderDigest": "None",
    "DataDigest": "None",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "IFMarker": "No",
    "OFMarker": "No",
    "ErrorRecoveryLevel": "0",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxBurstLength": "16776192",
    "FirstBurstLength": "262144",
    "MaxOutstandingR2T": "1",
    "MaxConnections": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "MaxRecvDataSegmentLength": "262144",
}


def test_open_iscsi() -> None:
    server = Server()
    first = server.step(0, 1, True, NAMES | {"InitiatorAlias": "host", "AuthMethod": "None"})
    assert first[:9] == (True, False, 0, 1, 0, 0xFFFFFFFF, CMD_SN, CMD_SN + 127, 0)
    assert first.keys == {
        "TargetAlias": "a disk",
        "TargetPortalGroupTag": "1",
        "AuthMethod": "None",
    }
    assert server.sessions == [] and not server.login.finished
    second = server.step(1, 3, True, OPEN_ISCSI)
    assert second[:9] == (True, False, 1, 3, 5, 0, CMD_SN, CMD_SN + 127, 0)
    assert second.keys == {
        "HeaderDigest": "None",
        "DataDigest": "None",
        "DefaultTime2Wait": "2",
        "DefaultTime2Retain": "0",
        "IFMarker": "No",
        "OFMarker": "No",
        "ErrorRecoveryLevel": "0",
        "InitialR2T": "No",
        "ImmediateData": "Yes",
        "MaxBurstLength": "1048576",
        "FirstBurstLength": "65536",
        "MaxOutstandingR2T": "1",
        "MaxConnections": "1",
        "DataPDUInOrder": "Yes",
        "DataSequenceInOrder": "Yes",
        "MaxRecvDataSegmentLength": "262144",
    }
    assert server.login.finished and not server.login.failed
    assert server.login.result == Negotiated(
        initiator=INITIATOR, initiator_alias="host", isid=ISID, tsih=0, cid=CID, target=TARGET,
        portal_group_tag=1, user=None, header_digest=False, data_digest=False,
        max_recv_data_segment_length=262144, max_burst_length=1048576, first_burst_length=65536,
        initial_r2t=False, immediate_data=True, max_outstanding_r2t=1, default_time2wait=2,
        default_time2retain=0, error_recovery_level=0, task_reporting="RFC3720",
        exp_cmd_sn=CMD_SN, stat_sn=1,
    )  # fmt: skip
    assert server.sessions == [server.login.result]
    assert server.login.request(header(T | 1 << 2 | 3, 0), b"") == []


def test_windows() -> None:
    """Its key set and values; ErrorRecoveryLevel 2 is offered, digests as lists."""
    server = Server()
    server.step(0, 1, True, NAMES | {"InitiatorAlias": "WIN", "AuthMethod": "None"})
    offer = {
        "HeaderDigest": "None,CRC32C",
        "DataDigest": "None,CRC32C",
        "ErrorRecoveryLevel": "2",
        "InitialR2T": "No",
        "ImmediateData": "Yes",
        "MaxRecvDataSegmentLength": "65536",
        "MaxBurstLength": "262144",
        "FirstBurstLength": "65536",
        "MaxConnections": "1",
        "DataPDUInOrder": "Yes",
        "DataSequenceInOrder": "Yes",
        "DefaultTime2Wait": "0",
        "DefaultTime2Retain": "60",
        "MaxOutstandingR2T": "16",
    }
    response = server.step(1, 3, True, offer)
    assert response.keys == offer | {
        "HeaderDigest": "None",
        "DataDigest": "None",
        "ErrorRecoveryLevel": "0",
        "MaxRecvDataSegmentLength": "262144",
        "DefaultTime2Wait": "2",
        "DefaultTime2Retain": "0",
        "MaxOutstandingR2T": "1",
    }
    result = server.login.result
    assert result is not None and result.max_recv_data_segment_length == 65536
    assert (result.max_burst_length, result.first_burst_length) == (262144, 65536)


def test_esxi() -> None:
    """InitialR2T=No, FirstBurst 262144, TaskReporting and protocol level in one request."""
    server = Server()
    server.step(0, 1, True, NAMES | {"AuthMethod": "None"})
    response = server.step(1, 3, True, {
        "HeaderDigest": "CRC32C,None", "DataDigest": "None,CRC32C", "MaxConnections": "1",
        "InitialR2T": "No", "ImmediateData": "Yes", "MaxBurstLength": "262144",
        "FirstBurstLength": "262144", "MaxRecvDataSegmentLength": "131072",
        "TaskReporting": "FastAbort,ResponseFence,RFC3720", "iSCSIProtocolLevel": "2",
    })  # fmt: skip
    assert response.keys["HeaderDigest"] == "CRC32C" and response.keys["DataDigest"] == "None"
    assert response.keys["TaskReporting"] == "RFC3720"
    assert response.keys["iSCSIProtocolLevel"] == "1"
    result = server.login.result
    assert result is not None and result.header_digest and not result.data_digest
    assert result.first_burst_length == 65536


def test_libiscsi_declares_who_it_is_in_both_stages() -> None:
    server = Server()
    server.step(0, 1, True, NAMES | {"InitiatorAlias": "x", "AuthMethod": "None"})
    response = server.step(1, 3, True, NAMES | {"InitiatorAlias": "x", "InitialR2T": "Yes"})
    assert server.login.finished
    assert response.keys == {"InitialR2T": "Yes", "MaxRecvDataSegmentLength": "262144"}


def test_without_the_security_stage() -> None:
    server = Server()
    first = server.step(1, 0, False, NAMES | {"InitialR2T": "Yes", "ImmediateData": "No"})
    assert first.keys == {
        "TargetAlias": "a disk",
        "TargetPortalGroupTag": "1",
        "InitialR2T": "Yes",
        "ImmediateData": "No",
        "MaxRecvDataSegmentLength": "262144",
    }
    assert (first.transit, first.nsg) == (False, 0)
    last = server.step(1, 3, True, {})
    assert last.transit and last.nsg == 3 and last.keys == {}
    result = server.login.result
    assert result is not None and result.initial_r2t and not result.immediate_data


def test_what_is_not_offered_has_the_default() -> None:
    server = Server()
    response = server.step(0, 3, True, {"InitiatorName": INITIATOR, "TargetName": TARGET})
    assert response.transit and response.nsg == 3
    assert response.keys["MaxRecvDataSegmentLength"] == "262144"
    result = server.login.result
    assert result is not None
    assert (result.max_burst_length, result.first_burst_length) == (262144, 65536)
    assert result.initial_r2t and result.immediate_data
    assert result.max_recv_data_segment_length == 8192
    assert (result.default_time2wait, result.default_time2retain) == (2, 20)


def test_discovery() -> None:
    server = Server(opened=1)
    keys = {"InitiatorName": INITIATOR, "SessionType": "Discovery", "AuthMethod": "None"}
    first = server.step(0, 1, True, keys)
    assert first.keys == {"AuthMethod": "None"}
    offer = {"HeaderDigest": "None", "InitialR2T": "No", "MaxBurstLength": "262144",
             "DefaultTime2Wait": "2", "MaxRecvDataSegmentLength": "32768"}  # fmt: skip
    second = server.step(1, 3, True, offer)
    assert second.keys == {
        "HeaderDigest": "None",
        "InitialR2T": "Irrelevant",
        "MaxBurstLength": "Irrelevant",
        "DefaultTime2Wait": "2",
        "MaxRecvDataSegmentLength": "262144",
    }
    result = server.login.result
    assert result is not None and result.discovery and result.target is None


# -- CHAP ----------------------------------------------------------------------------------------


def chap_until_challenge(server: Server) -> tuple[int, bytes]:
    """The example of RFC 7143 appendix A with CHAP, up to the challenge."""
    methods = NAMES | {"AuthMethod": "KRB5,SRP,CHAP,None"}
    first = server.step(0, 1, True, methods)
    assert (first.transit, first.csg, first.nsg) == (False, 0, 0)
    assert first.keys["AuthMethod"] == "CHAP"
    second = server.step(0, 0, False, {"CHAP_A": "5,7"})
    assert second.keys["CHAP_A"] == "5" and not second.transit
    return int(second.keys["CHAP_I"]), bytes.fromhex(second.keys["CHAP_C"][2:])


def test_rfc_example_with_mutual_chap() -> None:
    server = Server(credentials=CREDENTIALS)
    identifier, challenge = chap_until_challenge(server)
    proof = hashlib.md5(bytes([identifier]) + SECRET + challenge).hexdigest()
    theirs = bytes(range(50, 66))
    third = server.step(0, 1, True, {
        "CHAP_N": "user", "CHAP_R": "0x" + proof, "CHAP_I": "9", "CHAP_C": "0x" + theirs.hex(),
    })  # fmt: skip
    assert (third.transit, third.nsg) == (True, 1)
    digest = hashlib.md5(b"\x09" + MUTUAL + theirs).hexdigest()
    assert third.keys == {"CHAP_N": "disk", "CHAP_R": "0x" + digest}
    assert not server.step(1, 0, False, {"InitialR2T": "No"}).transit
    assert server.step(1, 3, True, {}).transit
    assert server.login.result is not None and server.login.result.user == "user"


def test_chap_with_the_transition_in_a_request_of_its_own() -> None:
    server = Server(credentials=CREDENTIALS)
    identifier, challenge = chap_until_challenge(server)
    proof = hashlib.md5(bytes([identifier]) + SECRET + challenge).hexdigest()
    assert not server.step(0, 0, False, {"CHAP_N": "user", "CHAP_R": "0x" + proof}).transit
    assert server.step(0, 1, True, {}).transit


def test_wrong_secret() -> None:
    server = Server(credentials=CREDENTIALS)
    chap_until_challenge(server)
    keys = {"CHAP_N": "user", "CHAP_R": "0x" + "00" * 16}
    response = server.step(0, 1, True, keys)
    server.refused(LoginStatus.AUTHENTICATION_FAILURE, response)
    assert server.sessions == []
    assert SECRET.decode() not in server.login.reason


@pytest.mark.parametrize("csg", [0, 1])
def test_authentication_left_out(csg: int) -> None:
    server = Server(credentials=CREDENTIALS)
    response = server.step(csg, 3, True, NAMES)
    server.refused(LoginStatus.AUTHENTICATION_FAILURE, response)


def test_no_way_out_of_security_during_chap() -> None:
    server = Server(credentials=CREDENTIALS)
    chap_until_challenge(server)
    for nsg in (1, 3, 1):
        assert not server.step(0, nsg, True, {}).transit
    assert server.sessions == []
    server.refused(LoginStatus.INITIATOR_ERROR, server.step(1, 3, True, {}))


@pytest.mark.parametrize("methods", ["None", "KRB5", "", "chap"])
def test_method_that_is_not_enough(methods: str) -> None:
    server = Server(credentials=CREDENTIALS)
    response = server.step(0, 0, False, NAMES | {"AuthMethod": methods})
    server.refused(LoginStatus.AUTHENTICATION_FAILURE, response)


def test_chap_only_initiator_at_an_open_target() -> None:
    server = Server()
    response = server.step(0, 0, False, NAMES | {"AuthMethod": "CHAP"})
    server.refused(LoginStatus.AUTHENTICATION_FAILURE, response)


def test_discovery_needs_authentication_too() -> None:
    server = Server(credentials=CREDENTIALS)
    keys = {"InitiatorName": INITIATOR, "SessionType": "Discovery"}
    server.refused(LoginStatus.AUTHENTICATION_FAILURE, server.step(0, 3, True, keys))


def test_chap_keys_without_chap() -> None:
    server = Server()
    response = server.step(0, 0, False, NAMES | {"AuthMethod": "None", "CHAP_A": "5"})
    server.refused(LoginStatus.AUTHENTICATION_FAILURE, response)


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keys", "status"), [
    ({"TargetName": TARGET}, LoginStatus.MISSING_PARAMETER),
    ({"InitiatorName": INITIATOR}, LoginStatus.MISSING_PARAMETER),
    ({}, LoginStatus.MISSING_PARAMETER),
    (NAMES | {"TargetName": "iqn.1999-07.com.example:nothing"}, LoginStatus.NOT_FOUND),
    (NAMES | {"TargetName": "disk"}, LoginStatus.NOT_FOUND),
    (NAMES | {"InitiatorName": "me"}, LoginStatus.INITIATOR_ERROR),
    (NAMES | {"SessionType": "Boot"}, LoginStatus.SESSION_TYPE_NOT_SUPPORTED),
    (NAMES | {"MaxRecvDataSegmentLength": "1"}, LoginStatus.INITIATOR_ERROR),
])  # fmt: skip
def test_first_request_refused(keys: dict[str, str], status: LoginStatus) -> None:
    server = Server()
    server.refused(status, server.step(0, 1, True, keys))


def test_names_in_other_case_are_the_same() -> None:
    server = Server(initiators=frozenset({INITIATOR}))
    keys = NAMES | {"InitiatorName": INITIATOR.upper(), "TargetName": TARGET.upper()}
    assert server.step(0, 3, True, keys).transit
    assert server.login.result is not None
    assert (server.login.result.initiator, server.login.result.target) == (INITIATOR, TARGET)


@pytest.mark.parametrize("kind", ["Normal", "Discovery"])
def test_initiator_that_is_not_on_the_list(kind: str) -> None:
    server = Server(initiators=frozenset({"iqn.1999-07.com.os:other"}))
    response = server.step(0, 1, True, NAMES | {"SessionType": kind})
    server.refused(LoginStatus.AUTHORIZATION_FAILURE, response)


@pytest.mark.parametrize(("name", "status", "address"), [
    ("away", LoginStatus.MOVED_TEMPORARILY, "10.0.0.9:3260"),
    ("gone", LoginStatus.MOVED_PERMANENTLY, "[fe80::1]:3260"),
])  # fmt: skip
def test_redirection(name: str, status: LoginStatus, address: str) -> None:
    server = Server()
    keys = NAMES | {"TargetName": f"iqn.1999-07.com.example:{name}"}
    response = server.refused(status, server.step(0, 1, True, keys))
    assert response.keys == {"TargetAddress": address}


def test_version() -> None:
    server = Server()
    response = server.send(T | 1, text(NAMES), version=1)
    server.refused(LoginStatus.UNSUPPORTED_VERSION, response)


@pytest.mark.parametrize(("exists", "status"), [
    (True, LoginStatus.TOO_MANY_CONNECTIONS), (False, LoginStatus.SESSION_DOES_NOT_EXIST),
])  # fmt: skip
def test_a_further_connection(exists: bool, status: LoginStatus) -> None:
    server = Server(session_exists=lambda negotiated: negotiated.tsih == 9 and exists)
    response = server.send(T | 3, text(NAMES), tsih=9)
    assert server.refused(status, response).tsih == 9
    assert server.sessions == []


@pytest.mark.parametrize("change", [
    {"isid": ISID + 1}, {"tsih": 1}, {"itt": ITT}, {"cid": 1}, {"cmd_sn": 1},
])  # fmt: skip
def test_what_must_not_change(change: dict[str, int]) -> None:
    server = Server()
    server.step(0, 1, True, NAMES)
    if "itt" in change:
        (pdu,) = server.login.request(header(T | 7, 0, itt=1), b"")
        assert pdu[36:38] == b"\x02\x00" and server.login.failed
    elif "isid" in change:
        (pdu,) = server.login.request(header(T | 7, 0, isid=1), b"")
        assert pdu[36:38] == b"\x02\x00" and server.login.failed
    else:
        server.refused(LoginStatus.INITIATOR_ERROR, server.send(T | 7, b"", **change))


@pytest.mark.parametrize("flags", [
    T | 0 << 2 | 0, T | 0 << 2 | 2, T | 1 << 2 | 1, T | 1 << 2 | 0, T | 2 << 2 | 3, 2 << 2,
    3 << 2, T | 3 << 2 | 3, T | C | 1,
])  # fmt: skip
def test_stages_that_do_not_exist(flags: int) -> None:
    server = Server()
    server.refused(LoginStatus.INITIATOR_ERROR, server.send(flags, text(NAMES)))


def test_stage_that_is_not_the_current_one() -> None:
    for first, second in ((1, 0), (0, 1)):
        server = Server()
        server.step(first, 0, False, NAMES)
        server.refused(LoginStatus.INITIATOR_ERROR, server.step(second, 3, True, {}))


@pytest.mark.parametrize("keys", [
    {"TargetName": "iqn.1999-07.com.example:other"}, {"SessionType": "Discovery"},
    {"AuthMethod": "None"}, {"CHAP_A": "5"},
])  # fmt: skip
def test_second_thoughts(keys: dict[str, str]) -> None:
    server = Server()
    server.step(0, 1, True, NAMES)
    server.refused(LoginStatus.INITIATOR_ERROR, server.step(1, 3, True, keys))


def test_another_request_before_the_login() -> None:
    server = Server()
    assert server.login.request(header(0x80, 0, opcode=0x01), b"") == []
    assert server.login.failed and "0x01" in server.login.reason


def test_another_request_during_the_login() -> None:
    server = Server()
    server.step(0, 1, True, NAMES)
    (pdu,) = server.login.request(header(0x80, 0, opcode=0x40), b"")
    server.refused(LoginStatus.INVALID_DURING_LOGIN, decode(pdu))


@pytest.mark.parametrize("length", [8193, 0xFFFFFF, 3])
def test_a_data_segment_of_the_wrong_length(length: int) -> None:
    server = Server()
    (pdu,) = server.login.request(header(0, length), bytes(min(length, 9000) - 1))
    server.refused(LoginStatus.INITIATOR_ERROR, decode(pdu))


def test_an_additional_header_segment() -> None:
    server = Server()
    (pdu,) = server.login.request(header(0, 0, ahs=1) + bytes(4), b"")
    server.refused(LoginStatus.INITIATOR_ERROR, decode(pdu))


def test_the_immediate_bit_is_not_insisted_on() -> None:
    server = Server()
    assert server.send(T | 3, text(NAMES), opcode=0x03).transit


# -- C bit, long texts, bounds ---------------------------------------------------------------------


def test_text_in_pieces() -> None:
    server = Server()
    data = text(NAMES | {"AuthMethod": "None"})
    for piece in (data[:5], data[5:40], b""):
        response = server.send(C, piece)
        assert (response.status, response.transit, response.data) == (0, False, b"")
    assert server.send(T | 1, data[40:]).keys["AuthMethod"] == "None"


def test_an_answer_in_pieces() -> None:
    server = Server()
    keys = NAMES | {f"X-{number:060}": "" for number in range(250)}
    data = text(keys)
    for start in range(0, len(data) - 8000, 8000):
        server.send(C, data[start : start + 8000])
    response = server.send(T | 3, data[start + 8000 :])
    answer = b""
    while response.more:
        assert not response.transit and len(response.data) == 8192
        answer += response.data
        assert server.sessions == []
        response = server.send(T | 3, b"")
    assert response.transit and server.login.finished
    answers = dict(decode_pairs(answer + response.data))
    assert answers.pop("MaxRecvDataSegmentLength") == "262144"
    assert answers == {
        "TargetAlias": "a disk",
        "TargetPortalGroupTag": "1",
        **{key: "NotUnderstood" for key in keys if key.startswith("X-")},
    }


def test_text_while_an_answer_is_incomplete() -> None:
    server = Server()
    data = text(NAMES | {f"X-{number:030}": "" for number in range(240)})
    server.send(C, data[:8000])
    assert server.send(0, data[8000:]).more
    server.refused(LoginStatus.INITIATOR_ERROR, server.send(0, b"A=1\0"))


def test_endless_text() -> None:
    server = Server()
    for _ in range(8):
        assert server.send(C, b"A" * 8192).status == 0
    server.refused(LoginStatus.INITIATOR_ERROR, server.send(C, b"A"))


def test_endless_requests() -> None:
    server = Server()
    server.step(0, 0, False, NAMES)
    for _ in range(63):
        assert server.step(0, 0, False, {}).status == 0
    server.refused(LoginStatus.INITIATOR_ERROR, server.step(0, 0, False, {}))


# -- opening the session -----------------------------------------------------------------------


def test_the_last_response_waits_for_the_session() -> None:
    server = Server(opened=PENDING)
    flags = T | 3
    assert server.login.request(header(flags, len(text(NAMES))), text(NAMES)) == []
    assert not server.login.finished and not server.login.failed
    (pdu,) = server.login.resume(77)
    response = decode(pdu)
    assert response.transit and response.tsih == 77 and response.stat_sn == 0xFFFFFFFF
    assert response.keys["TargetPortalGroupTag"] == "1"
    assert server.login.finished and server.login.result == server.sessions[0]
    assert server.login.result is not None and server.login.result.stat_sn == 0
    assert server.login.resume(77) == []


def test_a_session_that_cannot_be_opened() -> None:
    server = Server(opened=LoginStatus.OUT_OF_RESOURCES)
    server.refused(LoginStatus.OUT_OF_RESOURCES, server.step(0, 3, True, NAMES))
    server = Server(opened=PENDING)
    assert server.login.request(header(T | 3, len(text(NAMES))), text(NAMES)) == []
    (pdu,) = server.login.resume(LoginStatus.SERVICE_UNAVAILABLE)
    server.refused(LoginStatus.SERVICE_UNAVAILABLE, decode(pdu))


def test_impatience_while_the_session_is_opened() -> None:
    server = Server(opened=PENDING)
    server.login.request(header(T | 3, len(text(NAMES))), text(NAMES))
    server.refused(LoginStatus.INITIATOR_ERROR, server.send(T | 3, b""))
    assert server.login.resume(1) == []
    assert not server.login.finished


# -- any input -----------------------------------------------------------------------------------

_KEYS = st.sampled_from([*NAMES, *OPEN_ISCSI, "AuthMethod", "CHAP_A", "CHAP_N", "CHAP_R", "X-a"])
_VALUES = st.one_of(
    st.sampled_from([*NAMES.values(), "None", "CHAP", "5", "Yes", "No", "8192", "0x00", "All"]),
    st.text(max_size=20),
)
_TEXT = st.dictionaries(_KEYS, _VALUES, max_size=8).map(text)
_DATA = st.one_of(_TEXT, _TEXT.map(lambda data: text(NAMES) + data), st.binary(max_size=100))
_REQUEST = st.tuples(st.integers(0, 255), _DATA)


@settings(max_examples=200, deadline=None)
@given(st.lists(_REQUEST, max_size=6), st.booleans(), st.sampled_from([5, PENDING]))
def test_any_requests_are_answered_or_refused(
    requests: list[tuple[int, bytes]], chap: bool, opened: Opened
) -> None:
    server = Server(opened=opened, credentials=CREDENTIALS if chap else None)
    for flags, data in requests:
        for pdu in server.login.request(header(flags, len(data)), data):
            decode(pdu)
    assert not (server.login.finished and server.login.failed)
    assert not (chap and server.sessions)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=60), st.binary(max_size=60)), max_size=4))
def test_any_bytes_are_answered_or_refused(requests: list[tuple[bytes, bytes]]) -> None:
    login = Server().login
    for head, data in requests:
        for pdu in login.request(head, data):
            assert pdu[0] == 0x23
    assert not login.finished
