"""A connection's phases: login and reinstatement, pings, logout, and what is left over."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from tests.iscsi.test_data_out import split
from tests.iscsi.test_tasks import READ, RawLink, Slow
from tests.kit.link import TARGET, Link, close, environment_of, target_of
from tests.kit.units import InlineRamUnit
from userdisk.iscsi import full_feature, pdu
from userdisk.iscsi.connection import LOGIN_LIMIT, PING_AFTER, PING_LIMIT, Phase
from userdisk.iscsi.initiator_login import LoginRefused
from userdisk.iscsi.session import Key, Session, Sessions
from userdisk.target.target import Target


class Server:
    """What connections share; links are ended with the test."""

    def __init__(self) -> None:
        self.slow = Slow()
        self.target = target_of(self.slow, InlineRamUnit())
        self.environment = environment_of(self.target)
        self.links: list[Link] = []

    def link(self, **settings: Any) -> Link:
        link = Link(self.environment, **settings)
        self.links.append(link)
        return link

    @property
    def sessions(self) -> dict[Key, Session]:
        return self.environment.sessions._open

    def close(self) -> None:
        self.slow.go.set()
        for link in self.links:
            link.end.disconnect()
        assert not self.sessions
        assert not self.environment.sessions._waiting
        assert not self.target.nexuses
        close(self.target)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


# -- login and reinstatement ---------------------------------------------------------------------


def test_a_login_that_is_not_finished_ends(server: Server) -> None:
    end = server.link().end
    end.connection.tick(LOGIN_LIMIT - 1)
    assert end.reading
    end.feed(b"\x43")
    end.connection.tick(LOGIN_LIMIT + 1)
    assert end.connection.phase is Phase.CLOSING
    assert "too long" in end.connection.reason


def test_an_unknown_target_is_refused(server: Server) -> None:
    link = server.link(target=TARGET + "x")
    with pytest.raises(LoginRefused):
        link.login()
    assert not link.end.reading


def test_commands_that_come_with_the_last_login_request(server: Server) -> None:
    """Initiators may not, but some bytes may arrive together: nothing of them is lost."""
    link = server.link()
    session, end = link.session, link.end
    session.received(end.feed(b"".join(map(bytes, session.take_output()))))
    sent = b"".join(map(bytes, session.take_output()))
    sent += pdu.GENERIC.pack(0x40, 0x80, 4, 0, 77, 0xFFFFFFFF, 1, 0, bytes(16)) + b"echo"
    login, echo = split(end.feed(sent))
    assert login[0][0] == pdu.TargetOpcode.LOGIN_RESPONSE
    assert echo[1] == b"echo"


def test_two_initiators_have_sessions_of_their_own(server: Server) -> None:
    one = server.link().login()
    other = server.link(initiator="iqn.2026-11.io.userdisk:other").login()
    third = server.link(isid=3).login()
    assert len({link.session.tsih for link in (one, other, third)}) == 3
    assert all(link.end.reading for link in (one, other, third))


def test_a_second_login_replaces_the_first_session(server: Server) -> None:
    old = server.link().login()
    new = server.link()
    new.pump()
    assert not new.session.logged_in
    old.end.settle()
    assert old.end.connection.phase is Phase.CLOSED
    old.end.disconnect()
    new.pump()
    assert new.session.logged_in
    assert len(server.target.nexuses) == 1
    assert new.command(bytes(6)).sense[12] == 0x29


def test_reinstatement_waits_for_the_running_write(server: Server) -> None:
    """No write of the old session may happen after the new one has begun."""
    old = server.link().login()
    old.ready()
    old.session.command(bytes.fromhex("2a000000000000000100"), data_out=b"o" * 512)
    old.pump()
    assert server.slow.entered.acquire(timeout=10)
    new = server.link()
    new.pump()
    old.end.settle()
    old.end.connection.lost("replaced")
    assert not old.end.connection.finished
    new.pump()
    assert not new.session.logged_in
    server.slow.go.set()
    old.end.wait()
    assert old.end.connection.finished
    assert server.slow.memory[:512] == b"o" * 512
    old.end.connection.end()
    new.pump()
    assert new.session.logged_in


def test_a_waiting_login_that_goes_away(server: Server) -> None:
    """It leaves no session that nobody could ever end."""
    old = server.link().login()
    gone = server.link()
    gone.pump()
    gone.end.disconnect()
    old.end.settle()
    old.end.disconnect()
    assert not server.sessions
    assert server.link().login().end.reading


def test_a_waiting_login_that_goes_away_when_its_turn_comes(server: Server) -> None:
    """Its session was opened, but it never heard of it."""
    old = server.link().login()
    gone = server.link()
    gone.pump()
    old.end.settle()
    old.end.disconnect()  # the successor's turn is in its inbox
    assert len(server.sessions) == 1
    gone.end.connection.lost("the peer is gone")
    gone.end.connection.end()
    gone.end.ended = True
    assert not server.sessions
    assert server.link().login().end.reading


def test_the_last_of_several_waiting_logins_gets_the_session(server: Server) -> None:
    old = server.link().login()
    waiting = [server.link() for _ in range(4)]
    for link in waiting:
        link.pump()
    for link in [*waiting, old]:
        link.end.settle()
    assert [link.end.reading for link in waiting] == [False, False, False, True]
    for link in waiting[:3]:
        link.end.disconnect()
    old.end.disconnect()
    waiting[3].pump()
    assert waiting[3].session.logged_in


def test_a_request_while_the_login_waits(server: Server) -> None:
    old = server.link().login()
    new = server.link()
    new.pump()
    new.end.feed(pdu.GENERIC.pack(0x40, 0x80, 0, 0, 5, 0xFFFFFFFF, 1, 0, bytes(16)))
    assert not new.end.reading
    new.end.disconnect()
    old.end.settle()


def test_too_many_sessions() -> None:
    target = target_of(InlineRamUnit())
    environment = environment_of(target)
    environment.sessions._limit = 2
    links = [Link(environment, isid=number).login() for number in range(2)]
    third = Link(environment, isid=9)
    with pytest.raises(LoginRefused):
        third.login()
    links.pop().end.disconnect()
    fourth = Link(environment, isid=10).login()
    for link in (*links, third, fourth):
        link.end.disconnect()
    close(target)


def test_sessions_are_numbered_anew_after_65535(server: Server) -> None:
    first = server.link(isid=1).login()
    server.environment.sessions._last_tsih = 0xFFFE
    tsihs = [server.link(isid=number).login().session.tsih for number in range(2, 5)]
    assert tsihs == [0xFFFF, 2, 3]
    assert first.session.tsih == 1


# -- pings and logout ----------------------------------------------------------------------------


def test_a_silent_initiator_is_asked_and_then_given_up(server: Server) -> None:
    link = server.link().login()
    connection = link.end.connection
    connection.tick(1.0)
    connection.tick(1.0 + PING_AFTER - 0.1)
    assert link.end.settle() == b""
    connection.tick(1.0 + PING_AFTER + 0.1)
    ping = link.end.settle()
    assert (ping[0], ping[16:20]) == (pdu.TargetOpcode.NOP_IN, b"\xff" * 4)
    link.session.received(ping)
    link.pump()  # it answers
    connection.tick(1.0 + 2 * PING_AFTER)
    connection.tick(1.0 + 3 * PING_AFTER + 1)
    assert link.end.settle()[0] == pdu.TargetOpcode.NOP_IN
    assert connection.open
    connection.tick(1.0 + 3 * PING_AFTER + PING_LIMIT + 1)
    assert not connection.open
    assert "ping" in connection.reason


def test_pings_do_not_use_up_status_numbers(server: Server) -> None:
    link = server.link().login()
    for number in range(3):
        full = pdu.NOP_IN.unpack(_pinged(link))
        assert full[6] == link.session.exp_stat_sn, number
    assert link.run(link.session.ping(b"mine")).data == b"mine"


def _pinged(link: Link) -> bytes:
    full_feature.ping(link.end.connection, 1)
    ping = link.end.settle()
    link.session.received(ping)
    return ping


def test_a_stop_asks_for_a_logout(server: Server) -> None:
    link = server.link().login()
    link.end.connection.request_end(3)
    link.session.received(link.end.settle())
    assert link.session.events == [(pdu.AsyncEvent.LOGOUT_REQUEST, 0, 0, 3)]
    assert link.run(link.session.logout()).response == 0
    assert not link.end.reading


@pytest.mark.parametrize(
    ("reason", "cid", "response"), [(0, 9, 0), (1, 0, 0), (1, 9, 1), (2, 0, 2)]
)
def test_logout(server: Server, reason: int, cid: int, response: int) -> None:
    link = server.link().login()
    out = link.end.connection.out
    header = pdu.GENERIC.pack(0x46, 0x80 | reason, 0, 0, 7, cid << 16, out.exp_cmd_sn, 0, bytes(16))
    ((answer, _),) = split(link.end.feed(header))
    assert (answer[0], answer[2]) == (pdu.TargetOpcode.LOGOUT_RESPONSE, response)
    assert link.end.reading == bool(response)


def test_nothing_is_read_after_a_logout(server: Server) -> None:
    link = server.link().login()
    raw = RawLink(link)
    logout = pdu.GENERIC.pack(0x46, 0x80, 0, 0, 7, 0, raw.out.exp_cmd_sn, 0, bytes(16))
    ping = pdu.GENERIC.pack(0x40, 0x80, 0, 0, 8, 0xFFFFFFFF, raw.out.exp_cmd_sn, 0, bytes(16))
    assert [each[0] for each, _ in raw.feed(logout + ping)] == [pdu.TargetOpcode.LOGOUT_RESPONSE]


# -- PDUs that do not belong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opcode", "answer", "open_after"),
    [
        (0x03, pdu.RejectReason.PROTOCOL_ERROR, False),  # a login
        (0x10, pdu.RejectReason.SNACK_REJECT, True),
        (0x1C, pdu.RejectReason.COMMAND_NOT_SUPPORTED, True),  # vendor specific
        (0x21, pdu.RejectReason.COMMAND_NOT_SUPPORTED, True),  # one of a target
        (0x07, pdu.RejectReason.COMMAND_NOT_SUPPORTED, True),
    ],
)
def test_other_opcodes(
    server: Server, opcode: int, answer: pdu.RejectReason, open_after: bool
) -> None:
    raw = RawLink(server.link().login())
    header = pdu.GENERIC.pack(opcode, 0x80, 0, 0, 7, 0, raw.out.exp_cmd_sn, 0, bytes(16))
    ((reject, data),) = raw.feed(header)
    assert (reject[0], reject[2], data) == (pdu.TargetOpcode.REJECT, answer, header)
    assert raw.end.reading == open_after


def test_a_segment_that_is_too_long_ends_the_connection(server: Server) -> None:
    raw = RawLink(server.link().login())
    header = pdu.GENERIC.pack(0x40, 0x80, 262145, 0, 7, 0xFFFFFFFF, 1, 0, bytes(16))
    ((reject, _),) = raw.feed(header)
    assert (reject[0], reject[2]) == (pdu.TargetOpcode.REJECT, pdu.RejectReason.PROTOCOL_ERROR)
    assert not raw.end.reading


def test_headers_of_every_length(server: Server) -> None:
    """Additional header segments are read past, whatever the pieces that they come in."""
    raw = RawLink(server.link().login())
    for words in (1, 2, 254, 255):
        for piece in (1, 48, 49, 1 << 30):
            lengths = words << 24 | 5
            header = pdu.GENERIC.pack(
                0x40, 0x80, lengths, 0, words, 0xFFFFFFFF, raw.out.exp_cmd_sn, 0, bytes(16)
            )
            sent = header + bytes(4 * words) + b"hello\0\0\0"
            ((_, data),) = split(raw.end.feed(sent, piece))
            assert data == b"hello"


@pytest.mark.parametrize("length", [16383, 16384, 65536, 262144])
@pytest.mark.parametrize("piece", [1000, 16384, 262144, 1 << 30])
def test_pings_of_every_length(server: Server, length: int, piece: int) -> None:
    link = server.link().login()
    data = bytes(range(251)) * (length // 251 + 1)
    out = link.end.connection.out
    sent = b""
    for number in range(3):
        sent += pdu.GENERIC.pack(
            0x40, 0x80, length, 0, number, 0xFFFFFFFF, out.exp_cmd_sn, 0, bytes(16)
        )
        sent += data[:length] + pdu.PADDING[length % 4]
    answers = split(link.end.feed(sent, piece))
    assert [each for _, each in answers] == [data[:length]] * 3


def test_output_ends_a_batch(server: Server) -> None:
    """What is received at once is not answered at once without bound."""
    link = server.link().login()
    link.ready(lun=1)
    connection = link.end.connection
    tasks = [
        link.session.command(READ[:7] + b"\x01\0\0", lun=1, read_length=131072) for _ in range(100)
    ]
    data = b"".join(map(bytes, link.session.take_output()))
    place = connection.buffer()
    place[: len(data)] = data
    connection.received(len(data))
    assert sum(map(len, connection.out.buffers)) <= (1 << 20) + 200_000
    assert connection.more
    link.session.received(link.end.settle())
    assert all(task.done for task in tasks)


# -- what is left over ---------------------------------------------------------------------------


def test_a_connection_is_garbage_when_it_has_ended(server: Server) -> None:
    link = Link(server.environment).login()
    link.ready(lun=1)
    link.session.command(bytes.fromhex("2a000000000000080000"), data_out=bytes(1 << 20), lun=1)
    link.end.feed(b"".join(map(bytes, link.session.take_output())))
    link.end.disconnect()
    found = weakref.ref(link.end.connection)
    del link
    gc.collect()
    assert found() is None


def test_a_post_to_an_ended_connection_does_nothing(server: Server) -> None:
    """A reset waits for another session's task; the one that asked is long gone."""
    asker, other = Link(server.environment).login(), server.link(isid=5).login()
    other.ready()
    other.session.command(READ, read_length=4096)
    other.pump()
    assert server.slow.entered.acquire(timeout=10)
    asker.session.task_management(5)
    asker.pump()
    asker.end.disconnect()
    server.slow.go.set()
    while other.end.connection.tasks.count:
        other.end.wait()
    while not asker.end.inbox.empty():
        asker.end.connection.handle(asker.end.inbox.get())
    assert asker.end.connection.take_output() == []


