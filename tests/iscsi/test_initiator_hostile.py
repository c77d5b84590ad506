"""A target that lies: each lie is refused, and what it can make the initiator hold is bounded."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.iscsi.test_initiator import Script, pdus
from tests.kit.link import TARGET, Link, close, environment_of, target_of
from tests.kit.units import InlineRamUnit
from userdisk.iscsi import pdu
from userdisk.iscsi.initiator import InitiatorSession, Task
from userdisk.iscsi.initiator_login import LoginBroken, LoginRefused, Settings
from userdisk.iscsi.initiator_task import ABORTED, LOST
from userdisk.iscsi.initiator_wire import InitiatorError
from userdisk.iscsi.pdu import AsyncEvent, TargetOpcode

_REFUSED = (InitiatorError, LoginBroken, LoginRefused)


def logged_in(**keys: str) -> Script:
    script = Script()
    script.log_in(**keys)
    script.heard()
    return script


def r2t(script: Script, task: Task, sn: int, offset: int, length: int, ttt: int = 7) -> None:
    numbers = (task.itt, ttt, script.stat_sn, 1, 9, sn, offset, length)
    script.say(pdu.R2T.pack(0x31, 0x80, 0, *numbers))


def nop_in(script: Script, data: bytes = b"", itt: int = pdu.RESERVED_TAG) -> None:
    numbers = (0, itt, 0x99, script.stat_sn, 1, 9)
    script.say(pdu.NOP_IN.pack(0x20, 0x80, len(data), *numbers), data)


def text_answer(script: Script, task: Task, data: bytes, flags: int = 0, ttt: int = 5) -> None:
    numbers = (0, task.itt, ttt, script.stat_sn, 1, 9)
    script.stat_sn += 1
    script.say(pdu.TEXT_RESPONSE.pack(0x24, flags, len(data), *numbers), data)


def event(script: Script, kind: int, data: bytes = b"") -> None:
    numbers = (0, pdu.RESERVED_TAG, script.stat_sn, 1, 9, kind, 0, 0, 2, 3)
    script.stat_sn += 1
    script.say(pdu.ASYNC_MESSAGE.pack(0x32, 0x80, len(data), *numbers), data)


# -- single lies -----------------------------------------------------------------------------------


def test_r2ts_ask_for_each_byte_once() -> None:
    for sn, offset, length, ttt in (
        (0, 8192, 600_000, 7),  # longer than a burst
        (0, 8192, 0, 7),
        (0, 0, 512, 7),  # sent already
        (0, 9000, 512, 7),  # leaves bytes out
        (0, 8192, 20480 - 8192 + 1, 7),  # past the end
        (1, 8192, 512, 7),
        (0, 8192, 512, pdu.RESERVED_TAG),
    ):
        script = logged_in(MaxBurstLength="524288")
        task = script.session.command(b"\x2a" + bytes(9), data_out=bytes(20480))
        with pytest.raises(InitiatorError, match="R2T"):
            r2t(script, task, sn, offset, length, ttt)
    script = logged_in()
    task = script.session.command(b"\x2a" + bytes(9), data_out=bytes(20480))
    script.heard()
    for number in range(3):
        r2t(script, task, number, 8192 + 4096 * number, 4096)
    assert len(script.heard()) == 3 * (4096 + 48)
    with pytest.raises(InitiatorError, match="R2T past"):
        r2t(script, task, 3, 20480, 1)


def test_an_r2t_for_what_is_no_write() -> None:
    script = logged_in()
    task = script.session.command(b"\x28" + bytes(9), read_length=4096)
    with pytest.raises(InitiatorError, match="R2T"):
        r2t(script, task, 0, 0, 512)


def test_commands_that_were_never_sent_are_acknowledged() -> None:
    script = logged_in()
    task = script.session.command(bytes(6))
    numbers = (task.itt, 0, script.stat_sn, 3, 9, 0, 0, 0)
    with pytest.raises(InitiatorError, match="not sent"):
        script.say(pdu.SCSI_RESPONSE.pack(0x21, 0x80, 0, 0, 0, *numbers))


def test_answers_of_another_kind() -> None:
    """A tag that exists, and an answer that does not fit it."""
    for opcode in TargetOpcode:
        if opcode in (TargetOpcode.SCSI_RESPONSE, TargetOpcode.ASYNC_MESSAGE, TargetOpcode.REJECT):
            continue
        script = logged_in()
        task = script.session.command(bytes(6))
        header = struct.pack(">BBxxIQII", opcode, 0x81, 0, 0, task.itt, 1)
        with pytest.raises(InitiatorError):
            script.say(header + struct.pack(">IIIIII", script.stat_sn, 1, 9, 0, 512, 512))
        assert not task.done


def test_pings_that_are_not_taken() -> None:
    script = logged_in()
    with pytest.raises(InitiatorError, match="pings faster"):
        for _ in range(100_000):
            nop_in(script, bytes(512))
    script = logged_in()
    for _ in range(5000):
        nop_in(script, bytes(512))
        assert len(script.heard()) == 560


def test_messages_without_end_are_not_kept() -> None:
    script = logged_in()
    for number in range(5000):
        event(script, AsyncEvent.SCSI, struct.pack(">H18s", 18, b"\x70"))
        script.say(
            pdu.REJECT.pack(0x3F, 0x80, 4, 48, 0xFFFFFFFF, script.stat_sn, 1, 9, 0), bytes(48)
        )
        script.stat_sn += 1
        assert script.session.event_count == number + 1
    assert len(script.session.events) == len(script.session.rejects) == 256
    assert len(script.session.event_sense) == 256
    assert script.session.event_sense[0] == b"\x70" + bytes(17)


def test_renegotiation_is_asked_for_without_end() -> None:
    script = logged_in()
    for _ in range(1000):
        event(script, AsyncEvent.RENEGOTIATE)
    [(header, data)] = pdus(script.heard())
    assert header[0] == 0x44
    assert not data
    (task,) = script.session.tasks.values()
    text_answer(script, task, b"MaxRecvDataSegmentLength=1024\0", 0x80, 0xFFFFFFFF)
    assert script.session.parameters.max_send_segment == 1024
    event(script, AsyncEvent.RENEGOTIATE)
    (task,) = script.session.tasks.values()
    with pytest.raises(LoginBroken, match="MaxRecvDataSegmentLength"):
        text_answer(script, task, b"MaxRecvDataSegmentLength=1\0", 0x80, 0xFFFFFFFF)


def test_a_logout_request_and_a_dropped_connection() -> None:
    script = logged_in()
    assert not script.session.logout_wanted
    event(script, AsyncEvent.LOGOUT_REQUEST)
    assert script.session.logout_wanted
    for kind in (AsyncEvent.DROP_CONNECTION, AsyncEvent.DROP_ALL_CONNECTIONS):
        with pytest.raises(InitiatorError, match="drops"):
            event(script, kind)


def test_text_without_end() -> None:
    for data in (b"", b"a" * 200_000):
        script = logged_in()
        task = script.session.text([("SendTargets", "All")])
        with pytest.raises(InitiatorError, match="end"):
            for _ in range(100_000):
                text_answer(script, task, data)
                assert len(script.heard()) < 200
        assert len(task.data) < 1 << 21
    script = logged_in()
    task = script.session.text([("SendTargets", "All")])
    with pytest.raises(InitiatorError, match="no tag"):
        text_answer(script, task, b"A=", ttt=0xFFFFFFFF)


@pytest.mark.parametrize("flags", [0, 0x40])
def test_a_login_without_end(flags: int) -> None:
    script = Script()
    with pytest.raises(LoginBroken, match="end"):
        for _ in range(1000):
            script.login(flags, {"TargetAlias": "a" * 8000} if flags else {})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"HeaderDigest": "CRC32C"}, "not what was offered"),
        ({"HeaderDigest": "SHA"}, "makes no sense"),
        ({"MaxBurstLength": "16777215"}, "not what was offered"),
        ({"FirstBurstLength": "0"}, "not what was offered"),
        ({"FirstBurstLength": "9" * 5000}, "makes no sense"),
        ({"MaxRecvDataSegmentLength": "511"}, "makes no sense"),
        ({"MaxRecvDataSegmentLength": "16777216"}, "makes no sense"),
        ({"ImmediateData": "Maybe"}, "makes no sense"),
        ({f"X-{n}": "1" for n in range(300)}, "more than 256 keys"),
    ],
)
def test_negotiations_that_are_none(keys: dict[str, str], words: str) -> None:
    script = Script()
    with pytest.raises(LoginBroken, match=words) as raised:
        script.log_in(**keys)
    assert len(str(raised.value)) < 300


def test_what_the_target_may_not_decide_alone() -> None:
    script = Script(initial_r2t=True, immediate_data=False)
    for keys in ({"InitialR2T": "No"}, {"ImmediateData": "Yes", "InitialR2T": "Yes"}):
        script = Script(initial_r2t=True, immediate_data=False)
        with pytest.raises(LoginBroken, match="not what was offered"):
            script.log_in(**keys)
    script = Script()
    script.log_in(InitialR2T="Irrelevant", FirstBurstLength="Reject")
    assert script.session.parameters.initial_r2t


def test_the_target_makes_offers() -> None:
    script = Script()
    script.login(0x81, {"AuthMethod": "None"})
    script.heard()
    script.login(0x04, {"IFMarker": "No", "X-com.example.a": "1", "TargetAlias": "a disk"})
    assert pdus(script.heard())[0][1] == b"IFMarker=No\0X-com.example.a=NotUnderstood\0"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"CHAP_A": "9", "CHAP_I": "1", "CHAP_C": "0x00"}, "not offered"),
        ({"CHAP_A": "5", "CHAP_I": "256", "CHAP_C": "0x00"}, "identifier"),
        ({"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0b!"}, "neither"),
        ({"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x" + "00" * 2000}, "longer than 1024"),
        ({"CHAP_R": "0x00", "CHAP_N": "x"}, "does not know"),
    ],
)
def test_chap_that_is_none(keys: dict[str, str], words: str) -> None:
    script = Script(user="anna", secret=b"x" * 12)
    script.login(0, {"AuthMethod": "CHAP"})
    with pytest.raises(LoginBroken, match=words):
        script.login(0, keys)


def test_the_secret_is_proven_once() -> None:
    """Or a target could collect answers to challenges of its choice."""
    script = Script(user="anna", secret=b"x" * 12)
    script.login(0, {"AuthMethod": "CHAP"})
    script.login(0, {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x1234"})
    with pytest.raises(LoginBroken, match="twice"):
        script.login(0, {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x1235"})


def test_stages_that_are_skipped() -> None:
    for flags in (0x83, 0x82):
        script = Script()
        with pytest.raises(LoginBroken):
            script.login(flags, {})
    script = Script(user="anna", secret=b"x" * 12)
    with pytest.raises(LoginBroken, match="before it was asked"):
        script.login(0x81, {"AuthMethod": "CHAP"})
    script = Script()
    script.login(0x81, {})
    with pytest.raises(LoginBroken, match="there is not"):
        script.login(0x86, {})


def test_a_redirection_says_where_to() -> None:
    script = Script()
    with pytest.raises(LoginRefused, match=r"moved to 192\.0\.2\.1:3260,1"):
        script.login(0x81, {"TargetAddress": "192.0.2.1:3260,1"}, 0x0101)


def test_what_is_aborted_ends() -> None:
    script = logged_in()
    script.session.max_cmd_sn = 3
    one, two, other, unsent = (script.session.command(bytes(6), lun=lun) for lun in (0, 0, 1, 0))
    abort = script.session.task_management(1, about=one)
    reset = script.session.task_management(5, lun=0)
    assert script.session.waiting

    def answer(task: Task, response: int) -> None:
        numbers = (task.itt, script.stat_sn, 1, 3)
        script.stat_sn += 1
        script.say(pdu.TASK_MANAGEMENT_RESPONSE.pack(0x22, 0x80, response, *numbers))

    answer(abort, 0)
    assert (one.done, one.response, two.done) == (True, ABORTED, False)
    answer(reset, 0)
    assert (two.response, other.done, unsent.done) == (ABORTED, False, False)
    never = script.session.task_management(1, about=unsent)
    assert not script.session.waiting
    answer(never, 1)
    assert unsent.response == ABORTED
    refused = script.session.task_management(1, about=other)
    answer(refused, 5)
    assert not other.done
    assert [task.response for task in script.session.lost()] == [LOST]


# -- any lie: recorded streams, changed ------------------------------------------------------------

_DATA = bytes(range(256)) * 200
_Step = Callable[[InitiatorSession], object]
_STEPS: list[_Step] = [
    lambda session: session.start(),
    lambda session: session.command(bytes(6)),
    lambda session: session.command(bytes(6)),
    lambda session: session.command(b"\x12\0\0\0\xff\0", read_length=255),
    lambda session: session.command(
        struct.pack(">BxQIxx", 0x8A, 0, len(_DATA) // 512), data_out=_DATA
    ),
    lambda session: session.submit(
        [Task(struct.pack(">BxQIxx", 0x88, n, 8), 4096) for n in range(4)]
    ),
    lambda session: session.command(struct.pack(">BxQIxx", 0x88, 0, 100), read_length=51200),
    lambda session: session.submit(
        [Task(struct.pack(">BxQIxx", 0x8A, n, 1), 0, bytes(512)) for n in range(4)]
    ),
    lambda session: session.ping(b"are you there"),
    lambda session: session.text([("SendTargets", "All")]),
    lambda session: session.task_management(5),
    lambda session: session.command(bytes(6)),
    lambda session: session.logout(),
]


def recorded(**offered: bool | int) -> list[list[bytes]]:
    """What our target answers to each step, piece by piece."""
    target = target_of(InlineRamUnit())
    link = Link(environment_of(target), **offered)
    link.session.take_output()
    link.session = InitiatorSession(link.session.settings, random=lambda size: bytes(size))
    answers: list[list[bytes]] = []
    for step in _STEPS:
        step(link.session)
        answers.append([])
        while data := b"".join(link.session.take_output()):
            answer = link.end.feed(data)
            answers[-1].append(answer)
            link.session.received(answer)
    assert link.session.closed
    link.end.disconnect()
    close(target)
    return answers


def session_of(**offered: bool | int) -> InitiatorSession:
    wanted = Settings("iqn.2026-11.io.userdisk:tester", TARGET, **offered)  # type: ignore[arg-type]
    return InitiatorSession(wanted, random=lambda size: bytes(size))


def headers(answers: list[list[bytes]], digest: int = 0) -> list[tuple[int, int, int]]:
    """Where each PDU is: step, piece, offset."""
    found = []
    for step, pieces in enumerate(answers):
        for number, piece in enumerate(pieces):
            at = 0
            while at < len(piece):
                found.append((step, number, at))
                length = int.from_bytes(piece[at + 5 : at + 8])
                after_login = piece[at] != TargetOpcode.LOGIN_RESPONSE
                at += 48 + -(-length // 4) * 4
                at += digest * after_login * (1 + bool(length))
    return found


def replay(
    session: InitiatorSession, answers: list[list[bytes]]
) -> tuple[list[Task], Exception | None]:
    """Do the steps, and receive this whatever it is; every task that ended, and the refusal."""
    ended: list[Task] = []
    sent = 0
    error: Exception | None = None
    try:
        for step, pieces in zip(_STEPS, answers, strict=True):
            step(session)
            for piece in pieces:
                sent += sum(len(part) for part in session.take_output())
                ended += session.received(piece)
    except _REFUSED as refusal:
        error = refusal
        text = str(refusal)
        assert "\n" not in text
        assert len(text) < 400
    sent += sum(len(part) for part in session.take_output())
    assert sent < 1 << 21
    assert len(session.tasks) + len(session.waiting) < 32
    before = len(ended)
    ended += session.lost()
    assert all(task.done for task in ended)
    assert not any(task.response == LOST for task in ended[:before])
    for task in ended:
        assert len(task.data) <= max(task.read_length, 1 << 20)
    return ended, error


_RECORDED = recorded()
_HEADERS = headers(_RECORDED)
_RECORDED_DIGESTS = recorded(header_digest=True, data_digest=True)
_HEADERS_DIGESTS = headers(_RECORDED_DIGESTS, 4)

_CHANGES = st.lists(
    st.tuples(
        st.integers(0, len(_HEADERS) - 1),
        st.sampled_from(["set", "cut", "insert", "repeat", "word"]),
        st.integers(0, 63),
        st.binary(min_size=1, max_size=60),
    ),
    min_size=1,
    max_size=4,
)


def changed(answers: list[list[bytes]], changes: list[tuple[int, str, int, bytes]]) -> object:
    pieces = [[bytearray(piece) for piece in each] for each in answers]
    for which, how, offset, data in changes:
        step, number, at = _HEADERS[which]
        piece = pieces[step][number]
        at = min(at + offset, len(piece))
        if how == "set":
            piece[at : at + 1] = data[:1]
        elif how == "word":
            at -= at % 4
            piece[at : at + 4] = data[:4].ljust(4, b"\xff")
        elif how == "cut":
            del piece[at : at + len(data)]
        elif how == "insert":
            piece[at:at] = data
        else:
            piece[at:at] = piece[at - offset : at - offset + 48]
    return [[bytes(piece) for piece in each] for each in pieces]


def test_the_recorded_stream_is_a_good_one() -> None:
    for answers, digests in ((_RECORDED, False), (_RECORDED_DIGESTS, True)):
        session = session_of(header_digest=digests, data_digest=digests)
        ended, error = replay(session, answers)
        assert error is None
        assert len(ended) == 18
        assert not any(task.response for task in ended)
    assert len(_HEADERS) == len(_HEADERS_DIGESTS)


@settings(max_examples=300, deadline=None)
@given(_CHANGES)
def test_a_changed_stream_is_survived(changes: list[tuple[int, str, int, bytes]]) -> None:
    replay(session_of(), changed(_RECORDED, changes))  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(st.integers(4, 10_000), st.integers(0, 100_000), st.integers(1, 255))
def test_digests_let_no_changed_byte_pass(which: int, offset: int, change: int) -> None:
    """Whatever byte it is: what has ended well ended with the right data."""
    in_session = [place for place in _HEADERS_DIGESTS if place[0] > 0]
    step, number, at = in_session[which % len(in_session)]
    pieces = [[bytearray(piece) for piece in each] for each in _RECORDED_DIGESTS]
    piece = pieces[step][number]
    at = at + offset % (len(piece) - at)
    piece[at] ^= change
    session = session_of(header_digest=True, data_digest=True)
    stream = [[bytes(piece) for piece in each] for each in pieces]
    ended, error = replay(session, stream)
    good, _ = replay(session_of(header_digest=True, data_digest=True), _RECORDED_DIGESTS)
    assert error is not None or any(task.response == LOST for task in ended)
    for task in ended:
        if not task.response:
            (same,) = [each for each in good if each.itt == task.itt]
            assert (task.status, task.data) == (same.status, same.data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 12))
def test_garbage_at_any_time(garbage: bytes, when: int) -> None:
    stream = [*_RECORDED[:when], [garbage], *_RECORDED[when + 1 :]]
    replay(session_of(), stream)
