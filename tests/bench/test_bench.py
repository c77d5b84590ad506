"""The benchmark itself, on small disks for short times; what it measures here means nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from bench.errors import BenchError
from bench.measure import blkload
from bench.servers import KINDS, Setup

from bench import hotspots, programs

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
REPLY = 0x0003E889045565A9  # to an NBD option

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
    rows += ["nbd-read-32", "nbd-write-1", "nbd-structured-32", "nbd-unix-write-32"]
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


@pytest.mark.parametrize("row", ["read-32", "nbd-read-1", "nbd-unix-write-32"])
def test_hotspots(row: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = os.sched_getaffinity(0)
    unit = f"unit.py {'write' if 'write' in row else 'read'}"
    for seconds in ("0.5", "2", "8"):  # samples are of CPU time, and a busy machine gives little
        assert hotspots.main([row, "--seconds", seconds]) == 0
        assert os.sched_getaffinity(0) == before
        out = capsys.readouterr().out
        # nearly all of them, with what it calls: some may be of the connection's first moment
        serving = re.search(r"(100\.0|9\d\.\d) % +\| portal\.py _serve", out)
        if serving and unit in out:
            return
    pytest.fail(out)


def _chunk(flags: int, kind: int, payload: bytes) -> bytes:
    return struct.pack(">IHHQI", 0x668E33EF, flags, kind, 0, len(payload)) + payload


NBD = ["nbdkit memory", "nbdkit memory unix", "nbdkit python", "qemu-nbd", "nbd-server"]


@pytest.mark.parametrize("kind", NBD)
def test_the_load_speaks_nbd(kind: str, tmp_path: Path) -> None:
    if KINDS[kind].missing is not None:
        pytest.skip(f"needs {KINDS[kind].missing}")
    programs.build()
    with Setup(sys.executable, tmp_path, 16 * MIB).start(kind) as server:
        for words in ([], ["structured"]):
            if words and kind == "nbd-server":  # has none
                with pytest.raises(BenchError, match="NBD_OPT_STRUCTURED_REPLY refused"):
                    blkload(server, "rr", 4096, 8, 0.05, *words)
                continue
            assert blkload(server, "fill", MIB, 4, 0, *words)["operations"] == 16
            for operation, length in (("rw", 4096), ("rr", 4096), ("sw", MIB), ("sr", MIB)):
                verify = [] if operation.endswith("w") else ["verify"]
                found = blkload(server, operation, length, 8, 0.1, "ramp=0", *words, *verify)
                assert found["operations"] > 0
                assert found["server_cpu_s"] > 0
    assert not list(tmp_path.glob("*.img"))


@pytest.mark.parametrize("words", [[], ["structured"]])
def test_the_load_notices_wrong_data_over_nbd(words: list[str], tmp_path: Path) -> None:
    if KINDS["nbdkit memory"].missing is not None:
        pytest.skip("needs nbdkit")
    programs.build()
    with (
        Setup(sys.executable, tmp_path, 16 * MIB).start("nbdkit memory") as server,
        pytest.raises(BenchError, match=r'"mismatches": [1-9]'),
    ):
        blkload(server, "rr", 4096, 8, 0.05, "ramp=0", "verify", *words)


@pytest.mark.parametrize(
    ("words", "answer", "says"),
    [
        ([], struct.pack(">IIQ", 0x67446698, 5, 0), '"errors": [1-9]'),
        ([], struct.pack(">IIQ", 0x67446698, 0, 9), "a reply to nothing"),
        ([], bytes(16), "not a reply"),
        (["structured"], struct.pack(">IIQ", 0x67446698, 0, 0), "a simple reply to a read"),
        (["structured"], _chunk(1, 1, struct.pack(">Q", 1 << 30) + bytes(8)), "is no part of"),
        (["structured"], _chunk(1, 2, struct.pack(">QI", 0, 1 << 30)), "is no part of"),
        (["structured"], _chunk(1, 0, b""), '"errors": [1-9]'),
        (["structured"], _chunk(1, 0x8001, struct.pack(">IH", 5, 0)), '"errors": [1-9]'),
        (["structured"], _chunk(1, 3, b""), "a chunk of type 3"),
    ],
)
def test_the_load_notices_wrong_answers(words: list[str], answer: bytes, says: str) -> None:
    """A server with a disk of one block, which gives this answer to every read."""
    programs.build()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=_answer_wrongly, args=(listener, answer))
        thread.start()
        command = [programs.BIN / "blkload", "nbd", f"127.0.0.1:{port}/", "rr", "4096", "1", "0"]
        done = subprocess.run(
            [*command, "ramp=0", *words], capture_output=True, text=True, check=False, timeout=20
        )
        thread.join()
    assert done.returncode == 1
    assert re.search(says, done.stdout + done.stderr)


def _answer_wrongly(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as received:
        connection.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        received.read(4)
        option = 0
        while option != 7:
            option, length = struct.unpack(">8xII", received.read(16))
            received.read(length)
            if option == 7:
                connection.sendall(struct.pack(">QIIIHQH", REPLY, option, 3, 12, 0, 4096, 1))
            connection.sendall(struct.pack(">QIII", REPLY, option, 1, 0))
        with contextlib.suppress(ConnectionError):
            while len(request := received.read(28)) == 28 and request[7] != 2:
                connection.sendall(answer)


def test_a_daemon_does_not_outlive_the_benchmark(tmp_path: Path) -> None:
    """nbd-server leaves the process that started it; its benchmark is killed here."""
    if KINDS["nbd-server"].missing is not None:
        pytest.skip("needs nbd-server")
    with subprocess.Popen(
        [sys.executable, "-c", _START_AND_WAIT, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        port = int(process.stdout.readline())
        socket.create_connection(("127.0.0.1", port)).close()
        process.kill()
    deadline = time.monotonic() + 10
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            socket.create_connection(("127.0.0.1", port)).close()
            assert time.monotonic() < deadline
            time.sleep(0.01)


_START_AND_WAIT = """
import sys
from pathlib import Path
from bench.servers import KINDS, Setup
with Setup(sys.executable, Path(sys.argv[1]), 1 << 24).start("nbd-server") as server:
    print(server.disk.target.partition(":")[2].partition("/")[0], flush=True)
    sys.stdin.read()
"""


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    setup = Setup(sys.executable, tmp_path, 16 * MIB)
    with pytest.raises(BenchError, match="nowhere"), setup.userdisk("nowhere.py:Disk"):
        pass