# -- the registry of sessions --------------------------------------------------------------------


class Holder:
    """Has a `drop` method, as connections do: a new bound method object at each look."""

    def __init__(self) -> None:
        self.dropped = 0
        self.sessions: list[Session] = []

    def drop(self) -> None:
        self.dropped += 1

    def ready(self, session: Session) -> None:
        self.sessions.append(session)


def test_the_registry_forgets_who_is_gone() -> None:
    sessions, target = Sessions(threading.Lock()), Target("iqn.t", [])
    key = Key("iqn.t", "iqn.i", 1)
    first, second, third = Holder(), Holder(), Holder()
    old = sessions.open(key, target, first.drop, first.ready)
    assert isinstance(old, Session)
    assert sessions.open(key, target, second.drop, second.ready) is False
    assert first.dropped == 1
    assert sessions.forget(second.drop) is None
    sessions.close(old)
    assert not second.sessions
    assert isinstance(sessions.open(key, target, third.drop, third.ready), Session)


def test_the_registry_ends_the_sessions_of_one_target() -> None:
    sessions = Sessions(threading.Lock())
    targets = [Target("iqn.t", []), Target("iqn.u", [])]
    holders = [Holder() for _ in range(4)]
    opened = [
        sessions.open(Key("", "", number), targets[number // 3], holder.drop, holder.ready)
        for number, holder in enumerate(holders)
    ]
    assert isinstance(opened[1], Session)
    sessions.end_all(targets[0], but=opened[1])
    assert [holder.dropped for holder in holders] == [1, 0, 1, 0]
