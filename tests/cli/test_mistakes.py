"""What people get wrong most often: the class, the words and their order; one line says what."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.serving import LIMIT

_UNITS = """
import abc, sys
from userdisk import StorageUnit

class Whole(StorageUnit):
    block_count = 64

    def read(self, lba, blocks, fua):
        return bytes(blocks * 512)

    def write(self, lba, data, fua):
        pass

class Sizeless(StorageUnit):
    blockcount = 64
    read = Whole.read
    write = Whole.write

class Leaves(Whole):
    def open(self):
        sys.exit(3)

class Wordless(Whole):
    def open(self):
        {}["table"]

class Unclosable(Whole):
    def close(self):
        raise ValueError("two\\nlines")

class Unflushable(Whole):
    def flush(self):
        raise OSError(5, "no such luck")

class Fails(Whole):
    def read(self, lba, blocks, fua):
        return self.look(lba)

    def look(self, lba):
        return {}[lba]
"""
_READ = ("28", *["00"] * 7, "01", "00")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "units.py").write_text(_UNITS)
    return tmp_path


def userdisk(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "userdisk", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("serve units.py", "units.py: name the class as well, units.py:Class"),
        ("serve units.Whole", "a class is written units.py:Whole, an image ./units.Whole\n"),
        ("serve units.Whole --size 1M", "units.Whole: a class is written units.py:Whole,"),
        ("serve units.py:", "units.py:: name the class as well, units.py:Class"),
        ("serve units.py:whole", "units.py:whole: units.py: has no class whole; it has Whole,"),
        ("serve units.py:Sizeless", "units.py:Sizeless: Sizeless: has no block_count, the number"),
        ("serve ram", "ram: needs a size, as in ram:1G"),
        ("serve ram:64", "ram:64: size: 64 bytes are not a multiple of block_length 512;"
                         " did you mean 64M?"),
        ("serve ram:1000", "1000 bytes are not a multiple of block_length 512\n"),
        ("serve ram:1M --size", "option '--size' requires an argument (see userdisk serve --help)"),
        ("serv ram:1M", "no such command 'serv'. Did you mean 'serve'? (see userdisk --help)"),
        ("scsi-tool", "no such command 'scsi-tool'. Did you mean 'scsitool'? (see"),
        ("unmount", "no such command 'unmount'. Did you mean 'mount'? (see"),
        ("top --interval nan", "'nan' is not a number (see userdisk top --help)"),
        ("top --interval inf", "'--interval': inf is not in the range 0.1<=x<=86400"),
        ("trace x --seconds nan", "'nan' is not a number (see userdisk trace --help)"),
        ("xyz", "no such command 'xyz' (see userdisk --help)"),
        ("stgtest ram:1M", "verify FILE TARGET (see userdisk stgtest --help)"),
    ],
)  # fmt: skip
def test_a_slip_is_one_line(folder: Path, words: str, said: str) -> None:
    done = userdisk(folder, *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("userdisk: ") and done.stderr.count("\n") == 1
    assert said in done.stderr


@pytest.mark.parametrize("words", ["stgtest {} 4 R", "scsitool capacity {}"])
@pytest.mark.parametrize(
    ("name", "why"),
    [("Leaves", "RuntimeError: sys.exit(3) was called"), ("Wordless", "KeyError: 'table'")],
)
def test_a_unit_that_cannot_be_opened(folder: Path, words: str, name: str, why: str) -> None:
    done = userdisk(folder, *words.format(f"units.py:{name}").split())
    assert done.returncode == 2
    assert done.stderr == f"userdisk: units.py:{name}: cannot be opened: {why}\n"


@pytest.mark.parametrize("words", ["stgtest {} 4 R", "scsitool capacity {}"])
@pytest.mark.parametrize(
    ("name", "why"),
    [("Unclosable", "ValueError: two lines"), ("Unflushable", "[Errno 5] no such luck")],
)
def test_a_unit_that_cannot_be_closed(folder: Path, words: str, name: str, why: str) -> None:
    """What it did until then is shown all the same."""
    done = userdisk(folder, *words.format(f"units.py:{name}").split())
    assert done.returncode == 1
    assert ("Read  " if "stgtest" in words else "(0x200)") in done.stdout
    assert done.stderr == f"userdisk: units.py:{name}: cannot be flushed and closed: {why}\n"


def test_a_failure_is_said_before_the_one_of_closing(folder: Path) -> None:
    done = userdisk(folder, "stgtest", "units.py:Unclosable", "4", "WR")
    assert done.returncode == 1
    first, last = done.stderr.splitlines()
    assert "bad buffer after Write" in first and "cannot be flushed and closed" in last


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_is_of_the_users_code_alone(folder: Path, form: str) -> None:
    before = ("--log-format", form)
    done = userdisk(folder, *before, "scsitool", "raw", "units.py:Fails", "--read", "512", *_READ)
    assert done.returncode == 1
    assert str(Path("userdisk", "operation.py")) not in done.stderr
    assert "in read" in done.stderr and "in look" in done.stderr and "KeyError: 0" in done.stderr
    assert done.stderr.count("units.py") >= 2


def test_a_traceback_of_userdisk_itself_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    from userdisk.backend import parse_size
    from userdisk.log_format import TERMINAL, Wanted

    try:
        parse_size(1)  # type: ignore[arg-type]
    except AttributeError as error:
        assert error.__traceback__ is not None
        within = error.with_traceback(error.__traceback__.tb_next)
        record = logging.LogRecord("x", 40, "", 0, "bug", (), (AttributeError, within, None))
        record.exc_info = (AttributeError, within, within.__traceback__)
    for as_json in (False, True):
        text = Wanted(as_json=as_json).formatter(TERMINAL).format(record)
        assert "in parse_size" in text
