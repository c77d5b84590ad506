"""launcher/confinement.py: which groups are made where, by control groups that are plain files."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import pytest

from userdisk.errors import UsageError
from userdisk.launcher.confinement import Confinement, find_user
from userdisk.launcher.spec import Limits

LIMITS = Limits(memory=64 << 20, cpu=0.25)
LEAF = "0::/a.slice/b.service/userdisk-launcher\n"


def how(confinement: Confinement) -> dict[str, object]:
    """What the first moment of a process is told."""
    command = confinement.command(["prog", "-x"])
    assert command[:3] == [sys.executable, "-I", "-S"] and command[5:] == ["prog", "-x"]
    found: dict[str, object] = json.loads(command[4])
    return found


def unified(mounted: Path, *, controllers: str = "cpu memory", active: str = "") -> Path:
    """A group of version 2, with the file that every group has."""
    here = mounted / "a.slice" / "b.service"
    here.mkdir(parents=True)
    (here / "cgroup.controllers").write_text(controllers)
    (here / "cgroup.subtree_control").write_text(active)
    return here


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is written, by the path: a group's files appear with it, which plain folders cannot."""
    written: dict[str, str] = {}

    def write(path: Path, value: str) -> None:
        written[str(path)] = value

    monkeypatch.setattr("userdisk.launcher.confinement._write", write)
    return written


def test_without_limits_nothing_is_confined(tmp_path: Path) -> None:
    confinement = Confinement(Limits(), "", "x", mounted=tmp_path, own="0::/a.slice/b.service\n")
    assert confinement.command(["prog"]) == ["prog"]
    assert confinement.environment({"A": "b"}) == {"A": "b"} and confinement.note == ""
    confinement.close()


def test_version_2(tmp_path: Path, files: dict[str, str]) -> None:
    here = unified(tmp_path, active="memory")
    confinement = Confinement(LIMITS, "", "c.n", mounted=tmp_path, own=LEAF)
    group = here / "userdisk-c.n"
    assert files == {
        f"{here}/cgroup.subtree_control": "+cpu",
        f"{group}/memory.max": str(64 << 20),
        f"{group}/cpu.max": "25000 100000",
    }
    assert how(confinement) == {
        "procs": [f"{group}/cgroup.procs"],
        "limits": [],
        "json": False,
        "user": None,
    }
    confinement.close()
    assert not group.exists() and confinement.note == ""


def test_version_2_where_systemd_gives_no_group(tmp_path: Path, files: dict[str, str]) -> None:
    unified(tmp_path)
    own = "0::/a.slice/b.service\n"
    given = Confinement(LIMITS, "", "c.n", mounted=tmp_path, own=own, systemd=tmp_path)
    assert how(given)["procs"] == [] and files == {}
    assert given.note == (
        "its memory limit holds for each of its processes, and its CPU limit does not hold,"
        " without a control group: systemd gives it none (it must be 254 or later, and start the"
        " launcher)"
    )


def test_version_2_without_systemd(tmp_path: Path, files: dict[str, str]) -> None:
    here = unified(tmp_path)
    above = here.parent
    none = tmp_path / "none"
    own = "0::/a.slice/b.service\n"
    (above / "cgroup.controllers").write_text("cpu")
    (tmp_path / "cgroup.controllers").write_text("cpu memory")
    (tmp_path / "cgroup.subtree_control").write_text("cpu")
    given = Confinement(LIMITS, "", "c.n", mounted=tmp_path, own=own, systemd=none)
    assert how(given)["procs"] == [f"{tmp_path}/userdisk-c.n/cgroup.procs"]
    assert files[f"{tmp_path}/cgroup.subtree_control"] == "+memory" and given.note == ""
    given.close()
    top = Confinement(LIMITS, "", "c.n", mounted=tmp_path, own="0::/\n", systemd=none)
    assert how(top)["procs"] == [f"{tmp_path}/userdisk-c.n/cgroup.procs"]
    top.close()


def test_version_2_beside_version_1(tmp_path: Path, files: dict[str, str]) -> None:
    here = unified(tmp_path / "unified")
    (here / "userdisk-launcher").mkdir()
    given = Confinement(LIMITS, "", "c.n", mounted=tmp_path, own=f"4:pids:/x\n{LEAF}")
    assert how(given)["procs"] == [f"{here}/userdisk-c.n/cgroup.procs"]
    given.close()


