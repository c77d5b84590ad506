"""launcher/spec.py: what is written comes back; what is damaged is said."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from userdisk.errors import UserdiskError
from userdisk.launcher import spec
from userdisk.launcher.spec import Attach, Limits, Policy, Restart, Spec, State, Status

SPEC = Spec(
    "rawdisk",
    "/tmp/a b.img",
    "rawdisk.x",
    program=("prog", "-f", 'a "quoted"\n\\ -name', "{socket}"),
    arguments=("--", "é"),
    options={"size": "1M", "thick": True},
    environment={"A": "b"},
    limits=Limits(1 << 30, 0.5),
    policy=Policy(Restart.ALWAYS, 1.0, 2.0, 3, 4.0),
    attach=Attach(True, "/mnt", ("ro",), "ext4", 1, 1000),
    initiators=("iqn.2026-11.x:y",),
)
STATUS = Status(State.RUNNING, 1.5, 7, 8, 9, exit_status=-9, mountpoints=("/mnt",))


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    spec.write(tmp_path, spec.SPEC, SPEC)
    spec.write(tmp_path, spec.STATUS, STATUS)
    assert spec.read_spec(tmp_path) == SPEC
    assert spec.read_status(tmp_path) == STATUS
    assert (tmp_path / spec.SPEC).stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == [spec.SPEC, spec.STATUS]


def test_a_later_version_may_say_more(tmp_path: Path) -> None:
    spec.write(tmp_path, spec.STATUS, STATUS)
    path = tmp_path / spec.STATUS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": 1}))
    assert spec.read_status(tmp_path) == STATUS


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "x"}', '"x"', "1", "[" * 100_000])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / spec.SPEC).write_text(text)
    with pytest.raises(UserdiskError, match=spec.SPEC):
        spec.read_spec(tmp_path)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec.write(tmp_path, spec.STATUS, STATUS)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        spec.write(tmp_path, spec.STATUS, Status())
    assert spec.read_status(tmp_path) == STATUS
    assert os.listdir(tmp_path) == [spec.STATUS]
