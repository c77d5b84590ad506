"""`userdisk stgtest`: its lines, its exit status, what it refuses, and disks that lie."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.serving import LIMIT, serving

LIAR = '''
from userdisk import StorageUnit


class Liar(StorageUnit):
    """Memory that does one thing wrong after the hundredth write."""

    block_count = 256

    def __init__(self, lie="none"):
        super().__init__()
        self.lie = lie

    def open(self):
        self.memory = bytearray(256 * 512)
        self.old = bytes(512)
        self.writes = 0

    def read(self, lba, blocks, fua):
        if self.lie == "stale" and self.writes > 100:
            return self.old[:512] * blocks
        if self.lie == "error" and self.writes > 100:
            raise OSError(5, "Input/output error")
        if self.lie == "short":
            return bytes(blocks * 512 - 1)
        return bytes(self.memory[lba * 512 : (lba + blocks) * 512])

    def write(self, lba, data, fua):
        self.writes += 1
        if self.lie == "drop" and self.writes == 100:
            return
        if self.lie == "misplace" and self.writes == 100:
            lba = (lba + 1) % (257 - len(data) // 512)
        self.old = bytes(self.memory[lba * 512 : lba * 512 + 512])
        self.memory[lba * 512 : lba * 512 + len(data)] = data

    def unmap(self, extents):
        if self.lie != "unmap":
            for lba, blocks in extents:
                self.memory[lba * 512 : (lba + blocks) * 512] = bytes(blocks * 512)
'''


def stgtest(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "userdisk", "stgtest", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)


@pytest.fixture
def liar(tmp_path: Path) -> str:
    path = tmp_path / "liar.py"
    path.write_text(LIAR)
    for lie in ("drop", "misplace", "stale", "error", "short", "unmap"):
        name = lie.capitalize()
        with path.open("a") as file:
            file.write(f"\n\nclass {name}(Liar):\n    def __init__(self):\n")
            file.write(f"        super().__init__({lie!r})\n")
    return str(path)


def test_the_first_line_and_the_last() -> None:
    run = stgtest("-s", "42", "ram:1M", "100", "wr-ur", "0x20", "010")
    lines = run.stdout.splitlines()
    assert (run.returncode, run.stderr) == (0, "")
    assert lines[0] == 'stgtest -s 42 ram:1M 100 "WRUR" 0:20 8'
    assert lines[-1] == "OK"
    assert [line.split()[:2] for line in lines[2:-1]] == [
        ["Read", "50"],
        ["Write", "25"],
        ["Unmap", "25"],
    ]


def test_defaults_are_those_of_winspd() -> None:
    run = stgtest("ram:1M", "0")
    assert re.match(r'stgtest -s \d+ ram:1M 1 "WR" 0:0 1\n', run.stdout)
    assert (run.returncode, run.stdout.splitlines()[-1]) == (0, "OK")


def test_random_ranges_are_stars_and_large_addresses_have_two_halves() -> None:
    assert ' "R" * *\n' in stgtest("-s", "1", "ram:1M", "4", "R", "*", "*").stdout
    run = stgtest("-s", "1", "ram:1M", "4", "R", "0x123456789abcdef0", "4")
    assert ' "R" 12345678:9abcdef0 4\n' in run.stdout


def test_the_pattern_is_on_the_disk(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    assert stgtest("-s", "1", image, "4", "W", "0", "2").returncode == 0
    data = image.read_bytes()
    assert data[:512] == bytes.fromhex("2ccbc234fcbc56b4") * 64
    assert data[512:1024] == bytes.fromhex("e7830665202abf3a") * 64
    assert data[7 * 512 : 8 * 512] == bytes.fromhex("87c6a393a5ccab46") * 64
    assert data[8 * 512 :] == bytes((1 << 20) - 8 * 512)


@pytest.mark.parametrize("depth", ["1", "8"])
@pytest.mark.parametrize("name", ["Drop", "Misplace", "Stale", "Unmap"])
def test_a_unit_that_lies_is_found(liar: str, name: str, depth: str) -> None:
    run = stgtest("-s", "3", f"{liar}:{name}", "4000", "WRUR", "*", "4", "--depth", depth)
    assert run.returncode == 1
    after = "Unmap" if name == "Unmap" else "(Write|Unmap)"
    line = rf"Read\(Address=0:[0-9a-f]+, Count=[1-4]\): bad buffer after {after}: block \d+ .*\n"
    assert re.fullmatch(line, run.stderr)
    assert "OK" not in run.stdout.splitlines()


def test_an_honest_unit_is_not_blamed(liar: str) -> None:
    for depth in ("1", "8"):
        run = stgtest(f"{liar}:Liar", "4000", "WRFUR", "*", "4", "--depth", depth)
        assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "what"), [("Error", "Input/output error"), ("Short", "short|byte")]
)
def test_what_fails_is_said(liar: str, name: str, what: str) -> None:
    run = stgtest("-s", "3", f"{liar}:{name}", "4000", "WR", "*", "4")
    assert run.returncode == 1
    failure = run.stderr.splitlines()[-1]
    assert re.match(rf"Read\(Address=0:[0-9a-f]+, Count=\d\): [a-z ]+: .*({what})", failure)


def test_json() -> None:
    run = stgtest("-s", "5", "ram:1M", "200", "WRFU", "*", "8", "--json", "--depth", "4")
    assert run.returncode == 0
    found = json.loads(run.stdout)
    assert found["ok"] is True
    assert found["problem"] is None
    assert found["command"] == 'stgtest -s 5 ram:1M 200 "WRFU" * 8'
    assert {row["operation"]: row["count"] for row in found["operations"]} == {
        "Read": 50, "Write": 50, "Flush": 50, "Unmap": 50,
    }  # fmt: skip
    for row in found["operations"]:
        latencies = list(row["latency_us"].values())
        assert latencies == sorted(latencies)


def test_json_of_a_failure(liar: str) -> None:
    run = stgtest("-s", "3", f"{liar}:Drop", "4000", "WR", "*", "4", "--json")
    found = json.loads(run.stdout)
    assert (run.returncode, found["ok"]) == (1, False)
    assert found["problem"] == run.stderr.strip()


def on_a_terminal(*arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, and what a terminal got as standard error."""
    master, slave = os.openpty()
    command = [sys.executable, "-m", "userdisk", "stgtest", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, text=True) as process:
        os.close(slave)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
            while data := os.read(master, 4096):
                shown += data
        os.close(master)
        out, _ = process.communicate(timeout=LIMIT)
    return process.returncode, out, shown.decode()


