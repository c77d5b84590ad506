"""Which Host is ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from userdisk.console.own import Own

LOCAL = Own(8123)
REMOTE = Own(8123, remote=True, names=frozenset({"disks.example", "box"}))


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8123", "127.1.2.3:8123", "localhost:8123", "LocalHost:8123", "[::1]:8123"]
)
def test_this_machine(host: str) -> None:
    assert LOCAL.has_host(host) and REMOTE.has_host(host)


@pytest.mark.parametrize("host", ["192.0.2.7:8123", "[2001:db8::1]:8123", "Disks.Example:8123"])
def test_others_only_when_they_may(host: str) -> None:
    assert REMOTE.has_host(host) and not LOCAL.has_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "", ":8123", "127.0.0.1", "127.0.0.1:80", "127.0.0.1:8124", "127.0.0.1:08123x",
        "127.0.0.1:8123:8123", "localhost.evil.example:8123", "127.0.0.1.evil.example:8123",
        "evil.example:8123", "[127.0.0.1]:8123", "::1:8123", "[localhost]:8123", "[::1:8123",
        "user@127.0.0.1:8123", "127.0.0.1:8123/", " 127.0.0.1:8123", "127.0.0.1:8123\n",
        "localhost.:8123", "2130706433:8123", "0x7f.1:8123", "127.1:8123",
    ],
)  # fmt: skip
def test_anything_else_is_not(host: str) -> None:
    assert not LOCAL.has_host(host) and not REMOTE.has_host(host)


def test_the_usual_port_need_not_be_said() -> None:
    assert Own(80).has_host("127.0.0.1") and Own(80).has_host("127.0.0.1:80")


@given(st.from_regex(r"[a-z0-9][a-z0-9.-]{0,40}(:8123)?", fullmatch=True))
def test_no_name_of_the_net(host: str) -> None:
    name = host.partition(":")[0]
    known = name == "localhost" or (name.count(".") == 3 and name.startswith("127."))
    assert not LOCAL.has_host(host) or (known and host.endswith(":8123"))
