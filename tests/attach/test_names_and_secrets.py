"""Attached disks whose names are not UTF-8, whose secrets stay secret, and what they are called."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.attach.conftest import Desk
from tests.cli.serving import LIMIT, serving

_SECRET = "dont-tell-anyone1"


def test_a_name_that_is_not_utf8(desk: Desk) -> None:
    image = desk.folder / "b\udce4d.img"
    image.touch()
    os.truncate(image, 1 << 20)
    device = desk.attach(str(image))
    assert desk.listed()[0]["device"] == str(device)
    Path(device).write_bytes(b"x" * 512)
    eject = desk.command("eject", device)
    said = subprocess.check_output(eject, env=desk.environment, timeout=LIMIT)
    assert said == os.fsencode(f"{image} is ejected\n")
    assert image.read_bytes()[:512] == b"x" * 512


def test_a_unit_is_not_a_name_but_one_is_said(desk: Desk) -> None:
    desk.attach("ram:1M")
    status, line = desk.refused("eject", "ram:1M")
    assert status == 2
    assert line == (
        "userdisk: ram:1M: no disk of userdisk is attached there; a unit is ejected by its disk's"
        " name, here ram (see userdisk list)"
    )
    desk.attach("ram:1M")
    _, line = desk.refused("eject", "ram:1M")
    assert "here ram or ram-2 (see" in line
    desk.userdisk("eject", "ram")
    desk.userdisk("eject", "ram-2")


def test_a_disk_that_cannot_be_mounted_is_named(desk: Desk) -> None:
    status, line = desk.refused("mount", "ram:1M", desk.mountpoint)
    assert status == 2 and line.startswith("userdisk: ram:1M: the disk is blank; make a file")
    assert desk.leftovers() == []


def test_chap_of_an_iscsi_disk(desk: Desk) -> None:
    """Of two processes: their command lines, their log, and what is kept of them."""
    hidden = desk.folder / "hidden"
    hidden.mkdir()
    secrets = hidden / "chap"
    secrets.write_text(f"user ada {_SECRET}\n")
    secrets.chmod(0o600)
    with serving("ram:1M", "--chap-file", secrets) as server:
        url = f"{server.urls[0]}?chap-file={secrets}"
        done = desk.run("-vv", "attach", url)
        assert done.returncode == 0, done.stderr
        said = [done.stderr.encode(), desk.userdisk("list", "--json").encode()]
        said += [desk.userdisk("list").encode()]
        for pid in desk.processes():
            for name in ("cmdline", "environ"):
                said.append(Path(f"/proc/{pid}/{name}").read_bytes())
        for folder, _, names in os.walk(desk.state):
            files = [Path(folder) / name for name in names if Path(folder).name != "fuse"]
            said += [file.read_bytes() for file in files if file.is_file()]
        desk.userdisk("eject", done.stdout.strip())
    assert len(said) > 6
    for text in said:
        assert _SECRET.encode() not in text
