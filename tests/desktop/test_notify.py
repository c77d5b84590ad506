"""Messages for people without a terminal: which program shows them, and what it is given."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from userdisk.desktop import notify

_TEXT = "-a <b> & 'c'\nd: it's --bad"
_LINE = "-a <b> & 'c' d: it's --bad"
_ESCAPED = "-a &lt;b&gt; &amp; &#x27;c&#x27; d: it&#x27;s --bad"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def _program(folder: Path, name: str, *, status: int = 0) -> Path:
    """A program that writes its arguments down; returns the file that has them."""
    said = folder / f"{name}.said"
    path = folder / name
    path.write_text(
        f"#!{sys.executable} -S\n"
        "import sys\n"
        f"open({str(said)!r}, 'w').write('\\0'.join(sys.argv[1:]))\n"
        f"sys.exit({status})\n"
    )
    path.chmod(0o755)
    return said


def test_a_notification(programs: Path) -> None:
    said = _program(programs, "notify-send")
    _program(programs, "xmessage")
    assert notify.tell(_TEXT)
    *options, summary, body = said.read_text().split("\0")
    assert options[-1] == "--"
    assert (summary, body) == ("userdisk", _ESCAPED)
    assert not (programs / "xmessage.said").exists()


def test_a_window_where_nothing_takes_notifications(programs: Path) -> None:
    _program(programs, "notify-send", status=1)
    said = _program(programs, "xmessage")
    assert notify.tell(_TEXT)
    assert said.read_text().split("\0")[-1] == _LINE


@pytest.mark.parametrize("name", ["zenity", "kdialog", "xmessage"])
def test_windows(programs: Path, name: str) -> None:
    said = _program(programs, name)
    assert notify.tell(_TEXT)
    assert said.read_text().split("\0")[-1].removeprefix("--text=") in (_LINE, _ESCAPED)


def test_nothing_there(programs: Path) -> None:
    assert not notify.tell(_TEXT)
    (programs / "zenity").write_text("no program")
    (programs / "zenity").chmod(0o755)
    assert not notify.tell(_TEXT)


def test_it_is_bounded(programs: Path) -> None:
    said = _program(programs, "zenity")
    assert notify.tell("x" * 10_000_000)
    assert len(said.read_text()) < 2000


def test_who_has_a_desktop() -> None:
    assert notify.has_desktop({"WAYLAND_DISPLAY": "wayland-0"})
    assert not notify.has_desktop({"DISPLAY": ""})
