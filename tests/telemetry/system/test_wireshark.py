"""serve, trace and top for real: tshark reads the captures as iSCSI and NBD."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.requires import requires
from tests.kit.server import Served, serve
from userdisk.initiator_client import Initiator, settings_for
from userdisk.nbd.uri import parse_uri
from userdisk.nbd.wire import Command
from userdisk.nbd_client import Client, Request

pytestmark = requires("tshark")

_LIMIT = 60  # seconds


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    run = tmp_path / "run"
    run.mkdir(mode=0o755)
    return {"USERDISK_RUN": str(run)}


@contextmanager
def served(environment: Mapping[str, str], *options: str) -> Iterator[tuple[Served, Path]]:
    """A disk over both protocols, and its NBD socket."""
    socket = Path(environment["USERDISK_RUN"]) / "nbd"
    with serve(
        "ram:16M", options=("--nbd", f"unix:{socket}", *options), environment=environment,
        timeout=_LIMIT, urls=1,
    ) as server:  # fmt: skip
        _wait(lambda: any("serving" in line for line in server.lines))
        yield server, socket


def _wait(found: object) -> None:
    assert callable(found)
    end = time.monotonic() + _LIMIT
    while not found():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def _work(server: Served, socket: Path, times: int = 1) -> None:
    """Long and short transfers over both."""
    url = server.address
    with (
        Initiator(url.address, settings_for(url), timeout=_LIMIT) as initiator,
        Client(parse_uri(f"nbd+unix:///ram?socket={socket}")) as client,
    ):
        initiator.execute(bytes(6))  # past the unit attention
        for number in range(times):
            initiator.write(number, bytes(range(256)) * 2)
            initiator.write(8, bytes(300 << 10))
            initiator.read(8, 600)
            initiator.flush()
            client.call(Request(Command.WRITE, 512, 512, data=bytes(512)))
            client.call(Request(Command.WRITE, 0, 200 << 10, data=bytes(200 << 10)))
            client.call(Request(Command.READ, 0, 4096))
            client.call(Request(Command.FLUSH, 0, 0))


def _tshark(file: Path, shown: str, *fields: str) -> list[str]:
    """The packets that a filter lets through, as lines of fields."""
    command = ["tshark", "-r", str(file), "-o", "tcp.check_checksum:TRUE", "-Y", shown]
    command += ["-o", "ip.check_checksum:TRUE"]
    if fields:
        command += ["-T", "fields", *(word for name in fields for word in ("-e", name))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _is_clean(file: Path) -> None:
    for wrong in (
        "_ws.malformed",
        "tcp.analysis.flags",
        'tcp.checksum.status == "Bad"',
        'ip.checksum.status == "Bad"',
    ):
        assert _tshark(file, wrong) == [], wrong


def _userdisk(environment: Mapping[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "userdisk", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )


def test_a_capture_from_the_beginning(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "all.pcap"
    with served(environment, "--pcap", str(file)) as (server, socket):
        _work(server, socket)
    _is_clean(file)
    opcodes = [int(line.split(",")[0], 16) & 0x3F for line in
               _tshark(file, "iscsi", "iscsi.opcode")]  # fmt: skip
    assert {0x01, 0x21, 0x25, 0x03, 0x23, 0x06, 0x26, 0x31, 0x05} <= set(opcodes)
    assert _tshark(
        file, "scsi_sbc.opcode == 0x8a", "frame.number"
    )  # the commands' own dissector was reached
    assert len(_tshark(file, "tcp.port == 10809 && tcp.len > 0")) > 10
    assert _tshark(file, "tcp.flags.syn == 1 && tcp.flags.ack == 0", "tcp.dstport") == [
        "3260",
        "10809",
    ]


def test_nbd_requests_that_this_dissector_knows(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Simple replies: it takes structured ones for data."""
    file = tmp_path / "nbd.pcap"
    options = "from tests.telemetry.system.simple import talk; import sys; talk(sys.argv[1])"
    with served(environment, "--pcap", str(file)) as (_, socket):
        subprocess.run([sys.executable, "-c", options, str(socket)], check=True, timeout=_LIMIT)
    _is_clean(file)
    kinds = _tshark(file, "nbd.type", "nbd.type", "nbd.from", "nbd.len")
    assert "\t".join(["1", "0x0000000000001000", "4096"]) in kinds
    assert "\t".join(["0", "0x0000000000001000", "4096"]) in kinds
    assert _tshark(file, "nbd.error == 0", "nbd.error")


@pytest.mark.parametrize("form", ["words", "json", "capture"])
def test_trace(form: str, environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "now.pcap"
    words = {"words": (), "json": ("--json",), "capture": ("--pcap", str(file))}[form]
    with served(environment) as (server, socket):
        pid = str(server.process.pid)
        target = pid if form == "capture" else "ram:16M"
        tracing = _userdisk(environment, "trace", target, *words)
        try:
            assert tracing.stdout is not None
            if form == "capture":
                while not (file.exists() and file.stat().st_size > 1e6):
                    assert tracing.poll() is None
                    _work(server, socket)
            else:
                _work_until_seen(server, socket, tracing)
        finally:
            tracing.send_signal(2)
            out, error = tracing.communicate(timeout=_LIMIT)
        assert tracing.returncode == 130, error
    if form == "capture":
        _is_clean(file)
        assert _tshark(file, "iscsi") and _tshark(file, "tcp.port == 10809 && tcp.len > 0")
    elif form == "json":
        seen = [json.loads(line) for line in out.splitlines()]
        assert all(each["unit"] == "ram" for each in seen)
    else:
        assert "  ram: " in out and ": GOOD" in out


def _work_until_seen(server: Served, socket: Path, tracing: subprocess.Popen[str]) -> None:
    import select

    end = time.monotonic() + _LIMIT
    while not select.select([tracing.stdout], [], [], 0.05)[0]:
        assert time.monotonic() < end and tracing.poll() is None
        _work(server, socket)
    _work(server, socket)


def test_top_and_metrics(environment: dict[str, str]) -> None:
    with served(environment, "--metrics", "127.0.0.1:0") as (server, socket):
        topping = _userdisk(environment, "top", "--count", "1", "--interval", "2", "--json")
        while topping.poll() is None:
            _work(server, socket)
        out, error = topping.communicate(timeout=_LIMIT)
        assert topping.returncode == 0, error
        (disk,) = json.loads(out)
        assert (disk["unit"], disk["pid"]) == ("ram", server.process.pid)
        assert disk["writes"] > 0 and disk["read_bytes"] > 0
        (line,) = [line for line in server.lines if line.startswith("metrics at ")]
        with urllib.request.urlopen(line.split()[2], timeout=_LIMIT) as answer:
            page = answer.read().decode()
        assert 'protocol="iscsi",operation="write"' in page
        unserved = _userdisk(environment, "top", "ram", "nothing", "--count", "1")
        assert unserved.communicate(timeout=_LIMIT)[1].startswith("userdisk: nothing: no process")
        assert unserved.returncode == 1
        missing = _userdisk(environment, "trace", "nothing")
        assert missing.communicate(timeout=_LIMIT)[1].startswith("userdisk: nothing: no running")
        assert missing.returncode == 1
