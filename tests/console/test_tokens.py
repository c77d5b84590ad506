"""One-time tokens and sessions, against models."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from userdisk.console import sessions, tokens
from userdisk.console.sessions import Session, Sessions
from userdisk.console.tokens import LIFE, Tokens, Tries


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Secrets:
    """Each other than all before."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def __call__(self) -> str:
        return f"secret-{next(self._numbers)}"


_token_steps = st.lists(
    st.one_of(
        st.tuples(st.just("current"), st.just(0)),
        st.tuples(st.just("take"), st.integers(0, 20)),
        st.tuples(st.just("wait"), st.integers(1, 900)),
    ),
    max_size=60,
)


@given(_token_steps)
def test_a_token_is_good_once_and_for_ten_minutes(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    handed = Tokens(clock, Secrets())
    made: dict[str, float] = {}  # when it was first handed out
    used: set[str] = set()
    for step, number in steps:
        if step == "wait":
            clock.now += number
        elif step == "current":
            token = handed.current()
            assert token not in used
            age = clock.now - made.setdefault(token, clock.now)
            assert age < LIFE / 2, "whoever gets it has five minutes at least"
        else:
            token = f"secret-{number}"
            good = token in made and token not in used and clock.now - made[token] < LIFE
            assert handed.take(token) == good
            if good:
                used.add(token)
        assert len(handed._made) <= 4


def test_tokens_that_nobody_uses_do_not_pile_up() -> None:
    clock = Clock()
    handed = Tokens(clock, Secrets())
    tokens_made = set()
    for _ in range(50):
        tokens_made.add(handed.current())
        assert len(handed._made) <= 3
        clock.now += LIFE / 2
    assert len(tokens_made) == 50


@given(st.text())
def test_nothing_else_is_a_token(text: str) -> None:
    handed = Tokens(Clock(), Secrets())
    assert not handed.take(text)
    token = handed.current()
    assert handed.take(text) == (text == token)
    assert not handed.take(token[:-1]) and not handed.take(f"{token} ") and not handed.take("")


def test_ten_tries_at_once_then_ten_a_minute() -> None:
    clock = Clock()
    tries = Tries(clock)
    for _ in range(10):
        assert tries.wait("one") == 0
        tries.wrong("one")
    assert 0 < tries.wait("one") <= 6
    assert tries.wait("two") == 0, "one who is wrong locks nobody else out"
    clock.now += tries.wait("one")
    assert tries.wait("one") == 0
    tries.wrong("one")
    assert tries.wait("one") > 0
    clock.now += 60
    for _ in range(10):
        assert tries.wait("one") == 0
        tries.wrong("one")
    assert tries.wait("one") > 0


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0, 3)), max_size=600))
def test_who_tries_is_bounded_and_no_name_tries_more(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    tries = Tries(clock)
    began = clock.now
    let: dict[str, int] = {}
    for number, seconds in steps:
        clock.now += seconds
        who = f"ip:{number}"
        if tries.wait(who) == 0:
            let[who] = let.get(who, 0) + 1
            tries.wrong(who)
        assert len(tries._free) <= 257
    most = 10 + (clock.now - began) / 6 + 1e-6
    assert all(count <= most for count in let.values())


def test_many_names_share_what_is_left() -> None:
    clock = Clock()
    tries = Tries(clock)
    for number in range(256):
        tries.wrong(f"ip:{number}")
    strangers = 0
    for number in range(1000, 1100):
        if tries.wait(f"ip:{number}") == 0:
            strangers += 1
            tries.wrong(f"ip:{number}")
    assert strangers == 10


def test_who_is_known_is_counted_however_many_others_try() -> None:
    clock = Clock()
    tries = Tries(clock)
    for number in range(256):
        tries.wrong(f"ip:{number}")
    for _ in range(9):
        assert tries.wait("ip:0") == 0
        tries.wrong("ip:0")
    assert tries.wait("ip:0") > 0
    assert tries.wait("ip:1") == tries.wait("ip:1000") == 0
    clock.now += 61  # all of them are forgotten: who comes now is told apart again
    for name in ("ip:2000", "ip:2001"):
        for _ in range(10):
            assert tries.wait(name) == 0
            tries.wrong(name)
        assert tries.wait(name) > 0
    assert tries.wait("ip:2002") == 0


_session_steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(["uid:1", "uid:2"])),
        st.tuples(st.just("find"), st.integers(0, 40)),
        st.tuples(st.just("steal"), st.integers(0, 40)),
        st.tuples(st.just("end"), st.integers(0, 40)),
        st.tuples(st.just("wait"), st.integers(1, 13 * 3600)),
    ),
    max_size=80,
)