def test_a_group_that_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = unified(tmp_path)

    def write(path: Path, value: str) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("userdisk.launcher.confinement._write", write)
    given = Confinement(Limits(cpu=0.5), "", "c.n", mounted=tmp_path, own=LEAF)
    assert given.note == (
        f"its CPU limit does not hold, without a control group: {here}: Device or resource busy"
    )
    (here / "cgroup.controllers").write_text("cpu")
    given = Confinement(Limits(memory=64 << 20), "", "c.n", mounted=tmp_path, own=LEAF)
    assert given.note.endswith(f"without a control group: {here} has no controller for it")


def test_version_1(tmp_path: Path, files: dict[str, str]) -> None:
    for controller in ("memory/m", "cpu,cpuacct/c"):
        (tmp_path / controller).mkdir(parents=True)
    own = "4:memory:/m\n1:cpu,cpuacct:/c\n0::/none\n"
    confinement = Confinement(LIMITS, "", "c.n", mounted=tmp_path, own=own)
    memory, cpu = tmp_path / "memory/m/userdisk-c.n", tmp_path / "cpu,cpuacct/c/userdisk-c.n"
    assert files == {
        f"{memory}/memory.limit_in_bytes": str(64 << 20),
        f"{cpu}/cpu.cfs_period_us": "100000",
        f"{cpu}/cpu.cfs_quota_us": "25000",
    }
    assert how(confinement)["procs"] == [f"{memory}/cgroup.procs", f"{cpu}/cgroup.procs"]
    confinement.close()
    assert not memory.exists() and not cpu.exists()


def test_without_groups_memory_is_a_resource_limit(tmp_path: Path) -> None:
    confinement = Confinement(LIMITS, "", "c.n", mounted=tmp_path, own="0::/a\n1:name=systemd:/\n")
    assert how(confinement)["limits"] == [
        [resource.RLIMIT_DATA, 64 << 20],
        [resource.RLIMIT_STACK, 1 << 20],
    ]
    assert "its CPU limit does not hold, without a control group: " in confinement.note


def test_a_group_that_lacks_a_file_is_taken_back(tmp_path: Path) -> None:
    (tmp_path / "memory/m").mkdir(parents=True)  # plain folders have no memory.limit_in_bytes
    confinement = Confinement(Limits(memory=64 << 20), "", "x", mounted=tmp_path, own="4:memory:/m")
    assert how(confinement)["procs"] == [] and os.listdir(tmp_path / "memory/m") == []


def test_kills_for_memory_are_told_once(tmp_path: Path, files: dict[str, str]) -> None:
    here = unified(tmp_path)
    confinement = Confinement(LIMITS, "", "c.n", mounted=tmp_path, own=LEAF)
    events = here / "userdisk-c.n" / "memory.events"
    assert not confinement.out_of_memory()
    events.write_text("low 0\nhigh 0\noom 3\noom_kill 1\noom_group_kill 0\n")
    assert confinement.out_of_memory() and not confinement.out_of_memory()
    events.write_text("oom_kill 2\n")
    assert confinement.out_of_memory()


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(memory=1 << 20), "memory limit 1048576: must be at least"),
        (Limits(cpu=0.001), "CPU limit 0.001: must be from 0.01"),
        (Limits(cpu=1e9), "CPU limit 1e"),
        (Limits(cpu=float("nan")), "CPU limit nan"),
    ],
)
def test_limits_that_cannot_be_meant(limits: Limits, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Confinement(limits, "", "x", own="")


def test_who_cannot_be_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no-such-user: there is no such user"):
        find_user("no-such-user")
    with pytest.raises(UsageError, match="there is no such user"):
        find_user("9" * 30)
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    with pytest.raises(UsageError, match="user root: only root's launcher"):
        find_user("root")


def test_oneself_is_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert find_user("") is None and find_user("root") is None and find_user("0") is None
    other = find_user("nobody")
    assert other is not None and other.uid != 0 and other.gid in other.groups
