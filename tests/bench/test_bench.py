"""The benchmark itself, on small disks for short times; what it measures here means nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench.errors import BenchError
from bench.measure import blkload
from bench.servers import Setup

from bench import hotspots, programs

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="the benchmark is for Linux"),
    pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc"),
    pytest.mark.skipif(not programs.find("tgtd"), reason="needs tgt"),
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: tgtd wants it"),
]


def _bench(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench.run", "--quick", "--size", "16", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _left() -> set[str]:
    """Folders that benchmarks have made."""
    return {path.name for path in Path("/dev/shm").glob("userdisk-bench-*")}


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_rows_of_each_kind(tmp_path: Path) -> None:
    before = _left()
    rows = ["read-32", "write-1", "connections-8", "beside", "digest-write-32"]
    json_file = tmp_path / "figures.json"
    process = _bench(
        "--rows", ",".join([*rows, "start"]), "--seconds", "0.1", "--json", str(json_file)
    )
    out, error = process.communicate(timeout=100)
    assert (process.returncode, error) == (0, "")
    assert "served by Python 3." in out
    figures = json.loads(json_file.read_text())
    assert sorted(figures["rows"]) == sorted([*rows, "start"])
    for row in rows:
        for name, rounds in figures["rows"][row].items():
            assert len(rounds) == 1
            assert rounds[0]["iops"] > 0, (row, name)
            assert rounds[0]["server_cpu"] > 0, (row, name)
    for name, (start,) in figures["rows"]["start"].items():
        assert 1 < start["idle_mib"] < 200, name
        assert start["start_s"] > 0
    assert {goal["row"] for goal in figures["goals"]} == {*rows, "start"}
    assert _left() <= before


def test_a_stop_leaves_nothing_behind() -> None:
    before = _left()
    process = _bench("--rows", "read-32", "--seconds", "30")
    deadline = time.monotonic() + 30
    while not _left() - before or not _children(process.pid):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    children = _children(process.pid)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    deadline = time.monotonic() + 5
    assert process.returncode == 130
    assert error == "bench: interrupted\n"
    assert _left() <= before
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_load_notices_wrong_data(tmp_path: Path) -> None:
    programs.build()
    with Setup(sys.executable, tmp_path, 16 * MIB).start("userdisk") as server:
        blkload(server, "rr", 4096, 8, 0.05, "ramp=0")
        with pytest.raises(BenchError, match=r'"mismatches": [1-9]'):
            blkload(server, "rr", 4096, 8, 0.05, "ramp=0", "verify")
        blkload(server, "fill", MIB, 4, 0)
        for words in (["verify"], ["verify", "digest"]):
            assert blkload(server, "rr", 4096, 8, 0.05, "ramp=0", *words)["operations"] > 0


def test_hotspots(capsys: pytest.CaptureFixture[str]) -> None:
    assert hotspots.main(["read-32", "--seconds", "0.5"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"100\.0 % +\| portal\.py _serve", out)  # all of them, with what it calls


def test_the_load_speaks_nbd(tmp_path: Path) -> None:
    server = shutil.which("qemu-nbd")
    if server is None:
        pytest.skip("needs qemu-utils")
    programs.build()
    image = Setup(sys.executable, tmp_path, 16 * MIB).image("disk.img", 16 * MIB)
    path = tmp_path / "socket"
    command = [server, "-f", "raw", "-k", str(path), "-x", "disk", "-t", str(image)]
    with subprocess.Popen(command) as process:
        try:
            while not path.exists():
                assert process.poll() is None
                time.sleep(0.01)
            for words in (["fill", "1048576"], ["rr", "4096", "verify"], ["rw", "4096"]):
                load = [words[0], words[1], "8", "0.1", *words[2:]]
                done = subprocess.run(
                    [programs.BIN / "blkload", "nbd", f"unix:{path}@disk", *load],
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                assert done.returncode == 0, done.stderr
                assert json.loads(done.stdout)["operations"] > 0
        finally:
            process.terminate()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    setup = Setup(sys.executable, tmp_path, 16 * MIB)
    with pytest.raises(BenchError, match="nowhere"), setup.userdisk("nowhere.py:Disk"):
        pass