def test_a_terminal_has_a_line_that_moves() -> None:
    status, out, shown = on_a_terminal("ram:1M", "*", "WR", "*", "*", "--duration", "2")
    assert (status, out.splitlines()[-1]) == (0, "OK")
    clear = "\r\x1b[K"
    assert shown.startswith(clear)
    assert shown.endswith(clear), "it is taken away at the end"
    lines = shown.split(clear)[1:-1]
    assert lines
    counts = []
    for line in lines:
        found = re.fullmatch(
            r"(\d+) operations, \d+/s; Read p50 \d+ p99 \d+ us; Write p50 \d+ p99 \d+ us", line
        )
        assert found is not None, line
        counts.append(int(found[1]))
    assert counts == sorted(set(counts))
    assert "\n" not in shown


def test_json_has_no_such_line() -> None:
    options = ("ram:1M", "*", "WR", "--duration", "1", "--json")
    status, out, shown = on_a_terminal(*options)
    assert (status, shown) == (0, "")
    assert json.loads(out)["ok"]


def test_a_duration_ends_the_run() -> None:
    run = stgtest("ram:1M", "*", "WR", "*", "--duration", "0.3", "--depth", "4")
    assert (run.returncode, run.stdout.splitlines()[-1]) == (0, "OK")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    folder = tmp_path_factory.mktemp("served")
    with serving(
        "ram:4M", "--nbd", "unix:nbd.sock", "--pipe", "pipe.sock", folder=folder
    ) as server:
        yield (
            server.urls[0],
            f"nbd+unix:///?socket={folder}/nbd.sock",
            f"spd:{folder}/pipe.sock",
        )


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize(
    "options",
    [("--depth", "1"), ("--depth", "16"), ("--depth", "16", "--connections", "3"), ("--fua",)],
    ids=" ".join,
)
def test_served_disks(served: tuple[str, str, str], which: int, options: tuple[str, ...]) -> None:
    run = stgtest("-s", "9", served[which], "600", "WRFUR", "*", "*", *options)
    assert (run.stderr, run.returncode) == ("", 0)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_journal_of_each_protocol(
    served: tuple[str, str, str], which: int, tmp_path: Path
) -> None:
    journal = tmp_path / "run.journal"
    run = stgtest(served[which], "300", "WWF", "*", "16", "--depth", "8", "--journal", journal)
    assert (run.stderr, run.returncode) == ("", 0)
    verified = stgtest("verify", journal, served[which])
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout.splitlines()[0].startswith("300 operations, 200 of them changed blocks")
    assert verified.stdout.splitlines()[-1] == "OK"
    assert stgtest(served[which], "64", "W", "0", "128").returncode == 0  # all of it
    spoiled = stgtest("verify", journal, served[which], "--json")
    found = json.loads(spoiled.stdout)
    assert spoiled.returncode == 1
    assert found["wrong_blocks"] > 0
    assert not found["ok"]
    assert "blocks are wrong" in spoiled.stderr


