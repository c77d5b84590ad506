"""`userdisk scsitool` as people run it: output, exit status, and what they get wrong."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.serving import serving

_SLOW = """
import time
from userdisk import StorageUnit
class Disk(StorageUnit):
    block_count = 2048
    def read(self, lba, blocks, fua): time.sleep(600)
    def write(self, lba, data, fua): pass
"""
LIMIT = 60  # seconds for anything that should take one
SECRET = "correct-horse-12"


def scsitool(
    *arguments: str | Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "userdisk", "scsitool", *map(str, arguments)],
        env=os.environ | (environment or {}), cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=False, timeout=LIMIT,
    )  # fmt: skip


def said(*arguments: str | Path) -> str:
    done = scsitool(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def wrong(status: int, *arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    """What the one line of the error says."""
    done = scsitool(*arguments, environment=environment)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert done.stderr.startswith("userdisk: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr[len("userdisk: ") : -1]


def test_a_page_in_three_forms() -> None:
    table = said("vpdb2", "ram:1M").splitlines()
    assert table[9] == "| LBPU=1 |LBPWS=1 |LBPWS1=1|         LBPRZ=1          |ANC_SU=0|  DP=0  |"
    lines = said("-c", "vpdb2", "ram:1M")
    assert lines == said("vpdb2", "ram:1M", "-c")
    assert lines.splitlines()[2:4] == ["PAGE CODE (B2h)=178 (0xb2)", "PAGE LENGTH (n-3)=4"]
    (page,) = json.loads(said("--json", "vpdb2", "ram:1M"))
    assert {"name": "LBPWS10", "bits": 1, "value": 1} in page["fields"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("luns", "LUN LIST LENGTH (n-7)=8"),
        ("inquiry", "T10 VENDOR IDENTIFICATION=userdisk"),
        ("vpd0", "SUPPORTED VPD PAGE LIST=00 80 83 86 8f b0 b1 b2"),
        ("vpd80", "PAGE CODE (80h)=128 (0x80)"),
        ("vpd83", "IDENTIFIER TYPE=3"),
        ("vpdb0", "MAXIMUM TRANSFER LENGTH=16384 (0x4000)"),
        ("mode-sense", "QUEUE ALGORITHM MODIFIER=1"),
        ("mode-caching", "WCE=0"),
        ("modes", "SUBPAGE CODE=1"),
        ("logs", "PARAMETER CODE=3"),
        ("capacity", "RETURNED LOGICAL BLOCK ADDRESS=2047 (0x7ff)"),
        ("capacity16", "LBPME=1"),
        ("opcodes", "COMMAND=UNMAP"),
        ("sense", "ADDITIONAL SENSE CODE=41 (0x29)"),
        ("pr", "WR_EX_RO=1"),
        ("lba-status", "PROVISIONING STATUS=deallocated"),
        ("lint", "RULE=reservations-kept"),
    ],
)
def test_every_command(command: str, expected: str) -> None:
    assert expected in said("-c", command, "ram:1M").splitlines()


def test_what_commands_take() -> None:
    assert "MEDIUM ROTATION RATE=1" in said("-c", "vpd", "ram:1M", "characteristics")
    assert said("-c", "vpd", "ram:1M", "B1h") == said("-c", "vpd", "ram:1M", "0xb1")
    changeable = said("-c", "mode-caching", "tests/kit/units.py:RamUnit", "--values", "changeable")
    assert "WCE=1" in changeable
    assert "COUNTER=0" in said("-c", "logs", "ram:1M", "2")
    assert "PRGENERATION=0" in said("-c", "pr", "ram:1M", "keys")
    run = said("-c", "lba-status", "ram:1M", "--lba", "8", "--blocks", "16")
    assert run.splitlines()[:2] == ["LOGICAL BLOCK ADDRESS=8", "NUMBER OF LOGICAL BLOCKS=16 (0x10)"]
    assert said("devpath", "/dev/../dev/null") == "/dev/null\n"


def test_raw(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    (tmp_path / "block").write_bytes(b"written!" * 64)
    write = ("raw", image, "2a 00 00000003 00 0001 00", "--data-out", tmp_path / "block")
    assert "WRITE(10) may change the device; add --write" in wrong(2, *write)
    assert image.read_bytes() == bytes(1 << 20)
    assert said("-c", *write, "--write") == ""
    assert image.read_bytes()[3 * 512 : 4 * 512] == b"written!" * 64
    command = ["28", "00", "00", "00", "00", "03", "00", "00", "01", "00"]
    read = said(
        "raw", image, *command, "--read", "512", "--output", tmp_path / "out", "-c",
    )  # fmt: skip
    assert (tmp_path / "out").read_bytes() == b"written!" * 64
    assert read.startswith("DATA=77 72 69 74 74 65 6e 21 77")


def test_unmap(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"x" * (1 << 20))
    assert "add --write" in wrong(2, "unmap", image, "--blocks", "8")
    assert "needs a number of blocks" in wrong(2, "unmap", image, "--blocks", "0", "--write")
    said("unmap", image, "--lba", "8", "--blocks", "1024", "--write")
    data = image.read_bytes()
    assert data == b"x" * 4096 + bytes(1024 * 512) + b"x" * ((1 << 20) - 4096 - 1024 * 512)
    assert "the disk has 2048" in wrong(2, "unmap", image, "--blocks", "4096", "--write")


def test_check_condition_is_status_1_and_words() -> None:
    assert wrong(1, "vpd", "ram:1M", "c5") == (
        "INQUIRY: CHECK CONDITION: illegal request, invalid field in CDB (5/24/00),"
        " wrong is byte 2 of the CDB"
    )


def test_explain(tmp_path: Path) -> None:
    assert said("explain", "2a", "08", "00001000", "00", "0008", "00") == (
        "WRITE(10), FUA 1, LOGICAL BLOCK ADDRESS 4096, TRANSFER LENGTH 8\n"
    )
    session = tmp_path / "session.txt"
    session.write_text("> 46 80" + " 00" * 46 + "\n< 26 80" + " 00" * 46 + "\n")
    assert said("explain", session) == "0.000000 > logout\n0.000000 < logout: done\n"
    assert json.loads(said("explain", session, "--json"))[0]["rows"][1]["WHAT"] == "logout: done"
    session.write_text("hello")
    assert "session.txt: line 1: neither pcap nor" in wrong(2, "explain", session)
    assert "not bytes in hexadecimal" in wrong(2, "explain", "hello")


def test_lint_says_what_is_missed_and_why() -> None:
    assert said("lint", "tests/kit/units.py:ThickRamUnit").splitlines()[:2] == [
        "warning: the disk is not thin [no-unmap]",
        "    Linux, Windows, VMware: deleted space is never given back: no discard, no TRIM",
    ]


@pytest.fixture
def protected(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    secrets = tmp_path / "chap"
    secrets.write_text(f"user alice {SECRET}\n")
    secrets.chmod(0o600)
    with serving("ram:1M", "--chap-file", secrets) as server:
        yield server.urls[0], secrets


def test_over_iscsi_with_a_secret(protected: tuple[str, Path], tmp_path: Path) -> None:
    url, secrets = protected
    as_alice = url.replace("iscsi://", "iscsi://alice@")
    assert "LBPME=1" in said("-c", "capacity16", f"{as_alice}?chap-file={secrets}")
    done = scsitool("luns", as_alice, environment={"USERDISK_ISCSI_SECRET": SECRET})
    assert done.returncode == 0
    for environment, words in (
        ({}, "the secret of alice is missing"),
        ({"USERDISK_ISCSI_SECRET": "wrong-secret-12"}, "authentication failed"),
    ):
        assert words in wrong(2, "luns", as_alice, environment=environment)
    assert wrong(2, "luns", url)
    assert "no user bob" in wrong(2, "luns", f"{as_alice.replace('alice', 'bob')}"
                                             f"?chap-file={secrets}")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("inquiry", "/dev/null"), "/dev/null: not a SCSI device"),
        (("inquiry", "/dev/sg99"), "/dev/sg99: there is no such device"),
        (("inquiry", "nowhere.img: there is no such image or device"), "nowhere.img"),
        (("inquiry", "iscsi://127.0.0.1:1/iqn.2026-11.org.example:a/0"), "Connection refused"),
        (("inquiry", "iscsi://nowhere"), "not of the form iscsi://"),
        (("inquiry", "iscsi://a:b@127.0.0.1/iqn.x/0"), "the secret goes in a file"),
        (("vpd", "ram:1M", "nonsense"), "a page is a hexadecimal number such as b0, or one of"),
        (("logs", "ram:1M", "7f"), "7f: a log page is a hexadecimal number up to 3f"),
        (("pr", "ram:1M", "nonsense"), "'nonsense' is not one of 'keys', 'reservation'"),
        (("raw", "ram:1M", "zz"), "not bytes in hexadecimal"),
        (("raw", "ram:1M", "00" * 6, "--data-out", "nowhere"), "--data-out nowhere: No such file"),
        (("-c", "--json", "luns", "ram:1M"), "use one of them"),
        (("lba-status", "ram:1M", "--lba", "4096"), "the disk has 2048"),
        (("nonsense", "ram:1M"), "No such command"),
    ],
)
def test_what_is_wrong(arguments: tuple[str, ...], words: str) -> None:
    assert words.lower() in wrong(2, *arguments).lower()


def test_a_target_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        url = f"iscsi://127.0.0.1:{port}/iqn.2026-11.org.example:a/0"
        began = time.monotonic()
        words = wrong(2, "inquiry", url, "--timeout", "0.3")
    assert words.endswith("no answer in 0.3 seconds")
    assert time.monotonic() - began < LIMIT / 2


def test_a_unit_that_hangs(tmp_path: Path) -> None:
    unit = tmp_path / "slow.py"
    unit.write_text(_SLOW)
    read = ("raw", f"{unit}:Disk", "28 00 00000000 00 0001 00", "--read", "512")
    assert wrong(2, *read, "--timeout", "0.3").endswith("no answer in 0.3 seconds")


def test_a_target_that_hangs_in_a_command(tmp_path: Path) -> None:
    unit = tmp_path / "slow.py"
    unit.write_text(_SLOW)
    with serving(f"{unit}:Disk") as server:
        read = ("raw", server.urls[0], "28 00 00000000 00 0001 00", "--read", "512")
        words = wrong(2, *read, "--timeout", "0.3")
    assert words == f"{server.urls[0]}: no answer in 0.3 seconds"
