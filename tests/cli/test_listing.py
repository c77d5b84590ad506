"""`userdisk list` and the names that `resize` takes: what processes say of themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli.serving import serving
from userdisk import control
from userdisk.attach import eject
from userdisk.cli import listing
from userdisk.cli.main import main
from userdisk.cli.resize import _find
from userdisk.errors import UsageError, UserdiskError

MIB = 1 << 20
pytestmark = pytest.mark.skipif(not control.available(), reason="needs SO_PEERCRED (Linux)")

Show = Callable[..., None]


def unit(spec: str, *names: str, urls: tuple[str, ...] = (), **more: object) -> dict[str, Any]:
    found = {"unit": spec, "names": list(names), "urls": list(urls), "size": 8 * MIB}
    return {**found, "block_length": 512, "read_only": False, **more}


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Has `list` and `resize` see processes that say this, a dict each; None does not answer."""

    def show(*infos: dict[str, Any] | None) -> None:
        def ask(path: Path, request: Mapping[str, object], timeout: float) -> Any:
            assert request == {"verb": "info"} and timeout < 60
            info = infos[int(path.name)]
            if info is None:
                raise TimeoutError
            return info

        monkeypatch.setattr(control, "processes", lambda: [Path(str(n)) for n in range(len(infos))])
        monkeypatch.setattr(control, "ask", ask)
        monkeypatch.setattr(eject, "entries", list)

    return show


SERVED = {
    "pid": 11,
    "folder": "/srv",
    "units": [
        unit("disk.img", "disk.img", "first", urls=("nbd://127.0.0.1/first",)),
        unit("ram:8M", "ram", read_only=True),
    ],
}
ATTACHED = {
    "pid": 12,
    "folder": "/home",
    "attached": "disk.img",
    "unit_pid": 13,
    "units": [unit("disk.img", "disk.img", "/dev/loop7", "/mnt")],
}
BEHIND = {
    "pid": 13,
    "folder": "/home",
    "units": [unit("disk.img", "iqn.2026-11.org.example:a", urls=("iscsi://127.0.0.1/a/0",))],
}


def test_who_attaches_a_disk_stands_for_the_process_behind_it(show: Show) -> None:
    for order in ((SERVED, ATTACHED, BEHIND), (BEHIND, None, ATTACHED, SERVED)):
        show(*order)
        found = sorted(listing.running(), key=lambda disk: (disk.pid, disk.number))
        assert [(disk.pid, disk.number) for disk in found] == [(11, 0), (11, 1), (12, 0)]
        assert found[2].names[1] == found[2].handle == "/dev/loop7"
        assert found[2].names[-1] == "iqn.2026-11.org.example:a"
        assert [disk.attached for disk in found] == ["", "", "disk.img"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("first", (11, 0)),
        ("ram", (11, 1)),
        ("ram:8M", (11, 1)),
        ("nbd://127.0.0.1/first", (11, 0)),
        ("/dev/loop7", (12, 0)),
        ("/mnt", (12, 0)),
        ("iqn.2026-11.org.example:a", (12, 0)),
        ("iscsi://127.0.0.1/a/0", (12, 0)),
    ],
)
def test_names_that_stand_for_one(show: Show, name: str, found: tuple[int, int]) -> None:
    show(SERVED, ATTACHED, BEHIND)
    disk = _find(name)
    assert (disk.pid, disk.number) == found


def test_a_name_that_stands_for_several(show: Show) -> None:
    show(SERVED, ATTACHED, BEHIND)
    with pytest.raises(UsageError) as caught:
        _find("disk.img")
    assert str(caught.value) == (
        "disk.img: stands for 2 disks; name one: nbd://127.0.0.1/first, /dev/loop7"
    )
    many = [SERVED | {"pid": pid} for pid in range(100, 160)]
    show(*many)
    with pytest.raises(UsageError, match="60 disks") as caught:
        _find("ram")
    assert len(str(caught.value)) < 300


def test_a_file_goes_before_a_name(
    show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk.img").touch()
    (tmp_path / "link").symlink_to("disk.img")
    monkeypatch.chdir(tmp_path)
    show(SERVED, ATTACHED, SERVED | {"pid": 14, "folder": str(tmp_path)})
    for name in ("disk.img", "link", "./disk.img", str(tmp_path / "disk.img")):
        assert _find(name).pid == 14


def test_one_that_nobody_has(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    show(SERVED, None)
    with pytest.raises(UserdiskError, match="nothing: no running userdisk serve, attach or mount"):
        _find("nothing")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserdiskError, match=r"nothing: .* attached disks need root"):
        _find("nothing")


def test_the_table(show: Show, capsys: pytest.CaptureFixture[str]) -> None:
    show(SERVED, ATTACHED, BEHIND)
    assert main(["list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME      DEVICE  SIZE   UNIT      MOUNTED ON  STATUS",
        "disk.img  -       8 MiB  disk.img  -           served at nbd://127.0.0.1/first (pid 11)",
        "ram       -       8 MiB  ram:8M    -           served (pid 11), read-only",
    ]


def test_without_root_only_what_is_served_is_shown(
    show: Show, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden() -> list[eject.Entry]:
        raise AssertionError

    show(SERVED)
    monkeypatch.setattr(eject, "entries", forbidden)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["list", "--json"]) == 0
    names = [record["name"] for record in json.loads(capsys.readouterr().out)]
    assert names == ["disk.img", "ram"]
    show()
    assert main(["list"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("this user serves nothing; sudo shows")


def test_a_real_server_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("USERDISK_RUN", str(tmp_path / "run"))
    options = ("--each", "--nbd=127.0.0.1:0", "--export", "a", "--export", "b/c", "--read-only")
    with serving("ram:1M", "ram:2M", *options, folder=tmp_path) as server:
        assert main(["list", "--json"]) == 0
        one, two = json.loads(capsys.readouterr().out)
        printed = server.text.split()
        assert all(url in printed for url in (*one["urls"], *two["urls"]))
        assert [len(each["urls"]) for each in (one, two)] == [2, 2]
        assert two["urls"][1].endswith("/b%2Fc")
        assert (one["pid"], one["status"], one["read_only"]) == (server.process.pid, "served", True)
        assert (two["size"], two["block_length"], two["unit"]) == (2 * MIB, 512, "ram:2M")
        assert two["names"][0] == two["name"] == "ram" and "b/c" in two["names"]
        assert (two["devices"], two["mountpoints"]) == ([], [])
    assert main(["list"]) == 0
    assert "nothing is attached or served" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["attach", "listing", "resize"])
def test_it_loads_where_linux_is_not(module: str) -> None:
    code = f"import sys; sys.modules['fcntl'] = None; import userdisk.cli.{module}"
    subprocess.run([sys.executable, "-c", code], check=True)
