"""launcher/asking.py: whose answers about a disk are believed."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("msgspec")

from userdisk import control
from userdisk.errors import UserdiskError
from userdisk.launcher import asking
from userdisk.launcher.instances import Known
from userdisk.launcher.spec import Spec, Status


def test_only_the_process_of_the_unit_is_believed(tmp_path: Path) -> None:
    """The path is what that process says: it may be the socket of somebody else's disk."""
    path = tmp_path / "control"
    status = Status(control=str(path), unit_pid=os.getpid())
    known = Known(Spec("ram", "one", "ram.one"), status, 0)
    with closing(control.Control({"stats": lambda request: {"units": {"a": 1}}}, path)):
        assert asking.stats(known) == {"units": {"a": 1}}
        for pid, said in ((os.getppid(), "another process answers"), (0, "does not serve now")):
            other = replace(known, status=replace(status, unit_pid=pid))
            with pytest.raises(UserdiskError, match=said):
                asking.stats(other)
            assert asking.all_stats([known, other]) == [(known, {"units": {"a": 1}})]
        with pytest.raises(UserdiskError, match="does not serve now"):
            asking.stats(replace(known, alive=False))
    with pytest.raises(UserdiskError, match="does not answer"):
        asking.stats(known)
