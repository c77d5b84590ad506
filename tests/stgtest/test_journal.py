"""The journal's file: what is written is read, wherever it was cut off; damage is found."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from userdisk.errors import UsageError
from userdisk.stgtest import journal
from userdisk.stgtest.journal import DONE, FAILED, Head, Step, Writer

HEAD = Head(0x12345678, 2048, 512, zeroes=True)
STEPS = [
    Step("W", 1, 5, 3, fua=True), Step("R", 2, 0, 8), Step(DONE, 1), Step("U", 3, 2040, 8),
    Step(FAILED, 2), Step("F", 4), Step(DONE, 4), Step("W", 0xFFFFFFFF, 2047, 1),
]  # fmt: skip


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "run.journal"
    writer = Writer(str(path), HEAD, durable=True)
    writer.add(STEPS[:3])
    writer.add([])
    writer.add(STEPS[3:])
    writer.close()
    return path


def steps_of(path: Path) -> list[Step]:
    return list(journal.read(str(path)).steps())


def test_what_was_written_is_read(written: Path) -> None:
    record = journal.read(str(written))
    assert record.head == HEAD
    assert list(record.steps()) == STEPS
    assert record.torn == 0
    assert stat.S_IMODE(written.stat().st_mode) == 0o600


def test_cut_off_at_every_byte(written: Path, tmp_path: Path) -> None:
    whole = written.read_bytes()
    size = len(STEPS[0].encode())
    first = len(whole) - size * len(STEPS)
    for length in range(len(whole)):
        path = tmp_path / "cut"
        path.write_bytes(whole[:length])
        if length < first:
            with pytest.raises(UsageError, match=r"cut off|is not a journal"):
                journal.read(str(path))
            continue
        record = journal.read(str(path))
        kept, torn = divmod(length - first, size)
        assert list(record.steps()) == STEPS[:kept]
        assert record.torn == torn


def test_every_damaged_byte_is_found(written: Path, tmp_path: Path) -> None:
    whole = written.read_bytes()
    last = len(whole) - len(STEPS[0].encode())
    for at in range(last):
        path = tmp_path / "damaged"
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        with pytest.raises(UsageError, match=r"damaged at byte|is not a journal"):
            steps_of(path)


def test_a_last_record_that_did_not_all_reach_the_storage(written: Path) -> None:
    whole = written.read_bytes()
    written.write_bytes(whole[:-3] + b"\xff" * 3)
    record = journal.read(str(written))
    assert list(record.steps()) == STEPS[:-1]
    assert record.torn == len(STEPS[0].encode())


@pytest.mark.parametrize(
    "step", [Step("W", 0, 0, 1), Step("W", 1, 2048, 1), Step("R", 1, 2**64 - 1, 1)]
)
def test_steps_that_make_no_sense(step: Step, tmp_path: Path) -> None:
    writer = Writer(str(tmp_path / "run"), HEAD)
    writer.add([step, Step("F", 2)])
    writer.close()
    with pytest.raises(UsageError, match="a record makes no sense"):
        steps_of(tmp_path / "run")


@pytest.mark.parametrize(
    "head",
    [Head(0, 1, 512, zeroes=True), Head(1, 0, 512, zeroes=True), Head(1, 1, 12, zeroes=True)],
)
def test_heads_that_make_no_sense(head: Head, tmp_path: Path) -> None:
    Writer(str(tmp_path / "run"), head).close()
    with pytest.raises(UsageError, match="it does not begin with a run"):
        journal.read(str(tmp_path / "run"))


def test_a_journal_is_never_overwritten(written: Path) -> None:
    with pytest.raises(UsageError, match="exists already; name a new file"):
        Writer(str(written), HEAD)


@pytest.mark.parametrize(
    ("name", "why"), [("no/run", "cannot be made: No such file"), ("a\0b", "cannot be made: embed")]
)
def test_a_journal_that_cannot_be_made(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Writer(str(tmp_path / name), HEAD)


@pytest.mark.parametrize("durable", [False, True])
def test_what_is_durable_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    synced: list[str] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    writer = Writer(str(tmp_path / "run"), HEAD, durable=durable)
    assert (str(tmp_path) in synced) is durable, "its name"
    assert (str(tmp_path / "run") in synced) is durable
    synced.clear()
    writer.add(STEPS[:1])
    assert (synced == [str(tmp_path / "run")]) is durable
    writer.close()


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a journal at all\n" * 10)
    for name, what in (
        ("none", "No such file"), ("text", "is not a journal"), (".", "Is a directory"),
        ("\0", "null"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=what):
            journal.read(str(tmp_path / name) if name != "\0" else name)
    with pytest.raises(UsageError, match="cannot be made"):
        Writer(str(tmp_path / "no" / "folder"), HEAD)