@given(_session_steps, st.integers(2, 6))
def test_sessions_as_their_model(steps: list[tuple[str, object]], most: int) -> None:
    before, sessions.MOST = sessions.MOST, most
    try:
        _compare(steps, most)
    finally:
        sessions.MOST = before


def _compare(steps: list[tuple[str, object]], most: int) -> None:
    clock = Clock()
    real = Sessions(clock, Secrets())
    model: dict[str, tuple[str, float]] = {}  # cookie -> who, last use; the last used is the last
    cookies: list[str] = []
    known: dict[str, Session] = {}
    for step, value in steps:
        model = {c: (w, t) for c, (w, t) in model.items() if clock.now - t < sessions.IDLE}
        if step == "wait":
            assert isinstance(value, int)
            clock.now += value
        elif step == "begin":
            while len(model) >= most:
                del model[next(iter(model))]
            cookie = real.begin(str(value))
            assert cookie not in cookies
            cookies.append(cookie)
            model[cookie] = str(value), clock.now
        elif cookies:
            assert isinstance(value, int)
            cookie = cookies[value % len(cookies)]
            who = model.get(cookie, ("uid:1", 0.0))[0]
            if step == "steal":
                assert real.find([cookie], f"{who}0") is None
                continue
            found = real.find(["nonsense", cookie], who)
            assert (found is not None) == (cookie in model)
            if found is None:
                assert cookie not in known or not known[cookie].open
                continue
            assert known.setdefault(cookie, found) is found and found.open
            del model[cookie]
            if step == "end":
                real.end(found)
                assert not found.open
            else:
                model[cookie] = who, clock.now


def test_a_session_ends_when_it_was_not_used_for_twelve_hours() -> None:
    clock = Clock()
    real = Sessions(clock, Secrets())
    one, other = real.begin("uid:1"), real.begin("uid:1")
    session = real.find([one], "uid:1")
    assert session is not None
    for _ in range(3):
        clock.now += sessions.IDLE - 1
        assert real.find([one], "uid:1") is session and session.open, "it is used"
    assert real.find([other], "uid:1") is None
    clock.now += sessions.IDLE
    assert real.find([one], "uid:1") is None
    assert not session.open, "what it has under way ends, too"


def test_of_too_many_the_one_that_was_used_least_ends() -> None:
    real = Sessions(Clock(), Secrets())
    cookies = [real.begin("uid:1") for _ in range(sessions.MOST)]
    found = [real.find([each], "uid:1") for each in cookies]
    assert all(each is not None and each.open for each in found)
    assert real.find(cookies[:1], "uid:1") is found[0]  # now the second was used least
    real.begin("uid:2")
    assert [each.open for each in found if each is not None].index(False) == 1
    left = [real.find([each], "uid:1") for each in cookies]
    assert left == [found[0], None, *found[2:]]


def test_who_begins_one_ends_those_that_are_idle() -> None:
    clock = Clock()
    real = Sessions(clock, Secrets())
    session = real.find([real.begin("uid:1")], "uid:1")
    clock.now += sessions.IDLE
    real.begin("uid:2")
    assert session is not None and not session.open


def test_values_of_a_session_are_not_its_cookie() -> None:
    real = Sessions(Clock(), Secrets())
    cookie = real.begin("uid:1")
    session = real.find([cookie], "uid:1")
    assert session is not None and session.csrf != cookie
    assert cookie not in repr(vars(real)), "only its digest is kept"
    assert real.find([], "uid:1") is None
    assert tokens.LIFE == 600 and sessions.IDLE == 12 * 3600 and sessions.MOST == 64
