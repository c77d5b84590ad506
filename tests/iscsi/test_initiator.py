"""The initiator's session against answers written by hand from RFC 7143."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest

from userdisk.errors import UsageError
from userdisk.initiator_client import parse_url, sense_codes
from userdisk.iscsi import pdu
from userdisk.iscsi.initiator import InitiatorSession
from userdisk.iscsi.initiator_login import LoginBroken, LoginRefused, Settings, decode_keys
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.iscsi.pdu import TargetOpcode

_NAME, _TARGET = "iqn.2026-11.example:me", "iqn.2026-11.example:disk"


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Bit by bit, from the polynomial; RFC 7143 13.1 (and appendix A.4 for the vectors)."""
    crc = 0xFFFFFFFF
    for byte in bytes(data):
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_crc32c_of_the_rfc() -> None:
    assert crc32c(bytes(32)).to_bytes(4, "little").hex() == "aa36918a"
    assert crc32c(bytes(range(32))).to_bytes(4, "little").hex() == "4e79dd46"


class Script:
    """A session and the target's numbers: `say` makes it receive, `heard` is what it sent."""

    def __init__(self, **settings: Any) -> None:
        offered = {"target": _TARGET, **settings}
        self.session = InitiatorSession(
            Settings(_NAME, **offered), random=lambda size: bytes(range(1, size + 1))
        )
        self.stat_sn = 7
        self.session.start()

    def heard(self) -> bytes:
        return b"".join(self.session.take_output())

    def say(self, header: bytes, data: bytes = b"") -> None:
        self.session.received(header + data + bytes(-len(data) % 4))

    def login(self, flags: int, keys: dict[str, str], status: int = 0) -> None:
        data = "".join(f"{key}={value}\0" for key, value in keys.items()).encode()
        header = struct.pack(
            ">BBBBI8sIIIIIHxxxxxxxxxx",
            TargetOpcode.LOGIN_RESPONSE,
            flags,
            0,
            0,
            len(data),
            bytes.fromhex("8000000000000042"),
            0,
            0,
            self.stat_sn,
            1,
            2,
            status,
        )
        self.stat_sn += 1
        self.say(header, data)

    def log_in(self, **keys: str) -> None:
        self.heard()
        self.login(0x81, {"AuthMethod": "None", "TargetPortalGroupTag": "1"})
        self.heard()
        answers = {
            "MaxRecvDataSegmentLength": "4096",
            "InitialR2T": "No",
            "FirstBurstLength": "8192",
        }
        self.login(0x87, {**answers, **keys})
        assert self.session.logged_in

    def response(
        self, itt: int, *, status: int = 0, max_cmd_sn: int = 2, sense: bytes = b""
    ) -> None:
        data = struct.pack(">H", len(sense)) + sense if sense else b""
        numbers = (itt, 0, self.stat_sn, 1, max_cmd_sn, 0, 0, 0)
        self.stat_sn += 1
        self.say(pdu.SCSI_RESPONSE.pack(0x21, 0x80, 0, status, len(data), *numbers), data)

    def data_in(self, itt: int, data: bytes, *, sn: int = 0, offset: int = 0, last: bool) -> None:
        flags = 0x81 if last else 0
        numbers = (0, itt, 0xFFFFFFFF, self.stat_sn if last else 0, 1, 9, sn, offset, 0)
        self.stat_sn += last
        self.say(pdu.DATA_IN.pack(0x25, flags, 0, len(data), *numbers), data)


def pdus(data: bytes) -> list[tuple[bytes, bytes]]:
    """The PDUs in a byte string without digests, as (header, data)."""
    found = []
    while data:
        length = int.from_bytes(data[5:8])
        found.append((data[:48], data[48 : 48 + length]))
        data = data[48 + length + -length % 4 :]
    return found


def test_login_without_authentication() -> None:
    script = Script()
    [(header, data)] = pdus(script.heard())
    assert header[:2] == b"\x43\x81"  # immediate Login; transit from security to operational
    assert header[8:16] == bytes.fromhex("8000000000000000")
    assert decode_keys(data) == {
        "InitiatorName": _NAME,
        "SessionType": "Normal",
        "TargetName": _TARGET,
        "AuthMethod": "None",
    }
    script.login(0x81, {"AuthMethod": "None"})
    [(header, data)] = pdus(script.heard())
    assert header[1] == 0x87
    assert header[28:32] == (8).to_bytes(4)  # ExpStatSN
    assert decode_keys(data)["MaxBurstLength"] == "1048576"
    script.login(0x87, {"MaxRecvDataSegmentLength": "4096"})
    assert script.session.logged_in
    assert script.session.tsih == 0x42
    assert script.session.parameters.max_send_segment == 4096


