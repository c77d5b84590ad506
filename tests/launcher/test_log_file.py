"""launcher/log_file.py: bounded, whatever is printed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from userdisk.launcher import log_file
from userdisk.launcher.log_file import LogFile


def eventually(check: object, seconds: float = 30.0) -> None:
    assert callable(check)
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.01)


def test_what_is_printed_and_noted_is_in_the_tail(tmp_path: Path) -> None:
    log = LogFile(tmp_path, 1 << 20)
    os.write(log.descriptor, b"one\ntwo \xff\n")
    eventually(lambda: len(log_file.tail(tmp_path, 10)) == 2)
    log.note("three")
    lines = log_file.tail(tmp_path, 2)
    assert lines[0] == "two \ufffd" and lines[1].endswith("launcher: three")
    assert log_file.tail(tmp_path, 0) == []
    os.close(log.descriptor)


def test_both_files_together_stay_within_the_limit(tmp_path: Path) -> None:
    log = LogFile(tmp_path, 16 << 10)
    for number in range(100):
        log.note(f"{number:03} {'x' * 996}")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"log", "log.1"} and sum(sizes.values()) <= 16 << 10
    assert " 099 " in log_file.tail(tmp_path, 1)[0]
    os.close(log.descriptor)


def test_a_flood_is_dropped_and_counted(tmp_path: Path) -> None:
    log = LogFile(tmp_path, 64 << 20)
    line = b"x" * 65535 + b"\n"
    for _ in range(400):
        os.write(log.descriptor, line)
    size = (tmp_path / "log").stat().st_size
    assert size < 20 << 20
    time.sleep(0.2)
    os.write(log.descriptor, b"after\n")
    eventually(lambda: log_file.tail(tmp_path, 1) == ["after"])
    assert "came too fast and were dropped" in log_file.tail(tmp_path, 2)[0]
    os.close(log.descriptor)


def test_a_full_disk_stops_nobody(tmp_path: Path, monkeypatch: object) -> None:
    log = LogFile(tmp_path, 1 << 20)
    (tmp_path / "log").unlink()
    os.close(log._file)
    log._file = os.open("/dev/full", os.O_WRONLY)
    for _ in range(50):
        os.write(log.descriptor, b"y" * 4096)  # would block if nobody read it
    os.close(log.descriptor)
