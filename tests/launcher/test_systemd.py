"""launcher/systemd.py: the unit files, also as systemd itself reads them."""

from __future__ import annotations

import os
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from userdisk.launcher import systemd

COMMAND = [sys.executable, "-P", "-m", "userdisk", "launcher", "run"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "systemd" / "user"


def read(path: Path) -> ConfigParser:
    parser = ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(path)
    return parser


def test_install_and_uninstall(config: Path) -> None:
    todo = systemd.install(COMMAND, user=True)
    assert all(line.startswith("systemctl --user ") for line in todo)
    names = sorted(os.listdir(config))
    assert names == ["userdisk-launcher.service", "userdisk-launcher.socket"]
    service, socket = (read(config / name) for name in names)
    assert service["Service"]["KillMode"] == "process", "disks go on when the service ends"
    assert service["Service"]["Type"] == "notify"
    assert service["Service"]["ExecStart"].endswith("-m userdisk launcher run")
    assert socket["Socket"]["ListenStream"] == "%t/userdisk/launcher/api"
    assert socket["Socket"]["SocketMode"] == "0600"
    systemd.install(COMMAND, user=True)
    systemd.uninstall(user=True)
    systemd.uninstall(user=True)
    assert os.listdir(config) == []


def test_for_the_system_everybody_may_connect() -> None:
    (service, _), (path, socket) = systemd.files(["/opt/100% sure/$x"], user=False).items()
    assert service == Path("/etc/systemd/system/userdisk-launcher.service")
    assert path.name == "userdisk-launcher.socket" and "SocketMode=0666" in socket
    text = systemd.files(["/opt/100% sure/$x"], user=False)[service]
    assert "ExecStart='/opt/100%% sure/$$x'\n" in text
