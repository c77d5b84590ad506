"""Whom a client believes: root's launcher and this user's, not whoever has made the socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from userdisk.errors import UserdiskError
from userdisk.launcher import serving, shims
from userdisk.launcher.client import Client
from userdisk.launcher.spec import Spec


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder that nobody has made yet."""
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def strangers(run: Path) -> Iterator[None]:
    """A launcher's socket on which another user's process listens."""
    if os.getuid() != 0:
        pytest.skip("only root can be another user")
    (run / "launcher").mkdir(parents=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        listener.bind(str(run / "launcher/api"))
        child = os.fork()
        if not child:
            try:
                os.setuid(65534)
                listener.listen()  # the kernel keeps who does that
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        yield


@pytest.mark.usefixtures("strangers")
def test_another_users_launcher_is_not_asked() -> None:
    with pytest.raises(UserdiskError, match="/run/launcher/api: another user's process answers"):
        Client()


@pytest.mark.parametrize("folder", ["", "launcher", "instances"])
def test_nothing_is_made_where_others_may_write(run: Path, folder: str) -> None:
    (run / folder).mkdir(parents=True)
    (run / folder).chmod(0o777)
    if folder != "instances":
        with pytest.raises(UserdiskError, match="nobody else may write there"):
            serving._listen(run / "launcher/api")
        assert not (run / "launcher/api").exists()
    if folder != "launcher":
        given = Spec("ram", "one", "ram.one")
        with pytest.raises(UserdiskError, match="nobody else may write there"):
            shims.start(given)
        assert not (run / "instances/ram.one").exists()