def test_verify_up_to_a_flush(tmp_path: Path) -> None:
    image, journal = tmp_path / "disk.img", tmp_path / "run.journal"
    image.write_bytes(bytes(1 << 20))
    assert stgtest(image, "20", "WF", "0", "4", "--journal", journal).returncode == 0
    assert stgtest("verify", journal, image).returncode == 0
    with image.open("r+b") as file:  # as it was when the fifth flush had ended
        file.seek(5 * 4 * 512)
        file.write(bytes(5 * 4 * 512))
    assert stgtest("verify", journal, image, "--flushes", "5").returncode == 0
    assert stgtest("verify", journal, image, "--flushes", "6").returncode == 1
    assert stgtest("verify", journal, image).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ram:1M",), "takes TARGET OPCOUNT"),
        (("ram:1M", "1", "R", "0", "1", "9"), "takes TARGET OPCOUNT"),
        (("ram:1M", "x"), "OPCOUNT x: must be a number"),
        (("ram:1M", "0x"), "OPCOUNT 0x: must be a number"),
        (("ram:1M", "09"), "OPCOUNT 09: must be a number"),
        (("ram:1M", "--", "-5"), "OPCOUNT -5: must be a number"),
        (("ram:1M", "9" * 5000), "OPCOUNT 999"),
        (("ram:1M", "5", "W", "0x10000000000000000"), "ADDRESS 0x10000000000000000: must be"),
        (("ram:1M", "5", "W", "0", "4294967296"), "COUNT 4294967296: must be a number"),
        (("-s", "4294967296", "ram:1M", "5"), "-s 4294967296: must be a number"),
        (("ram:1M", "5", "xyz"), "xyz: a mix of operations is letters R, W, F and U"),
        (("ram:1M", "*"), "OPCOUNT *: has no end without --duration"),
        (("ram:0", "5"), "ram:0: "),
        (("ram:1M", "5", "--depth", "0"), "--depth"),
        (("ram:1M", "5", "--connections", "2"), "ram:1M has no connections; use --depth"),
        (("ram:1M", "5", "--journal-sync"), "--journal-sync: needs --journal FILE"),
        (("ram:1M", "5", "--flushes", "1"), "--flushes: is for stgtest verify"),
        (("/nonexistent/disk", "5"), "/nonexistent/disk: there is no such file"),
        (("/dev/null", "5"), "/dev/null: is neither a file nor a block device"),
        (("/", "5"), "/: is neither a file nor a block device"),
        (("spd:", "5"), "spd: needs the path"),
        (("spd:/nonexistent", "5"), "spd:/nonexistent: "),
        (("iscsi://127.0.0.1:1/iqn.2026-11.io.userdisk:x/0", "5"), "cannot connect"),
        (("iscsi://127.0.0.1", "5"), "not of the form"),
        (("nbd://127.0.0.1:1/", "5"), "cannot connect"),
        (("nbd://", "5"), "names no host"),
        (("verify", "/nonexistent/journal", "ram:1M"), "/nonexistent/journal: "),
        (("verify", "/dev/null", "ram:1M"), "/dev/null: "),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_what_is_refused(arguments: tuple[str, ...], message: str) -> None:
    run = stgtest(*arguments)
    assert run.returncode == 2, run
    assert run.stdout == ""
    assert run.stderr.startswith("userdisk: ")
    assert run.stderr.count("\n") == 1
    assert message in run.stderr


