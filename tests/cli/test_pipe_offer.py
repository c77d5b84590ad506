"""`serve --pipe` and `spd:PATH`: what is accepted, refused and printed, and a disk behind both."""

from __future__ import annotations

import re
import shlex
import stat
from pathlib import Path

import pytest

from tests.cli.serving import run, serving
from userdisk.backend import open_unit
from userdisk.cli.pipe_offer import pipe_paths, pipe_text
from userdisk.errors import UsageError


def test_paths() -> None:
    specs = ["ram:1G", "ram:2G"]
    assert pipe_paths(specs, []) == []
    assert pipe_paths(specs, ["a.sock", "unix:b.sock"]) == [Path("a.sock"), Path("b.sock")]
    for given in (["a"], ["a", "a"], ["a", ""], ["a", "unix:"], ["a", "b" * 101], ["a", "\0"]):
        with pytest.raises(UsageError, match="--pipe"):
            pipe_paths(specs, given)


def test_commands_are_quoted(tmp_path: Path) -> None:
    (line,) = (line for line in pipe_text(tmp_path / "a b").splitlines() if "stgtest" in line)
    words = shlex.split(line, comments=True)
    assert words == ["userdisk", "stgtest", f"spd:{tmp_path}/a b", "1000", "WRUR", "*", "*"]


def test_a_disk_through_two_servers(tmp_path: Path) -> None:
    first, second = tmp_path / "first.sock", tmp_path / "second.sock"
    with serving("ram:4M", "--no-iscsi", "--pipe", "first.sock", folder=tmp_path) as one:
        assert re.search(rf"^spd:{first}\n    ram, 4 MiB", one.text, re.MULTILINE)
        assert stat.S_IMODE(first.stat().st_mode) == 0o600
        with serving(f"spd:{first}", "--no-iscsi", "--pipe", second) as two:
            assert "4 MiB" in two.text
            disk = open_unit(f"spd:{second}")
            disk.write(8191, memoryview(b"x" * 512), False)
            assert disk.read(8191, 1, False) == b"x" * 512
            disk.unmap([(8191, 1)])
            assert disk.read(8191, 1, False) == bytes(512)
            disk.close()
            status, out, err = two.stop()
            assert (status, err) == (0, "")
            assert "2 reads" in out
        status, out, err = one.stop()
        assert (status, err) == (0, "")
        assert "1 write (512 bytes)" in out
        assert "1 unmap" in out
    assert not first.exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["ram:1M", "--no-iscsi"], "--no-iscsi: nothing would be offered; add --nbd or --pipe"),
        (["ram:1M", "--pipe", "a", "--pipe", "b"], "--pipe: given 2 times"),
        (["ram:1M", "--no-iscsi", "--pipe", "no/such/folder/a"], "no/such/folder/a"),
        (["spd:nobody.sock"], "nobody.sock: cannot connect: No such file or directory"),
    ],
)
def test_refusals(arguments: list[str], what: str, tmp_path: Path) -> None:
    result = run(*arguments, folder=tmp_path)
    assert result.returncode in (1, 2)
    assert what in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