def test_chap_in_both_directions() -> None:
    script = Script(
        user="anna", secret=b"anna's secret", mutual_user="disk", mutual_secret=b"the disk's secret"
    )
    [(header, data)] = pdus(script.heard())
    assert header[1] == 0  # no transit before authentication
    assert decode_keys(data)["AuthMethod"] == "CHAP,None"
    script.login(0, {"AuthMethod": "CHAP"})
    assert decode_keys(pdus(script.heard())[0][1]) == {"CHAP_A": "8,6,5,7"}
    challenge = bytes(range(100, 116))
    script.login(0, {"CHAP_A": "5", "CHAP_I": "0x21", "CHAP_C": "0x" + challenge.hex()})
    [(header, data)] = pdus(script.heard())
    keys = decode_keys(data)
    # RFC 1994: MD5 over identifier, secret, challenge
    assert keys["CHAP_R"] == "0x" + hashlib.md5(b"\x21anna's secret" + challenge).hexdigest()
    assert (keys["CHAP_N"], keys["CHAP_I"]) == ("anna", "1")
    ours = bytes.fromhex(keys["CHAP_C"][2:])
    proof = hashlib.md5(b"\x01the disk's secret" + ours).hexdigest()
    script.login(0x81, {"CHAP_N": "disk", "CHAP_R": "0x" + proof})
    assert pdus(script.heard())[0][0][1] == 0x87


