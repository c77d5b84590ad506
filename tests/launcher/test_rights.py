"""Who may do what: users, their groups, and what classes grant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from userdisk.launcher import classes, rights
from userdisk.launcher.grants import Grants
from userdisk.launcher.rights import Caller
from userdisk.launcher.spec import Spec

ALICE, STRANGER = 2_000_000_001, 2_000_000_002
GROUPS = {5: "staff", 6: "backup"}


@pytest.fixture(autouse=True)
def _users(monkeypatch: pytest.MonkeyPatch) -> None:
    """One user with a name and two groups, another without either; group 7 has no name."""

    def user(uid: int) -> SimpleNamespace:
        if uid != ALICE:
            raise KeyError(uid)
        return SimpleNamespace(pw_name="alice", pw_gid=5, pw_dir="/home/alice")

    def group_list(name: str, gid: int) -> list[int]:
        return {"alice": [gid, 6, 7]}[name]

    monkeypatch.setattr(rights.pwd, "getpwuid", user)
    monkeypatch.setattr(rights.os, "getgrouplist", group_list)
    monkeypatch.setattr(rights.grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=GROUPS[gid]))


def test_a_user_has_a_name_a_folder_and_groups() -> None:
    caller = Caller.of(ALICE)
    assert (caller.uid, caller.gid, caller.pid) == (ALICE, 5, 0)
    assert (caller.name, caller.home) == ("alice", "/home/alice")
    assert caller.groups == {"staff", "backup"}


def test_who_is_in_no_list_of_users_has_a_number() -> None:
    caller = Caller.of(STRANGER)
    assert (caller.gid, caller.name, caller.home) == (STRANGER, str(STRANGER), "")
    assert caller.groups == frozenset()
    assert Caller(STRANGER, 6).groups == {"backup"}


@pytest.mark.parametrize(
    ("names", "alice", "stranger"),
    [
        ([], False, False),
        (["*"], True, True),
        (["alice"], True, False),
        (["bob", "alice"], True, False),
        (["@staff"], True, False),
        (["@backup"], True, False),
        (["@alice"], False, False),  # a user is no group,
        (["staff", "%staff"], False, False),  # and a group no user
        (["@*", "alic", "alice2", "Alice", "@", ""], False, False),
        ([str(STRANGER)], False, True),
    ],
)
def test_lists_name_users_groups_and_all(names: list[str], alice: bool, stranger: bool) -> None:
    assert Caller.of(ALICE).among(names) is alice
    assert Caller.of(STRANGER).among(names) is stranger


@pytest.mark.parametrize("own", [0, 1234])
def test_root_and_the_services_own_user_may_do_everything(
    own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights.os, "getuid", lambda: own)
    for uid, may in ((0, True), (own, True), (1, False), (ALICE, False), (STRANGER, False)):
        assert Caller(uid, 1).rules is may
        assert Caller(uid, 1).among([]) is may


Written = Callable[[str, str], None]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    monkeypatch.setenv("USERDISK_CLASSES", str(tmp_path))

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.toml").write_text(f'unit = "ram:1M"\n{text}')
        (tmp_path / f"{name}.toml").chmod(0o644)

    return write


def of(class_: str, started_by: int) -> Spec:
    return Spec(class_, "one", f"{class_}.one", "ram:1M", started_by=started_by)


def test_a_class_grants_each_right_for_itself(written: Written) -> None:
    written("a", 'may-start = ["alice"]\nmay-stop = ["@backup"]')
    written("b", 'may-query = ["*"]')
    for uid, granted in (
        (ALICE, {("a", "may_start"), ("a", "may_stop"), ("b", "may_query")}),
        (STRANGER, {("b", "may_query")}),
    ):
        grants = Grants(Caller.of(uid))
        for name in "ab":
            for right in ("may_start", "may_stop", "may_query"):
                may = (name, right) in granted
                assert grants.among(name, right) is may
                assert grants.may(of(name, STRANGER + 1), right) is may


def test_who_has_started_it_may_whatever_the_class_says(written: Written) -> None:
    written("a", "")
    assert Grants(Caller.of(ALICE)).may(of("a", ALICE), "may_stop")
    assert not Grants(Caller.of(ALICE)).may(of("a", STRANGER), "may_stop")
    assert Grants(Caller.of(ALICE)).may(of("gone", ALICE), "may_query")


def test_a_class_that_cannot_be_read_grants_nothing_but_to_those_who_rule(
    written: Written,
) -> None:
    written("a", 'may-query = ["*"]\nmay-quarry = 5')
    for name in ("a", "gone", "../etc"):
        assert not Grants(Caller.of(ALICE)).among(name, "may_query")
        assert Grants(Caller(0, 0)).among(name, "may_query")


def test_a_class_is_read_once(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    written("a", 'may-query = ["alice"]')
    asked: list[str] = []
    load = classes.load
    monkeypatch.setattr(classes, "load", lambda name: asked.append(name) or load(name))
    grants = Grants(Caller.of(ALICE))
    assert all(grants.among("a", "may_query") for _ in range(3))
    assert not any(grants.among("gone", "may_query") for _ in range(3))
    assert asked == ["a", "gone"]
