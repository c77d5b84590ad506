"""Leftovers without real devices: sessions of Linux's initiator, mounts that change meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from userdisk.attach import state
from userdisk.attach.mounts import Mount
from userdisk.doctor import leftovers
from userdisk.errors import UserdiskError

_OURS = "iqn.2026-11.io.userdisk:disk"


def _session(folder: Path, name: str, target: str | None, condition: str) -> None:
    (folder / name).mkdir()
    if target is not None:
        (folder / name / "targetname").write_text(target + "\n")
    (folder / name / "state").write_text(condition + "\n")


def test_sessions_that_wait_for_a_server(tmp_path: Path) -> None:
    _session(tmp_path, "session1", _OURS, "FAILED")
    _session(tmp_path, "session2", _OURS + "2", "LOGGED_IN")
    _session(tmp_path, "session3", "iqn.2001-05.com.example:other", "FAILED")
    _session(tmp_path, "session4", None, "FAILED")
    (found,) = leftovers.sessions(tmp_path)
    assert (found.kind, found.name) == ("iSCSI session", _OURS)
    assert "(failed)" in found.says and found.advice.endswith(f"iscsiadm -m node -T {_OURS} -u")
    assert found.remove is None
    assert list(leftovers.sessions(tmp_path / "nowhere")) == []


@pytest.mark.parametrize("change", ["it lives", "it has a record"])
def test_a_mount_that_changed_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path))
    folder = state.Folder(state.root() / "disk")
    folder.mount.mkdir(parents=True)
    mount = Mount("0:99", str(folder.mount), "fuse.userdisk", "userdisk")
    monkeypatch.setattr(leftovers.mounts, "mounts", lambda: [mount])
    monkeypatch.setattr(leftovers.fuse_loop, "devices", lambda path: [])
    monkeypatch.setattr(leftovers, "is_dead", lambda path: True)
    (found,) = (each for each in leftovers._mounts() if each.kind == "mount")
    if change == "it lives":
        monkeypatch.setattr(leftovers, "is_dead", lambda path: False)
    else:
        folder.write(state.own_record("ram:1M", "fuse_loop", ""))
    assert found.remove is not None
    with pytest.raises(UserdiskError, match="changed meanwhile; look again"):
        found.remove()
    assert folder.mount.is_dir()