def test_a_target_that_does_not_prove_itself() -> None:
    script = Script(user="a", secret=b"x", mutual_user="disk", mutual_secret=b"y")
    script.login(0, {"AuthMethod": "CHAP"})
    script.login(0, {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0xabcd"})
    with pytest.raises(LoginBroken, match="did not prove"):
        script.login(0x81, {})


@pytest.mark.parametrize(
    ("flags", "keys", "status", "error", "text"),
    [
        (0x81, {}, 0x0203, LoginRefused, "no such target"),
        (0x81, {}, 0x0301, LoginRefused, "not available"),
        (0x87, {}, 0, LoginBroken, "another stage"),
        (0, {"CHAP_C": "0x00", "CHAP_A": "5", "CHAP_I": "1"}, 0, LoginBroken, "no user"),
        (0, {"AuthMethod": "CHAP"}, 0, None, ""),
    ],
)
def test_refused_logins(
    flags: int, keys: dict[str, str], status: int, error: type[Exception] | None, text: str
) -> None:
    script = Script()
    if error is None:
        script.login(flags, keys, status)
        return
    with pytest.raises(error, match=text):
        script.login(flags, keys, status)


def test_a_login_without_end() -> None:
    script = Script()
    with pytest.raises(LoginBroken, match="end"):
        for _ in range(100):
            script.login(0, {})


def test_a_read_byte_by_byte() -> None:
    script = Script()
    script.log_in()
    script.heard()
    task = script.session.command(b"\x28" + bytes(9), read_length=10)
    [(header, _)] = pdus(script.heard())
    assert header[:2] == b"\x01\xc1"
    assert header[20:28] == struct.pack(">II", 10, 1)  # expected length, CmdSN
    whole = b"".join(
        [
            pdu.DATA_IN.pack(0x25, 0, 0, 6, 0, task.itt, 0xFFFFFFFF, 0, 1, 9, 0, 0, 0),
            b"first.\0\0",
            pdu.DATA_IN.pack(
                0x25, 0x83, 0, 3, 0, task.itt, 0xFFFFFFFF, script.stat_sn, 1, 9, 1, 6, 1
            ),
            b"end\0",
        ]
    )
    for byte in whole:
        assert not task.done
        script.session.received(bytes([byte]))
    assert task.done
    assert (bytes(task.data), task.residual, task.data_pdus) == (b"first.end", 1, 2)


def test_less_data_than_was_asked_for_and_no_word_of_it() -> None:
    """The answer alone is a plain one; what came before it is not all."""
    script = Script()
    script.log_in()
    task = script.session.command(b"\x28" + bytes(9), read_length=12)
    script.data_in(task.itt, b"some of ", last=False)
    assert not task.done
    script.response(task.itt)
    assert (task.done, task.status, bytes(task.data)) == (True, 0, b"some of ")
    assert not script.session.plain


def test_data_that_comes_twice() -> None:
    """The second time all of it, and with the status, as in a plain answer."""
    script = Script()
    script.log_in()
    task = script.session.command(b"\x28" + bytes(9), read_length=8)
    script.data_in(task.itt, b"some", last=False)
    with pytest.raises(InitiatorError, match="Data-In 0 at 0 is out of order"):
        script.data_in(task.itt, b"all of i", last=True)


def test_a_good_response_with_sense_data() -> None:
    script = Script()
    script.log_in()
    tasks = [script.session.command(bytes(6)) for _ in range(2)]
    headers = [
        pdu.SCSI_RESPONSE.pack(0x21, 0x80, 0, 0, length, task.itt, 0, number, 1, 9, 0, 0, 0)
        for number, (task, length) in enumerate(zip(tasks, (6, 0), strict=True), script.stat_sn)
    ]
    script.say(headers[0] + b"\0\4good\0\0" + headers[1])
    assert [(task.done, task.status, task.sense) for task in tasks] == [
        (True, 0, b"good"),
        (True, 0, b""),
    ]
    assert not script.session.plain
    assert script.session.exp_stat_sn == script.stat_sn + 2


def test_a_write_in_all_three_ways() -> None:
    """Immediate up to the target's segment, unsolicited up to the first burst, then by R2T."""
    script = Script()
    script.log_in()
    data = bytes(range(256)) * 80  # 20480
    task = script.session.command(b"\x2a" + bytes(9), data_out=data)
    first, second = pdus(script.heard())
    assert (first[0][1], first[1]) == (0x21, data[:4096])  # not final: more comes unsolicited
    assert (second[0][1], second[1]) == (0x80, data[4096:8192])
    assert second[0][20:24] == b"\xff\xff\xff\xff"
    script.say(pdu.R2T.pack(0x31, 0x80, 0, task.itt, 0x77, script.stat_sn, 1, 9, 0, 8192, 12288))
    bursts = pdus(script.heard())
    assert b"".join(part for _, part in bursts) == data[8192:]
    assert [header[1] for header, _ in bursts] == [0, 0, 0x80]
    fields = [struct.unpack_from(">II", header, 36) for header, _ in bursts]
    assert fields == [(0, 8192), (1, 12288), (2, 16384)]
    assert {header[20:24] for header, _ in bursts} == {(0x77).to_bytes(4)}
    script.response(task.itt)
    assert task.done
    assert task.r2ts == 1


def test_the_command_window() -> None:
    script = Script()
    script.log_in()  # MaxCmdSN is 2: two commands
    tasks = [script.session.command(bytes(6)) for _ in range(4)]
    sent = pdus(script.heard())
    assert [header[24:28] for header, _ in sent] == [(1).to_bytes(4), (2).to_bytes(4)]
    script.response(tasks[0].itt, max_cmd_sn=3)
    assert len(pdus(script.heard())) == 1
    script.response(tasks[1].itt, max_cmd_sn=2)  # never goes back
    assert not script.heard()
    script.response(tasks[2].itt, max_cmd_sn=4)
    assert len(pdus(script.heard())) == 1


def test_sense_comes_with_the_response() -> None:
    script = Script()
    script.log_in()
    task = script.session.command(bytes(6))
    sense = bytes.fromhex("700006000000000a00000000290100000000")
    script.response(task.itt, status=2, sense=sense)
    assert (task.status, task.sense) == (2, sense)
    assert sense_codes(sense) == (6, 0x29, 1)
    assert sense_codes(bytes.fromhex("7205240000000000")) == (5, 0x24, 0)


def test_a_ping_is_answered() -> None:
    script = Script()
    script.log_in()
    script.heard()
    numbers = (5, pdu.RESERVED_TAG, 0x99, script.stat_sn, 1, 2)
    script.say(pdu.NOP_IN.pack(0x20, 0x80, 3, *numbers), b"abc")
    [(header, data)] = pdus(script.heard())
    assert header[0] == 0x40
    assert header[8:24] == struct.pack(">QII", 5, pdu.RESERVED_TAG, 0x99)
    assert data == b"abc"
    task = script.session.ping(b"xyz")
    numbers = (0, task.itt, pdu.RESERVED_TAG, script.stat_sn, 1, 2)  # the ping took no StatSN
    script.say(pdu.NOP_IN.pack(0x20, 0x80, 3, *numbers), b"xyz")
    assert task.done
    assert task.data == b"xyz"


def test_a_text_answer_in_parts() -> None:
    script = Script(target=None)
    script.log_in()
    script.heard()
    task = script.session.text([("SendTargets", "All")])
    assert pdus(script.heard())[0][1] == b"SendTargets=All\0"
    script.say(
        pdu.TEXT_RESPONSE.pack(0x24, 0x40, 11, 0, task.itt, 0x55, script.stat_sn, 1, 2),
        b"TargetName=",
    )
    [(header, data)] = pdus(script.heard())
    assert header[20:24] == (0x55).to_bytes(4)
    assert not data
    script.say(
        pdu.TEXT_RESPONSE.pack(0x24, 0x80, 4, 0, task.itt, 0xFFFFFFFF, script.stat_sn + 1, 1, 2),
        b"iqn\0",
    )
    assert task.done
    assert task.data == b"TargetName=iqn\0"


def test_asynchronous_message_and_reject() -> None:
    script = Script()
    script.log_in()
    script.say(pdu.ASYNC_MESSAGE.pack(0x32, 0x80, 0, 0, 0xFFFFFFFF, 9, 1, 2, 1, 0, 0, 2, 30))
    assert script.session.events == [(1, 0, 2, 30)]
    task = script.session.command(bytes(6))
    rejected = script.heard()[-48:]
    script.say(pdu.REJECT.pack(0x3F, 0x80, 9, 48, 0xFFFFFFFF, 10, 1, 2, 0), rejected)
    assert script.session.rejects == [(9, rejected)]
    assert task.done
    assert task.response == 0x109


def test_digests_both_ways() -> None:
    script = Script(header_digest=True, data_digest=True)
    script.log_in(HeaderDigest="CRC32C", DataDigest="CRC32C")
    script.heard()
    task = script.session.command(b"\x2a" + bytes(9), data_out=b"12345")
    sent = script.heard()
    assert sent[48:52] == crc32c(sent[:48]).to_bytes(4, "little")
    assert sent[52:60] == b"12345\0\0\0"
    assert sent[60:] == crc32c(b"12345\0\0\0").to_bytes(4, "little")
    header = pdu.NOP_IN.pack(0x20, 0x80, 2, 0, 0xFFFFFFFF, 1, script.stat_sn, 1, 2)
    good = header + crc32c(header).to_bytes(4, "little")
    data = b"ab\0\0" + crc32c(b"ab\0\0").to_bytes(4, "little")
    script.session.received(good + data)
    assert not task.done
    with pytest.raises(InitiatorError, match="data digest"):
        script.session.received(good + b"ab\0\0\0\0\0\0")


def test_a_broken_target_ends_the_session() -> None:
    """Each of these would lose or mix up data if it were believed."""

    def wrong_stat_sn(script: Script, itt: int) -> None:
        script.stat_sn += 1
        script.response(itt)

    def unknown_task(script: Script, itt: int) -> None:
        script.response(itt + 1)

    def wrong_offset(script: Script, itt: int) -> None:
        script.data_in(itt, b"1234", offset=4, last=False)

    def wrong_data_sn(script: Script, itt: int) -> None:
        script.data_in(itt, b"1234", sn=1, last=False)

    def too_much(script: Script, itt: int) -> None:
        script.data_in(itt, bytes(2000), last=False)

    def unasked_r2t(script: Script, itt: int) -> None:
        script.say(pdu.R2T.pack(0x31, 0x80, 0, itt, 1, script.stat_sn, 1, 9, 0, 0, 512))

    def long_segment(script: Script, itt: int) -> None:
        script.data_in(itt, bytes(300000), last=False)

    def unknown_pdu(script: Script, itt: int) -> None:
        script.say(b"\x2a" + bytes(47))

    for act in (
        wrong_stat_sn,
        unknown_task,
        wrong_offset,
        wrong_data_sn,
        too_much,
        unasked_r2t,
        long_segment,
        unknown_pdu,
    ):
        script = Script()
        script.log_in()
        task = script.session.command(b"\x28" + bytes(9), read_length=1024)
        with pytest.raises(InitiatorError):
            act(script, task.itt)
        assert not task.done, act.__name__


def test_secrets_stay_out_of_repr() -> None:
    settings = Settings(_NAME, user="anna", secret=b"hush", mutual_secret=b"quiet")
    assert "hush" not in repr(settings)
    assert "quiet" not in repr(settings)


def test_urls() -> None:
    url = parse_url("iscsi://anna@[::1]:3261/iqn.2026-11.example:disk/3")
    assert (url.host, url.port, url.target, url.lun, url.user) == (
        "::1",
        3261,
        "iqn.2026-11.example:disk",
        3,
        "anna",
    )
    assert parse_url("iscsi://h/iqn.x/0").port == 3260
    for wrong in (
        "http://h/iqn.x/0",
        "iscsi://h/iqn.x",
        "iscsi://h/iqn.x/one",
        "iscsi:///iqn.x/0",
        "iscsi://h:70000/iqn.x/0",
        "iscsi://anna:pw@h/iqn.x/0",
        "iscsi://anna%25pw@h/iqn.x/0",
    ):
        with pytest.raises(UsageError):
            parse_url(wrong)