@pytest.mark.parametrize("scheme", ["iscsi://{}:{}/iqn.2026-11.io.userdisk:x/0", "nbd://{}:{}/"])
def test_a_server_that_says_nothing(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = scheme.format(*server.getsockname())
        run = stgtest(target, "5", "--timeout", "0.5")
    assert run.returncode == 2
    assert "no answer in 0.5 seconds" in run.stderr


def test_a_target_that_refuses(served: tuple[str, str, str]) -> None:
    for target in (served[0].replace(":ram/", ":other/"), served[1].replace("///", "///other")):
        run = stgtest(target, "5")
        assert run.returncode == 2, run
        assert run.stderr.count("\n") == 1


def test_what_a_disk_cannot_do() -> None:
    with serving("ram:1M", "--read-only", "--thick") as server:
        url = server.urls[0]
        for mix, message in (("WR", "is write protected; use OPMIX R"), ("RU", "is write pr")):
            run = stgtest(url, "5", mix)
            assert (run.returncode, message in run.stderr) == (2, True), run
        assert stgtest(url, "5", "R").returncode == 0
    with serving("ram:1M", "--thick") as server:
        run = stgtest(server.urls[0], "5", "WU")
        assert (run.returncode, "cannot unmap; use an OPMIX without U" in run.stderr) == (2, True)


def test_a_file_in_use_is_not_written_to(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with serving(image):
        run = stgtest(image, "5", "W")
        assert run.returncode == 2
        assert "is in use by another process" in run.stderr
        assert stgtest(image, "5", "R").returncode == 0
    assert image.read_bytes() == bytes(1 << 20)


def test_the_server_dies_under_it(tmp_path: Path) -> None:
    journal = tmp_path / "run.journal"
    with serving("ram:4M") as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "userdisk", "stgtest", server.urls[0], "*", "WF", "*", "8",
             "--duration", "60", "--depth", "8", "--journal", journal],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            while not journal.exists() or os.path.getsize(journal) < 100_000:
                assert process.poll() is None
            server.process.kill()
            _, error = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 1
    assert error.count("\n") == 1
    with serving("ram:4M") as again:  # all zeros: what was flushed is gone
        run = stgtest("verify", journal, again.urls[0])
    assert run.returncode == 1
    assert "blocks are wrong" in run.stderr


def test_an_image_holds_what_was_flushed_when_its_server_is_killed(tmp_path: Path) -> None:
    image, journal = tmp_path / "disk.img", tmp_path / "run.journal"
    image.write_bytes(bytes(4 << 20))
    with serving(image) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "userdisk", "stgtest", server.urls[0], "*", "WUWF", "*", "8",
             "--duration", "60", "--depth", "8", "--connections", "2", "--journal", journal],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            while not journal.exists() or os.path.getsize(journal) < 100_000:
                assert process.poll() is None
            server.process.kill()
            process.communicate(timeout=LIMIT)
        finally:
            process.kill()
            process.wait()
    run = stgtest("verify", journal, image)
    assert (run.returncode, run.stderr) == (0, "")
    with image.open("r+b") as file:  # an old block comes back
        file.write(bytes(4 << 20))
    assert stgtest("verify", journal, image).returncode == 1
