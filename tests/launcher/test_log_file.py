"""launcher/log_file.py: what is printed comes there, and never too much of it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from userdisk.launcher import log_file
from userdisk.launcher.log_file import LogFile, tail


def test_lines_come_in_order(tmp_path: Path) -> None:
    log = LogFile(tmp_path, 1 << 20)
    os.write(log.descriptor, b"one\ntwo\n")
    log.settle()
    log.note("three")
    os.write(log.descriptor, b"\xff four\n")
    log.settle()
    one, two, three, four = tail(tmp_path, 10)
    assert (one, two, four) == ("one", "two", "\ufffd four")
    assert three.endswith(" launcher: three")
    assert tail(tmp_path, 2) == [three, four] and tail(tmp_path, 0) == []
    os.close(log.descriptor)


@pytest.mark.parametrize("limit", [0, 4096, 1 << 16])
def test_two_files_stay_within_the_limit(tmp_path: Path, limit: int) -> None:
    log = LogFile(tmp_path, limit)
    for number in range(500):
        log.note(f"{number:06} " + "x" * 300)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= max(limit, 8192)
    assert "000499" in tail(tmp_path, 1)[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
    os.close(log.descriptor)


def test_one_long_piece_is_cut_short(tmp_path: Path) -> None:
    log = LogFile(tmp_path, 8192)
    os.write(log.descriptor, b"x" * 60000 + b"end\n")
    log.settle()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 8192
    assert tail(tmp_path, 1)[0].endswith("end")
    os.close(log.descriptor)


def test_a_flood_is_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "_PAUSE", 0.0)
    log = LogFile(tmp_path, 1 << 20)
    written = 0

    def flood() -> None:
        nonlocal written
        while written < 64 << 20:
            written += os.write(log.descriptor, b"flood\n" * 10000)

    thread = threading.Thread(target=flood)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    log.settle()
    monkeypatch.setattr(log_file, "_RATE", 1 << 40)  # patience
    os.write(log.descriptor, b"calm\n")
    log.settle()
    said = [line for line in tail(tmp_path, 10000) if "came too fast" in line]
    dropped = sum(int(line.split()[3]) for line in said)
    assert 0 < dropped < written
    assert tail(tmp_path, 1) == ["calm"]
    os.close(log.descriptor)


def test_a_full_disk_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LogFile(tmp_path, 4096)
    for path in tmp_path.iterdir():
        path.unlink()
    tmp_path.rmdir()  # nothing can be made there
    for _ in range(100):
        log.note("x" * 300)
    os.write(log.descriptor, b"x\n")
    log.settle()
    assert tail(tmp_path, 10) == []
    os.close(log.descriptor)
